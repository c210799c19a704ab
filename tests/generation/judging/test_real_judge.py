"""A real small model judges in vLLM, by rubric and by likelihood, as transformers computes it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import AutoModelForCausalLM

from cluster.schemas import PASSAGES, QUERIES
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.storage import Storage
from cluster.workers.worker import Task
from generation.judging.grades import expected_grades
from generation.judging.judged import prompts_of
from generation.judging.prompts import Pair
from generation.judging.rubric import LIKELIHOOD, load_rubric
from generation.judging.settings import JudgeSettings
from generation.judging.stage import JudgeWorker
from generation.judging.transformers_judge import TransformersJudge
from tests.tables import write_table

# written for this test
TEXTS = {
    "Lighthouses": "A lighthouse keeper trimmed the lamp every four hours. Electric lamps ended the work in 1950.",
    "Beekeeping": "A hive of honeybees needs fifteen kilograms of honey to live through a cold winter.",
    "Chess": "A pawn that reaches the last rank is promoted, usually to a queen.",
}
WRITTEN = ("how much honey does a hive need in winter", "Here is a query about the passage:", "light light light")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)  # it takes minutes where the processor has AVX2 alone
def test_grades_of_vllm_are_those_of_the_logits_of_transformers(own_environment, tmp_path, smollm2):
    passages = write_table(
        str(tmp_path), PASSAGES, "passages",
        [{"passage_id": title, "title": title, "text": text, "is_source": True} for title, text in TEXTS.items()],
    )  # fmt: skip
    rows = [
        {"query_id": f"{source}:claim:{n}", "source_id": source, "query_type": "claim", "text": text, "sample": n}
        for source in TEXTS for n, text in enumerate(WRITTEN)
    ]  # fmt: skip
    table = write_table(str(tmp_path), QUERIES, "queries", rows)
    judge = JudgeSettings(
        model=smollm2, max_model_len=1024, engine_args={"enforce_eager": True, "dtype": "float32", "block_size": 32}
    )
    rubric = load_rubric(judge)
    [shard] = plan_over_tables([table], 99)
    worker = JudgeWorker(judge, rubric, Storage(str(tmp_path)), passages.path)

    loop = asyncio.Runner()  # the engine belongs to the loop that it was first asked in
    output = loop.run(worker.process(Task(shard, 0, len(rows), table.read())))
    pairs = [Pair("", row["text"], ((row["source_id"], TEXTS[row["source_id"]]),)) for row in rows]
    prompts, ids = [worker.engine.prompts.tokens(pair) for pair in pairs], worker.engine.prompts.grade_ids
    by_likelihood = judge.model_copy(update={"by": "likelihood"})
    worker.engine.prompts = prompts_of(by_likelihood, LIKELIHOOD, worker.engine.engine.get_tokenizer(), 1023)
    likelihoods = [one.logits for one in loop.run(worker.engine.judge(pairs))]
    worker.close()
    loop.close()

    found = np.array([[grade for _, grade in row["grades"]] for row in output.rows.to_pylist()])
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    expected = np.empty_like(found)
    with torch.inference_mode():
        for n, of_query in enumerate(prompts):
            for m, tokens in enumerate(of_query):
                last = model(torch.tensor([tokens])).logits[0, -1, ids].double().numpy()
                expected[n, m] = softmax(last) @ np.arange(5) / 4
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2)
    assert np.ptp(expected) > 5 * 1e-2, "or the comparison would show nothing"

    assert output.rows.num_rows == len(rows)
    assert output.stats["prompt_tokens"] == sum(len(tokens) for of_query in prompts for tokens in of_query)
    assert output.stats["cached_tokens"] > 0.3 * output.stats["prompt_tokens"], "0.46 are shared blocks"

    own = TransformersJudge(judge, rubric)
    by_transformers = asyncio.run(own.judge(pairs))
    np.testing.assert_allclose([expected_grades(one.logits) for one in by_transformers], expected, rtol=0, atol=1e-3)
    own.close()

    own = TransformersJudge(by_likelihood, LIKELIHOOD)
    queries = [own.prompts.tokens(pair) for pair in pairs]
    one_by_one = [[mean_log_probability(model, tokens, query.count) for tokens in query.prompts] for query in queries]
    together = [one.logits for one in asyncio.run(own.judge(pairs))]
    own.close()
    np.testing.assert_allclose(np.concatenate(together), one_by_one, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.concatenate(likelihoods), one_by_one, rtol=0, atol=1e-2)
    found = expected_grades(np.array(together))[:, 0].reshape(len(TEXTS), len(WRITTEN))
    lighthouse, bees, chess = found[:, 0]
    assert bees > 0.75 and max(lighthouse, chess) < 0.6, "the query about honey, with each of the passages"
    assert (found[1, 0] > found[1, 1:]).all(), "it gains more than talk, and than a word that is said three times"


def mean_log_probability(model, tokens: list[int], count: int) -> float:
    """Of the last tokens, so many, alone in a batch."""
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0]
    known = logits.log_softmax(-1)[torch.arange(len(tokens) - count - 1, len(tokens) - 1), tokens[-count:]]
    return float(known.mean())
