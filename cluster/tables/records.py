"""JSON objects in a workdir. A power cut may have left one empty or short, and a person may have edited another."""

from __future__ import annotations

import json
from typing import Any

from cluster.errors import RunError
from cluster.tables.storage import Storage


def read_record(storage: Storage, path: str) -> dict[str, Any] | None:
    """The object; None if it is absent, or damaged: whoever made it makes it again."""
    try:
        record = json.loads(storage.get(path))
    except (KeyError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_recipe(storage: Storage) -> dict[str, Any]:
    """The recipe that a run wrote into its workdir, not validated.

    Raises:
        KeyError: there is none.
        RunError: it cannot be read.
    """
    import yaml

    from cluster.yaml_text import load

    text = storage.get("recipe.yaml")
    try:
        recipe, _ = load(text)
        if not isinstance(recipe, dict) or "generation" not in recipe or "student" not in recipe:
            raise ValueError("it is no whole recipe")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = " ".join(str(error).split())
        raise RunError(
            f"{storage.url}/recipe.yaml cannot be read ({first}). The command that began the run writes it again: "
            "listwise run RECIPE, with the recipe's own file."
        ) from None
    return recipe
