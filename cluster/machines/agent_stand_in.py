"""Stands in for Ray's dashboard agent where nobody reads metrics: says that its services are not there, and waits.

The raylet starts this file as a script and ends if it ends. It imports the standard library alone, since the node is
ready only when the agent has answered.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

SERVICES = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
ABSENT = "-1"  # what Ray's own agent writes as the port of a service that it does not offer
LOOK_S = 1.0  # between two looks whether the raylet still lives


def stand_in(session: str, node: str, raylet: int) -> None:
    """Writes the ports into files as Ray's agent does, and returns when the raylet has ended.

    Args:
        session: folder of the Ray session.
        node: id of the node, hexadecimal; the names of the files end with it.
        raylet: process id of the raylet. If it is not the parent, the raylet has ended already.

    Raises:
        OSError: the folder cannot be written.
    """
    for service in SERVICES:
        port = Path(session, f"{service}_{node}")
        unfinished = port.with_name(port.name + ".tmp")
        unfinished.write_text(ABSENT, encoding="utf-8")
        unfinished.replace(port)
    while os.getppid() == raylet:
        time.sleep(LOOK_S)


if __name__ == "__main__":
    stand_in(sys.argv[1], sys.argv[2], raylet=int(os.environ["RAY_RAYLET_PID"]))  # the raylet sets it, and may be gone
