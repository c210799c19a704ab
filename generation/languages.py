"""Names of languages as a prompt says them."""

from __future__ import annotations

# ISO 639-1, the languages with the most text on the web; any other is written out in the recipe
_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
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
