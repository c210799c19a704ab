"""The machine room: sharded tables with atomic commits, the pool of workers that fills them, the Ray they run on.

In reading order:

    errors, schemas, settings           what ends a run; which tables there are; what a recipe says of the cluster
    disclosure, unicode                 no secret and no terminal control in words; no half characters
    private, weights                    a folder of one's own; no pickles
    storage                             files on a disk or an object store, and patience with both
    plan, fingerprint, tables           the shards of a table, and the protocol that makes every unit end exactly once
    worker, stage, once                 what a stage implements, what it is to the engine; what a machine shares
    failures, tasks                     every way to end badly, and what becomes of a task: again, cut, rejected
    reader, actor, pool                 rows of a shard; one worker in its process; workers kept alive and fed
    run, split, gc                      plans a stage, or resumes it, and does the final accounting
    session, head, handover, process    the Ray it runs on; its end, and the end of every process of a pool
    watch                               a package of its own: what is seen of all this; no work depends on it
"""
