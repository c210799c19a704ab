"""What a language model wrote becomes a query, or the reason why it is none. Nothing is repaired by guessing.

First the query is taken out of what stands around it (`surface`); then it is looked at for talk about the prompt
(`prose`), for what it shares with the prompt (`overlap`), for loops (`loops`), and for its language (`language`). How
often that is right is measured on labelled answers (`tests/generation/test_cleaning_labels.py`).
"""

from __future__ import annotations

import re

from generation.cleaning import surface
from generation.cleaning.asked import Asked, Cleaned
from generation.cleaning.language import is_other_language
from generation.cleaning.loops import is_digits, is_loop, is_several, repeats_lines
from generation.cleaning.overlap import echoes, is_copied, is_unrelated
from generation.cleaning.prose import begins_passage, is_meta_talk, is_refusal, mentions_passage

MOST_CHARACTERS = 2000  # of a query; what is longer is no query, and slow to look at
_LINK = re.compile(r"(?:https?://|www\.)\S+(?:\s+#\S+)*")
_UNFINISHED = re.compile(r"\w+\W+\w+\W+(?:and|or|the|because|whose)$|\w+\W+\w+\s*(?:\.\.\.|…)$", re.IGNORECASE)
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def clean(written: str, asked: Asked) -> Cleaned:
    """Takes the query out of what a model wrote.

    Args:
        written: the model's answer.
        asked: the request as its prompt showed it.

    Returns:
        The query, or the reason why there is none: `unfinished_thought`, `special_tokens`, `json`, `too_long`, `empty`,
        `refusal`, `other_passage`, `mentions_passage`, `meta_talk`, `several_queries`, `repeats`, `digits`,
        `echoes_example`, `echoes_instruction`, `copies_passage`, `wrong_language`, `cut_at_limit`, `unfinished`,
        `unrelated`.
    """
    text = surface.plain_text(written)
    if text is None:
        return Cleaned(None, "unfinished_thought")
    text, has_tokens = surface.first_turn(text, asked.passage)
    if has_tokens and not _LETTER_OR_DIGIT.search(text):
        return Cleaned(None, "special_tokens")
    text, is_json = surface.out_of_json(text)
    if is_json:
        return Cleaned(None, "json")
    whole = surface.take(text, asked)
    if len(whole.text) > MOST_CHARACTERS:
        return Cleaned(None, "too_long")
    if asked.is_cut and (repeats_lines(text) or is_loop(whole.text, asked.passage)):
        return Cleaned(None, "repeats")
    taken = surface.completed(whole, asked)
    query = surface.unnumbered(taken.text) if asked.is_list else taken.text
    if not _LETTER_OR_DIGIT.search(query if query in asked.passage else _LINK.sub("", query)):
        return Cleaned(None, "empty")
    reason = _fault(query, asked)
    query = query.rstrip(" :")  # a heading over what is no query
    if reason is None and taken.is_open:
        reason = "cut_at_limit"
    if reason is None and _UNFINISHED.search(query):
        reason = "unfinished"
    if reason is None and is_unrelated(query, asked.passage, asked.language):
        reason = "unrelated"
    return Cleaned(None, reason) if reason else Cleaned(query, None)


def _fault(query: str, asked: Asked) -> str | None:
    """The first reason that a text is no query for this request."""
    plain, passage = query.replace("’", "'"), asked.passage
    if is_refusal(plain):
        return "refusal"
    if begins_passage(plain):
        return "other_passage"
    if mentions_passage(plain, passage):
        return "mentions_passage"
    if is_meta_talk(plain, passage):
        return "meta_talk"
    if is_several(query, asked.is_list):
        return "several_queries"
    if is_loop(query, passage):
        return "repeats"
    if is_digits(query, passage):
        return "digits"
    if echoes(query, (f"{shown}\n{wanted}" for shown, wanted in asked.examples), passage):
        return "echoes_example"
    if echoes(query, [asked.instruction], passage):
        return "echoes_instruction"
    if is_copied(query, passage):
        return "copies_passage"
    if asked.language and is_other_language(query, asked.language, passage):
        return "wrong_language"
    return None
