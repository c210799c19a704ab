"""Keys of known providers, found by the forms that the providers give them.

The forms are those of detect-secrets, which keeps them up to date. To them come a few that it lacks or whose older
form it knows.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module

# Its modules, and in each the class. Left out are those that go by entropy or by addresses, which also find names and
# hashes; passwords in urls and in fields are looked for in `disclosure`.
_DETECTORS = {
    "artifactory": "ArtifactoryDetector",
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "cloudant": "CloudantDetector",
    "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "ibm_cloud_iam": "IbmCloudIamDetector",
    "ibm_cos_hmac": "IbmCosHmacDetector",
    "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector",
    "openai": "OpenAIDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "softlayer": "SoftlayerDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector",
    "twilio": "TwilioKeyDetector",
}
_MORE = (
    r"\bsk-[\w-]{16,}",  # OpenAI and those that follow it (Anthropic, DeepSeek, OpenRouter)
    r"\bhf_[A-Za-z0-9]{20,}",  # Hugging Face
    # of these services the whole form is known, but servers also repeat keys that are cut
    r"\bgh[opsur]_[A-Za-z0-9]{20,}",
    r"\bgithub_pat_\w{20,}",
    r"\bglpat-[\w-]{16,}",
    r"\bxox[abeprs]-[\w-]{10,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"\bAIza[\w-]{35}",  # Google
    r"\bnpm_[A-Za-z0-9]{36}",
    r"\beyJ[\w-]{10,}(?:\.[\w-]*){1,2}",  # JSON web tokens, with their signature
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
)


def hide_keys(text: str, hidden: str) -> str:
    """The text, in which `hidden` stands for every key of a known provider and for every private key in PEM."""
    for form in _forms():
        text = form.sub(hidden, text)
    return text


@cache
def _forms() -> tuple[re.Pattern[str], ...]:
    found = [re.compile(form) for form in _MORE]
    for module, name in _DETECTORS.items():
        found += getattr(import_module(f"detect_secrets.plugins.{module}"), name).denylist
    return tuple(found)
