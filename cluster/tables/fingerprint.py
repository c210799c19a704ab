"""Fingerprints: JSON of everything that determines a table or a model. Work is continued only if they are equal."""

from __future__ import annotations

import json
from typing import Any

from cluster.errors import InputError


def check_fingerprint(path: str, stage: str, planned: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to continue a table or model if its fingerprint differs from the wanted one.

    Args:
        path: the table or folder, for the message.
        stage: the name that `--overwrite` takes to make it again, for the message.
        planned: the fingerprint it was begun with.
        wanted: the fingerprint of this run.

    Raises:
        InputError: it names each differing key with both values, and `--overwrite`.
    """
    before, now = _flat(planned), _flat(json.loads(json.dumps(wanted)))
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if keys:
        absent = "absent"
        lines = [f"  {key}: was {_short(before.get(key, absent))}, is {_short(now.get(key, absent))}" for key in keys]
        more = [f"  … and {len(keys) - 10} more"] if len(keys) > 10 else []
        raise InputError(
            f"{path} was made with other settings or inputs:\n" + "\n".join(lines[:10] + more) + "\n"
            f"Restore them, or do this stage and all later ones again with --overwrite {stage}."
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with keys like "model.name"."""
    if isinstance(value, dict) and value:
        return {name: v for k in value for name, v in _flat(value[k], f"{key}.{k}" if key else str(k)).items()}
    return {key: value}


def _short(value: Any) -> str:
    text = value if value == "absent" else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
