"""What may be shown: text without terminal control, and without secrets.

Errors, logs and tables quote corpus texts, file names, answers of servers and urls. None of them may move the cursor of
who reads it, or tell a key. Both are done where words leave the program, so that nobody has to think of it before.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

HIDDEN = "***"
_SECRET_NAME = r"(?:key|token|secret|password|passwd|credentials?|signature|sig)"
_NAMED_SO = re.compile(rf"(?i)(?:^|[_.-])(?:api)?{_SECRET_NAME}$")
_VARIABLE = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
# abfs://container@account names no user, host:8080/@x no password; a password may hold slashes, AWS's do
_USER = re.compile(r"(?<!abfs)(?<!abfss)://[^/\s'\"]+@|://[^/\s:'\"]*:(?!\d+/)[^\s'\"]+@")
_FIELD = re.compile(rf"(?i)(?<=[?&;.\s])((?:[\w.-]*[_.-])?(?:api)?{_SECRET_NAME})=[^&\s'\"]+")
_SHORTEST = 8  # a shorter value of a variable is no secret worth the harm of hiding common words
# control characters but newline and tab, and those that turn the direction of writing
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def disclose(text: str) -> str:
    """Text for a terminal, a log or a table of errors: `printable`, and without secrets.

    Hidden are the user part of urls, fields named like a secret (`?sig=…`), and the values of this process's
    environment variables that are named like one (`OPENAI_API_KEY`).
    """
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    text = _FIELD.sub(rf"\1={HIDDEN}", _USER.sub(f"://{HIDDEN}@", text))
    return printable(text)


def printable(text: str) -> str:
    """Text whose control characters are written out (`\\x1b`), so that a terminal shows and does not obey them."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: api_key, hf-token, password; not max_tokens."""
    return bool(_NAMED_SO.search(name))


def secret_in_url(text: str) -> str | None:
    """What makes a url secret, in words; None for any other text."""
    if "://" not in text:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    if _USER.search(text):
        return "a user or a password"
    names = [field.partition("=")[0] for field in re.split("[&;]", parts.query)]
    return next((f"the field `{printable(name)}`" for name in names if is_secret_name(name)), None)


def _secrets() -> list[str]:
    """Longest first, since one may begin with another."""
    found = {value for name, value in os.environ.items() if len(value) >= _SHORTEST and _VARIABLE.search(name)}
    return sorted(found, key=len, reverse=True)
