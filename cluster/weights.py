"""A check of model folders: weights must be safetensors, which hold only data.

A pickle can run any program when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster.errors import InputError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# beginnings of the names of files that trainers write and that hold no weights
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
IS_A_PICKLE = (
    "is a pickle, which can run any program when it is read. Expected model.safetensors. If you trust its source, load "
    "the model elsewhere with transformers or sentence-transformers, save it again (both write safetensors), and name "
    "the new folder."
)


def refuse_pickles(folder: Path, model: str, *, parts: bool = True) -> None:
    """Refuses a model folder if one of its parts has its weights only in a pickle.

    Args:
        folder: the model.
        model: the model's name in the recipe.
        parts: whether its subfolders are parts of the model (`2_Dense`) and are checked too. Those of a language model
            are not read: `original/` holds the same weights once more, as its authors first published them.

    Raises:
        InputError: it names the pickle.
    """
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".") if parts else []
    names = [str(path.relative_to(folder)) for part in (folder, *inner) for path in part.iterdir() if path.is_file()]
    if pickled := only_pickle(names):
        raise InputError(f"model '{model}': {folder / pickled} {IS_A_PICKLE}")


def only_pickle(names: Iterable[str]) -> str | None:
    """The first file that a part of a model has its weights in, if that is a pickle; a part with safetensors is right.

    Args:
        names: the files of the model, relative to its folder.
    """
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        parts.setdefault(str(Path(name).parent), []).append(name)
    for files in parts.values():
        pickled = [name for name in files if name.endswith(PICKLES) and not Path(name).name.startswith(_NO_WEIGHTS)]
        if pickled and not any(name.endswith(".safetensors") for name in files):
            return pickled[0]
    return None
