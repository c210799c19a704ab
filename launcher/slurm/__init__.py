"""`listwise slurm` writes a recipe as a SLURM job: one of the two `.sbatch` scripts here, with its settings filled in.

A person can also edit and submit these scripts as they are. Read in this order: run.sbatch and train.sbatch (the jobs),
script (fills in settings), request (what is asked of SLURM), job (what a recipe needs), submit (calls sbatch).
"""
