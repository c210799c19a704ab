"""The model hub: whether it answers, whether it has a model, and how to do without it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from cluster.errors import InputError

LIMIT_S = 2.0
PATIENCE_S = 10.0  # of a process that must load a model


class ModelName(NamedTuple):
    """A model as a recipe names it: folder, packaged name or hub id; and the commit, branch or tag of a hub's."""

    name: str
    revision: str | None


@lru_cache(maxsize=4)
def hub_problem(limit_s: float = LIMIT_S) -> str:
    """The reason why this machine cannot use the hub; empty if it can. Takes at most `limit_s` seconds."""
    from huggingface_hub import constants, get_session

    outcome = [f"does not answer within {limit_s:g} s"]

    def send_request() -> None:
        try:  # with the hub's own client, since that knows the machine's proxies and certificates
            status = get_session().head(constants.ENDPOINT, timeout=limit_s, follow_redirects=True).status_code
            outcome[0] = f"answers with status {status}" if status >= 500 else ""
        except Exception as error:  # of whichever library the client uses
            outcome[0] = f"does not answer ({error})"

    # The request runs in a thread because the DNS look-up has no time limit of its own.
    request = threading.Thread(target=send_request, name="hub", daemon=True)
    request.start()
    request.join(limit_s)
    return outcome[0]


def is_on_hub(model: str, revision: str | None = None) -> bool | None:
    """Whether the hub has a model that this machine may read; None if it does not answer, or is switched off.

    Args:
        model: an id such as `Qwen/Qwen3-Embedding-0.6B`.
        revision: a commit, branch or tag that it shall have; None: any.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError

    if constants.is_offline_mode() or hub_problem():
        return None
    try:
        return HfApi().revision_exists(model, revision) if revision else HfApi().repo_exists(model)
    except HFValidationError:
        return False
    except Exception:  # of the network, in the words of whichever library the hub's client uses
        return None


def refuse_revision(model: str, revision: str | None, field: str = "revision") -> None:
    """Refuses a revision of a model that lies in a folder or a file: only models of the hub have revisions.

    Args:
        model: the model's name in the recipe, which is a folder or a file.
        revision: that the recipe asks for; None is right.
        field: of the recipe, that asks for it.

    Raises:
        InputError: there is one.
    """
    if revision is not None:
        raise InputError(
            f"model '{model}': {field} is '{revision}', but this is a folder or a file, and only models of the hub "
            f"have revisions. Remove `{field}`, or name the model's id on the hub."
        )


@contextmanager
def cache_alone_if_silent(model: str, revision: str | None = None) -> Iterator[None]:
    """Inside, libraries look for a model in the local cache alone, if the hub does not answer.

    By themselves they ask the hub for every file of a cached model, six times each: without network, loading an encoder
    of the cache took 50 s instead of 4. For a model that is not cached the hub is asked three times before.

    Args:
        model: a folder, for which nothing is asked, or an id.
        revision: a commit, branch or tag; None: the main branch.
    """
    from huggingface_hub import constants

    if Path(model).exists() or constants.is_offline_mode() or not _is_silent(model, revision):
        yield
        return
    before = os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started inside, such as vLLM's engine
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _is_silent(model: str, revision: str | None) -> bool:
    if not hub_problem(PATIENCE_S):
        return False
    for pause_s in () if _is_cached(model, revision) else (1.0, 3.0):
        time.sleep(pause_s)
        hub_problem.cache_clear()
        if not hub_problem(PATIENCE_S):
            return False
    return True


def _is_cached(model: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        names = ("config.json", "modules.json")
        return any(isinstance(try_to_load_from_cache(model, name, revision=revision), str) for name in names)
    except HFValidationError:  # it is no id
        return False
