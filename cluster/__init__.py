"""The machine room: Ray session, sharded tables with atomic commits, the worker pool, and what is seen of them.

In reading order:

    schemas, settings, worker, stage    what a stage is: its table, its worker, its plan
    storage, tables                     files, and the protocol that makes every unit end exactly once
    run                                 plans a stage, or resumes it, and does the final accounting
    tasks, pool, actor                  who does what next; workers kept alive and fed; one worker in its process
    session, head, handover, process    the Ray it runs on; its end, and the end of every process of a pool
    monitor, estimate, heartbeat        what goes on, what is slow, how long it takes; the word of it in storage
    piece                               the same of a stage that is done in one piece
    progress, metrics, log, aside       the same on the terminal, for Prometheus, line by line; the thread that writes
    status, gc                          a workdir from its files alone, with no cluster alive
"""
