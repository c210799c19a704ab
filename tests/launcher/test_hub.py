"""A model that exists nowhere is refused before anything is planned for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.errors import InputError
from cluster.machines import hub
from cluster.machines.hub import ModelName
from distill.settings.encoders import EncoderSettings
from launcher.doctor.hub import check_models
from launcher.model_checks import check_here


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on loopback with one model, org/known."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            known = self.path.split("?")[0] == "/api/models/org/known"
            body = b'{"id": "org/known", "_id": "1"}' if known else b'{"error": "Repository not found"}'
            self.send_response(200 if known or self.path == "/" else 404)
            if not known:
                self.send_header("X-Error-Code", "RepoNotFound")
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
