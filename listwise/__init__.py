"""Listwise in a notebook or a program: its commands as functions.

    import listwise

    recipe = listwise.load_recipe("recipe.yaml", {"workdir": "runs/first"})
    outcome = listwise.run(recipe)
    vectors = listwise.encode(outcome.model, ["How do I prune an oak?"], kind="query")

What is wrong is said by exceptions: an `InputError` can be corrected by the caller, a `RunError` is a failure of a run
whose input was right. Both are `ListwiseError`s.
"""

from typing import TYPE_CHECKING, Any

from listwise.api import Outcome, encode, evaluate, load_recipe, run, train

if TYPE_CHECKING:
    from cluster.errors import InputError, ListwiseError, RunError

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


def __getattr__(name: str) -> Any:
    """The errors, whose module is found once nothing in the current folder can take its place."""
    if name not in ("InputError", "ListwiseError", "RunError"):
        raise AttributeError(f"module 'listwise' has no attribute {name!r}")
    from listwise.packages import ours

    with ours():
        from cluster import errors

        return getattr(errors, name)
