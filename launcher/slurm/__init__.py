"""`listwise slurm`: a recipe as a job of SLURM.

The two scripts in this folder are the jobs, to be read, edited and sent as they are. The command fills in the settings
at their top (`script`) from what is asked of SLURM (`request`) and from a recipe (`job`), and hands them in (`submit`).
"""
