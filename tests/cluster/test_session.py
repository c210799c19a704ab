"""The Ray that is started here is private, whichever way it comes to be needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_run_that_continues_listens_on_loopback_and_asks_for_a_token(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.cluster.resumed", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"rows": 20, "address": "127.0.0.1", "token": 64}
