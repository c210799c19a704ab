"""What `--overwrite` names, and what is removed for it: a stage, or one teacher or retriever, with all later stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.overwrite import Again, name_of, read_overwrite, refuse_unknown
from cluster.run import Run
from cluster.schemas import STAGES
from cluster.settings import ClusterSettings
from cluster.watch.progress import Progress

ORDER = tuple(STAGES)


@pytest.mark.parametrize(
    ("names", "first", "parts", "kept"),
    [
        ((), None, (), ()),
        (("lists",), "lists", (), ()),
        (("training", "candidates"), "candidates", (), ()),
        (("scores",), "scores", (), ("kept_scores",)),
        (("scores/made",), "lists", ("scores/made", "teachers/made"), ()),
        (("scores/a", "scores/b"), "lists", ("scores/a", "teachers/a", "scores/b", "teachers/b"), ()),
        (("embeddings/student",), "candidates", ("embeddings/student",), ()),
        (("embeddings/student", "scores/made"), "candidates", ("embeddings/student",), ()),
        (("scores/made", "scores"), "scores", (), ("kept_scores",)),
        (("scores/made", "queries"), "queries", (), ()),
    ],
)
def test_names_are_stages_and_single_teachers_and_retrievers(names, first, parts, kept) -> None:
    stages = ORDER[ORDER.index(first) :] if first else ()
    assert read_overwrite(frozenset(names)) == Again(stages, parts, kept)


@pytest.mark.parametrize("name", ["score", "scores/", "scores/a/b", "lists/a", "/scores", "corpus/a", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"no such stage; there are corpus, .*, embeddings/RETRIEVER, scores/"):
        read_overwrite({name})
    with pytest.raises(InputError, match=r"--until scores/a: no such stage; there are corpus, .*evaluation$"):
        refuse_unknown("--until", ["lists", "scores/a"])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("scores/made", "scores/made"), ("teachers/made", "scores/made"), ("teachers/made/ensemble", "scores/made"),
        ("embeddings/student/passages", "embeddings/student"), ("agreement", "lists"), ("queries", "queries"),
        ("probes/made", "corpus"), ("scores", "scores"),
    ],
)  # fmt: skip
def test_an_error_names_what_made_a_table(path: str, name: str) -> None:
    assert name_of(path) == name
    assert read_overwrite({name}).covers(path)


MADE = (
    "embeddings/student/passages", "candidates", "kept_scores/model", "scores/bm25", "scores/made", "scores/made2",
    "teachers/made", "teachers/made/ensemble", "agreement", "lists", "training",
)  # fmt: skip


def open_run(folder: Path, *names: str) -> Run:
    return Run(str(folder), ClusterSettings(), overwrite=frozenset(names), progress=Progress(quiet=True))


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    for path in MADE:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "plan.json").write_text("{}")
    return tmp_path


def there(folder: Path) -> set[str]:
    return {str(path.parent.relative_to(folder)) for path in folder.rglob("plan.json")}


def test_one_teacher_is_done_again_and_the_scores_of_the_others_stay(workdir: Path) -> None:
    open_run(workdir, "scores/made").close()
    assert there(workdir) == {
        "embeddings/student/passages", "candidates", "kept_scores/model", "scores/bm25", "scores/made2",
    }  # fmt: skip


def test_one_retriever_is_done_again_with_all_after_it(workdir: Path) -> None:
    open_run(workdir, "embeddings/student").close()
    assert there(workdir) == {"kept_scores/model"}


def test_a_name_that_has_made_nothing_is_refused_and_nothing_is_removed(workdir: Path) -> None:
    with pytest.raises(InputError, match=r"scores/mdae: it has made nothing in .*; there is scores/bm25, "):
        open_run(workdir, "scores/mdae", "lists")
    assert there(workdir) == set(MADE)
