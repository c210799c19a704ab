"""Talk about the prompt in German, French and Spanish: the same forms as in `prose`, each language's own words.

A form is a frame of words that a language uses around a noun ("laut diesem {noun}"). As in `prose`, nouns that the
passage uses itself do not count, since they may be its subject.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Speech:
    """Words of one language, each an alternation of a regular expression.

    Attributes:
        articles: before a noun, with the space or apostrophe after it.
        passage: nouns for what the prompt shows.
        query: nouns for what the prompt asks for.
        according: "according to", as it stands before an article.
        tells: verbs after "the passage".
        asks: what stands before the article in "what does the passage say".
        is_: "is", between the query's noun and its text.
        supported: what a sentence says of "this claim".
        chat: beginnings of sentences to the user.
    """

    articles: str
    passage: str
    query: str
    according: str
    tells: str
    asks: str
    is_: str
    supported: str
    chat: str

    def of_passage(self) -> re.Pattern[str]:
        """Finds "according to the passage", "the passage describes", "what does the passage say"."""
        noun = rf"(?:{self.articles})(?:\w+ )?"
        frames = (
            rf"\b(?:{self.according})\s+{noun}(?P<noun>{self.passage})\b",
            rf"\b{noun}(?P<noun2>{self.passage})\s+(?:{self.tells})\b",
            rf"\b(?:{self.asks})\s+{noun}(?P<noun3>{self.passage})\b",
        )
        return re.compile("|".join(frames), re.IGNORECASE)

    def of_query(self) -> re.Pattern[str]:
        """Finds "the title is", "this claim is supported by"."""
        noun = rf"^(?:{self.articles})(?:\w+ )?"
        frames = (
            rf"{noun}(?P<noun>{self.query})\s+(?:{self.is_})\b",
            rf"{noun}(?P<noun2>{self.query})\s+(?:{self.supported})\b",
        )
        return re.compile("|".join(frames), re.IGNORECASE)


GERMAN = Speech(
    articles="(?:der|die|das|dem|den|dieser|diese|dieses|diesem|diesen|gegebene[rnsm]?|obige[rnsm]?) ",
    passage="texte?s?|abschnitt(?:s|es)?|auszugs?|absatz(?:es)?|artikels?|passage|dokuments?|textstelle|abstracts?",
    query="frage|behauptung|aussage|titel|überschrift|suchanfrage|anfrage|antwort|stichwörter|schlagwörter",
    according="laut|gemäß|nach|entsprechend",
    tells="beschreibt|behandelt|erklärt|erläutert|erwähnt|sagt|besagt|berichtet|handelt|befasst|diskutiert|enthält|"
    "zeigt|stellt|informiert|nennt",
    asks="(?:sagt|besagt|beschreibt|erklärt|erwähnt|berichtet|behandelt|behauptet)|in(?= diesem )|"
    "(?:beschrieben|erwähnt|genannt|behandelt|erklärt) in",
    is_="lautet|lauten|ist:|wäre:|könnte lauten|könnte sein",
    supported="(?:wird|werden|ist|sind) (?:\\w+ ){0,3}(?:text|abschnitt|passage|artikel)|passt zu|"
    "bezieht sich auf (?:den|die) (?:text|passage|abschnitt)",
    chat="gerne[!,.]|natürlich[!,.]|hier (?:ist|sind) (?:ein|eine|einige|die|der|das|mein|meine)\\b.{0,40}"
    "(?:frage|behauptung|titel|anfrage|antwort|vorschlag|vorschläge|beispiel|beispiele|stichwörter)\\b|"
    "bitte (?:geben|nennen|teilen|stellen|beachten|formulieren|schreiben|beantworten|lesen) sie\\b|"
    "ich hoffe,? (?:das|dass)|zögern sie nicht|lassen sie mich wissen|basierend auf (?:dem|diesem)",
)
FRENCH = Speech(
    articles="(?:le|la|les|ce|cet|cette|ces|du|au) |l'",
    passage="texte|passage|extrait|article|document|paragraphe|résumé",
    query="question|affirmation|titre|requête|réponse|mots-clés|mots clés",
    according="selon|d'après|suivant|conformément",
    tells="décrit|parle|traite|explique|mentionne|dit|indique|présente|aborde|contient|discute|porte sur|précise",
    asks="(?:que|comment|pourquoi) (?:dit|décrit|explique|indique|mentionne|présente)|"
    "(?:décrite?s?|mentionnée?s?|citée?s?|évoquée?s?|présentée?s?) (?:dans|par)",
    is_="est|sont|serait|pourrait être",
    supported="(?:est|sont) (?:soutenue?s?|appuyée?s?|étayée?s?|confirmée?s?)",
    chat="bien sûr\\s?[!,.]|certainement\\s?[!,.]|voici (?:une?|la|le|les|des|ma|mon|quelques)\\b.{0,40}"
    "(?:question|affirmation|titre|requête|réponse|mots|exemples?|propositions?)\\b|n'hésitez pas|veuillez\\b|"
    "j'espère que (?:cela|ça)|en tant que modèle|faites-moi savoir|je (?:suis prêt|serais ravi|vais vous)",
)
SPANISH = Speech(
    articles="(?:el|la|los|las|este|esta|estos|estas|del|al|dicho) ",
    passage="texto|pasaje|extracto|artículo|documento|párrafo|fragmento|resumen",
    query="pregunta|afirmación|título|consulta|respuesta|palabras clave",
    according="según|de acuerdo con|conforme a|de acuerdo",
    tells="describe|habla|trata|explica|menciona|dice|indica|presenta|aborda|contiene|discute|señala|afirma",
    asks="(?:qué|cómo|que) (?:dice|describe|explica|indica|menciona|presenta)|"
    "(?:descrit|mencionad|citad|presentad)[oa]s? (?:en|por)",
    is_="es|son|sería|podría ser",
    supported="(?:está|están) (?:respaldad|apoyad|confirmad|sustentad)[oa]s?",
    chat="¡?claro(?: que sí)?\\s?[!,.]|por supuesto\\s?[!,.]|aquí (?:está|tienes?|hay|le dejo|te dejo)\\b.{0,40}"
    "(?:pregunta|afirmación|título|consulta|respuesta|palabras|ejemplos?)\\b|no dudes? en\\b|"
    "por favor,? (?:proporcion|indi[cq]|escrib|d[ée]|facilit|envíe|note|lea)|espero que (?:esto|te|le)|"
    "como (?:un )?modelo de|avíseme|estoy (?:listo|aquí para)",
)
SPEECHES = (GERMAN, FRENCH, SPANISH)

OF_PASSAGE = tuple(speech.of_passage() for speech in SPEECHES)
OF_QUERY = tuple(speech.of_query() for speech in SPEECHES)
CHAT = re.compile("^(?:" + "|".join(speech.chat for speech in SPEECHES) + ")", re.IGNORECASE)
