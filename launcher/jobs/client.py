"""The requests of Listwise to the Jobs API of a Ray cluster, and their errors in plain words.

A cluster that does not answer raises `ConnectionLostError`, after which a caller may try again. Other errors are final.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.errors import InputError, RunError
from cluster.machines.sent_variables import NAME_VARIABLE

if TYPE_CHECKING:
    from launcher.jobs.sdk import BoundedClient

EXPECTED = "expected the dashboard of a Ray cluster, http://HOST:8265"
WORKDIR, VERSION = "listwise_workdir", "listwise_version"  # keys in the metadata of a job that Listwise submits
LIVE_STATUSES = ("PENDING", "RUNNING")


class ConnectionLostError(RunError):
    """The cluster did not answer. Its jobs continue."""


class JobExistsError(Exception):
    """The cluster has a job with this id already; another client has just submitted it."""


@dataclass(frozen=True)
class Job:
    """One attempt at a run, as the cluster describes it; times are in seconds since 1970."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    workdir: str
    exit_code: int | None
    message: str
    started: float | None
    ended: float | None

    @property
    def live(self) -> bool:
        """Whether the job waits or runs."""
        return self.status in LIVE_STATUSES


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, client: BoundedClient, address: str) -> None:
        self._client = client
        self.address = address

    def check_version(self) -> None:
        """Checks that the cluster runs the same version of Ray as this machine.

        Raises:
            InputError: the versions differ.
        """
        import ray

        with _readable_errors(self.address):
            cluster_version = self._client.ray_version()
        if cluster_version != ray.__version__:
            raise InputError(
                f"the cluster at {self.address} runs Ray {cluster_version}, this machine has Ray {ray.__version__}. "
                f"Start the cluster from an environment with Ray {ray.__version__} and the same Listwise."
            )

    def all(self) -> list[Job]:
        """The jobs that Listwise submitted, oldest first."""
        with _readable_errors(self.address):
            all_jobs = self._client.list_jobs()
        own = [_job(details) for details in all_jobs if details.submission_id and WORKDIR in (details.metadata or {})]
        return sorted(own, key=lambda job: job.started or 0)

    def get(self, job_id: str) -> Job:
        """The job with this id.

        Raises:
            InputError: the cluster has no job with this id.
        """
        with _readable_errors(self.address, job_id):
            return _job(self._client.get_job_info(job_id))

    def submit(
        self,
        job_id: str,
        entrypoint: str,
        parcel: Path,
        env: Mapping[str, str],
        metadata: dict[str, str],
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Sends a parcel and starts a job in its folder.

        Args:
            job_id, entrypoint, metadata: of the job.
            parcel: folder.
            env: environment variables of the job's processes. Ray writes them into its logs.
            secrets: variables that no log may show; the job takes them with `sent_variables.receive`.

        Raises:
            JobExistsError: the cluster has a job with this id already.
        """
        with _readable_errors(self.address):
            name = f"listwise_{uuid.uuid4().hex}.zip"  # with an ending that Ray's store of parcels takes
            if secrets:
                env = {**env, NAME_VARIABLE: f"gcs://{name}"}
            runtime_env = {"working_dir": str(parcel), "env_vars": dict(env)}
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env, metadata=metadata
            )
            if secrets:  # the job waits for them; a job that another client has started gets none that stay
                self._client.store(name, json.dumps(dict(secrets)).encode())

    def stop(self, job_id: str) -> None:
        """Asks a job to stop, and does not wait for its end."""
        with _readable_errors(self.address, job_id):
            self._client.stop_job(job_id)

    def tail(self, job_id: str) -> Iterator[str]:
        """Yields the log of a job in pieces, from its beginning; it may end before the job does."""
        with _readable_errors(self.address, job_id):
            yield from self._client.tail(job_id)

    def log(self, job_id: str) -> str:
        """The whole log of a job up to now."""
        with _readable_errors(self.address, job_id):
            return self._client.get_job_logs(job_id)


def connect(address: str) -> Jobs:
    """Opens the Jobs API of a cluster.

    Raises:
        InputError: the address is not a url, no Ray dashboard answers there, or it requires another token.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--address {address}: {EXPECTED}")
    _prepare_environment()
    from launcher.jobs.sdk import BoundedClient

    address = address.rstrip("/")
    try:
        with _readable_errors(address):
            return Jobs(BoundedClient(address), address)
    except ConnectionLostError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers ({error}); {EXPECTED}. Behind a firewall: ssh -L "
            "8265:localhost:8265 HOST, or kubectl port-forward, and --address http://localhost:8265"
        ) from None
    except (RunError, KeyError) as error:
        raise InputError(f"--address {address}: what answers is no Ray dashboard ({error}); {EXPECTED}") from None


def _prepare_environment() -> None:
    """Prepares the environment variables that Ray reads when it is imported.

    RAY_ADDRESS would override the given address. Ray sends no token unless RAY_AUTH_MODE says so. It aborts the process
    if it cannot read the token file, so the file is checked here.
    """
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
def _readable_errors(address: str, job_id: str | None = None) -> Iterator[None]:
    """A context that turns the exceptions of Ray's client into errors of Listwise."""
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        problem = "does not accept the given token" if token else "requires a token"
        raise InputError(
            f"the cluster at {address} {problem} ({_reason(error)}). Set RAY_AUTH_TOKEN_PATH to a file that holds its "
            "token, or RAY_AUTH_TOKEN to the token."
        ) from None
    except (OSError, ClientError) as error:  # exceptions of the library requests are OSErrors
        raise ConnectionLostError(f"{address} does not answer: {_reason(error)}") from None
    except RuntimeError as error:
        if "already exists" in str(error):
            raise JobExistsError from None
        status = re.search(r"status code (\d+)", str(error))
        code = int(status[1]) if status else 0
        if code == 404 and job_id:
            raise InputError(
                f"the cluster at {address} has no job {job_id}; list the jobs with: listwise jobs --address {address}"
            ) from None
        if code >= 500 or "WebSocket" in str(error):
            raise ConnectionLostError(f"{address} does not answer: {_reason(error)}") from None
        raise RunError(f"{address}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """One line of Ray's message: the system's error, the last line of a server's traceback, or the first line."""
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
