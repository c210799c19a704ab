"""A program that runs a cluster whose second node has real faults; it reads one request per line."""

from __future__ import annotations

import json
import sys

from tests.chaos.harness import Nodes

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


class FaultyNodes(Nodes):
    """A Ray cluster to which a test adds nodes with faults.

    `add(hide=…, files=…, environment=…)` starts a node that sees an empty folder in place of `hide`, may open `files`
    files, and has these environment variables. The faults of one node hold for all later nodes, too.
    """

    PROGRAM = "from tests.launcher.faulty import main; main()"


def main() -> None:
    import os
    import resource

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})

    def pids(node) -> list[int]:
        return [process.process.pid for processes in node.all_processes.values() for process in processes]

    print(json.dumps([cluster.address, pids(cluster.head_node)]), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["hide"]:
            cover(request["hide"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["files"], request["files"]))
        os.environ.update(request["environment"])
        print(json.dumps(pids(cluster.add_node(num_cpus=1))), flush=True)


def cover(folder: str) -> None:
    """Mounts an empty folder over this one, for this process and its later children."""
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)

    def check(failed: int) -> None:
        if failed:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    check(libc.mount(b"none", folder.encode(), b"tmpfs", 0, None))
