"""The functions of `listwise`. Each imports what it needs when it is called, so that `import listwise` is quick."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from listwise.packages import ours

if TYPE_CHECKING:
    import numpy as np

    from cluster.watch.progress import Progress
    from launcher.recipe import Recipe

Location = str | os.PathLike[str]
Changes = Mapping[str, Any] | Sequence[str]

P = ParamSpec("P")
T = TypeVar("T")


def _with_own_packages(function: Callable[P, T]) -> Callable[P, T]:
    """The function, during which nothing is imported from the current folder."""

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        with ours():
            return function(*arguments, **named)

    return call


@dataclass(frozen=True)
class Outcome:
    """What a run has made.

    Attributes:
        workdir: folder or url of the run.
        model: folder of the trained model; None where the run stopped before training.
        report: address of the report, a page of HTML.
        evaluation: base and student compared, as `evaluation/metrics.json` has it; None without judged queries.
    """

    workdir: str
    model: str | None
    report: str
    evaluation: dict[str, Any] | None


@_with_own_packages
def load_recipe(source: Location, changes: Changes = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        source: a YAML file, or the name of a shipped recipe such as "laptop".
        changes: fields that replace those of the file: {"corpus.path": "passages.jsonl"}, or texts as `--set` takes
            them, ["corpus.path=passages.jsonl"].

    Raises:
        InputError: the recipe has mistakes; the message names each one with its line, value and remedy.
    """
    from launcher.recipe_file import load_recipe as load

    return load(os.fspath(source), _as_texts(changes))


@_with_own_packages
def run(
    recipe: Recipe | Location, *, until: str = "evaluation", overwrite: Iterable[str] = (), quiet: bool = False
) -> Outcome:
    """Runs a recipe, or continues a run where it stopped; a finished run is only read.

    A Ray that this process has started or joined is used and left as it is. Otherwise the run starts one of its own on
    this machine, or joins `cluster.address`, and ends its connection.

    Args:
        recipe: from `load_recipe`; or a file, or the name of a shipped recipe.
        until: the last stage to run: corpus, queries, grades, approved, embeddings, candidates, scores, lists, training
            or evaluation.
        overwrite: stages to do again; all later ones are then done again too.
        quiet: whether no progress is shown.

    Raises:
        InputError: the recipe, or a file or model that it names, has a mistake.
        RunError: the run failed; the same call continues it.
    """
    from launcher import pipeline
    from launcher.recipe import Recipe as RecipeClass

    resolved = recipe if isinstance(recipe, RecipeClass) else load_recipe(recipe)
    stages = frozenset([overwrite] if isinstance(overwrite, str) else overwrite)
    evaluation = pipeline.execute(resolved, until, stages, progress=_progress(quiet))
    workdir = resolved.workdir.rstrip("/")
    is_trained = until in ("training", "evaluation")
    return Outcome(workdir, f"{workdir}/model" if is_trained else None, f"{workdir}/report.html", evaluation)


@_with_own_packages
def train(
    lists: Location,
    student: Location,
    output: Location,
    *,
    ranks: int | None = None,
    dev_fraction: float = 0.1,
    changes: Changes = (),
) -> dict[str, Any]:
    """Trains a student on scored lists, without the stages before; a second call continues, or reads what is done.

    Args:
        lists: JSON lines of scored lists, or the workdir of a run.
        student: model to train: folder, packaged name or hub id.
        output: folder for checkpoints, metrics and the model.
        ranks: number of data-parallel processes; None: one for each GPU, or one.
        dev_fraction: share of a file's queries that evaluate the model during training, from 0 to 0.9.
        changes: further settings, such as {"training.epochs": 2, "student.normalize": False}.

    Returns:
        The record of the training: `model` (its folder), `steps`, `best_step` and more.

    Raises:
        InputError: the lists, the model or a setting cannot be used.
        RunError: training failed; the same call continues it.
    """
    from launcher import train as training
    from launcher.interrupt import Interrupts

    options = training.read_options(os.fspath(student), ranks, dev_fraction, _as_texts(changes))
    with Interrupts():
        return training.train_on_ray(os.fspath(lists), Path(output), options)


@_with_own_packages
def evaluate(
    model: Location,
    dataset: Location,
    output: Location | None = None,
    *,
    split: str = "test",
    dimensions: int | None = None,
    quiet: bool = False,
    **encoder: Any,
) -> dict[str, Any]:
    """Judges a model on a BEIR data set, by exact search.

    Args:
        model: sentence-transformers model: folder, packaged name or hub id.
        dataset: BEIR folder: corpus.jsonl, queries.jsonl, qrels/.
        output: folder for metrics.json, run.trec and per_query.jsonl; None: nothing is written.
        split: file of the qrels.
        dimensions: number at which embeddings are cut; None: whole embeddings.
        quiet: whether no progress is shown.
        encoder: settings of an encoder as in a recipe: query_prompt, max_passage_tokens, dtype, …

    Returns:
        nDCG@10, recall@100 and MRR@10 under the names that metrics.json has, and what was evaluated.

    Raises:
        InputError: the model, the data set or a setting cannot be used.
    """
    from distill.evaluation.evaluate import evaluate as judge

    settings = _encoder(model, encoder)
    with tempfile.TemporaryDirectory() as nowhere:
        target = nowhere if output is None else os.fspath(output)
        progress = _progress(quiet)
        return judge(settings, Path(dataset), split, target, dimensions=dimensions, progress=progress)


@_with_own_packages
def encode(
    model: Location, texts: Sequence[str], kind: Literal["query", "passage"] = "passage", **encoder: Any
) -> np.ndarray:
    """Vectors of texts, as retrieval and evaluation make them.

    Args:
        model: sentence-transformers model: folder, packaged name or hub id. It is loaded anew by every call.
        texts: n queries or passages; of a passage with a title, "title text".
        kind: decides which prompt of the model is put before a text, and at how many tokens it is cut.
        encoder: settings of an encoder as in a recipe: query_prompt, max_passage_tokens, dtype, …

    Returns:
        (n, dimension) float32.

    Raises:
        InputError: the model or a setting cannot be used, or `texts` is no list of texts.
    """
    from cluster.errors import InputError
    from distill.encoders.encoder import Encoder

    listed = [] if isinstance(texts, str) else list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in listed):
        raise InputError("encode: `texts` must be a list of texts; for a single one: [text]")
    if kind not in ("query", "passage"):
        raise InputError(f'encode: kind is {kind!r}; expected "query" or "passage"')
    loaded = Encoder(_encoder(model, encoder))
    return loaded.encode_queries(listed) if kind == "query" else loaded.encode_passages([""] * len(listed), listed)


def _encoder(model: Location, settings: dict[str, Any]) -> Any:
    """The settings of an encoder; mistakes are refused as in a recipe."""
    from distill.settings.encoders import EncoderSettings
    from launcher.recipe_file import validate_options

    return validate_options(EncoderSettings, {"model": os.fspath(model), **settings}, [])


def _as_texts(changes: Changes) -> list[str]:
    """Changes as `--set` takes them; JSON is YAML too."""
    if isinstance(changes, str):
        return [changes]
    if isinstance(changes, Mapping):
        return [f"{field}={json.dumps(value, default=os.fspath)}" for field, value in changes.items()]
    return list(changes)


def _progress(quiet: bool) -> Progress:
    from cluster.watch.progress import Progress

    return Progress(quiet=quiet)
