"""The steps of an adaptation: which lists, learnt from by whom, in which micro-batches, as tokens.

A step is a pure function of (seed, step, world size) and the lists, so every rank computes the same one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.tables.row_reader import RowReader
from distill.encoders.texts import passage_text
from distill.encoders.tokens import CHARACTERS_PER_TOKEN

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class MicroBatch:
    """Whole lists that go through the model together.

    Attributes:
        features: of the B × L pairs, list after list, as the tokenizer names them.
        targets: (B, L) float32.
        tokens: of the pairs, without padding.
    """

    features: dict[str, torch.Tensor]
    targets: torch.Tensor
    tokens: int


class Batches:
    """Makes the micro-batches of any step.

    Args:
        lists: rows of `data.LISTS`, all of the same length.
        texts: reader of PASSAGES with title and text.
        tokenizer: of the model; its `model_max_length` is that of a pair.
        queries_per_step: lists of a step, over all ranks.
        most_tokens: padded tokens of a micro-batch; one list may have more.
        seed: of the order of the lists.

    Attributes:
        lists: without those whose query leaves no room for a passage.
    """

    def __init__(
        self,
        lists: pa.Table,
        texts: RowReader,
        tokenizer: PreTrainedTokenizerBase,
        queries_per_step: int,
        most_tokens: int,
        seed: int,
    ) -> None:
        self._texts, self._tokenizer, self._most, self._seed = texts, tokenizer, most_tokens, seed
        self.lists = lists.filter(pa.array(self._have_room(lists["text"].to_pylist()), pa.bool_()))
        self.queries_per_step = min(queries_per_step, len(self.lists))
        self.per_epoch = len(self.lists) // max(1, self.queries_per_step)

    def own_lists(self, step: int, rank: int, world_size: int) -> np.ndarray:
        """(B,) int64 rows of the lists that a rank learns from in a step."""
        epoch, within = divmod(step, self.per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self.lists))
        return order[within * self.queries_per_step : (within + 1) * self.queries_per_step][rank::world_size]

    def micro_batches(self, lists: np.ndarray) -> list[MicroBatch]:
        """The micro-batches of these lists; those of similar length go together."""
        rows = self.lists.take(pa.array(lists)).to_pylist()
        length, pairs = len(rows[0]["passage_rows"]), self._tokenise(rows)
        lengths = np.array([len(ids) for ids in pairs["input_ids"]]).reshape(len(rows), length)
        longest = lengths.max(axis=1)
        groups: list[list[int]] = []
        for place in np.argsort(-longest, kind="stable").tolist():
            # a micro-batch is as wide as its first list, which is its longest
            if not groups or (len(groups[-1]) + 1) * length * longest[groups[-1][0]] > self._most:
                groups.append([])
            groups[-1].append(place)
        return [self._padded(pairs, rows, lengths, np.array(group)) for group in groups]

    def _padded(
        self, pairs: dict[str, Any], rows: Sequence[dict[str, Any]], lengths: np.ndarray, group: np.ndarray
    ) -> MicroBatch:
        import torch

        numbers = (group[:, None] * lengths.shape[1] + np.arange(lengths.shape[1])).ravel().tolist()
        own = {name: [values[number] for number in numbers] for name, values in pairs.items()}
        targets = np.array([rows[place]["targets"] for place in group], dtype=np.float32)
        features = dict(self._tokenizer.pad(own, return_tensors="pt"))
        return MicroBatch(features, torch.from_numpy(targets), int(lengths[group].sum()))

    def _tokenise(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the tokenizer makes of every pair, list after list; a passage is cut, never a query."""
        wanted, places = np.unique(np.concatenate([row["passage_rows"] for row in rows]), return_inverse=True)
        found = self._texts.take(wanted)
        titles, texts = (found.column(name).to_pylist() for name in ("title", "text"))
        # A tokenizer reads a whole text before it truncates, so texts are cut beforehand.
        limit = CHARACTERS_PER_TOKEN * self._tokenizer.model_max_length
        passages = [passage_text(title, text)[:limit] for title, text in zip(titles, texts, strict=True)]
        queries = [row["text"] for row in rows for _ in row["passage_rows"]]
        return dict(self._tokenizer(queries, [passages[place] for place in places.tolist()], truncation="only_second"))

    def _have_room(self, queries: list[str]) -> list[bool]:
        if not queries:
            return []
        most = self._tokenizer.model_max_length - self._tokenizer.num_special_tokens_to_add(pair=True)
        ids = self._tokenizer(queries, add_special_tokens=False)["input_ids"]
        return [len(of_query) < most for of_query in ids]
