"""Runs on a Ray cluster through its Jobs API: `listwise submit`, `jobs`, `follow` and `stop`.

Read in this order: parcel (the files that travel with a job), sdk (Ray's client with time limits), client (requests and
their errors), submit (starts or finds a job), follow (shows its log), commands (the command line).
"""
