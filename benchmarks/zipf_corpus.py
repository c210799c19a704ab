"""A corpus of any size for measurements: words from a Zipf distribution, with topics, and a small random encoder.

Word ranks follow Zipf's law with exponent 1, as in natural text. Each passage has a topic; a topic has words of its
own, which make a third of its passages' words. So words alone, and a random encoder's sums of word vectors, find
something.
Each passage is drawn from its number and the seed alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase

import numpy as np

VOCABULARY = 50_000  # words
TOPICS = 2_000
TOPIC_WORDS = 40  # that a topic has for itself, drawn from all but the most frequent hundred
PASSAGE_WORDS, QUERY_WORDS = (30, 60), (4, 8)
BLOCK = 10_000  # passages that are drawn together
JUDGED = 200  # queries of the evaluation


class ZipfCorpus:
    """Passages and queries, drawn in blocks."""

    def __init__(self, passages: int, seed: int = 0) -> None:
        self.passages, self.seed = passages, seed
        generator = np.random.default_rng(seed)
        shares = 1 / np.arange(1, VOCABULARY + 1)
        self._cumulated = np.cumsum(shares / shares.sum())
        self._topics = generator.integers(100, VOCABULARY, size=(TOPICS, TOPIC_WORDS))
        self.words = np.array([_word(rank) for rank in range(VOCABULARY)])

    def blocks(self) -> Iterator[list[np.ndarray]]:
        """The word ranks of the passages, `BLOCK` at a time."""
        for first in range(0, self.passages, BLOCK):
            generator = np.random.default_rng([self.seed, first])
            count = min(BLOCK, self.passages - first)
            lengths = generator.integers(*PASSAGE_WORDS, size=count)
            ranks = np.searchsorted(self._cumulated, generator.random(lengths.sum()))
            topic = np.repeat(generator.integers(0, TOPICS, size=count), lengths)
            own = self._topics[topic, generator.integers(0, TOPIC_WORDS, size=len(ranks))]
            ranks = np.where(generator.random(len(ranks)) < 1 / 3, own, ranks)
            yield np.split(ranks, np.cumsum(lengths)[:-1])

    def write(self, folder: Path, queries_per_passage: float) -> None:
        """Writes `corpus.jsonl`, `log.jsonl` and, in `beir/`, a judged collection of the same passages.

        A query is a few words of its passage.
        """
        (folder / "beir" / "qrels").mkdir(parents=True)
        judged = np.linspace(0, self.passages - 1, JUDGED, dtype=np.int64)
        number, asked = 0, 0
        with (
            (folder / "corpus.jsonl").open("w") as corpus,
            (folder / "log.jsonl").open("w") as log,
            (folder / "beir" / "queries.jsonl").open("w") as queries,
            (folder / "beir" / "qrels" / "test.tsv").open("w") as qrels,
        ):
            for block in self.blocks():
                generator = np.random.default_rng([self.seed, 1, number])
                for ranks in block:
                    text = " ".join(self.words[ranks])
                    corpus.write(json.dumps({"_id": f"passage-{number:08d}", "title": "", "text": f"{text}."}) + "\n")
                    number += 1
                    while asked < number * queries_per_passage:
                        log.write(json.dumps({"_id": str(asked), "text": self.query(ranks, generator)}) + "\n")
                        asked += 1
                    if number - 1 in judged:
                        query = self.query(ranks, generator)
                        queries.write(json.dumps({"_id": f"q{number}", "text": query}) + "\n")
                        qrels.write(f"q{number}\tpassage-{number - 1:08d}\t1\n")
        (folder / "beir" / "corpus.jsonl").symlink_to(folder / "corpus.jsonl")

    def query(self, ranks: np.ndarray, generator: np.random.Generator) -> str:
        """Four to seven words of a passage."""
        return " ".join(self.words[generator.choice(ranks, generator.integers(*QUERY_WORDS), replace=False)])


def _word(rank: int) -> str:
    """A pronounceable word of its own for each rank; frequent ones are short."""
    syllables = []
    rest = rank + 1
    while rest:
        rest, digit = divmod(rest, 100)
        syllables.append("bcdfghjklmnprstvwxyz"[digit % 20] + "aeiou"[digit // 20])
    return "".join(syllables)


def save_encoder(folder: Path, words: np.ndarray) -> Path:
    """A sentence-transformer with one small random layer that knows the words; returns its folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [mark + letter for mark in ("", "##") for letter in ascii_lowercase]  # for any other word
    numbers = {word: number for number, word in enumerate(dict.fromkeys([*special, *letters, *words.tolist()]))}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(numbers), hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=128,
    ).save_pretrained(folder / "bert")  # fmt: skip
    modules = [Transformer(str(folder / "bert"), max_seq_length=64), Pooling(64, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"
