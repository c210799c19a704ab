"""A driver that continues a planned table, and prints which Ray it started and who can reach it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables.plan import Plan
from cluster.watch.progress import Progress
from cluster.workers.stage import Stage
from tests.cluster.example_workers import NUMBERS, Count, shards

STRANGER = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
print("connected")
"""


def listening() -> list[str]:
    """Addresses at which this process and its children listen."""
    own = {child.pid for child in psutil.Process().children(recursive=True)} | {os.getpid()}
    sockets = [
        socket for socket in psutil.net_connections("inet") if socket.pid in own and socket.status == psutil.CONN_LISTEN
    ]
    assert len(sockets) > 3, "Ray listens somewhere"
    return sorted({socket.laddr.ip for socket in sockets})


def services() -> list[str]:
    """Scripts that Ray and its fork server run beside the workers."""
    scripts: set[str] = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            scripts |= {Path(word).name for word in child.cmdline() if word.endswith(".py") and " " not in word}
    return sorted(scripts)


def stranger(address: str) -> str:
    """The output of another program of this machine that tries to join without the token."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    plain["RAY_NUM_REDIS_GET_RETRIES"] = "1"  # attempts to connect; each takes seconds
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, address], capture_output=True, text=True, env=plain, timeout=90, check=False
    )
    return done.stdout + done.stderr[-3000:]


if __name__ == "__main__":
    assert "ray" not in sys.modules
    with Run(sys.argv[1], ClusterSettings(cpus=1), progress=Progress(quiet=True)) as run:
        stage = Stage("numbers", NUMBERS, "numbers", Count, {}, shards(20, 10), {"v": 1}, PoolSettings())
        run.storage.create("numbers/plan.json", Plan.new(NUMBERS, stage.shards, stage.fingerprint).to_bytes())
        rows = run.execute(stage).num_rows
        import ray

        (node,) = ray.nodes()
        context = ray.get_runtime_context()
        sockets = Path(node["ObjectStoreSocketName"])
        print(
            json.dumps(
                {
                    "rows": rows,
                    "address": node["NodeManagerAddress"],
                    "token": len(os.environ.get("RAY_AUTH_TOKEN", "")),
                    "listening": listening(),
                    "services": services(),
                    "modes": [f"{folder.stat().st_mode & 0o777:o}" for folder in sockets.parents],
                    "dashboard": ray._private.worker.global_worker.node.webui_url or "",
                    "stranger": stranger(context.gcs_address),
                }
            )
        )
