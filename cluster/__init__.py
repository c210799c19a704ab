"""The engine: tables cut into shards, a pool of Ray workers that fills them, and atomic commits.

Reading order. A file imports from files and rooms above it and from its own room:

    disclosure, unicode         control characters and secrets in shown text; text that UTF-8 can hold
    import_path                 no process imports from the folder of the call
    errors, schemas             the errors that end a run with a message; every table of a run with its columns
    overwrite                   what `--until` and `--overwrite` name
    settings, weights           the cluster's part of a recipe; model folders whose weights are pickles are refused
    files/                      names, folders and content of the files that people bring
    jsonl, delimited            JSON lines, and CSV and TSV, read strictly
    machines/                   the Ray session; private and shared folders of a machine; memory
    tables/                     storage; plan, shards and commit records: how every unit ends exactly once in a table
    workers/                    what a stage implements; the pool that runs it on Ray; what happens when a task fails
    watch/                      progress, heartbeats and metrics of a running stage; results never depend on them
    run                         plans or resumes a stage, runs it and checks that every unit is accounted for
"""
