"""A model that exists nowhere is refused before anything is planned for it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.machines import hub
from cluster.machines.hub import ModelName
from distill.retrieval.embeddings import identity as vectors
from distill.settings.encoders import EncoderSettings
from generation import queries
from generation.judging import stage as grades
from generation.judging.rubric import load_rubric
from generation.judging.settings import JudgeSettings
from generation.settings import GenerationSettings
from launcher.doctor.hub import check_models
from launcher.model_checks import check_here
from launcher.plan.models import model_size
from launcher.plan.tokenizers import model_file, token_counter


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on loopback with one model, org/known."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            known = self.path.split("?")[0] in ("/api/models/org/known", "/api/models/org/known/revision/v2")
            body = b'{"id": "org/known", "_id": "1"}' if known else b'{"error": "Repository not found"}'
            self.send_response(200 if known or self.path == "/" else 404)
            if not known:
                missing = "RevisionNotFound" if "/org/known/" in self.path else "RepoNotFound"
                self.send_header("X-Error-Code", missing)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{made.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.hub_problem.cache_clear()
    yield
    hub.hub_problem.cache_clear()
    made.shutdown()
    made.server_close()


@pytest.mark.usefixtures("server")
def test_the_hub_is_asked_for_a_model_that_is_not_here() -> None:
    assert hub.is_on_hub("org/known")
    assert hub.is_on_hub("org/absent") is False
    assert hub.is_on_hub("no id: at all") is False
    ((_, said),) = check_here({"student": EncoderSettings(model="org/known")})
    assert said == "org/known is not on this machine and was not tried"
    with pytest.raises(InputError, match="student: there is no model 'org/absent', neither on this machine nor"):
        list(check_here({"student": EncoderSettings(model="org/absent")}))
    known, absent = check_models({"student": ModelName("org/known", None), "teachers.t": ModelName("org/absent", None)})
    assert (known.level, absent.level) == ("ok", "failure")
    assert absent.found == "teachers.t: the hub has no model 'org/absent'"


def test_without_a_hub_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_problem", lambda: "does not answer")
    assert hub.is_on_hub("org/absent") is None
    ((_, said),) = check_here({"student": EncoderSettings(model="org/absent")})
    assert said == "org/absent is not on this machine and was not tried"


@pytest.mark.usefixtures("server")
def test_the_hub_is_asked_for_the_revision_that_is_named() -> None:
    assert hub.is_on_hub("org/known", "v2")
    assert hub.is_on_hub("org/known", "v9") is False
    v2, v9 = check_models({"student": ModelName("org/known", "v2"), "generation.model": ModelName("org/known", "v9")})
    assert (v2.level, v2.found) == ("ok", "student: org/known of revision 'v2', from the hub")
    assert (v9.level, v9.found) == ("failure", "generation.model: the hub has no model 'org/known' of revision 'v9'")
    with pytest.raises(InputError, match="there is no model 'org/known' of revision 'v9', neither on this machine nor"):
        list(check_here({"student": EncoderSettings(model="org/known", revision="v9")}))


def test_a_plan_takes_the_size_of_a_model_from_any_revision_and_a_check_from_the_named_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_encoder: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    cached = tmp_path / "models--org--pinned"
    shutil.copytree(tiny_encoder, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "v2").write_text("a" * 40)
    assert model_file("org/pinned", "config.json") is None, "main is not in the cache"
    for revision in ("v2", "a" * 40):
        assert model_file("org/pinned", "config.json", revision) == cached / "snapshots" / ("a" * 40) / "config.json"
    size, of_folder = model_size("org/pinned"), model_size(tiny_encoder)
    assert size is not None and of_folder is not None
    assert size.parameters == of_folder.parameters
    assert token_counter("org/pinned")[1], "its own tokenizer counts"


def test_a_model_without_a_revision_is_the_one_that_tables_from_before_the_field_were_made_with() -> None:
    encoder, generation = EncoderSettings(model="m"), GenerationSettings(engine="vllm", model="m")
    judge = JudgeSettings(model="m")
    for unpinned, pinned in (
        (vectors(encoder), vectors(encoder.model_copy(update={"revision": "v2"}))),
        (queries.identity(generation, {}), queries.identity(generation.model_copy(update={"revision": "v2"}), {})),
        (
            grades.identity(judge, load_rubric(judge)),
            grades.identity(judge.model_copy(update={"revision": "v2"}), load_rubric(judge)),
        ),
    ):
        assert "revision" not in unpinned
        assert pinned == unpinned | {"revision": "v2"}
