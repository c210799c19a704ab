"""Models that are no encoders of one dense vector, told apart by their files before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.errors import InputError

# `model_type` in a model's config_sentence_transformers.json → what it is
_TYPES = {
    "SparseEncoder": "a sparse encoder (SPLADE): its vectors are as long as the vocabulary",
    "MultiVectorEncoder": "a late-interaction model (ColBERT): it has a vector for every token",
    "CrossEncoder": "a cross-encoder: it scores pairs and has no vectors. Name it as a teacher of kind cross_encoder",
}


def refuse_other_kinds(path: str, name: str, revision: str | None = None) -> None:
    """Refuses a model that gives a text something else than one dense vector.

    Args:
        path: folder, or id of the hub.
        name: the model as the recipe names it.
        revision: commit, branch or tag of an id; None: its main branch.

    Raises:
        InputError: it says what the model is.
    """
    saved = _json(path, name, revision, "config_sentence_transformers.json")
    kind = _TYPES.get(str(saved.get("model_type")))
    architectures = [str(one) for one in _json(path, name, revision, "config.json").get("architectures") or []]
    modules = json.dumps(_json(path, name, revision, "modules.json"))
    if "maxsim" in str(saved.get("similarity_fn_name")).lower() or "pylate" in modules:
        kind = _TYPES["MultiVectorEncoder"]
    if any("colbert" in one.lower() for one in architectures):
        kind = _TYPES["MultiVectorEncoder"]
    if kind:
        raise InputError(f"model '{name}' is {kind}. Expected an encoder that gives a text one dense vector.")


def _json(path: str, name: str, revision: str | None, file: str) -> Any:
    """Content of a file of a model; empty if it has no such file."""
    from sentence_transformers.util import load_file_path

    found = load_file_path(path, file, revision=revision)
    if found is None:
        return {}
    try:
        return json.loads(Path(found).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"model '{name}': {file} is not JSON: {error}. Download the model again.") from None
