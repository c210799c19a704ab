"""Special tokens that stand in somebody's text stay text: they begin and end no turn of a chat.

A tokenizer makes a special token of its name wherever it finds it, in a passage too, and so does a server. A space
after the first character keeps the name readable, and no tokenizer takes it for the token any more. Text without such
names is sent as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# with which chat templates of known model families begin and end texts and turns
NAMES = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|<｜[^｜<>\s]{1,60}｜>|</?s>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>|"
    r"<(?:bos|eos|pad|unk)>|<(?:BOS|EOS)_TOKEN>|\[(?:BOS|EOS)\]|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS)\]|"
    r"\[TOOL_CALLS\]|\[gMASK\]|<sop>|<eop>",
    re.IGNORECASE,
)


def passages_with_names(rows: Iterable[Mapping[str, Any]]) -> int:
    """How many rows of PASSAGES hold the name of a special token in title or text."""
    return sum(NAMES.search(row["title"]) is not None or NAMES.search(row["text"]) is not None for row in rows)


def of_tokenizer(tokenizer: Any) -> frozenset[str]:
    """The names of all special tokens of a tokenizer of transformers; none for one that has no such list."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = [token.content for token in added if token.special] + list(getattr(tokenizer, "all_special_tokens", []))
    return frozenset(name for name in names if len(name) > 1)


def as_text(text: str, names: Iterable[str] = ()) -> str:
    """The text with the name of every special token broken by a space.

    Args:
        text: of a person, or of a corpus.
        names: special tokens of the tokenizer that reads it, beside those of the known model families.
    """
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, f"{name[0]} {name[1:]}")
    return NAMES.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)
