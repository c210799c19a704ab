"""The workers that fill a table: what a stage implements, the Ray actor around it, and the pool that feeds the actors.

Reading order: worker, stage (what a stage implements); failures, tasks (what happens when a task fails); actor, member,
pool (the work on Ray); commit_split, process, handover (the end of a shard and of a pool); stage_log.
"""
