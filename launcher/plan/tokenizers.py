"""Tokenizers and other small files of models, as far as this machine has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distill.encoders.loading import resolve_model

CHARACTERS_PER_TOKEN = 4.0  # of English prose; used if this machine does not have the tokenizer


def token_counter(model: str | None) -> tuple[Callable[[str], float], bool]:
    """A function that counts the tokens of a text, and whether it uses the model's tokenizer; if not, it estimates."""
    file = tokenizer_file(model) if model else None
    if file is None:
        return lambda text: len(text) / CHARACTERS_PER_TOKEN + 2, False
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text).ids), True


def tokenizer_file(model: str) -> Path | None:
    """The path of `tokenizer.json` in a local folder, a packaged model, or the hub's cache on this machine."""
    return file_of_any_revision(model, "tokenizer.json")


def file_of_any_revision(model: str, name: str) -> Path | None:
    """As `model_file`, but where the cache does not have the main branch, the newest other revision will do.

    It is for estimates: the size of a model is nearly always the same in all of them.
    """
    from huggingface_hub import constants, file_download

    if found := model_file(model, name):
        return found
    if model.count("/") != 1:
        return None
    folder = Path(constants.HF_HUB_CACHE, file_download.repo_folder_name(repo_id=model, repo_type="model"))
    return max(folder.glob(f"snapshots/*/{name}"), key=lambda file: file.lstat().st_mtime, default=None)


def model_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """The path of a model's file on this machine; None if it is not here. The network is not used.

    Args:
        model: folder, packaged name or id of the hub.
        name: of the file.
        revision: commit, branch or tag of an id; None: its main branch.
    """
    from huggingface_hub import try_to_load_from_cache

    path = Path(model).expanduser()
    if path.is_file():
        return None  # a GGUF file, which has everything in itself
    path = path if path.is_dir() else Path(resolve_model(model, revision))
    if path.is_dir():
        for folder in (path, path / "0_Transformer"):
            if (folder / name).is_file():
                return folder / name
        return None
    try:
        cached = try_to_load_from_cache(str(path), name, revision=revision)
    except ValueError:  # the hub has no such names
        return None
    return Path(cached) if isinstance(cached, str) else None
