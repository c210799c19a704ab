"""The model hub and its cache: can this machine load the models that a recipe names, and from where?"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from cluster.errors import InputError
from launcher.doctor.finding import Finding

LIMIT_S = 2.0


def hub() -> Finding:
    """Whether the hub answers, or what its cache holds where it does not."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    kept = f"{models} {'model' if models == 1 else 'models'} in the cache {cache}"
    if constants.is_offline_mode():
        return Finding("ok", "model hub", f"offline (HF_HUB_OFFLINE); {kept}")
    why = refusal()
    if not why:
        return Finding("ok", "model hub", f"{constants.ENDPOINT} answers; {kept}")
    return Finding(
        "warning",
        "model hub",
        f"{constants.ENDPOINT} {why}; {kept}",
        "name models by folder, or fill the cache elsewhere, copy it here (HF_HOME) and set HF_HUB_OFFLINE=1",
    )


@lru_cache(maxsize=1)
def refusal() -> str:
    """Why the hub cannot be used from here, in words; empty if it can. Takes no longer than `LIMIT_S`."""
    from huggingface_hub import constants

    outcome = [f"does not answer within {LIMIT_S:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=LIMIT_S
            ) as answer:
                answer.read(0)
            outcome[0] = ""
        except urllib.error.HTTPError as error:
            outcome[0] = f"answers with status {error.code}" if error.code >= 500 else ""
        except (OSError, ValueError) as error:
            outcome[0] = f"does not answer ({getattr(error, 'reason', None) or error})"

    # a thread, since looking up a name knows no time limit
    asking = threading.Thread(target=ask, name="hub", daemon=True)
    asking.start()
    asking.join(LIMIT_S)
    return outcome[0]


def models(named: Mapping[str, str]) -> Iterator[Finding]:
    """Whether each model can be loaded here.

    Args:
        named: field of the recipe → folder, packaged name or hub id.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    from distill.encoders.loading import resolve_model

    for field, model in named.items():
        try:
            place = resolve_model(model)
        except InputError as error:
            yield Finding("failure", "model", f"{field}: {error}", "copy it to the same path on every node")
            continue
        if Path(place).is_dir():
            yield Finding("ok", "model", f"{field}: {place}")
        elif isinstance(try_to_load_from_cache(place, "config.json"), str):
            yield Finding("ok", "model", f"{field}: {place}, in the cache")
        elif constants.is_offline_mode():
            remedy = "fetch it where there is a network (hf download), and copy HF_HOME here"
            yield Finding("failure", "model", f"{field}: {place} is not in the cache, and the hub is off", remedy)
        elif why := refusal():
            remedy = "name a folder that is here, or copy a cache that has it (HF_HOME)"
            yield Finding("failure", "model", f"{field}: {place} is not in the cache, and the hub {why}", remedy)
        else:
            yield Finding("ok", "model", f"{field}: {place}, from the hub")
