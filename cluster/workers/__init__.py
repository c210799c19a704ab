"""Workers that fill a table: what a stage implements, the actor around it, the pool that keeps actors alive and fed.

In reading order: worker, stage; failures, tasks; actor, pool; commit_split, handover, process, stage_log.
"""
