"""A recipe that runs on other machines may only name paths that are the same on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import InputError
from launcher import remote
from launcher.jobs.client import Job
from launcher.jobs.submit import attempts, check
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe


def recipe(*changes: str) -> Recipe:
    basis = ["workdir=/mnt/shared/run", "corpus.path=/mnt/shared/corpus", "evaluation.dataset=null"]
    return load_recipe("laptop", [*basis, *changes])


@pytest.mark.parametrize("workdir", ["runs/mine", "./run", "~/run"])
def test_a_workdir_that_is_not_the_same_on_every_node_is_refused_with_the_remedy(workdir: str) -> None:
    with pytest.raises(InputError, match=rf"workdir '{workdir}' is not absolute.*--set workdir=/mnt/shared/\w+"):
        check(recipe(f"workdir={workdir}"), [])


@pytest.mark.parametrize("workdir", ["/mnt/run", "s3://bucket/run"])
def test_a_workdir_on_a_shared_folder_or_in_a_bucket_is_accepted(workdir: str) -> None:
    assert check(recipe(f"workdir={workdir}"), []) == {}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("corpus.path=my-corpus", "corpus.path 'my-corpus'"),
        ("corpus.query_log=~/log.jsonl", "corpus.query_log '~/log.jsonl'"),
        ("corpus.judged_queries.dataset=judged", "corpus.judged_queries.dataset 'judged'"),
        ("evaluation.dataset=judged", "evaluation.dataset 'judged'"),
        ("student.model=./models/mine", "student.model './models/mine'"),
    ],
)
def test_an_input_that_is_not_sent_with_the_job_is_refused_by_its_field(
    change: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=field.replace(".", r"\.")):
        check(recipe(change), [])


def test_an_input_that_git_tracks_in_the_checkout_is_sent_and_keeps_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    assert check(recipe("corpus.path=launcher/recipes"), []) == {}
    with pytest.raises(InputError, match=r"corpus\.path 'launcher/no-such'"):
        check(recipe("corpus.path=launcher/no-such"), [])


def test_hub_ids_urls_and_packaged_data_are_no_paths() -> None:
    assert remote.local_inputs(recipe("corpus.path=hf://mteb/scifact", "student.model=BAAI/bge-base-en-v1.5")) == {}


def test_a_variable_is_sent_by_its_name_and_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTWISE_TEST_KEY", "value")
    monkeypatch.delenv("LISTWISE_TEST_NONE", raising=False)
    assert check(recipe(), ["LISTWISE_TEST_KEY"]) == {"LISTWISE_TEST_KEY": "value"}
    with pytest.raises(InputError, match="--env LISTWISE_TEST_NONE: this variable is not set here"):
        check(recipe(), ["LISTWISE_TEST_NONE"])
    with pytest.raises(InputError, match="expected only the name of an environment variable"):
        check(recipe(), ["LISTWISE_TEST_KEY=value"])


@pytest.mark.parametrize("name", ["RAY_worker_niceness", "PYTHONPATH", "LD_LIBRARY_PATH"])
def test_a_variable_that_would_come_too_late_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "value")
    with pytest.raises(InputError, match=f"--env {name}: .* when a process starts"):
        check(recipe(), [name])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My Run_1", "my-run-1"), ("1984", "run-1984"), ("ünïcode", "n-code"), ("***", "run"), ("a" * 60, "a" * 40)],
)
def test_any_name_becomes_one_that_kubernetes_and_ray_accept(name: str, expected: str) -> None:
    assert remote.label(name) == expected
    assert remote.is_label(remote.label(name))


def test_attempts_at_a_workdir_are_counted_whatever_the_run_was_called() -> None:
    digest = remote.workdir_digest("/mnt/run/")
    assert digest == remote.workdir_digest("/mnt//run") != remote.workdir_digest("/mnt/run2")
    jobs = [Job(f"{name}-{n}", "FAILED", "", None, "", None, None)
            for name, n in [(f"new-{digest}", 10), (f"old-{digest}", 9), ("old-00000000", 11)]]  # fmt: skip
    assert list(attempts(jobs, digest)) == [9, 10]
