"""The student's tokenizer, as far as chunks need it: how many tokens texts have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.machines.hub import cache_alone_if_silent

TOKENIZER_FILE = "tokenizer.json"


class TokenCounter:
    """Counts tokens as a model does that reads a text alone, with its special tokens.

    Args:
        model: folder, or id of the hub.
        revision: commit, branch or tag of an id; None: its main branch.

    Raises:
        InputError: the model has no tokenizer, or it cannot be loaded.
    """

    def __init__(self, model: str, revision: str | None = None) -> None:
        self._tokenizer: Any = _load(model, revision)
        self.special = self.count([""])[0]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, the special ones among them."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]

    def digest(self) -> str:
        """A hash that differs where counts may differ."""
        return hashlib.blake2b(self._tokenizer.to_str().encode(), digest_size=8).hexdigest()


def _load(model: str, revision: str | None) -> Any:
    folder = Path(model).expanduser()
    files = sorted(folder.glob(f"*/{TOKENIZER_FILE}")) if folder.is_dir() else []
    file = folder / TOKENIZER_FILE if (folder / TOKENIZER_FILE).is_file() else files[0] if files else None
    try:
        if file:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(file))
        else:
            from transformers import AutoTokenizer

            with cache_alone_if_silent(model, revision):
                tokenizer = AutoTokenizer.from_pretrained(model, revision=revision or "main").backend_tokenizer
    except Exception as error:  # hub, files and tokenizers have errors of their own
        raise InputError(
            f"student.model '{model}': its tokenizer cannot be loaded, and documents are cut to so many of its tokens "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). Expected a {TOKENIZER_FILE} in its "
            "folder, or an id of the hub."
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
