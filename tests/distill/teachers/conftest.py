"""Fixtures of the tests of teachers."""

from __future__ import annotations

import pytest

from distill.settings.teachers import TeacherSettings
from tests.distill.conftest import POOL


@pytest.fixture(scope="module")
def reranker(tiny_reranker: str) -> TeacherSettings:
    return TeacherSettings(
        kind="cross_encoder", model=tiny_reranker, max_tokens=64, dtype="float32", rows_per_shard=30, pool=POOL
    )
