"""Runs all parts in one process.

    python -m benchmarks.gpu [--out gpu.json] [--minutes 8] [--dry] [--parts gradients speed …]

`--dry` takes tiny shapes and the CPU where there is no GPU, so that nothing in it is new when one is at hand.
The process ends after `--minutes`, counted from its start: a part that is at work then is cut off, and what it has
found is kept.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
import time
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu import BEGUN
from benchmarks.gpu.limit import time_limit
from benchmarks.gpu.parts import Findings, Machine, Outcome, Report, Running, summary, write
from benchmarks.machine import processor

PACKAGES = ("torch", "transformers", "sentence-transformers", "triton", "deepspeed", "numpy", "pyarrow")


PARTS = ("imports", "gradients", "speed", "reading", "memory", "training")


def imports(_: Machine, findings: Findings) -> None:
    """Everything that training, encoding and scoring need can be imported."""
    import distill.encoders.encoder
    import distill.teachers.cross_encoder
    import distill.training.trainer  # noqa: F401

    heavy = sorted({"ray", "vllm"} & set(sys.modules))
    findings.check(f"neither Ray nor vLLM is imported for it ({', '.join(heavy) or 'none'})", not heavy)


def load_and_run(name: str, machine: Machine, findings: Findings) -> None:
    """Imports a part and runs it, so that one that cannot be imported ends no other."""
    part = imports if name == "imports" else getattr(import_module(f"benchmarks.gpu.{name}"), name)
    part(machine, findings)


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts and prints what each found; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0, help="the process ends after so long")
    parser.add_argument("--dry", action="store_true", help="tiny shapes, on the CPU where there is no GPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.dry:
        parser.error("torch sees no GPU here. Add --dry to run everything with tiny shapes on the CPU.")
    name = f"{torch.cuda.get_device_name()}, {processor()}" if device == "cuda" else processor()
    print(f"{name}, Python {platform.python_version()}", flush=True)
    versions = {package: installed for package in PACKAGES if (installed := _version(package))}
    outcomes: list[Outcome] = []
    running = Running(options.parts[0])

    def keep(outcome: Outcome) -> None:
        outcomes.append(outcome)
        seconds = round(time.monotonic() - BEGUN, 1)
        write(Report(device=name, dry=options.dry, versions=versions, seconds=seconds, parts=outcomes), options.out)

    def conclude() -> None:
        print(f"\n{summary(outcomes)}\n{time.monotonic() - BEGUN:.1f} s; {options.out}", flush=True)

    def cut_off(stack: str) -> None:
        keep(running.cut_off(stack))
        conclude()
        shutil.rmtree(folder, ignore_errors=True)

    ends = BEGUN + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder, time_limit(ends - time.monotonic(), cut_off):
        for part in options.parts:
            running, machine = Running(part), Machine(device, options.dry, _made(Path(folder) / part), ends)
            keep(running.run(partial(load_and_run, part), machine))
    conclude()
    return int(any(one.status == "failed" for one in outcomes))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
