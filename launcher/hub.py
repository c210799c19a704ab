"""The model hub: whether it answers, and whether it has a model."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from functools import lru_cache

LIMIT_S = 2.0


@lru_cache(maxsize=1)
def hub_problem() -> str:
    """The reason why this machine cannot use the hub; empty if it can. Takes at most `LIMIT_S` seconds."""
    from huggingface_hub import constants

    outcome = [f"does not answer within {LIMIT_S:g} s"]

    def send_request() -> None:
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

    # The request runs in a thread because the DNS look-up has no time limit of its own.
    request = threading.Thread(target=send_request, name="hub", daemon=True)
    request.start()
    request.join(LIMIT_S)
    return outcome[0]


def is_on_hub(model: str) -> bool | None:
    """Whether the hub has a model that this machine may read; None if it does not answer, or is switched off.

    Args:
        model: an id such as `Qwen/Qwen3-Embedding-0.6B`.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError

    if constants.is_offline_mode() or hub_problem():
        return None
    try:
        return HfApi().repo_exists(model)
    except HFValidationError:
        return False
    except Exception:  # of the network, in the words of whichever library the hub's client uses
        return None
