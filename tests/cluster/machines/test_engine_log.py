"""The error of an engine is found in what its processes wrote, since it does not reach ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster.machines.engine_log import explain

TELL = """
import subprocess, sys
from cluster.machines.engine_log import EngineLog
print("ValueError: of an earlier engine", flush=True)
log = EngineLog()
subprocess.run([sys.executable, "-c", "import sys; sys.stdout.write(sys.argv[1])", sys.argv[1]], check=True)
print("CAUSE", log.cause())
"""
WRITTEN = """(EngineCore pid=7) WARNING 11-30 12:59:19 [utils.py:597] Exception: a warning is none
(EngineCore pid=7) ERROR 11-30 12:59:42 [core.py:1510] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-30 12:59:42 [core.py:1510]   File "core.py", line 1, in run
(EngineCore pid=7) ERROR 11-30 12:59:42 [core.py:1510] vllm.errors.CacheError: too small: 4 KiB
(EngineCore pid=7) ERROR 11-30 12:59:42 [core.py:1510] RuntimeError: Worker failed
"""


def run(code: str, argument: str, log: Path, folder: Path) -> str:
    """What a script writes into a file, as a worker of Ray does."""
    script = folder / "script.py"
    script.write_text(code)
    with log.open("wb") as file:
        command = [sys.executable, str(script), argument]
        root = Path(__file__).parents[3]
        subprocess.run(command, cwd=root, stdout=file, stderr=subprocess.STDOUT, timeout=60, check=True)
    return log.read_text()


def test_the_first_error_since_the_mark_is_the_cause(tmp_path: Path) -> None:
    written = run(TELL, WRITTEN, tmp_path / "log", tmp_path)
    assert written.endswith("CAUSE vllm.errors.CacheError: too small: 4 KiB\n")
    assert run(TELL, "all is well\n", tmp_path / "log", tmp_path).endswith("CAUSE None\n")


def test_output_that_is_no_file_tells_nothing() -> None:
    command = [sys.executable, "-c", TELL, WRITTEN]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("CAUSE None\n")


def test_a_kernel_that_the_processor_lacks_is_not_taken_for_too_little_memory() -> None:
    cause = "AttributeError: '_OpNamespace' '_C' object has no attribute 'cpu_gemm_wna16'"
    assert "need AVX-512" in explain(cause, "Lower the length.") and "Lower" not in explain(cause, "Lower the length.")
    assert explain("ValueError: no KV cache", "Lower the length.") == "ValueError: no KV cache. Lower the length."
