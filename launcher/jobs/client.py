"""What Listwise asks of a cluster's Jobs API, with every way it can go wrong told in words.

A cluster that does not answer raises LostError, which callers may ride out; everything else is final.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.errors import InputError, RunError

if TYPE_CHECKING:
    from launcher.jobs.sdk import BoundedClient

EXPECTED = "expected the dashboard of a Ray cluster, http://HOST:8265"
WORKDIR, VERSION = "listwise_workdir", "listwise_version"  # what a job of ours carries as metadata
LIVE = ("PENDING", "RUNNING")


class LostError(RunError):
    """The cluster did not answer. A job that runs there goes on."""


class TakenError(Exception):
    """Somebody else has just submitted a job of this id."""


@dataclass(frozen=True)
class Job:
    """One attempt at a run, as the cluster knows it. Times in seconds since 1970."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    workdir: str
    exit_code: int | None
    message: str
    started: float | None
    ended: float | None

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.status in LIVE


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, client: BoundedClient, address: str) -> None:
        self._client = client
        self.address = address

    def check_version(self) -> None:
        """Refuses a cluster of another Ray than the one that Listwise is tried with.

        Raises:
            InputError: names both versions.
        """
        import ray

        with _answers(self.address):
            theirs = self._client.ray_version()
        if theirs != ray.__version__:
            raise InputError(
                f"the cluster at {self.address} runs Ray {theirs}, this machine has Ray {ray.__version__}. Start the "
                f"cluster from an environment with Ray {ray.__version__} and the same Listwise."
            )

    def all(self) -> list[Job]:
        """The jobs that Listwise submitted, oldest first."""
        with _answers(self.address):
            listed = self._client.list_jobs()
        ours = [_job(one) for one in listed if one.submission_id and WORKDIR in (one.metadata or {})]
        return sorted(ours, key=lambda job: job.started or 0)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            InputError: the cluster knows none of this id.
        """
        with _answers(self.address, job_id):
            return _job(self._client.get_job_info(job_id))

    def submit(
        self, job_id: str, entrypoint: str, parcel: Path, env: Mapping[str, str], metadata: dict[str, str]
    ) -> None:
        """Sends a parcel and starts a job in it.

        Raises:
            TakenError: there is a job of this id.
        """
        runtime_env = {"working_dir": str(parcel), "env_vars": dict(env)}
        with _answers(self.address):
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env, metadata=metadata
            )

    def stop(self, job_id: str) -> None:
        """Asks a job to stop; `get` tells when it has."""
        with _answers(self.address, job_id):
            self._client.stop_job(job_id)

    def tail(self, job_id: str) -> Iterator[str]:
        """A job's log in pieces, from its beginning; may end before the job does."""
        with _answers(self.address, job_id):
            yield from self._client.tail(job_id)

    def log(self, job_id: str) -> str:
        """A job's whole log up to now."""
        with _answers(self.address, job_id):
            return self._client.get_job_logs(job_id)


def connect(address: str) -> Jobs:
    """Opens the Jobs API of a cluster.

    Raises:
        InputError: the address is none, nothing or something else answers there, or it wants a (different) token.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--address {address}: {EXPECTED}")
    _prepare_environment()
    from launcher.jobs.sdk import BoundedClient

    address = address.rstrip("/")
    try:
        with _answers(address):
            return Jobs(BoundedClient(address), address)
    except LostError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers ({error}); {EXPECTED}. Behind a firewall: ssh -L "
            "8265:localhost:8265 HOST, or kubectl port-forward, and --address http://localhost:8265"
        ) from None
    except (RunError, KeyError) as error:
        raise InputError(f"--address {address}: what answers is no Ray dashboard ({error}); {EXPECTED}") from None


def _prepare_environment() -> None:
    """Ray lets RAY_ADDRESS override an address that is named, sends no token unless told to, and aborts the process
    for a token file that it cannot read."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path and not os.environ.get("RAY_AUTH_TOKEN"):
        try:
            empty = not Path(path).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"RAY_AUTH_TOKEN_PATH: {path} cannot be read ({error})") from None
        if empty:
            raise InputError(f"RAY_AUTH_TOKEN_PATH: {path} is empty; expected the cluster's token in it")
    if path or os.environ.get("RAY_AUTH_TOKEN"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextlib.contextmanager
def _answers(address: str, job_id: str | None = None) -> Iterator[None]:
    """Turns what Ray's client raises into our errors."""
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        what = "does not take the token that is given" if given else "wants a token"
        raise InputError(
            f"the cluster at {address} {what} ({_reason(error)}). Set RAY_AUTH_TOKEN_PATH to a file that holds its "
            "token, or RAY_AUTH_TOKEN to the token."
        ) from None
    except (OSError, ClientError) as error:  # those of requests are OSErrors
        raise LostError(f"{address} does not answer: {_reason(error)}") from None
    except RuntimeError as error:
        if "already exists" in str(error):
            raise TakenError from None
        status = re.search(r"status code (\d+)", str(error))
        code = int(status[1]) if status else 0
        if code == 404 and job_id:
            raise InputError(
                f"the cluster at {address} knows no job {job_id}; list them with: listwise jobs --address {address}"
            ) from None
        if code >= 500 or "WebSocket" in str(error):
            raise LostError(f"{address} does not answer: {_reason(error)}") from None
        raise RunError(f"{address}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """What Ray says in a line: the system's own words, the last line of a server's traceback, or the first line."""
    if system := re.search(r"\[Errno [^\"')]+", str(error)):
        return system[0]
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "Traceback" in str(error) else 0].strip()


def _job(details: Any) -> Job:
    def seconds(milliseconds: int | None) -> float | None:
        return milliseconds / 1000 if milliseconds else None

    return Job(
        id=details.submission_id or details.job_id,
        status=details.status.value,
        workdir=(details.metadata or {}).get(WORKDIR, ""),
        exit_code=details.driver_exit_code,
        message=details.message or "",
        started=seconds(details.start_time),
        ended=seconds(details.end_time),
    )
