"""The stage that writes queries, over a server: every unit is accounted for."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.errors import InputError
from cluster.schemas import PASSAGES
from cluster.tables.dropped import PER_REASON, read_dropped
from generation import queries
from tests.generation.openai_server import completion, passage_of, settings, sources, text_of
from tests.tables import write_table


def test_a_stage_over_the_server_accounts_for_every_unit_and_is_done_once(serve, run, tmp_path):
    server = serve(lambda payload, _: completion(f"where is {passage_of(payload)}?"))
    made = run()
    rows = [{"passage_id": f"p{n}", "title": "", "text": f"place {n}", "is_source": n % 3 != 0} for n in range(10)]
    passages = write_table(made.storage.url, PASSAGES, "passages", rows)
    chosen = settings(server.url, samples=2, query_types=["question", "search"], rows_per_shard=4)

    table = queries.build(made, chosen, passages)

    assert table.complete
    assert sum(commit.accounted for commit in table.commits()) == 6 * 2 * 2
    # the server says the same each time, and one sample a request: of four queries of a source one is new
    assert table.num_rows == 6
    assert [commit.drops for commit in table.commits()] == [{"duplicate": 12}, {"duplicate": 6}]
    looked_at = [one for commit in table.commits() for one in read_dropped(made.storage, commit)]
    assert len(looked_at) == PER_REASON + 6
    assert all(one.text == f"where is place {one.unit[1]}?" for one in looked_at)
    assert table.read()["text"].to_pylist() == [f"where is place {n}?" for n in (1, 2, 4, 5, 7, 8)]
    asked = len(server.payloads)
    assert asked == 24
    assert queries.build(made, chosen.model_copy(update={"concurrency": 7}), passages).fingerprint == table.fingerprint
    assert len(server.payloads) == asked
    with pytest.raises(InputError, match="temperature"):
        queries.build(made, chosen.model_copy(update={"temperature": 0.1}), passages)


def test_weights_decide_what_is_asked_and_every_planned_unit_is_accounted_for(serve, run):
    def reply(payload, attempt):
        kind = "claim" if "factual" in text_of(payload) else "question"
        return completion(f"{kind} number {attempt} of {passage_of(payload)}")

    server, made = serve(reply), run()
    passages = sources(made, 200)
    chosen = settings(
        server.url, query_types=["question", "claim"], weights={"question": 2, "claim": 0.5}, rows_per_shard=30
    )
    table = queries.build(made, chosen, passages)
    assert table.complete
    assert sum(commit.accounted for commit in table.commits()) == table.plan.units
    asked = Counter(row["query_type"] for row in table.read().to_pylist())
    assert asked["question"] == 400
    assert 70 < asked["claim"] < 130
    assert table.plan.units == 400 + asked["claim"]
    assert "duplicate" not in {reason for commit in table.commits() for reason in commit.drops}
