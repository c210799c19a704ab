"""How the documents of a recipe are cut: to the length and with the tokenizer of its student."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.errors import InputError
from distill.encoders.loading import resolve_model
from distill.encoders.texts import PASSAGE_PROMPTS
from distill.settings.encoders import EncoderSettings
from generation.documents.chunker import Chunking
from generation.readers.open_reader import holds_documents
from launcher.plan.tokenizers import model_file
from launcher.recipe import Recipe

PROMPTS = "config_sentence_transformers.json"
OVERLAP = 8  # an eighth of a chunk


def chunking_of(recipe: Recipe) -> Chunking | None:
    """How documents and long records are cut; None where records stay whole."""
    corpus, student = recipe.corpus, recipe.student
    if corpus.chunk_tokens is None and not holds_documents(corpus):
        return None
    tokens = corpus.chunk_tokens or student.max_passage_tokens
    overlap = corpus.chunk_overlap if corpus.chunk_overlap is not None else tokens // OVERLAP
    if 2 * overlap > tokens:
        raise InputError(
            f"corpus.chunk_overlap is {overlap}, more than half of a chunk of {tokens} tokens, so that every sentence "
            "would stand in several chunks. Lower it, or leave it empty for an eighth of a chunk."
        )
    prompt = student.passage_prompt if student.passage_prompt is not None else _own_prompt(student)
    model = resolve_model(student.model, student.revision)
    if Path(model).is_dir():
        model = str(Path(model).resolve())  # workers begin in other folders
    return Chunking(model, tokens, overlap, prompt, corpus.language, corpus.max_characters, student.revision)


def _own_prompt(student: EncoderSettings) -> str:
    """The prompt of passages that a model brings along, as far as it is on this machine."""
    file = model_file(student.model, PROMPTS, student.revision)
    prompts = json.loads(file.read_text(encoding="utf-8")).get("prompts") or {} if file else {}
    return next((found for name in PASSAGE_PROMPTS if (found := prompts.get(name))), "")
