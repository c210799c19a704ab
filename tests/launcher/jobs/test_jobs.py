"""Runs on a real Ray cluster through its Jobs API: one head for the module, and one story that most tests examine."""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.chaos.harness import until
from tests.generation.openai_server import Server, completion
from tests.launcher.jobs.ray_head import Head, Proxy, plain_environment
from tests.pipeline import LISTWISE, recipe_text

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
KEY = f"key-{secrets.token_hex(16)}"  # no file of the tree has it


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    started = Head()
    yield started
    started.close()


@pytest.fixture(scope="module")
def proxy(head: Head) -> Iterator[Proxy]:
    started = Proxy(head.port)
    yield started
    started.cut()


class Client:
    """A process of `listwise`; `said` is its stdout, `told` its stderr."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self.out, self.err = (folder / f"{len(list(folder.iterdir()))}.{name}" for name in ("stdout", "stderr"))
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [LISTWISE, *words], stdout=out, stderr=err, cwd=folder, env=plain_environment() | environment
            )

    @property
    def said(self) -> str:
        return self.out.read_text()

    @property
    def told(self) -> str:
        return self.err.read_text()

    def end(self, code: int) -> Client:
        """Waits for the end of the process and checks its exit code."""
        exit_code = self.process.wait(120)
        assert exit_code == code, f"exit code {exit_code}\n{self.said}\n{self.told}"
        assert "Traceback" not in self.told
        return self


@dataclass
class Story:
    """One run in two attempts.

    Two clients submit at once. One of them starts the job and is killed. The other one follows the job until it is
    stopped. A third client joins and leaves. The second attempt continues the run; meanwhile the connection is lost for
    some seconds. Another job has a recipe whose corpus does not exist on the cluster.
    """

    workdir: Path
    jobs: list[str]
    joined: Client
    stopped: Client
    stop: Client
    continued: Client
    log: Client
    listing: Client
    detached: Client
    failed: Client
    keys: set[str]
    everything: str


@pytest.fixture(scope="module")
def story(head: Head, proxy: Proxy, hundred: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    workdir = tmp_path_factory.mktemp("shared") / "run"
    recipe = folder / "my recipe.yaml"
    recipe.write_text(recipe_text(hundred, "all-MiniLM-L6-v2", workdir))
    gate = threading.Event()

    def reply(payload: dict, _: int) -> tuple[int, dict]:
        gate.wait(100)
        return completion(f"which town keeps ledger number {len(server.payloads)}?")

    server = Server(reply)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    changes = ["generation.engine=openai", "generation.model=m", f"generation.base_url={server.url}",
               "corpus.max_sources=10", "cluster.io_pool.workers=1"]  # fmt: skip
    words = [str(recipe), "--until", "queries", "--env", "OPENAI_API_KEY"]
    words += [word for change in changes for word in ("--set", change)]
    secret = {"RAY_AUTH_TOKEN_PATH": str(head.token_file), "OPENAI_API_KEY": KEY}
    address = ("--address", head.url)
    clients = []

    def client(*arguments: str) -> Client:
        clients.append(Client(folder, *arguments, **secret))
        return clients[-1]

    pair = [client("submit", *words, *address) for _ in range(2)]
    until(
        lambda: server.payloads or any(submitter.process.poll() for submitter in pair), "the first request of the run"
    )
    first, watching = sorted(pair, key=lambda submitter: " runs " not in submitter.said)
    job = re.match(r"Job (\S+) runs", first.said)
    assert job, first.said + first.told
    first_job = job[1]
    second_job = first_job.removesuffix("1") + "2"
    first.process.send_signal(signal.SIGKILL)
    joined = client("submit", *words, *address)
    for follower in (joined, watching):
        until(
            lambda follower=follower: "corpus: passages" in follower.said or follower.process.poll() is not None,
            "its log",
        )
    joined.process.send_signal(signal.SIGINT)
    joined.end(130)
    requests_before_stop = len(server.payloads)
    stop = client("stop", first_job, *address).end(0)
    watching.end(1)

    continued = client("submit", *words, "--address", proxy.url)
    wrong = ["--set", f"workdir={workdir}-2", "--set", "corpus.path=/no/such folder", "--detach"]
    detached = client("submit", str(recipe), *wrong, *address).end(0)
    until(
        lambda: len(server.payloads) > requests_before_stop or continued.process.poll() is not None,
        "the second attempt",
    )
    until(lambda: "Running entrypoint" in continued.said or continued.process.poll() is not None, "its log")
    proxy.cut()
    until(lambda: "does not answer" in continued.told, "the loss to be noticed")
    proxy.restore()
    until(lambda: "answers again" in continued.told, "the connection to be made again")
    gate.set()
    continued.end(0)
    log, failed = (client("follow", job_id, *address) for job_id in (second_job, detached.said.split()[1]))
    log.end(0)
    failed.end(2)
    listing = client("jobs", *address).end(0)
    everything = "".join(process.said + process.told for process in clients)
    yield Story(workdir, [first_job, second_job], joined, watching, stop, continued, log, listing, detached, failed,
                server.keys, everything)  # fmt: skip
    server.shutdown()
    server.server_close()


def test_a_job_outlives_its_client_and_submitting_again_follows_it(story: Story) -> None:
    assert f"Job {story.jobs[0]} works on {story.workdir} already, so no second one was started" in story.joined.said
    assert "corpus: passages" in story.joined.said, "its log from the beginning"


def test_of_two_submits_at_once_one_starts_the_run(story: Story) -> None:
    assert story.stopped.said.startswith(f"Job {story.jobs[0]} works on {story.workdir} already")


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_stop_it(story: Story) -> None:
    assert f"it continues.\n  follow it: listwise follow {story.jobs[0]} --address" in story.joined.told
    assert f"stop it:   listwise stop {story.jobs[0]} --address" in story.joined.told


def test_a_stopped_job_ends_as_an_interrupted_run_and_its_followers_with_1(story: Story) -> None:
    assert f"job {story.jobs[0]} was stopped" in story.stopped.told
    assert "Interrupted. What is done is kept; submit the recipe again" in story.stopped.said, (
        "the job had time to say so"
    )
    assert f"Stopped {story.jobs[0]}" in story.stop.said


def test_the_next_attempt_continues_the_run(story: Story) -> None:
    assert story.continued.said.startswith(f"Job {story.jobs[1]} runs {story.workdir}.\n")
    assert "corpus: passages" not in story.continued.said, "the first attempt has done it"
    assert "Done up to queries" in story.continued.said
    assert list(story.workdir.glob("queries/data/*.parquet"))


def test_a_lost_connection_costs_no_line_and_repeats_none(story: Story) -> None:
    assert story.continued.told.count("does not answer") == 1
    assert story.continued.told.count("answers again") == 1
    after = story.continued.said.split("stop it:", 1)[1].split("\n", 1)[1]
    assert after == story.log.said
    assert len(after.splitlines()) == len(set(after.splitlines())) > 2


def test_a_secret_variable_reaches_the_workers_and_appears_in_no_file(story: Story, head: Head) -> None:
    assert story.keys == {f"Bearer {KEY}"}
    assert KEY not in story.everything
    # the session of Ray, with its logs and what it has unpacked, and the run's own files
    written = [path for folder in (story.workdir, head.folder) for path in folder.rglob("*") if path.is_file()]
    assert {"recipe.yaml", "plan.json", "raylet.out"} <= {path.name for path in written}
    contents = {path: path.read_bytes() for path in written}
    assert not [path for path, content in contents.items() if KEY.encode() in content]
    # Ray's logs show a name instead, which leads to nothing any more
    names = {
        name.decode() for content in contents.values() for name in re.findall(rb"listwise_[0-9a-f]{32}.zip", content)
    }
    assert len(names) >= 2, "one for each attempt"
    for name in names:
        url = f"{head.url}/api/packages/gcs/{name}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {head.token}"})
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=10)


def test_the_code_of_a_checkout_is_sent_and_nothing_else_of_it(story: Story, head: Head) -> None:
    parcel = next(
        (head.folder / "ray").glob("session_2*/runtime_resources/working_dir_files/*/launcher/cli.py")
    ).parents[1]
    assert {path.name for path in parcel.iterdir()} >= {"cluster", "distill", "generation", ".listwise"}
    assert not [path for path in parcel.rglob("*") if path.name in (".git", ".venv", "runs", ".mypy_cache")]
    assert "address: auto" in (parcel / ".listwise" / "recipe.yaml").read_text()


def test_the_list_names_every_attempt_and_its_status(story: Story) -> None:
    lines = [line.split() for line in story.listing.said.splitlines()]
    assert [line[:2] for line in lines if line[-1] == str(story.workdir)] == [
        [story.jobs[0], "STOPPED"],
        [story.jobs[1], "SUCCEEDED"],
    ]
    assert [line[1:3] for line in lines if line[-1] == f"{story.workdir}-2"] == [["FAILED", "(2)"]]


def test_bad_input_that_only_the_cluster_can_see_ends_with_2_and_the_last_lines(story: Story) -> None:
    job = story.detached.said.split()[1]
    assert re.fullmatch(r"hundred-\w{8}-1", job)
    assert "Running entrypoint" not in story.detached.said, "the client did not wait"
    assert f"error: job {job} failed with exit code 2. Its last lines:" in story.failed.told
    assert "/no/such folder" in story.failed.told


def test_a_request_that_a_cluster_cannot_answer_is_refused_with_the_remedy(head: Head, tmp_path: Path) -> None:
    known = {"RAY_AUTH_TOKEN_PATH": str(head.token_file)}
    (tmp_path / "empty").touch()

    class Old(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"version": "4", "ray_version": "2.40.0"}')

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    old = f"http://127.0.0.1:{server.server_port}"
    submit = ("submit", "laptop", "--set", f"workdir={tmp_path}/run", "--set", f"corpus.path={tmp_path}", "--set",
              "evaluation.dataset=null", "--address")  # fmt: skip
    refused = [
        (("jobs", "--address", head.url), {}, "requires a token"),
        (("jobs", "--address", head.url), {"RAY_AUTH_TOKEN": "0" * 64}, "does not accept the given token"),
        (("jobs", "--address", head.url), {"RAY_AUTH_TOKEN_PATH": f"{tmp_path}/empty"}, "is empty; expected"),
        (("jobs", "--address", "http://127.0.0.1:9"), {}, "http://127.0.0.1:9: no Ray cluster answers"),
        (
            ("jobs", "--address", "auto"),
            {},
            "--address auto: expected the dashboard of a Ray cluster, http://HOST:8265",
        ),
        (("stop", "nonsense", "--address", head.url), known, f"{head.url} has no job nonsense"),
        ((*submit, old), {}, "runs Ray 2.40.0, this machine has Ray"),
    ]
    clients = [Client(tmp_path, *words, **more) for words, more, _ in refused]
    for client, (*_, words) in zip(clients, refused, strict=True):
        assert words in client.end(2).told
    server.shutdown()
    server.server_close()


def test_following_ends_if_the_cluster_does_not_come_back_and_says_that_the_job_may_continue(
    story: Story, head: Head, proxy: Proxy
) -> None:
    program = """
import sys
from cluster.errors import RunError
from launcher.jobs.client import connect
from launcher.jobs.follow import follow
jobs = connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.readline()
try:
    follow(jobs, sys.argv[2], print, patience_s=2)
except RunError as error:
    print(error)
"""
    waiting = subprocess.Popen(
        [sys.executable, "-c", program, proxy.url, story.jobs[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=plain_environment() | {"RAY_AUTH_TOKEN": head.token},
    )  # fmt: skip
    assert waiting.stdout
    assert waiting.stdout.readline() == "connected\n"
    proxy.cut()
    begun = time.monotonic()
    said, _ = waiting.communicate("go\n", timeout=60)
    proxy.restore()
    assert time.monotonic() - begun < 30
    assert f"{proxy.url} has not answered for 2 s. If the cluster still runs, job {story.jobs[0]} continues:" in said
    assert said.startswith(f"{proxy.url} does not answer")
