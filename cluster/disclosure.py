"""Text that is safe to show: without control characters and without secrets.

Errors, logs and tables quote corpus texts, file names, answers of servers and urls. None of these may control the
reader's terminal or reveal a key. Text is cleaned at the points where it leaves the program, so no other code has to
do it.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from cluster.provider_keys import hide_keys

HIDDEN = "***"
# a word of its own (api_key, ?sig=), or the end of a longer one whose meaning no other word has (PGPASSWORD, accessKey)
_OWN_WORD = r"(?:key|pwd|passphrase|signature|sig|auth)"
_ENDING = r"(?:token|secret|password|passwd|credentials?|(?:api|access|secret|private|account|auth|session|signing)key)"
_SECRET_NAME = rf"(?:(?:[\w.-]*[_.-])?{_OWN_WORD}|[\w.-]*{_ENDING})"
_TOKENS_OF_VOCABULARIES = ("true_token", "false_token")  # what a teacher answers
_FOLDERS_OF_SHELLS = ("PWD", "OLDPWD")  # variables that hold the folder a person is in
_NAMED_SO = re.compile(rf"(?i)(?:^|.*[_.-]){_OWN_WORD}$|.*{_ENDING}$")
# abfs://container@account holds no user and host:8080/@x no password; a password may hold slashes, as AWS's do
_USER = re.compile(r"(?<!abfs)(?<!abfss)://[^/\s'\"]+@|://[^/\s:'\"]*:(?!\d+/)[^\s'\"]+@")
_FIELD = re.compile(rf"(?i)(?<![\w-])({_SECRET_NAME})=[^&\s'\"#]+")
_IN_JSON = re.compile(rf"(?i)([\"']{_SECRET_NAME}[\"']\s*:\s*)([\"'])(?:(?!\2).)+\2")
_IN_A_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|(?:x-)?api-key|x-[\w-]*token)(\s*[:=]\s*)(?:(?:bearer|basic|token)\s+)?[^\s'\",}]+"
)
_BEARER = re.compile(r"(?i)\b(bearer)\s+[\w.~+/-]{8,}=*")
_MIN_SECRET_LENGTH = 8  # characters; hiding shorter values would hide common words
# control characters except newline and tab, and those that change the direction of writing
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def disclose(text: str) -> str:
    """Text for a terminal, a log or a table of errors: `printable`, with secrets replaced by `***`.

    These count as secrets: the user part of a url; the value of a field with a secret's name (`?sig=…`,
    `"api_key": "…"`, `Authorization: …`); what has the form of a known provider's key; and the value of an environment
    variable of this process with a secret's name (`OPENAI_API_KEY`).
    """
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    text = _IN_A_HEADER.sub(rf"\1\2{HIDDEN}", _USER.sub(f"://{HIDDEN}@", text))
    text = _IN_JSON.sub(rf"\1\2{HIDDEN}\2", _FIELD.sub(rf"\1={HIDDEN}", text))
    return printable(hide_keys(_BEARER.sub(rf"\1 {HIDDEN}", text), HIDDEN))


def printable(text: str) -> str:
    """Text with control characters written out (`\\x1b`), so that a terminal shows them and does not obey them."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: api_key, hf-token, password; not max_tokens or true_token."""
    return bool(_NAMED_SO.match(name)) and name not in _TOKENS_OF_VOCABULARIES


def is_secret_variable(name: str) -> bool:
    """Whether `disclose` hides the value of an environment variable of this name: RERANKER_API_KEY, HF_TOKEN."""
    return name.isidentifier() and is_secret_name(name) and name not in _FOLDERS_OF_SHELLS


def secret_in_url(text: str) -> str | None:
    """A phrase that names the secret in a url ("a user or a password"), or None if the text holds none."""
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
    """Secret values of the environment, longest first, because a short one may be the beginning of a longer one."""
    named = {name: value for name, value in os.environ.items() if name not in _FOLDERS_OF_SHELLS}
    values = {value for name, value in named.items() if len(value) >= _MIN_SECRET_LENGTH and is_secret_name(name)}
    return sorted(values, key=len, reverse=True)
