"""The command line, the recipe, and the order of the stages; this package uses all others and none uses it.

Read in this order: pipeline (the stages, one call each), recipe (the settings of a run), recipe_file (how they are
read), cli (the commands). The folders report, plan, doctor, slurm and jobs hold one command or group of commands each;
train, kuberay and remote are commands or their parts in one file.
"""
