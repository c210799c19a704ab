"""How long a text a model can read: the rows of its table of positions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_TABLE = re.compile(r"(^|\.)(position_embeddings?|embed_positions|wpe)$")


def position_limit(model: nn.Module) -> int | None:
    """Most tokens of a text that a model has learnt positions for; None where positions are computed.

    Architectures that count from the row behind the padding token's (RoBERTa, MPNet) have fewer positions than rows.
    """
    from torch import nn

    limits = [
        table.num_embeddings - _first_row(table)
        for name, table in model.named_modules()
        if isinstance(table, nn.Embedding) and _TABLE.search(name)
    ]
    return min(limits, default=None)


def most_tokens(model: nn.Module, wanted: int) -> int:
    """The wanted number of tokens, or the most that the model can read."""
    limit = position_limit(model)
    return wanted if limit is None else min(wanted, limit)


def _first_row(table: Any) -> int:
    """Row of the first position: behind the padding token's, or behind an offset, as BART and its relatives have."""
    return int(getattr(table, "offset", 0) if table.padding_idx is None else table.padding_idx + 1)
