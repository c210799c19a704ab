"""The scores that a fine-tuned teacher gives to the candidates of held-out queries; all ranks share the work."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch.distributed as dist

from cluster.tables.row_reader import RowReader
from distill.settings.teachers import TeacherSettings
from distill.teachers.base import CandidateQuery
from distill.teachers.cross_encoder import CrossEncoderScorer
from distill.teachers.pairs import PairTeacher

QUERIES_AT_ONCE = 8


def held_out_scores(teacher: TeacherSettings, held_out: pa.Table, texts: RowReader, device: str) -> list[np.ndarray]:
    """`(C,) float32` scores of every held-out query's candidates, by the scorer that will score all queries.

    Every rank calls it, scores its share and returns all.

    Args:
        teacher: a cross-encoder.
        held_out: rows of `data.HELD_OUT`.
        texts: reader of PASSAGES with title and text.
        device: where this rank computes.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    scoring = PairTeacher(CrossEncoderScorer(teacher, device), texts)
    own = held_out.take(pa.array(np.arange(rank, len(held_out), world_size))).to_pylist()
    found: list[np.ndarray] = []
    for start in range(0, len(own), QUERIES_AT_ONCE):
        part = own[start : start + QUERIES_AT_ONCE]
        queries = [
            CandidateQuery(number, str(number), row["text"], np.array(row["passage_rows"], np.int64))
            for number, row in enumerate(part)
        ]
        found += scoring.score(queries).scores
    parts: list[list[np.ndarray]] = [[]] * world_size
    dist.all_gather_object(parts, found)
    return [parts[number % world_size][number // world_size] for number in range(len(held_out))]
