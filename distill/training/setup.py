"""Setting up a rank. Every rank runs `prepare`, and the order of its steps is a protocol between the ranks.

| step | what the ranks do together |
|---|---|
| read the lists, plan the steps | nothing; all find the same mistakes |
| load the student | nothing |
| tokenise | rank 0 says what is missing, each writes its parts, all wait |
| continue from a checkpoint | rank 0 says which one and reads its state; each loads the weights |
| choose how to compute | each tries, and all agree on every choice |
| start DeepSpeed | it spreads the weights of rank 0 and divides them |
| load Adam's moments | nothing; each puts its part into the divided engine |
| divide memory | they count how many of them are on each machine |

Weights and trials come before DeepSpeed, since they need whole parameters; moments exist only after it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from distill.activations.activations import Activations
from distill.activations.budget import activation_bytes, room_bytes
from distill.collectives import ranks_on_this_machine, run_on_rank_0
from distill.encoders.compute.choose import choose_for_training
from distill.encoders.device import resolve_dtype
from distill.encoders.layout import Layout, PackedError, pad_token
from distill.encoders.loading import load_model
from distill.encoders.lora import add_adapters
from distill.encoders.module import EncoderModule
from distill.encoders.similarity import normalizes
from distill.encoders.tokens import TokenFile
from distill.losses.batch import LossSettings
from distill.settings.training import TrainingSettings
from distill.training.batches import lists_per_epoch, steps_per_epoch
from distill.training.checkpoint_files import newest_whole
from distill.training.checkpoints import load_moments, load_weights, read_state
from distill.training.deepspeed_engine import start_engine
from distill.training.dev_evaluation import DevEvaluator
from distill.training.job import TrainingJob
from distill.training.list_arrays import DevLists, ListArrays, read_splits
from distill.training.step import Stepper
from distill.training.token_files import tokenise

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Schedule:
    """How many queries a step has, and how many steps an epoch, the whole training and its warm-up."""

    queries_per_step: int
    per_epoch: int
    total: int
    warmup: int


@dataclass(frozen=True)
class Ready:
    """What a rank has when training begins.

    Attributes:
        lists: of the train split.
        dev_lists: of the dev split.
        schedule: of the steps.
        tokens: token files "train", "dev" and "passages".
        layout: of the micro-batches.
        module: the student.
        engine: DeepSpeed's, around it.
        stepper: runs the steps.
        evaluator: judges the student on the dev lists; None where there are none.
        state: what checkpoints keep beside weights and moments: the next step, the best one so far.
    """

    lists: ListArrays
    dev_lists: DevLists
    schedule: Schedule
    tokens: dict[str, TokenFile]
    layout: Layout
    module: EncoderModule
    engine: Any
    stepper: Stepper
    evaluator: DevEvaluator | None
    state: dict[str, Any]


def prepare(job: TrainingJob, device: str, world_size: int, say: Callable[[str], None] = lambda what: None) -> Ready:
    """Gets a rank ready; every rank calls it.

    Args:
        job: the same on every rank.
        device: where this rank computes.
        world_size: number of ranks.
        say: is told what comes next, in words.

    Raises:
        InputError: lists that do not fit the corpus, fewer lists than ranks, a model that cannot be trained so, or a
            checkpoint of another training.
    """
    training, output = job.training, Path(job.output)
    storage = Storage(job.workdir, job.patience_s)
    say("reads the lists")
    passages, table = Table.open(storage, job.passages), Table.open(storage, job.lists)
    lists, dev_lists = _read_lists(table, training, passages.num_rows)
    schedule = plan_schedule(lists_per_epoch(lists.logged, training.query_log_weight), training, world_size)
    identity = {
        "student": job.student.identity(),
        "lists": table.fingerprint,
        "passages": passages.fingerprint,
        "training": training.identity(),
    }
    say(f"loads {job.student.model}")
    model = load_student(job, device)
    say("tokenises what has not been tokenised")
    tokens = tokenise(
        output / "tokens", {**identity, "training": {"spread": training.dev_queries}}, job.student,
        {"train": lists, "dev": dev_lists.lists}, passages, model,
    )  # fmt: skip
    module = EncoderModule(model, device, resolve_dtype(training.dtype, device))
    state, checkpoint = _continue(output / "checkpoints", identity, module)
    say("tries how to compute fastest, and starts DeepSpeed")
    layout = _choose(job, module, tokens["passages"], pad_token(model))
    engine = start_engine(module, training, world_size)
    if checkpoint:
        load_moments(checkpoint, engine)
    settings = LossSettings(**{name: getattr(training, name) for name in LossSettings.__dataclass_fields__})
    activations = Activations(
        engine, module, activation_bytes(training.activation_mib, module, device, ranks_on_this_machine()),
        room_bytes=room_bytes(training.activation_mib, module, device), graphs=training.zero_stage < 3,
        without=training.without,
    )  # fmt: skip
    stepper = Stepper(engine, tokens["train"], tokens["passages"], settings, activations, layout)
    evaluator = None
    if len(dev_lists):
        evaluator = DevEvaluator(
            dev_lists, tokens["dev"], tokens["passages"], settings, training.relevant_from, training.micro_batch_tokens,
            layout,
        )  # fmt: skip
    return Ready(lists, dev_lists, schedule, tokens, layout, module, engine, stepper, evaluator, state)


def _read_lists(table: Table, training: TrainingSettings, passages: int) -> tuple[ListArrays, DevLists]:
    empty = table.plan.schema.empty_table()
    lists, dev_lists = read_splits(itertools.chain([empty], table.batches()), training.list_length, passages)
    return lists, dev_lists.spread(training.dev_queries)


def plan_schedule(lists: int, training: TrainingSettings, world_size: int) -> Schedule:
    """Schedule of a training on so many lists an epoch.

    Raises:
        InputError: there is no list, or a step has fewer queries than there are ranks.
    """
    if not lists:
        raise InputError("there are no training lists: lists.dev_fraction or the filters left none.")
    queries_per_step = min(training.queries_per_step, lists)
    if queries_per_step < world_size:
        raise InputError(
            f"a step of {queries_per_step} queries cannot be dealt to {world_size} ranks: lower training.ranks, raise "
            "training.queries_per_step, or generate more queries."
        )
    per_epoch = steps_per_epoch(lists, queries_per_step)
    whole = training.epochs * per_epoch
    warmup = training.warmup_steps if training.warmup_epochs is None else round(training.warmup_epochs * per_epoch)
    return Schedule(queries_per_step, per_epoch, min(whole, training.max_steps or whole), warmup)


def load_student(job: TrainingJob, device: str) -> SentenceTransformer:
    """The base model, with adapters where the recipe asks for them.

    Raises:
        InputError: the model cannot be loaded, or its embeddings cannot be cut as `training.matryoshka` says.
    """
    model, cuts = load_model(job.student, device), job.training.matryoshka
    dimension = model.get_embedding_dimension() or 0
    if cuts and (max(cuts) >= dimension or not normalizes(model)):
        raise InputError(
            f"training.matryoshka: {list(cuts)} must lie below the student's {dimension} dimensions, and "
            "the student must normalise its embeddings (student.normalize: true)."
        )
    if job.student.lora:
        add_adapters(model, job.student.lora, job.training.seed)
    return model


def _continue(folder: Path, identity: dict[str, Any], module: EncoderModule) -> tuple[dict[str, Any], Path | None]:
    """State of the newest whole checkpoint, whose weights are loaded, and its folder; or the state of a new training.

    `notes` of the state are sentences about damaged checkpoints.
    """
    newest, notes = run_on_rank_0(lambda: newest_whole(folder))
    if newest:
        state = run_on_rank_0(lambda: read_state(newest, identity))
        load_weights(newest, module)
        return state | {"notes": notes}, newest
    return {
        "notes": notes, "step": 0, "identity": identity, "best_step": None, "best_ndcg": -1.0, "best_loss": math.inf,
        "stale": 0, "base_dev": None, "dev": None,
    }, None  # fmt: skip


def _choose(job: TrainingJob, module: EncoderModule, tokens: TokenFile, pad_id: int) -> Layout:
    try:
        return choose_for_training(module, tokens, pad_id, job.training)
    except PackedError as error:
        raise InputError(f"training.packed: {error}, with student '{job.student.model}'. Leave it out.") from error
