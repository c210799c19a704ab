"""The ranks that a fine-tuned teacher gives to the sources of held-out queries; all ranks share the work."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch.distributed as dist

from cluster.tables.row_reader import RowReader
from distill.lists.ensemble import ranks
from distill.settings.teachers import TeacherSettings
from distill.teachers.base import CandidateQuery
from distill.teachers.cross_encoder import CrossEncoderScorer
from distill.teachers.pairs import PairTeacher

QUERIES_AT_ONCE = 8


def source_ranks(teacher: TeacherSettings, held_out: pa.Table, texts: RowReader, device: str) -> list[int]:
    """Rank of the source of every held-out query, from 1, by the scorer that will score all queries.

    Every rank calls it, scores its share and returns all. Of equal scores the earlier candidate has the better rank.

    Args:
        teacher: a cross-encoder.
        held_out: rows of `data.HELD_OUT`.
        texts: reader of PASSAGES with title and text.
        device: where this rank computes.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    scoring = PairTeacher(CrossEncoderScorer(teacher, device), texts)
    own = held_out.take(pa.array(np.arange(rank, len(held_out), world_size))).to_pylist()
    found: list[int] = []
    for start in range(0, len(own), QUERIES_AT_ONCE):
        part = own[start : start + QUERIES_AT_ONCE]
        queries = [
            CandidateQuery(number, str(number), row["text"], np.array(row["passage_rows"], np.int64))
            for number, row in enumerate(part)
        ]
        for row, scores in zip(part, scoring.score(queries).scores, strict=True):
            found.append(int(ranks(scores)[row["source"]]))
    parts: list[list[int]] = [[]] * world_size
    dist.all_gather_object(parts, found)
    return [parts[number % world_size][number // world_size] for number in range(len(held_out))]
