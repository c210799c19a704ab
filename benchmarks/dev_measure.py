"""Which dev measure agrees with the truth: every checkpoint of trainings, judged on dev lists and on judged queries.

    python -m benchmarks.dev_measure RUN TRAINING [TRAINING …] --judged FOLDER [--dev 500] [--queries 500]

RUN is the workdir of a run with lists; a TRAINING is the output of `listwise train --lists RUN` that kept its
checkpoints (`training.keep_checkpoints=100`, `training.patience=100`, `training.evaluate_every=2`). FOLDER holds judged
queries in BEIR's layout over the same passages. For the base and each checkpoint the script prints nDCG@10 of the
judged queries over the whole corpus, and two dev measures with the teachers' scores as gains: "listed" ranks the whole
corpus and counts a passage outside of the query's list as wrong; "scored" ranks the passages that the teachers scored.
The last line is Kendall's tau of each with the judged nDCG@10 over all models.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau

from cluster.tables.storage import Storage
from cluster.tables.table import Table
from distill.encoders.encoder import Encoder
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule
from distill.evaluation.judged import JudgedCollection, read
from distill.settings.encoders import EncoderSettings
from distill.training.batches import MASKED
from distill.training.checkpoints import load_weights
from distill.training.dev_evaluation import DEPTH, ndcg, relevant_gains
from distill.training.list_arrays import DevLists, read_dev_lists

RELEVANT_FROM = 0.6
MEASURES = ("judged", "listed", "scored")


@dataclass(frozen=True)
class Material:
    """What all models are judged on."""

    titles: list[str]
    texts: list[str]
    ids: list[str]
    dev: DevLists
    collection: JudgedCollection


def judge(encoder: Encoder, material: Material) -> dict[str, float]:
    """The three measures of one model."""
    passages = encoder.encode_passages(material.titles, material.texts)
    similarity = encoder.encode_queries(material.collection.queries) @ passages.T
    judged = []
    for query, row in zip(material.collection.query_ids, similarity, strict=True):
        grades = material.collection.qrels[query]
        found = [grades.get(material.ids[place], 0) for place in np.argsort(-row)[:DEPTH]]
        judged.append(ndcg(np.array([found], float), np.array([list(grades.values())], float))[0])

    dev, lists = material.dev, material.dev.lists
    similarity = encoder.encode_queries(lists.texts.to_pylist()) @ passages.T
    top = np.argsort(-similarity, axis=1)[:, :DEPTH]
    gains = relevant_gains(lists.rows, lists.scores, RELEVANT_FROM)
    listed = ((top[:, :, None] == lists.rows[:, None, :]) * gains[:, None, :]).sum(axis=2)
    own = np.take_along_axis(similarity, np.maximum(dev.rows, 0), axis=1)
    order = np.argsort(-np.where(dev.rows == MASKED, -np.inf, own), axis=1)[:, :DEPTH]
    all_gains = relevant_gains(dev.rows, dev.scores, RELEVANT_FROM)
    scored = np.take_along_axis(all_gains, order, axis=1)
    return {
        "judged": float(np.mean(judged)),
        "listed": float(ndcg(listed, gains).mean()),
        "scored": float(ndcg(scored, all_gains).mean()),
    }


def main() -> None:
    """Prints a line for each model, and how well the dev measures agree with the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("trainings", nargs="+")
    parser.add_argument("--judged", required=True, type=Path)
    parser.add_argument("--dev", type=int, default=500)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    given = parser.parse_args()
    storage = Storage(given.run)
    passages = Table.open(storage, "passages").read(["passage_id", "title", "text"])
    lists = Table.open(storage, "lists").read()
    material = Material(
        passages["title"].to_pylist(), passages["text"].to_pylist(), passages["passage_id"].to_pylist(),
        read_dev_lists(lists, given.length, passages.num_rows).spread(given.dev),
        read(given.judged, "test", given.queries, seed=0),
    )  # fmt: skip
    settings = EncoderSettings(model=given.model, max_query_tokens=48, max_passage_tokens=256)
    found = [("base", 0, judge(Encoder(settings), material))]
    for training in given.trainings:
        for folder in sorted(Path(training, "training", "checkpoints").glob("step-*")):
            model = load_model(settings, "cpu")
            load_weights(folder, EncoderModule(model, "cpu", torch.float32))
            step = int(folder.name.removeprefix("step-"))
            found.append((Path(training).name, step, judge(Encoder(settings, model=model), material)))
    print(f"| model | step | {' | '.join(MEASURES)} |\n|---|---|{'---|' * len(MEASURES)}")
    for name, step, values in found:
        print(f"| {name} | {step} | {' | '.join(f'{values[key]:.4f}' for key in MEASURES)} |")
    for measure in MEASURES[1:]:
        tau = kendalltau(*([values[key] for _, _, values in found] for key in ("judged", measure))).statistic
        print(f"Kendall's tau of {measure} with judged: {tau:+.2f}")


if __name__ == "__main__":
    main()
