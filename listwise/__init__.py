"""Listwise in a notebook or a program: its commands as functions.

    import listwise

    recipe = listwise.load_recipe("recipe.yaml", {"workdir": "runs/first"})
    outcome = listwise.run(recipe)
    vectors = listwise.encode(outcome.model, ["How do I prune an oak?"], kind="query")

What is wrong is said by exceptions: an `InputError` can be corrected by the caller, a `RunError` is a failure of a run
whose input was right. Both are `ListwiseError`s.
"""

from listwise.packages import ours

with ours():
    from cluster.errors import InputError, ListwiseError, RunError
    from listwise.api import Outcome, encode, evaluate, load_recipe, run, train

__all__ = [
    "InputError",
    "ListwiseError",
    "Outcome",
    "RunError",
    "encode",
    "evaluate",
    "load_recipe",
    "run",
    "train",
]
