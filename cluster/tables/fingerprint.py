"""Fingerprints: JSON of all that determines a table or an artefact. What was made from another one is not continued."""

from __future__ import annotations

import json
from typing import Any

from cluster.errors import InputError


def check_fingerprint(path: str, stage: str, planned: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to go on with a table or artefact that was planned from something else.

    Raises:
        InputError: names each differing key with both values, and `--overwrite`.
    """
    before, now = _flat(planned), _flat(json.loads(json.dumps(wanted)))
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if keys:
        absent = "absent"
        lines = [f"  {key}: was {_short(before.get(key, absent))}, is {_short(now.get(key, absent))}" for key in keys]
        more = [f"  … and {len(keys) - 10} more"] if len(keys) > 10 else []
        raise InputError(
            f"{path} was made with other settings or inputs:\n" + "\n".join(lines[:10] + more) + "\n"
            f"Put them back, or do the stage and all after it again with --overwrite {stage}."
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {name: v for k in value for name, v in _flat(value[k], f"{key}.{k}" if key else str(k)).items()}
    return {key: value}


def _short(value: Any) -> str:
    text = value if value == "absent" else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
