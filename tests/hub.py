"""A model hub on loopback, which serves folders as the real one does, and notes which files were fetched."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", COMMIT)
OTHER_COMMIT = "f" * 40


class Hub(ThreadingHTTPServer):
    """Repositories are the folders `org/name` below `root`; another revision is the folder `org/name@revision`.

    `fetched` has "org/name/file" for every file sent, and "org/name@revision/file" for one of another revision.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.fetched = root, []

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that shall use this hub and nothing that is cached on this machine."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(self.root / ".home"),
            "HF_HUB_DISABLE_XET": "1",
        }

    def at(self, repository: str, revision: str) -> tuple[str, str] | None:
        """The folder below `root` that has a revision, and its commit; None: there is no such revision."""
        if revision in REVISIONS:
            return repository, COMMIT
        others = [path.name for path in self.root.glob(f"{repository}@*")]
        names = [f"{repository.split('/')[1]}@{revision}"] if revision != OTHER_COMMIT else others
        found = next((name for name in names if name in others), None)
        return found and (f"{repository.split('/', maxsplit=1)[0]}/{found}", OTHER_COMMIT)

    def files(self, repository: str) -> list[str]:
        folder = self.root / repository
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._tell("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._answer(200 if parts == [""] else 404, b"")

    do_HEAD = do_GET  # noqa: N815

    def _tell(self, repository: str, asked: list[str]) -> None:
        if not self.server.files(repository):
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        if not (found := self.server.at(repository, asked[1] if asked[1:] else "main")):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        held, commit = found
        files = self.server.files(held)
        if asked[:1] == ["tree"]:
            folder = "/".join(asked[2:])
            own = [name for name in files if name.startswith(folder)]
            sizes = [(name, (self.server.root / held / name).stat().st_size) for name in own]
            listing = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes]
            self._answer(200, json.dumps(listing).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            about = {"id": repository, "modelId": repository, "_id": "1", "sha": commit, "siblings": siblings}
            self._answer(200, json.dumps({**about, "private": False, "tags": []}).encode())

    def _send_file(self, repository: str, revision: str, name: str) -> None:
        if not self.server.files(repository):
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        if not (found := self.server.at(repository, revision)):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        held, commit = found
        file = self.server.root / held / name
        if not file.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            if self.command == "GET":
                self.server.fetched.append(f"{held}/{name}")
            body = file.read_bytes()
            tag = hashlib.sha256(body).hexdigest()
            self._answer(200, body, {"ETag": f'"{tag}"', "X-Repo-Commit": commit})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def hub_of(root: Path) -> Iterator[Hub]:
    """Serves `root` until the end of the block."""
    made = Hub(root)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()
