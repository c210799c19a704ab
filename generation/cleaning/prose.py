"""Answers that talk: refusals, chat, and sentences about the passage or about the query instead of the query.

A word that names the prompt's parts ("passage", "title", "document") may be a corpus' own subject. So most patterns
count only where the passage does not use the word itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from generation.cleaning import foreign
from generation.cleaning.words import words

_REFUSAL = re.compile(
    r"^(?:i'?m sorry|i am sorry|sorry,|i apologi[sz]e|as an ai\b|as a language model|"
    r"(?:unfortunately, )?i(?:'m| am)? ?(?:cannot|can't|can not|could not|couldn't|unable to|not able to) "
    r"(?:create|write|generate|provide|help|assist|fulfil|fulfill|answer|produce|determine|comply|find|do that)\b|"
    r"can(?:'t|not) find anything|(?:on-?line: )?no (?:answer|query|question|information|results?) "
    r"(?:was|were|is|are|could be|can be)\b|i have no (?:additional|further|more|other) information|"
    r"not enough information|(?:there is )?(?:insufficient|no relevant) information|"
    r".{0,60}\b(?:makes? it|it is|it's) (?:impossible|not possible) to (?:provide|determine|answer|write|create|"
    r"generate)\b|"
    r".{0,120}\bnot (?:available|found|listed|included) in (?:the|our|this|my) "
    r"(?:database|list|library|archive|index)\W*$|"
    # French, Spanish, Portuguese, Italian, German, Dutch, Polish
    r"(?:je suis )?d[ée]sol[ée]e?\s?[,.!]|je (?:ne )?(?:peux|puis) pas (?:vous |r[ée]pondre|cr[ée]er|g[ée]n[ée]rer|"
    r"fournir|"
    r"[ée]crire|r[ée]diger|traiter)|je ne suis pas en mesure|en tant qu['e ]+ia\b|lo siento,|lo siento pero|lo lamento|"
    r"no puedo (?:ayudar|responder|proporcionar|crear|generar|escribir|cumplir|hacer eso)|como (?:una? )?ia\b|"
    r"como (?:um )?modelo de linguagem|como modelo de lenguaje|desculpe,|sinto muito,|"
    r"n[ãa]o posso (?:ajudar|responder|fornecer|criar|gerar|escrever)|mi dispiace,|"
    r"non posso (?:aiutar|rispondere|fornire|creare|generare|scrivere)|es tut mir leid|tut mir leid,|als ki\b|"
    r"(?:leider )?(?:kann ich|ich kann) .{0,60}(?:helfen|beantworten|erstellen|verfassen|liefern|antworten)\b|"
    r"het spijt me|(?:helaas )?(?:kan ik|ik kan) .{0,60}(?:helpen|beantwoorden|genereren)\b|przykro mi,|przepraszam,|"
    # Russian, Arabic, Chinese, Japanese, Korean
    r"извините|к сожалению,? я|я не могу (?:помочь|ответить|создать|написать|предоставить)|عذرا|عذرًا|آسف|أنا آسف|"
    r"لا أستطيع|لا يمكنني|很?抱歉|对不起[,,]|作为.{0,6}(?:ai|人工智能|语言模型)|"
    r"我(?:无法|不能)(?:回答|提供|生成|帮助|写)|申し訳|죄송|미안합니다)",
    re.IGNORECASE,
)
_CHAT = re.compile(
    r"^(?:(?:yes|no|none|n/a|not applicable|ok|okay|sure|true|false|nothing|website|untitled|query|question|claim|"
    r"title|"
    r"keywords?|answer|search|passage|text)[.!]?$|"
    r"(?:sure|certainly|absolutely|of course)[,!.]|great(?:!|, here)|"
    r"what an? (?:\w+ and )?(?:great|good|fascinating|interesting|delightful|wonderful|excellent|lovely|beautiful|"
    r"amazing|"
    r"thoughtful|intriguing|challenging)\b[\w\s]{0,30}(?:!|\b(?:question|passage|subject|topic|story|text|article)\b)|"
    r"i(?:'m| am|'d be| would be| will be|'ll be) (?:ready|happy|glad|here to|looking for a|pleased|excited)\b|"
    r"i(?:'ll| will|'d like to| would like to| have) (?:list|listed|write|written|provide|provided|give|given|create|"
    r"created|generate|generated|summari[sz]e|summari[sz]ed|help)\b|"
    r"(?:what )?i(?:'m| am) looking for (?:is )?an? (?:title|claim|question|query)|"
    r"let(?:'s| us) (?:start|begin|see|take|look|try|go|dive|break)\b|"
    r"you(?:'ll| will| can) (?:find|see|notice) (?:an?|one|the|two|three|some|more)\b|"
    r"let me (?:know|help|explain|provide|give|try|start|see|rephrase)\b|"
    r"(?:please|kindly) (?:\w+ )?(?:provide|note|use|respond|answer|write|read|consider|see|refer|let|find|give|"
    r"select|choose|"
    r"enter|explain|complete|specify)\b|"
    r"an? (?:person|user|reader|customer|searcher) (?:(?:would|could|might|may) "
    r"(?:type|search|ask|choose|write|look for|google)|texts|types|asks|searches|is searching)\b|"
    r"i hope (?:this|that|it|you)\b|thank(?:s| you) for\b|this is (?:the|an?|my) (?:title|claim|question|query|"
    r"answer|summary)\b|"
    r"(?:pick|choose|select|chosen) (?:from|one|an?|the)\b.{0,30}(?:following|options?|:|\.)|"
    r"which of the following\b|answer with\b|note:|explanation:|based on (?:the|this|one)\b|(?:hello|hi|hey|"
    r"greetings)(?:[!,.]|$| there)|"
    r"(?:the|this) (?:above|below|following|first|last|previous) (?:answer|sentence|statement|question|claim|query|"
    r"line)s?\b|"
    r"in (?:a|one|a single) (?:line|sentence)\b|"
    r"(?:when|if) (?:you(?:'re| are)? )?(?:refer|asked|answer)\w*\b.{0,40}\b(?:passage|question|query|prompt)\b)|"
    r"\bfeel free to\b|\bi'?ll be happy to\b|\bhere(?:'s| is) the (?:title|claim|question|query|answer)\b|"
    r"\bis as follows\b|\bas an ai (?:language )?model\b",
    re.IGNORECASE,
)
_ABOUT_QUERY = re.compile(
    # a sentence that speaks of the query: "The title is …", "A claim that …", "The purpose of this query is …"
    r"^(?:(?:the|a|an|one|this|my|your|above|following)\s+(?:\w+\s+){0,3}?"
    r"(?P<noun>claim|title|question|query|answer|statement|key ?words?|headline)s?\s+"
    r"(?:is|are|was|were|can be|could be|would be|should be|might be|must be|that|which|below|above|here|supports?|"
    r"[\"“]|"
    r"(?:to|for|of|from) (?:the|this) (?:passage|question|query|text|claim))(?=\W|$)|"
    r"(?:the|this) (?P<noun5>answer|query|title|claim|statement)s? (?:\w+ )?(?:fits?|meets?|provides?|describes?|"
    r"captures?|"
    r"reflects?|summari[sz]es?|highlights?|accurately|clearly)\b|"
    r"the (?:purpose|aim|goal) of (?:the|this) (?P<noun2>query|question|claim|title)\b)|"
    r"\bis (?:an?|the|this) (?:\w+ ){0,3}?(?P<noun3>statement|claim|question|title|query|answer|sentence|summary|"
    r"example)\b"
    r" (?:that|which|of|for|about|to)\b.{0,60}\b(?:claims?|statements?|questions?|answers?|titles?|quer(?:y|ies)|"
    r"prompt|"
    r"request|structure)\b|"
    r"^(?:the|this) (?P<noun4>sentence) (?:about|above|below|that|which)\b",
    re.IGNORECASE,
)
_FIXED_PASSAGE = re.compile(
    r"\baccording to (?:the|this) (?:\w+ )?(?:passage|text|excerpt|article|document|author|abstract|paragraph)s?\b"
    r"(?! of)|"
    r"\b(?:the|this) (?:given |above |provided )?passage "
    r"(?:is about|describes?|discuss(?:es)?|mentions?|says?|states?|explains?|provides?|talks?|does not|doesn't)\b|"
    r"^(?:the|this) (?:present )?(?:paper|study|article|report|chapter) (?:is (?:about|concerned with)|describes?|"
    r"discuss(?:es)?|"
    r"presents?|examines?|investigates?|focus(?:es)?)\b|"
    r"\b(?:described|discussed|mentioned|stated|given|provided|presented) in (?:the|this) (?:\w+ )?"
    r"(?:passage|text|excerpt|article|document|abstract|paragraph)\b|"
    r"\b(?:described|discussed|mentioned|stated|given|shown|listed) (?:above|below)\b|"
    r"\b(?:in|of|by|from) (?:this|the present) (?:paper|study|article|experiment|report)\b",
    re.IGNORECASE,
)
_OF_PASSAGE = re.compile(
    r"\b(?:the|this|that|each|your|a|an|any) (?:(?:given|above|provided|following|previous|original|entire|whole|short|"
    r"second|first|last|single|delightful|clear|concise) )?(?P<noun>passage)(?:'s)?\b"
    r"(?!\s+(?:of|through|to|from|between|across|into|over|around|round|under|beneath|underneath|beyond|along|down|up|"
    r"past|north|south|east|west|via|at|time|times|rites?|money|grave|tomb|planning|home|out|way|ways|door|wall)\b)",
    re.IGNORECASE,
)
_OF_TEXT = re.compile(
    r"\b(?:the|this) (?:(?:given|above|provided|following|previous|original|entire|whole) )?"
    r"(?P<noun>text|article|document|excerpt|paragraph|abstract|author|sentence|report)s?(?:'s?)?"
    r"(?:\s+(?:is about|describes?|discuss(?:es)?|mentions?|says?|states?|explains?|provides?|talks?|focus(?:es)?|"
    r"highlights?|suggests?|presents?|contains?|means?|meant|refers?|about|conclude[sd]?|argue[sd]?|found|used?)\b|"
    r"\s*[?.!,\"”']*$)",
    re.IGNORECASE,
)
_OF_AUTHORS = re.compile(
    r"^the (?P<noun>author)s? (?:are|were|have|had|did|do|believe[sd]?|report(?:ed|s)?|show(?:ed|s)?|use[ds]?|found|"
    r"find)\b",
    re.IGNORECASE,
)
_TELLS_TO_WRITE = re.compile(
    # a task for somebody else: "Select keywords for the search"
    r"^(?:select|pick|choose|identify|list|write|enter|type|create|provide|generate|suggest|formulate|rewrite)\s+"
    r"(?:\w+\s+){0,3}?(?P<noun>key ?words?|search terms?|titles?|claims?|questions?|quer(?:y|ies)|answers?|"
    r"sentences?)\b",
    re.IGNORECASE,
)
_ANNOUNCES = re.compile(
    r"\b(?:is|are|was|were|be|by|as|say|says|follows?|following|below|this|that|these|those|here|to|of|answer|"
    r"question|claim|"
    r"title|query|keywords?|words?|line|from|on|for|with)\W*:$",
    re.IGNORECASE,
)
_OTHER_PASSAGE = re.compile(
    r"^[\"'“*]*(?:second )?(?:passage|text|excerpt|document|article|context)s?\s*\d*\s*:", re.IGNORECASE
)


def is_refusal(query: str) -> bool:
    """Whether a model says that it cannot or does not want to."""
    return _REFUSAL.search(query) is not None


def begins_passage(query: str) -> bool:
    """Whether an answer begins a passage of its own, as the examples of a prompt do."""
    return _OTHER_PASSAGE.match(query) is not None


def mentions_passage(query: str, passage: str) -> bool:
    """Whether a query speaks of "the passage" that its reader has never seen."""
    return _FIXED_PASSAGE.search(query) is not None or _speaks_of(
        query, passage, _OF_PASSAGE, _OF_TEXT, _OF_AUTHORS, *foreign.OF_PASSAGE
    )


def is_meta_talk(query: str, passage: str) -> bool:
    """Whether a model talks to its user, or about the query, instead of writing it."""
    for pattern in (_CHAT, foreign.CHAT):
        chat = pattern.search(query)
        if chat and not _stands_in(chat.group(), passage):
            return True
    return _ANNOUNCES.search(query) is not None or _speaks_of(
        query, passage, _ABOUT_QUERY, _TELLS_TO_WRITE, *foreign.OF_QUERY
    )


def _speaks_of(query: str, passage: str, *patterns: re.Pattern[str]) -> bool:
    """Whether a pattern finds a noun that the passage does not use itself."""
    nouns = list(_nouns(query, patterns))
    if not nouns:
        return False
    known = {word.rstrip("s") for word in words(passage)}
    return any(noun.casefold().rstrip("s") not in known for noun in nouns)


def _nouns(query: str, patterns: tuple[re.Pattern[str], ...]) -> Iterator[str]:
    for pattern in patterns:
        for match in pattern.finditer(query):
            yield next(noun for noun in match.groupdict().values() if noun)


def _stands_in(part: str, passage: str) -> bool:
    return f" {' '.join(words(part))} " in f" {' '.join(words(passage))} "
