"""A check of model folders: weights must be safetensors, which hold only data.

A pickle can run any program when it is loaded.
"""

from __future__ import annotations

from pathlib import Path

from cluster.errors import InputError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# beginnings of the names of files that trainers write and that hold no weights
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")


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
    for part in (folder, *inner):
        files = [path for path in sorted(part.iterdir()) if path.is_file()]
        if any(path.suffix == ".safetensors" for path in files):
            continue
        pickled = [path for path in files if path.suffix in PICKLES and not path.name.startswith(_NO_WEIGHTS)]
        if pickled:
            raise InputError(
                f"model '{model}': {pickled[0]} is a pickle, which can run any program when it is read. Expected "
                "model.safetensors. If you trust its source, load the model elsewhere with transformers or "
                "sentence-transformers, save it again (both write safetensors), and name the new folder."
            )
