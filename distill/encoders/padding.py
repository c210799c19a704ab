"""A token of padding for tokenizers that have none, as those of decoders often do.

The attention mask hides padding, so any token will do. Without one, a library can only read one text at a time.
"""

from __future__ import annotations

from typing import Any


def give_padding(tokenizer: Any) -> None:
    """Sets the token of padding of a tokenizer of transformers that has none; anything else stays as it is."""
    if getattr(tokenizer, "pad_token", "") is not None:
        return
    named = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.sep_token, tokenizer.convert_ids_to_tokens(0))
    tokenizer.pad_token = next(token for token in named if token is not None)
