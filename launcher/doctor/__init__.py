"""`listwise doctor` checks this machine, or every node of a cluster, before a run; each problem comes with its remedy.

Read in this order: finding (what a check returns), machine and hub (one machine), workdir (one folder on all nodes),
collectives (all-reduce between nodes), node (all of these on one node), nodes (a cluster), run_checks (the command).
"""
