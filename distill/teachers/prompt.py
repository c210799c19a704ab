"""Token ids of a pair: what a language model reads of a query and a passage, in the pieces of a template.

A pair that is too long loses the end of its passage and nothing else. Names of special tokens in somebody's text stay
text: only the template begins and ends turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import InputError
from distill.encoders.tokens import CHARACTERS_PER_TOKEN
from distill.teachers.template import FIELD, Template

_CONTENT = "listwise-content"  # stands for the text while a chat template is read


@dataclass(frozen=True)
class PairTokens:
    """Tokens of one pair.

    Attributes:
        ids: what the model reads.
        last: how many of them belong to the last piece, without what the tokenizer puts at the end.
    """

    ids: list[int]
    last: int


class PairPrompt:
    """Writes pairs as a template says, for one tokenizer.

    Args:
        template: its pieces.
        tokenizer: a fast tokenizer of transformers.
        max_tokens: most tokens of a pair.

    Raises:
        InputError: the template is for chats and the tokenizer has no chat template, or the tokenizer is a slow one.
    """

    def __init__(self, template: Template, tokenizer: Any, max_tokens: int) -> None:
        if not tokenizer.is_fast:
            raise InputError(f"the tokenizer of '{tokenizer.name_or_path}' is a slow one; save it as tokenizer.json.")
        self.template = template
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._before, self._after = _turns(template, tokenizer) if template.chat else ("", "")
        self._begin, self._end = _around(tokenizer)
        if self._begin and self._literal(self._before or template.pieces[0])[:1] == self._begin:
            self._begin = []

    def tokens(self, pairs: Sequence[tuple[str, str]]) -> list[PairTokens | None]:
        """Tokens of (query, passage) pairs; None where query and template leave no room for a passage."""
        if not pairs:
            return []
        longest = CHARACTERS_PER_TOKEN * self.max_tokens  # a tokenizer reads a whole text before it is cut
        pieces = [self.template.texts(query, passage[:longest]) for query, passage in pairs]
        fields = [set(FIELD.findall(piece)) for piece in self.template.pieces]
        columns = [
            self._encode([one[number] for one in pieces], plain=bool(names & {"query", "passage"}))
            for number, names in enumerate(fields)
        ]
        at = next(number for number, names in enumerate(fields) if "passage" in names)
        if self.template.query_share:
            column = next(number for number, names in enumerate(fields) if "query" in names)
            most = int(self.max_tokens * self.template.query_share)
            columns[column] = [ids[:most] for ids in columns[column]]
        head, tail = self._begin + self._literal(self._before), self._literal(self._after) + self._end
        result: list[PairTokens | None] = []
        for (_, passage), texts, *parts in zip(pairs, pieces, *columns, strict=True):
            excess = len(head) + sum(map(len, parts)) + len(tail) - self.max_tokens
            if excess > 0:
                shorter = self._cut(at, texts[at], passage[:longest], excess)
                if shorter is None:
                    result.append(None)
                    continue
                parts[at] = shorter
            ids = [*head, *(token for part in parts for token in part), *tail]
            result.append(PairTokens(ids, len(parts[-1])))
        return result

    def _encode(self, texts: Sequence[str], plain: bool) -> list[list[int]]:
        """Ids of each text; equal texts are read once."""
        unique = list(dict.fromkeys(texts))
        rows = self.tokenizer(unique, add_special_tokens=False, split_special_tokens=plain)["input_ids"]
        ids = dict(zip(unique, rows, strict=True))
        return [list(ids[text]) for text in texts]

    def _literal(self, text: str) -> list[int]:
        return self._encode([text], plain=False)[0] if text else []

    def _cut(self, piece: int, text: str, passage: str, excess: int) -> list[int] | None:
        """Ids of the passage's piece without the last `excess` tokens of the passage; None if none of it would stay."""
        start = text.rfind(passage) if passage else len(text)
        if FIELD.findall(self.template.pieces[piece])[-1] != "passage":  # the query follows; it may hold the passage
            start = text.find(passage)
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        stop = start + len(passage)
        inside = [
            number
            for number, (first, last) in enumerate(encoded["offset_mapping"])
            if last > first >= start and last <= stop
        ]
        if excess >= len(inside):
            return None
        dropped = set(inside[-excess:])
        return [token for number, token in enumerate(encoded["input_ids"]) if number not in dropped]


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Special tokens that a tokenizer puts before and after every text."""
    ids = list(tokenizer("")["input_ids"])
    first = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
    count = next((number for number, token in enumerate(ids) if token not in first), len(ids))
    return ids[:count], ids[count:]


def _turns(template: Template, tokenizer: Any) -> tuple[str, str]:
    """What the chat template writes before and after the text of a user."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(f"template: chat is true, and '{tokenizer.name_or_path}' has no chat template.")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": _CONTENT}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    before, _, after = text.partition(_CONTENT)
    return before, after
