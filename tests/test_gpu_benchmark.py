"""The measurements for a GPU run to their end with tiny shapes, and what they write has its schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.gpu.parts import Findings, LeftOutError, Machine, Report, Running, summary

ROOT = Path(__file__).parents[1]
EXPECTED = {  # some figures of each part: all of them would be copied from the code
    "imports": set(),
    "gradients": {"bert-base_packed_float32_apart", "modernbert-base_padded_bfloat16_apart",
                  "qwen3-0.6b_packed_bfloat16_apart"},
    "speed": {"packed", "products_tflop_per_s", "8_mfu", "16_times_every_slot", "8_times_sentence_transformers",
              "adamw_fused_s", "compile_gain"},
    "reading": {"encoding_times_theirs", "scoring_times_theirs"},
    "memory": {"activation_mib", "recomputed_with_little", "gradients"},
    "training": {"first_loss", "last_loss", "resumed_weights_apart"},
}  # fmt: skip


@pytest.mark.slow
def test_everything_that_is_to_run_on_a_gpu_runs_here_with_tiny_shapes(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        ["make", "gpu", "DRY=1", f"OUT={out}"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = Report.model_validate_json(out.read_text())
    assert report.dry and {"torch", "transformers", "deepspeed"} <= set(report.versions)
    assert {part.name: part.status for part in report.parts} == dict.fromkeys(EXPECTED, "passed")
    for part in report.parts:
        assert EXPECTED[part.name] <= set(part.figures), part.name
    assert report.parts[-1].figures["resumed_weights_apart"] == 0
    with pytest.raises(ValidationError, match="extra"):
        Report.model_validate(json.loads(out.read_text()) | {"another": 1})


@pytest.mark.slow
def test_without_deepspeed_steps_are_measured_with_an_engine_of_torch_alone(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    code = (
        "import sys; sys.modules['deepspeed'] = None; from benchmarks.gpu.__main__ import main; "
        f"sys.exit(main(['--dry', '--out', {str(out)!r}, '--parts', 'speed', 'memory', 'training']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = {part.name: part for part in Report.model_validate_json(out.read_text()).parts}
    assert {part.status for part in parts.values()} == {"passed"}
    assert parts["memory"].figures["gradients"] > 30
    assert "DeepSpeed is not installed" in parts["training"].notes[0]


HANGS = """
import sys, time
import benchmarks.gpu.__main__ as measurement

def imports(machine, findings):
    findings.figure("half_s", 0.5)
    time.sleep(100)

measurement.imports = imports
measurement.BEGUN = time.monotonic()  # as if importing torch took no time
sys.exit(measurement.main(["--dry", "--minutes", "0.15", "--out", sys.argv[1], "--parts", "imports", "speed"]))
"""
HANGS_OUTSIDE_OF_PYTHON = """
import ctypes
from benchmarks.gpu.limit import time_limit

with time_limit(1.0, print):
    ctypes.PyDLL(None).sleep(100)  # holds the interpreter's lock
"""


def test_a_part_that_is_at_work_when_the_time_is_up_is_cut_off_and_keeps_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-c", HANGS, str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    report = Report.model_validate_json(out.read_text())
    (part,) = report.parts
    assert (part.name, part.status, part.figures) == ("imports", "failed", {"half_s": 0.5})
    assert "in imports" in str(part.error) and "The time was up" in str(part.error)
    assert report.seconds <= 9 and "imports  failed" in done.stdout


def test_code_that_never_lets_python_run_is_ended_on_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGS_OUTSIDE_OF_PYTHON]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "Timeout" in done.stderr


def machine(folder: Path, left_s: float = 100.0) -> Machine:
    import time

    return Machine("cpu", True, folder, time.monotonic() + left_s)


def test_a_part_that_fails_keeps_what_it_found_and_ends_no_other(tmp_path: Path) -> None:
    def breaks(_: Machine, findings: Findings) -> None:
        findings.figure("half_s", 1 / 3)
        raise RuntimeError("CUDA error: an illegal memory access")

    def disagrees(_: Machine, findings: Findings) -> None:
        findings.check("two and two are five", False)

    def lacks(_: Machine, findings: Findings) -> None:
        raise LeftOutError("it needs the package deepspeed")

    broken = Running("breaks").run(breaks, machine(tmp_path))
    assert (broken.status, broken.figures) == ("failed", {"half_s": 0.3333})
    assert "illegal memory access" in str(broken.error)
    wrong = Running("disagrees").run(disagrees, machine(tmp_path))
    absent = Running("lacks").run(lacks, machine(tmp_path))
    assert (wrong.status, wrong.failed, wrong.error) == ("failed", ["two and two are five"], None)
    assert (absent.status, absent.notes) == ("left out", ["it needs the package deepspeed"])
    late = Running("disagrees").run(disagrees, machine(tmp_path, left_s=-1.0))
    assert (late.status, late.notes) == ("left out", ["no time was left"])
    lines = summary([broken, wrong, absent, late]).splitlines()
    assert [line.split()[1] for line in lines] == ["failed", "failed", "left", "left"]
