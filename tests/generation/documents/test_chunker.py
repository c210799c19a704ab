"""Chunks: none is longer than the student reads, nothing is lost, and they begin and end where sentences do."""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import pairwise

import pytest
from transformers import AutoTokenizer

from cluster.errors import InputError
from distill.encoders.loading import resolve_model
from generation.documents.chunker import Chunk, Chunker, Chunking
from generation.documents.document import Document, Section
from generation.documents.tokens import TokenCounter
from generation.language.sentences import split_sentences
from tests.generation.documents.files import prose
from tests.generation.language.texts import TEXTS

MODEL = resolve_model("all-MiniLM-L6-v2")


def cut(text: str, tokens: int = 96, overlap: int = 0, headings: tuple[str, ...] = (), **settings) -> list[Chunk]:
    chunker = Chunker(Chunking(MODEL, tokens, overlap, **settings))
    return chunker.chunks(Document("d", (Section(headings, text),), "d"))


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def read_tokens(chunk: Chunk, prefix: str = "") -> int:
    """As the student reads a passage, by another library."""
    return len(tokenizer()(f"{prefix}{f'{chunk.title} {chunk.text}'.strip()}")["input_ids"])


@pytest.mark.parametrize("code", TEXTS)
@pytest.mark.parametrize("tokens", [16, 64])
def test_no_chunk_is_longer_than_the_student_reads_in_any_language(code, tokens):
    text = " ".join([TEXTS[code]] * 4) if code in ("th", "ko", "de", "fr", "ru", "ar", "hi", "en") else TEXTS[code] * 4
    chunks = cut(text, tokens, headings=("Kompost 堆肥", "Второй"))
    assert len(chunks) > 1 or code == "th"  # whose words this model does not know: each is one token
    for chunk in chunks:
        assert read_tokens(chunk) <= tokens, chunk
    squeezed = "".join(chunk.text for chunk in chunks)
    assert "".join(squeezed.split()) == "".join(unicodedata.normalize("NFKC", text).split())


def test_chunks_are_full_and_end_with_sentences():
    text = prose("pump", 30)
    chunks = cut(text, 96)
    sentences = split_sentences(text, "en")
    assert " ".join(chunk.text for chunk in chunks) == text
    assert all(chunk.text.endswith(".") for chunk in chunks)
    longest = max(read_tokens(Chunk("", sentence)) for sentence in sentences)
    assert all(read_tokens(chunk) > 96 - longest for chunk in chunks[:-1])


def test_a_chunk_repeats_whole_sentences_of_the_one_before():
    chunks = cut(prose("pump", 30), 96, overlap=30)
    for before, after in pairwise(chunks):
        last = split_sentences(before.text, "en")[-1]
        assert after.text.startswith(last)
        assert not after.text.startswith(before.text)
    assert len(chunks) > len(cut(prose("pump", 30), 96))


def test_a_sentence_that_is_longer_than_a_chunk_is_cut_between_words():
    words = [f"word{n}" for n in range(200)]
    chunks = cut(" ".join(words), 32)
    assert " ".join(chunk.text for chunk in chunks).split() == words
    assert all(read_tokens(chunk) <= 32 for chunk in chunks)
    assert all(read_tokens(chunk) <= 32 for chunk in cut("x" * 5000 + "🙂" * 500, 32))


def test_headings_begin_chunks_and_are_their_titles():
    sections = (
        Section(("Guide", "Install"), prose("pump", 2)),
        Section(("Guide", "Use"), prose("motor", 2)),
    )
    chunks = Chunker(Chunking(MODEL, 256, 32)).chunks(Document("d", sections, "d"))
    assert [chunk.title for chunk in chunks] == ["Guide > Install", "Guide > Use"]


def test_of_long_headings_the_nearest_stay():
    chunks = cut(prose("pump", 4), 64, headings=("One heading " * 10, "Another heading", "The nearest"))
    assert {chunk.title for chunk in chunks} == {"Another heading > The nearest"}
    [title] = {chunk.title for chunk in cut(prose("pump", 4), 64, headings=("endless " * 100,))}
    assert title.startswith("endless endless")
    assert read_tokens(Chunk(title, "")) <= 2 + 64 // 3


def test_the_prompt_of_passages_takes_its_part():
    chunks = cut(prose("pump", 20), 64, prefix="represent this passage for retrieval: ")
    assert max(read_tokens(chunk, "represent this passage for retrieval: ") for chunk in chunks) <= 64


def test_a_model_without_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match=r"student\.model '.*': its tokenizer cannot be loaded"):
        TokenCounter(str(tmp_path))


def test_the_digest_differs_where_tokens_do(tiny_encoder):
    assert TokenCounter(MODEL).digest() == TokenCounter(MODEL).digest() != TokenCounter(tiny_encoder).digest()
