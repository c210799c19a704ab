"""Dev evaluation: the ranks together find what a brute force over the whole corpus finds."""

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

MARGIN = 0.6


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
    from distill.training.list_arrays import read_lists
    from distill.training.process_group import join_ranks

    join_ranks("cpu")
    storage = Storage(workdir)
    passages = Table.open(storage, "passages").read()
    lists = read_lists(Table.open(storage, "lists").read(), "dev", 8, passages.num_rows)
    model = load_model(StudentSettings(model=encoder), "cpu")
    texts = [
        passage_text(*pair) for pair in zip(passages["title"].to_pylist(), passages["text"].to_pylist(), strict=True)
    ]
    files = []
    for name, items in (("queries", lists.texts.to_pylist()), ("passages", texts)):
        path = Path(workdir) / f"{name}.{rank}.arrow"
        write_tokens(path, items, Reading(model, "document", 64).token_ids)
        files.append(TokenFile(path))
    settings = LossSettings(contrastive_margin=MARGIN)
    evaluator = DevEvaluator(lists, *files, settings, 512, Layout(model.tokenizer.pad_token_id))
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
    """nDCG@10 by scikit-learn over every passage, and the mean KL by SciPy."""
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
        scores = np.array(each["scores"])
        relevance = np.zeros(len(passages))
        relevance[each["passage_rows"]] = np.where(scores > MARGIN * scores.max(), scores, 0)
        listed = similarity[each["passage_rows"]]
        divergences.append(entropy(softmax(scores / 0.3), softmax(listed / 0.05)))
        if each["left_out_row"] is not None:
            similarity[each["left_out_row"]] = -10
        gains.append(ndcg_score([relevance], [similarity], k=10))
    return float(np.mean(gains)), float(np.mean(divergences))


@pytest.mark.parametrize("world_size", [1, 3])
def test_ranks_together_find_what_brute_force_finds(world_size, workdir, tiny_encoder):
    expected = brute_force(workdir, tiny_encoder)
    found = on_ranks(evaluate, world_size, str(workdir), tiny_encoder)
    assert all(each == found[0] for each in found)
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_a_corpus_of_fewer_passages_than_ranks_is_searched_all_the_same(tiny_encoder, tmp_path):
    passages = [
        {"passage_id": f"p{row}", "title": place, "text": f"Slate is quarried in {place}.", "is_source": True}
        for row, place in enumerate(("Ardell", "Bryndal"))
    ]
    lists = [
        {"query_id": f"q{row}", "query_type": "search", "text": f"slate of {passages[row]['title']}",
         "passage_rows": [row, 1 - row], "scores": [1.0, 0.2], "split": "dev", "left_out_row": None}
        for row in (0, 1)
    ]  # fmt: skip
    write_table(str(tmp_path), PASSAGES, "passages", passages)
    write_table(str(tmp_path), LISTS, "lists", lists)
    found = on_ranks(evaluate, 3, str(tmp_path), tiny_encoder)
    assert found == [pytest.approx(brute_force(tmp_path, tiny_encoder), abs=1e-5)] * 3


def test_passage_that_was_left_out_of_a_list_is_passed_over(workdir):
    lists = Table.open(Storage(str(workdir)), "lists").read().to_pylist()
    assert any(each["left_out_row"] is not None for each in lists if each["split"] == "dev")


@pytest.mark.parametrize("edge", [0, 2])
def test_what_was_left_out_at_the_edge_of_a_rank_spoils_no_similarity(edge):
    """A listed passage of another rank, and an empty slot, look at the edge of this rank's passages meanwhile."""
    import torch

    from distill.training.dev_evaluation import DevEvaluator

    queries, passages = torch.eye(3)[:1], torch.eye(3) + 0.5
    place = torch.tensor([[1, -7, 9, -1]])  # one of this rank, two of others, one empty
    _, _, listed = DevEvaluator._search(object.__new__(DevEvaluator), queries, passages, place, torch.tensor([edge]))
    assert listed.tolist() == [[0.5, 0.0, 0.0, 0.0]]
