"""Token files return the tokenizer's ids, row by row, across record batches and files."""

from __future__ import annotations

import numpy as np
import pytest

from distill.encoders import tokens
from distill.encoders.loading import load_model
from distill.encoders.reading import Reading
from distill.encoders.tokens import TokenFile, write_tokens
from distill.settings.encoders import EncoderSettings


@pytest.fixture(scope="module")
def model(tiny_encoder):
    return load_model(EncoderSettings(model=tiny_encoder, query_prompt="query: "), "cpu")


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.tokenizer


def test_rows_are_the_ids_that_the_tokenizer_returns(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "BATCH_ROWS", 7)
    texts = [f"the harbour of town {number} " * (number % 9 + 1) for number in range(31)] + [""]
    write_tokens(tmp_path / "a", texts, Reading(model, "query", 24).token_ids)
    file = TokenFile(tmp_path / "a")
    expected = tokenizer([f"query: {text}" for text in texts], truncation=True, max_length=24)["input_ids"]
    assert [list(file[row]) for row in range(len(file))] == expected
    assert list(file.lengths) == [len(ids) for ids in expected]


@pytest.mark.parametrize(("longest", "width"), [(3, 16), (23, 24)])
def test_padding_matches_the_library(model, tokenizer, tmp_path, longest, width):
    """Rows are padded to a multiple of 16, but not beyond the longest row of the file: the model may take no more."""
    texts = ["a mill", "the stone bridge " * (longest // 3), "paper", "harbour " * 100]
    write_tokens(tmp_path / "a", texts, Reading(model, "document", 24).token_ids)
    ids, mask = TokenFile(tmp_path / "a").padded(np.array([2, 1]), tokenizer.pad_token_id)
    expected = tokenizer(
        [texts[2], texts[1]], padding="max_length", max_length=width, truncation=True, return_tensors="pt"
    )
    assert ids.equal(expected["input_ids"])
    assert mask.equal(expected["attention_mask"])


def test_text_of_a_million_characters_is_cut_before_it_is_tokenised(model, tmp_path):
    write_tokens(tmp_path / "a", ["harbour " * 125_000], Reading(model, "document", 32).token_ids)
    assert TokenFile(tmp_path / "a").lengths[0] == 32


def test_interrupted_writing_leaves_no_file(model, tmp_path):
    def texts():
        yield "the first"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "a", texts(), Reading(model, "document", 32).token_ids)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("rows", [0, 1, 4096, 4097, 1_000_003, 10_000_000])
def test_parts_cover_all_rows_in_whole_batches(rows):
    from distill.encoders.tokens import BATCH_ROWS, PARTS, parts

    ranges = parts(rows)
    assert [row for part in ranges for row in part] == sorted(row for part in ranges for row in part)
    assert sum(stop - start for start, stop in ranges) == rows
    assert all(start == previous for (start, _), (_, previous) in zip(ranges[1:], ranges, strict=False))
    assert all((stop - start) % BATCH_ROWS == 0 for start, stop in ranges[:-1])
    assert len(ranges) <= PARTS


def test_files_of_parts_are_read_as_one_file(model, tmp_path):
    from distill.encoders.tokens import BATCH_ROWS, TokenFile, write_tokens

    texts = [f"harbour {'town ' * (row % 7)}{row % 10}" for row in range(2 * BATCH_ROWS + 5)]
    write_tokens(tmp_path / "whole", texts, Reading(model, "document", 16).token_ids)
    write_tokens(tmp_path / "first", texts[:BATCH_ROWS], Reading(model, "document", 16).token_ids)
    write_tokens(tmp_path / "second", texts[BATCH_ROWS:], Reading(model, "document", 16).token_ids)
    whole, divided = TokenFile(tmp_path / "whole"), TokenFile(tmp_path / "first", tmp_path / "second")
    np.testing.assert_array_equal(whole.lengths, divided.lengths)
    for row in (0, BATCH_ROWS - 1, BATCH_ROWS, 2 * BATCH_ROWS + 4):
        np.testing.assert_array_equal(whole[row], divided[row])
    assert len(TokenFile()) == 0
