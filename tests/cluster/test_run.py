"""Stages on a real Ray and a real disk: every planned unit ends exactly once, however the workers fail."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.errors import InputError, RunError
from cluster.run import Run
from cluster.settings import PoolSettings
from cluster.tables.commit import Commit, publish
from cluster.tables.dropped import read_dropped
from cluster.tables.plan import Plan
from cluster.tables.plan_shards import plan_shards
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.actor import Job, check_workdir
from cluster.workers.stage import Stage
from tests.chaos.harness import until
from tests.cluster.example_workers import (
    NUMBERS,
    Closing,
    Count,
    CountAsync,
    Parent,
    Repeat,
    SlowStart,
    shards,
)
from tests.cluster.stages import MakeRun, numbers, values


def test_a_stage_keeps_plan_order_and_counts_every_unit(run: MakeRun) -> None:
    table = run(max_reject_fraction=0.1).execute(numbers(poison={3: "drop", 17: "reject", 55: "drop"}))
    assert values(table) == [n for n in range(100) if n not in (3, 17, 55)]
    assert table.complete
    assert sum(commit.drops.get("small", 0) for commit in table.commits()) == 2
    assert [(r["row"], r["error"], r["stage"]) for r in table.rejects()] == [("17", "unlucky", "numbers")]
    assert all(commit.accounted == 10 for commit in table.commits())


def test_dropped_units_can_be_looked_at_also_where_a_shard_was_cut_to_find_a_bad_row(run: MakeRun) -> None:
    table = run(max_reject_fraction=0.1).execute(numbers(poison={3: "drop", 5: "raise", 8: "drop", 55: "drop"}))
    shown = [one for commit in table.commits() for one in read_dropped(table.storage, commit)]
    assert sorted((one.unit, one.reason, one.text) for one in shown) == [
        (unit, "small", f"number {unit}") for unit in ("3", "55", "8")
    ]
    assert len(table.commits()[0].dropped_files) >= 2, "one for each part with a drop"


def test_a_finished_stage_does_no_work_and_needs_no_ray(run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run()
    table = first.execute(numbers())
    second = Run(first.storage.url, first.settings, progress=first.progress)
    monkeypatch.setattr(Run, "connect", lambda self: pytest.fail("Ray was started"))
    before = {path: (Path(first.storage.url) / path).stat().st_mtime_ns for path in first.storage.list("")}
    unplanned = replace(numbers(), shards=lambda: pytest.fail("the work was planned again"))
    assert values(second.execute(unplanned)) == values(table)
    assert {path: (Path(first.storage.url) / path).stat().st_mtime_ns for path in first.storage.list("")} == before


def test_resuming_does_only_what_is_not_committed(run: MakeRun, tmp_path: Path) -> None:
    engine, marker = run(), tmp_path / "marker"
    table = engine.execute(numbers(marker=str(marker)))
    marker.unlink()
    for file in [table.files()[2][0], table.files()[7][0]]:
        table.withdraw(file)
    assert values(engine.execute(numbers(marker=str(marker)))) == list(range(100))
    assert sorted(line.split()[1] for line in marker.read_text().splitlines()) == ["00002", "00007"]
    assert len(engine.storage.list("numbers/data")) == 10


def test_a_stage_reads_the_rows_of_another_table(run: MakeRun) -> None:
    engine = run()
    source = engine.execute(numbers(poison={40: "drop"}))
    copy = Stage(
        "copy", NUMBERS, "copy", Count, {}, plan_shards(source, 7), {"source": source.fingerprint}, PoolSettings()
    )
    assert values(engine.execute(copy)) == values(source)


@pytest.mark.parametrize("worker", [Count, CountAsync])
@pytest.mark.parametrize("kind", ["raise", "kill"])
def test_a_poison_row_is_found_and_only_that_row_is_rejected(run: MakeRun, worker: type, kind: str) -> None:
    table = run().execute(numbers(200, 25, worker, poison={77: kind}))
    assert values(table) == [n for n in range(200) if n != 77]
    (reject,) = table.rejects()
    assert (reject["row"], reject["shard"], reject["attempts"]) == ("00003:2", "00003", 3)
    assert "number 77 cannot be done" in reject["error"] if kind == "raise" else "its worker died" in reject["error"]


def test_a_row_of_a_table_is_rejected_under_its_id(run: MakeRun) -> None:
    engine = run()
    source = engine.execute(numbers(40))
    poison = {"poison": {13: "raise"}}
    stage = Stage("copy", NUMBERS, "copy", Count, poison, plan_shards(source, 20), {"v": 1}, PoolSettings())
    with pytest.raises(RunError, match=r"1 of 40 units"):
        engine.execute(stage)
    assert [reject["row"] for reject in engine.table("copy").rejects()] == ["13"]


def test_a_row_is_rejected_with_as_many_units_as_it_has(run: MakeRun) -> None:
    one = run(max_reject_fraction=0.2)
    source = one.execute(numbers(12))
    units = [n % 4 for n in range(12)]
    planned = plan_shards(source, 6, units_per_row=units)
    stage = Stage("copy", NUMBERS, "copy", Repeat, {"poison": {7: "raise"}}, planned, {"v": 1}, PoolSettings())
    table = one.execute(stage)
    assert values(table) == [n for n in range(12) if n != 7 for _ in range(units[n])]
    assert [(reject["row"], reject["units"]) for reject in table.rejects()] == [("7", 3)]
    assert sum(commit.accounted for commit in table.commits()) == table.plan.units == sum(units)


def test_a_killed_worker_loses_nothing_and_is_replaced(run: MakeRun, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    killed: list[int] = []

    def kill() -> None:
        for _ in range(200):
            time.sleep(0.05)
            lines = marker.read_text().splitlines() if marker.exists() else []
            if len(lines) > 8:
                killed.append(int(lines[-1].split()[0]))
                os.kill(killed[0], signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    table = run().execute(numbers(300, 10, marker=str(marker), seconds=0.25))
    killer.join()
    assert killed
    assert values(table) == list(range(300))
    assert table.rejects() == []
    assert len({line.split()[0] for line in marker.read_text().splitlines()}) == 3


def test_an_accident_that_kills_a_worker_once_rejects_no_row(run: MakeRun, tmp_path: Path) -> None:
    table = run().execute(numbers(poison={5: "once", 61: "once"}, marker=str(tmp_path / "marker")))
    assert values(table) == list(range(100))
    assert table.rejects() == []


def test_too_many_rejects_fail_the_run_with_the_three_commonest_errors(run: MakeRun) -> None:
    engine = run(shard_attempts=1, max_reject_fraction=0.09)
    faults = ["reject: too long"] * 4 + ["reject: empty"] * 3 + ["reject: no language"] * 2 + ["reject: rare"]
    stage = numbers(100, 100, poison=dict(enumerate(faults)))
    with pytest.raises(RunError) as caught:
        engine.execute(stage)
    assert (
        "numbers: 10 of 100 units could not be done, more than the 9.0% that cluster.max_reject_fraction allows. The "
        "commonest errors:\n  4 × too long\n  3 × empty\n  2 × no language\n"
    ) in str(caught.value)
    assert "rare" not in str(caught.value)
    assert "--overwrite numbers" in str(caught.value)
    with pytest.raises(RunError, match="max_reject_fraction"):
        engine.execute(stage)


def test_a_run_stops_soon_after_too_many_rejects(run: MakeRun) -> None:
    engine = run(shard_attempts=1)
    with pytest.raises(RunError, match="ValueError: number 0 cannot be done"):
        engine.execute(
            numbers(400, 2, poison={0: "raise", 1: "raise", 2: "raise", 3: "raise", 4: "raise"}, seconds=0.02)
        )
    assert len(engine.table("numbers").commits()) < 200


def test_bad_input_in_a_users_files_ends_the_run_and_leaves_no_table(run: MakeRun) -> None:
    engine = run()
    with pytest.raises(InputError, match=r"^number 55 is not allowed here$"):
        engine.execute(replace(numbers(poison={55: "input"}), reads_files=True))
    assert engine.storage.list("numbers") == []


def test_bad_input_that_is_found_late_leaves_committed_work(run: MakeRun) -> None:
    """If an API key is revoked during paid work, the work that was paid for must be kept."""
    engine = run()
    with pytest.raises(InputError, match=r"^number 95 is not allowed here$"):
        engine.execute(numbers(poison={95: "input"}, seconds=0.05))
    assert len(engine.table("numbers").commits()) > 0
    assert values(engine.execute(numbers())) == list(range(100))


def test_a_worker_that_loses_rows_ends_the_run(run: MakeRun) -> None:
    with pytest.raises(RunError, match=r"shard 00004, rows 0 to 10: 10 units planned, but 9 rows"):
        run().execute(numbers(poison={41: "lose"}))


def test_a_worker_that_cannot_be_constructed_ends_the_run_with_its_error(run: MakeRun) -> None:
    with pytest.raises(RunError, match="ValueError: cannot be constructed"):
        run().execute(numbers(poison={0: "constructor"}))


def test_a_changed_fingerprint_is_refused_and_overwrite_does_the_stage_again(run: MakeRun) -> None:
    engine = run()
    old = engine.execute(numbers(path="queries", fingerprint={"seed": 1}))
    with pytest.raises(InputError, match=r"seed: was 1, is 2(.|\n)*--overwrite queries"):
        engine.execute(numbers(path="queries", fingerprint={"seed": 2}))
    engine.execute(numbers(path="passages"))
    engine.execute(numbers(path="scores/x"))
    with Run(
        engine.storage.url, engine.settings, overwrite=frozenset({"queries"}), progress=engine.progress
    ) as other_engine:
        assert not other_engine.storage.exists("scores/x/plan.json")
        assert other_engine.storage.exists("passages/plan.json")
        new = other_engine.execute(numbers(path="queries", fingerprint={"seed": 2}, scale=2))
    assert values(new) == [2 * n for n in range(100)]
    assert new.fingerprint != old.fingerprint
    with pytest.raises(InputError, match="no such stage"):
        Run(engine.storage.url, engine.settings, overwrite=frozenset({"query"}))


def test_a_request_that_no_node_can_hold_is_refused_before_anything_starts(run: MakeRun) -> None:
    engine = run()
    with pytest.raises(InputError, match=r"wants 1 CPU, 8 GPU, and no node(.|\n)*has 2 CPU"):
        engine.execute(numbers(path="scores/x", pool=PoolSettings(gpus=8)))
    assert engine.storage.list("") == []


def test_bad_input_of_one_driver_leaves_what_another_one_has_committed(run: MakeRun) -> None:
    engine = run()
    stage = numbers(poison={0: "input"}, seconds=3.0, pool=PoolSettings(workers=1))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            engine.execute(stage)
        except InputError as error:
            errors.append(error)

    driver = threading.Thread(target=work)
    driver.start()
    until(lambda: engine.storage.exists("numbers/plan.json"), "the plan")
    other = engine.table("numbers")
    shard = other.plan.shards[9]
    publish(
        engine.storage, "numbers", other.plan.id, Commit(shard.name, (), 0, 10, {"small": 10}, 0, 0, 0.0, "w0", "-")
    )
    driver.join()
    assert errors
    assert [commit.shard for commit in engine.table("numbers").commits()] == [shard.name]


def test_a_workdir_that_the_worker_does_not_share_is_named(tmp_path: Path) -> None:
    of_driver, of_worker = Storage(str(tmp_path / "driver")), Storage(str(tmp_path / "worker"))
    plan = Plan.new(NUMBERS, shards(10, 10), {})
    of_driver.put("numbers/plan.json", plan.to_bytes())
    job = Job(of_driver.url, 0.0, "numbers", "numbers", plan.id, NUMBERS.schema, [], "pool")
    check_workdir(of_driver, job, "host/abc")
    with pytest.raises(InputError, match=r"node host/abc sees another folder of this name(.|\n)*all nodes share"):
        check_workdir(of_worker, job, "host/abc", waits_s=(0.1,))
    threading.Timer(0.5, lambda: of_worker.put("numbers/plan.json", plan.to_bytes())).start()  # a slow file system
    check_workdir(of_worker, job, "host/abc", waits_s=(0.2, 2.0))
    with pytest.raises(RunError, match="planned anew by another run"):
        check_workdir(of_driver, replace(job, plan_id="another"), "host/abc")


def test_two_drivers_on_one_workdir_both_finish_with_one_result(run: MakeRun) -> None:
    engine, other_engine = run("same"), run("same")
    stage = numbers(400, 10, seconds=0.03, pool=PoolSettings(cpus=0.5, workers=2))
    tables: list[Table] = []
    threads = [threading.Thread(target=lambda r=r: tables.append(r.execute(stage))) for r in (engine, other_engine)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tables) == 2
    assert values(tables[0]) == values(tables[1]) == list(range(400))
    assert len(engine.storage.list("numbers/data")) == 40


def test_a_pool_leaves_no_process_of_its_own_behind(run: MakeRun, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    run().execute(numbers(worker=Parent, marker=str(marker), pool=PoolSettings(workers=1)))
    child = int(marker.read_text())
    # a dead process that no parent waits for stays in the process table as a zombie
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_worker_is_closed_at_the_end_of_its_stage(run: MakeRun, tmp_path: Path) -> None:
    run().execute(numbers(worker=Closing, marker=str(tmp_path / "closed"), pool=PoolSettings(workers=1)))
    assert (tmp_path / "closed").read_text() == "closed"


def test_no_more_workers_start_than_there_are_shards(run: MakeRun) -> None:
    table = run().execute(numbers(10, 10))
    assert {commit.worker for commit in table.commits()} == {"w0"}


def test_an_asynchronous_worker_has_two_shards_in_flight(run: MakeRun) -> None:
    engine = run()
    engine.execute(numbers(80, 10, CountAsync, seconds=1.0, pool=PoolSettings(workers=1)))
    ended = sorted(path.stat().st_mtime for path in Path(engine.storage.url).glob("numbers/commits/*"))
    assert len(ended) == 8
    assert ended[-1] - ended[0] < 6.0, "if shards ran one by one, the last would end seven seconds after the first"


def test_a_worker_that_does_not_start_in_time_is_named_with_what_is_free(run: MakeRun) -> None:
    with pytest.raises(RunError, match=r"waited \d+ s for a worker to load(.|\n)*Free now"):
        run(wait_timeout_s=8.0).execute(numbers(worker=SlowStart))


def test_every_line_of_the_log_names_worker_node_and_shard(run: MakeRun) -> None:
    engine = run(max_reject_fraction=0.1)
    engine.execute(numbers(poison={5: "raise"}))
    lines = (Path(engine.storage.url) / "logs/numbers.log").read_text().splitlines()
    assert all(
        [part.split("=")[0] for part in line.split()[1:5]] == ["table", "worker", "node", "shard"] for line in lines
    )
    assert any("shard=00000 row: ValueError: number 5" in line for line in lines)
    assert sum("done:" in line for line in lines) >= 10


def test_a_stage_in_this_process_keeps_its_record_and_refuses_another_fingerprint(run: MakeRun) -> None:
    engine = run()
    calls: list[int] = []

    def produce() -> dict[str, Any]:
        calls.append(1)
        return {"steps": 7}

    record = engine.execute_in_process("training", {"lr": 0.1}, produce, title="training")
    assert record["steps"] == 7
    assert engine.execute_in_process("training", {"lr": 0.1}, produce, title="training") == record
    assert len(calls) == 1
    with pytest.raises(InputError, match=r"lr: was 0.1, is 0.2(.|\n)*--overwrite training"):
        engine.execute_in_process("training", {"lr": 0.2}, produce, title="training")


def test_a_stage_whose_rows_all_fail_alike_ends_before_all_are_tried(run: MakeRun, tmp_path: Path) -> None:
    engine, marker = run(), tmp_path / "tried"
    always = numbers(400, 400, poison=dict.fromkeys(range(400), "raise"), marker=str(marker))
    with pytest.raises(RunError, match=r"the first 8 rows all failed with one error, .*cannot be done"):
        engine.execute(always)
    assert len(marker.read_text().splitlines()) < 60, "each of 400 rows would be tried three times"
    assert values(engine.execute(numbers(400, 400))) == list(range(400)), "the same table goes on once it is mended"
