"""A SLURM of two nodes on one machine, started by process 1 of namespaces of its own (see `tests/slurm/cluster.py`).

Each node has its own network, host name and process table, so that Ray and torch connect as on two hosts. When this
process ends, the kernel ends all processes that are left.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

NODES = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
CONTROLLER = "10.77.0.254"
START_S = 30

# All ports are below those that Ray and the kernel assign. A requeued job waits until credentials expire: at least 5 s.
SETTINGS = """
ClusterName=listwise
SlurmctldHost=controller({controller})
SlurmctldPort=6817
SlurmdPort=6818
SrunPortRange=7000-7399
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge/socket,cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=2
SlurmdParameters=config_overrides
SlurmctldTimeout=30
SlurmdTimeout=20
KillWait=10
MinJobAge=3600
ReturnToService=2
JobRequeue=1
PropagateResourceLimits=NONE
MailProg=/bin/true
NodeName=node1 NodeAddr=10.77.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
NodeName=node2 NodeAddr=10.77.0.2 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


def call(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


def set_host_names(base: Path) -> None:
    """Makes the host names of the nodes the only known ones, because a request to a DNS server would wait."""
    socket.sethostname("controller")
    hosts = {"localhost": "127.0.0.1", "controller": CONTROLLER, **NODES}
    for target, text in (
        ("/etc/hosts", "".join(f"{address} {name}\n" for name, address in hosts.items())),
        ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ):
        file = base / Path(target).name
        file.write_text(text)
        if Path(target).exists():
            call(f"mount --bind {file} {Path(target).resolve()}")


def set_up_network() -> None:
    """Makes a network bridge, and a link from it to each node."""
    Path("/run/netns").mkdir(exist_ok=True)
    call("mount -t tmpfs tmpfs /run/netns")
    call("ip link set lo up")
    call("ip link add bridge type bridge")
    call(f"ip addr add {CONTROLLER}/24 dev bridge")
    call("ip link set bridge up")
    for node, address in NODES.items():
        call(f"ip netns add {node}")
        call(f"ip link add to-{node} type veth peer name eth0 netns {node}")
        call(f"ip link set to-{node} master bridge up")
        call(f"ip -n {node} link set lo up")
        call(f"ip -n {node} addr add {address}/24 dev eth0")
        call(f"ip -n {node} link set eth0 up")
        call(f"ip -n {node} route add default via {CONTROLLER}")


def start_daemons(base: Path) -> None:
    for folder in ("munge", "state", *NODES):
        (base / folder).mkdir(mode=0o755)
    (base / "slurm.conf").write_text(SETTINGS.format(base=base, controller=CONTROLLER))
    (base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # slurmd requires one, though none is used
    key = base / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    munge = base / "munge"
    spawn(
        base,
        f"munged --foreground --force --key-file={key} --socket={munge}/socket --pid-file={munge}/pid "
        f"--log-file={munge}/log --seed-file={munge}/seed",
    )
    wait_for((munge / "socket").exists, "munged")
    spawn(base, "slurmctld -D -c")
    for node in NODES:
        # The shell is process 1 of the node, and reaps the orphans of its jobs.
        inside = f"hostname {node}; slurmd -D -N {node} & wait"
        namespaces = "unshare --uts --ipc --pid --fork --kill-child --mount-proc"
        spawn(base, *f"ip netns exec {node} {namespaces} bash -c".split(), inside)


def spawn(base: Path, *words: str) -> None:
    command = words[0].split() if len(words) == 1 else list(words)
    log = (base / "daemons.out").open("a")
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def wait_for(holds: object, what: str) -> None:
    assert callable(holds)
    limit = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > limit:
            sys.exit(f"{what} did not start within {START_S} s")
        time.sleep(0.05)


def idle() -> int:
    done = subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], capture_output=True, text=True, check=False)
    return int(done.stdout or 0)


def main(base: Path) -> None:
    os.environ["SLURM_CONF"] = str(base / "slurm.conf")
    set_host_names(base)
    set_up_network()
    start_daemons(base)
    wait_for(lambda: idle() == len(NODES), "SLURM")
    (base / "ready").touch()
    while True:  # process 1 must reap all orphans
        os.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
