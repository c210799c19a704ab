"""The clean-up in other languages than English: talk, and queries that are not in the language that was asked for."""

from __future__ import annotations

import dataclasses

import pytest

from generation.cleaning.asked import Asked
from generation.cleaning.clean import clean
from tests.generation.test_cleaning import ASKED, cleaned


@pytest.mark.parametrize(
    ("language", "written", "reason"),
    [
        ("de", "Laut dem Artikel halten sich pears bei Frost.", "mentions_passage"),
        ("de", "Was sagt der Text über pears?", "mentions_passage"),
        ("de", "In diesem Abschnitt geht es um pears.", "mentions_passage"),
        ("de", "Diese Behauptung wird durch den Text über pears gestützt.", "meta_talk"),
        ("de", "Bitte geben Sie mir mehr über pears.", "meta_talk"),
        ("de", "Ich hoffe, das hilft Ihnen mit pears.", "meta_talk"),
        ("de", "Der Titel lautet:", "empty"),
        ("fr", "D'après l'article, les pears se gardent au frais.", "mentions_passage"),
        ("fr", "Le texte décrit les pears.", "mentions_passage"),
        ("fr", "Que dit ce passage sur les pears ?", "mentions_passage"),
        ("fr", "Bien sûr ! Voici la question sur les pears", "meta_talk"),
        ("fr", "N'hésitez pas à demander des pears.", "meta_talk"),
        ("fr", "Voici une question :", "empty"),
        ("es", "Según el texto, las pears duran meses.", "mentions_passage"),
        ("es", "¿Qué dice el pasaje sobre las pears?", "mentions_passage"),
        ("es", "Esta afirmación está respaldada por las pears.", "meta_talk"),
        ("es", "¡Claro! Aquí tienes una pregunta sobre pears", "meta_talk"),
        ("es", "No dudes en preguntar por las pears.", "meta_talk"),
    ],
)
def test_talk_in_other_languages_gets_the_same_reasons(language: str, written: str, reason: str) -> None:
    for asked in (language, None):
        assert clean(written, dataclasses.replace(ASKED, language=asked)).reason == reason


@pytest.mark.parametrize(
    ("language", "passage", "written", "query"),
    [
        ("de", "Die Pears halten im Lager sieben Monate.", "Die Frage lautet: Wie lange halten Pears?", None),
        ("de", "Der Artikel 5 schützt die Presse und den Text der Zeitung.", "Was sagt der Artikel 5 zur Presse?", ""),
        ("de", "Im Lager liegen die Pears bei null Grad.", "in diesem Lager die Pears bei null Grad lagern", ""),
        ("fr", "Le titre de transport coûte deux euros pour les jeunes.", "Le titre de transport est-il cher ?", ""),
        ("fr", "Les pears restent au frais dans la cave.", "Question : comment garder les pears au frais ?", None),
        ("es", "El título de médico se obtiene en seis años.", "¿El título de médico es caro para todos?", ""),
        ("es", "Las pears se guardan en frío por meses.", "La pregunta es: ¿cómo se guardan las pears?", None),
    ],
)
def test_queries_in_other_languages_are_kept(language: str, passage: str, written: str, query: str | None) -> None:
    """With the words around it taken off (None), or as it is."""
    expected = written if query == "" else written.partition(":")[2].strip()
    assert cleaned(written, Asked(passage, "question", "Question", language=language)) == (expected, None)


@pytest.mark.parametrize(
    ("language", "written", "is_kept"),
    [
        ("en", "Comment conserver les poires au frais ?", False),
        ("en", "¿Cómo se conservan las peras?", False),
        ("en", "梨可以保存多久?", False),
        ("en", "pear storage oxygen", True),
        ("en", "la dolce vita pears", True),
        ("en", "pears with vitamin c and vitamin d", True),
        ("en-GB", "does α-amylase soften pears?", True),
        ("de", "Wie lange halten sich die Pears?", True),
        ("de", "what is the best way to keep pears in the cold?", False),
        ("zh", "how long do pears keep?", False),
        ("zh", "iPhone 15 pears 电池", True),
        ("tlh", "how long do pears keep?", True),
        (None, "Comment conserver les pears au frais ?", True),
    ],
)
def test_a_query_in_another_language_than_asked_for_is_dropped(
    language: str | None, written: str, is_kept: bool
) -> None:
    query = clean(written, dataclasses.replace(ASKED, language=language))
    assert (query.text, query.reason) == ((written, None) if is_kept else (None, "wrong_language"))


def test_names_of_the_passage_are_no_other_language() -> None:
    asked = Asked(
        "The Rio de la Plata is the widest river in the world, if it is one.", "search", "Search", language="en"
    )
    assert cleaned("rio de la plata width", asked) == ("rio de la plata width", None)
