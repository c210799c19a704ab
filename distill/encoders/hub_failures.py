"""Why a model of the hub cannot be loaded, where a library's error says it badly or misleads."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.weights import IS_A_PICKLE, only_pickle


def reason_on_hub(name: str, error: BaseException, revision: str | None = None) -> str | None:
    """One or two sentences, or None if the error's own words are as good.

    Args:
        name: id of the model.
        error: of the library that was to load it.
        revision: that was to be loaded; None: the main branch.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    unreachable = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub does not answer"
    absent = f"it is not in the local cache, and {unreachable}."
    causes = list(_causes(error))
    reasons = {
        GatedRepoError: "its authors ask for consent. Give it on the model's page of the hub, and set HF_TOKEN.",
        RepositoryNotFoundError: "the hub has no model of this name, or it is private and HF_TOKEN does not open it.",
        RevisionNotFoundError: "the hub has no such `revision` of it.",
        OfflineModeIsEnabled: absent,
        LocalEntryNotFoundError: absent,
    }
    for kind, reason in reasons.items():
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    try:
        pickled = only_pickle(HfApi().list_repo_files(name, revision=revision))
    except Exception:  # of the network, or the name is no id: the error's own words stay
        return None
    return f"{pickled} {IS_A_PICKLE}" if pickled else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from or during."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
