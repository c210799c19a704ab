"""Which model folders are opened: those with weights as safetensors, which is data.

A pickle is a program that runs when it is read.
"""

from __future__ import annotations

from pathlib import Path

from cluster.errors import InputError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")  # left by trainers, never loaded


def refuse_pickles(folder: Path, model: str) -> None:
    """Refuses a model folder of which a part has its weights in a pickle alone.

    Args:
        folder: the model; folders in it are its parts (`2_Dense`), and are looked at too.
        model: as the recipe names it.

    Raises:
        InputError: names the pickle.
    """
    for part in (folder, *sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")):
        files = [path for path in sorted(part.iterdir()) if path.is_file()]
        if any(path.suffix == ".safetensors" for path in files):
            continue
        pickled = [path for path in files if path.suffix in PICKLES and not path.name.startswith(_NO_WEIGHTS)]
        if pickled:
            raise InputError(
                f"model '{model}': {pickled[0]} is a pickle, which can run any program when it is read. Expected "
                "model.safetensors. If you trust where it comes from, load it elsewhere with transformers or "
                "sentence-transformers, save it again (both write safetensors), and name that folder."
            )
