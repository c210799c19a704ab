"""Names and codes of languages."""

from __future__ import annotations

ENGLISH = "en"
AUTO = "auto"  # the language that most passages are in

# ISO 639-1, the languages with the most text on the web; any other is written out in the recipe
_NAMES = {
    "ar": "Arabic", "az": "Azerbaijani", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "eu": "Basque",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish", "gl": "Galician", "gu": "Gujarati", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "is": "Icelandic",
    "it": "Italian", "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "kn": "Kannada", "ko": "Korean",
    "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "ml": "Malayalam", "mr": "Marathi",
    "ms": "Malay", "my": "Burmese", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sq": "Albanian",
    "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def language_name(language: str) -> str:
    """The English name of a code such as `de`; anything else is a name already.

    Raises:
        ValueError: two letters that are no code known here.
    """
    code = language.strip()
    if code.lower() in _NAMES:
        return _NAMES[code.lower()]
    if len(code) < 3:
        raise ValueError(f"'{language}' is no language code known here; write the language's name")
    return code


def language_code(language: str | None) -> str | None:
    """The code of a language without its country: `de` of `de-AT` and of `German`; other names stay as they are."""
    if not language:
        return None
    name = language.strip().casefold()
    named = next((code for code, known in _NAMES.items() if known.casefold() == name), name)
    return named.replace("_", "-").split("-")[0]


def known_codes() -> tuple[str, ...]:
    """Codes of the languages that have a name here."""
    return tuple(_NAMES)
