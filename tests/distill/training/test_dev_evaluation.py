"""Dev evaluation: the ranks together find what a brute force finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.schemas import LISTS, PASSAGES
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from tests.distill.list_tables import write_run
from tests.distill.ranks import on_ranks
from tests.tables import write_table

RELEVANT_FROM = 0.6


def evaluate(rank: int, world_size: int, workdir: str, encoder: str) -> tuple[float, float]:
    import torch
    import torch.distributed as dist

    from distill.encoders.layout import Layout
    from distill.encoders.loading import load_model
    from distill.encoders.module import EncoderModule
    from distill.encoders.reading import Reading
    from distill.encoders.texts import passage_text
    from distill.encoders.tokens import TokenFile, write_tokens
    from distill.losses.batch import LossSettings
    from distill.settings.encoders import StudentSettings
    from distill.training.dev_evaluation import DevEvaluator
    from distill.training.list_arrays import read_dev_lists
    from distill.training.process_group import join_ranks

    join_ranks("cpu")
    storage = Storage(workdir)
    passages = Table.open(storage, "passages").read()
    lists = read_dev_lists(Table.open(storage, "lists").read(), 8, passages.num_rows)
    model = load_model(StudentSettings(model=encoder), "cpu")
    texts = [
        passage_text(*pair) for pair in zip(passages["title"].to_pylist(), passages["text"].to_pylist(), strict=True)
    ]
    files = []
    for name, items in (("queries", lists.lists.texts.to_pylist()), ("passages", texts)):
        path = Path(workdir) / f"{name}.{rank}.arrow"
        write_tokens(path, items, Reading(model, "document", 64).token_ids)
        files.append(TokenFile(path))
    layout = Layout(model.tokenizer.pad_token_id)
    evaluator = DevEvaluator(lists, *files, LossSettings(), RELEVANT_FROM, 512, layout)
    result = evaluator(EncoderModule(model, "cpu", torch.float32), rank, world_size)
    dist.barrier()
    dist.destroy_process_group()
    return result.ndcg, result.loss


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dev")
    write_run(folder)
    return folder


def brute_force(workdir: Path, encoder: str) -> tuple[float, float]:
    """nDCG@10 by scikit-learn over the passages that were scored, and the mean KL over the lists by SciPy."""
    from scipy.special import softmax
    from scipy.stats import entropy
    from sklearn.metrics import ndcg_score

    from distill.encoders.encoder import Encoder
    from distill.settings.encoders import EncoderSettings

    storage = Storage(str(workdir))
    passages, lists = (Table.open(storage, name).read().to_pylist() for name in ("passages", "lists"))
    model = Encoder(EncoderSettings(model=encoder, max_query_tokens=64, max_passage_tokens=64, dtype="float32"))
    vectors = model.encode_passages([each["title"] for each in passages], [each["text"] for each in passages])
    gains, divergences = [], []
    for each in (each for each in lists if each["split"] == "dev"):
        similarity = vectors @ model.encode_queries([each["text"]])[0]
        scores = np.array(each["dev_scores"])
        relevance = np.where(scores > RELEVANT_FROM * scores.max(), scores, 0)
        gains.append(ndcg_score([relevance], [similarity[each["dev_rows"]]], k=10))
        listed = similarity[each["passage_rows"]]
        divergences.append(entropy(softmax(np.array(each["scores"]) / 0.3), softmax(listed / 0.05)))
    return float(np.mean(gains)), float(np.mean(divergences))


@pytest.mark.parametrize("world_size", [1, 3])
def test_ranks_together_find_what_brute_force_finds(world_size, workdir, tiny_encoder):
    expected = brute_force(workdir, tiny_encoder)
    found = on_ranks(evaluate, world_size, str(workdir), tiny_encoder)
    assert all(each == found[0] for each in found)
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_a_corpus_of_fewer_passages_than_ranks_is_ranked_all_the_same(tiny_encoder, tmp_path):
    passages = [
        {"passage_id": f"p{row}", "title": place, "text": f"Slate is quarried in {place}.", "is_source": True}
        for row, place in enumerate(("Ardell", "Bryndal"))
    ]
    lists = [
        {"query_id": f"q{row}", "query_type": "search", "text": f"slate of {passages[row]['title']}",
         "passage_rows": [row, 1 - row], "scores": [1.0, 0.2], "split": "dev",
         "dev_rows": [row, 1 - row], "dev_scores": [1.0, 0.2]}
        for row in (0, 1)
    ]  # fmt: skip
    write_table(str(tmp_path), PASSAGES, "passages", passages)
    write_table(str(tmp_path), LISTS, "lists", lists)
    found = on_ranks(evaluate, 3, str(tmp_path), tiny_encoder)
    assert found == [pytest.approx(brute_force(tmp_path, tiny_encoder), abs=1e-5)] * 3


def test_a_passage_that_nobody_scored_is_neither_hit_nor_miss(workdir: Path, tiny_encoder: str, tmp_path: Path):
    """The same lists in a corpus that repeats every passage: the copies, which nobody scored, change nothing."""
    storage = Storage(str(workdir))
    passages, lists = (Table.open(storage, name).read().to_pylist() for name in ("passages", "lists"))
    copies = [each | {"passage_id": f"copy of {each['passage_id']}"} for each in passages]
    write_table(str(tmp_path), PASSAGES, "passages", passages + copies)
    write_table(str(tmp_path), LISTS, "lists", lists)
    found, before = (on_ranks(evaluate, 1, str(folder), tiny_encoder) for folder in (tmp_path, workdir))
    assert found == before


@pytest.mark.parametrize("at_once", [1, 100])
def test_similarities_of_pairs_are_those_of_the_whole_matrix_where_this_rank_has_the_passage(monkeypatch, at_once):
    import torch

    from distill.training import dev_evaluation

    monkeypatch.setattr(dev_evaluation, "_ELEMENTS", at_once)
    random = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(5, 4, generator=random), torch.randn(7, 4, generator=random)
    places = torch.randint(-1, 7, (5, 6), generator=random)
    found = dev_evaluation.pair_similarities(queries, passages, places)
    whole = queries @ passages.T
    for query, row in enumerate(places.tolist()):
        expected = [0.0 if place == -1 else float(whole[query, place]) for place in row]
        assert found[query].tolist() == pytest.approx(expected, abs=1e-6)
