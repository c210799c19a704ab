"""A cluster of two nodes, the second with faults that are really there: run as a program, one request a line."""

from __future__ import annotations

import json
import sys

from tests.chaos.harness import Nodes

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


class FaultyNodes(Nodes):
    """`add(hide=…, files=…, environment=…)` starts a node that sees an empty folder there, may open so many files, and
    has those variables. What is asked of one node stays for the nodes after it."""

    PROGRAM = "from tests.launcher.faulty import main; main()"


def main() -> None:
    import os
    import resource

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})

    def pids(node) -> list[int]:
        return [process.process.pid for each in node.all_processes.values() for process in each]

    print(json.dumps([cluster.address, pids(cluster.head_node)]), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        if wanted["hide"]:
            cover(wanted["hide"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted["files"], wanted["files"]))
        os.environ.update(wanted["environment"])
        print(json.dumps(pids(cluster.add_node(num_cpus=1))), flush=True)


def cover(folder: str) -> None:
    """For this process and those that it starts from now on, this folder is another, empty one."""
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)

    def check(failed: int) -> None:
        if failed:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    check(libc.mount(b"none", folder.encode(), b"tmpfs", 0, None))
