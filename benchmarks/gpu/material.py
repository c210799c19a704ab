"""Random texts for the shapes of `shapes`, and lists over them: words of a topic make passages alike."""

from __future__ import annotations

import numpy as np

from benchmarks.steps import Lists

TOPIC_PASSAGES = 40
OWN_WORDS = 50  # of a topic; half of the words of its passages and queries


class Texts:
    """Draws texts of `words` different words, in topics."""

    def __init__(self, words: int, topics: int, seed: int = 0) -> None:
        self.words = words
        self.generator = np.random.default_rng(seed)
        self.own = self.generator.integers(0, words, size=(topics, OWN_WORDS))

    def text(self, length: int, topic: int) -> str:
        """A text of `length` words."""
        words = self.generator.integers(0, self.words, size=length)
        from_topic = self.generator.random(length) < 0.5
        words[from_topic] = self.generator.choice(self.own[topic], from_topic.sum())
        return " ".join(map(str, words))

    def texts(self, count: int, shortest: int, longest: int) -> list[str]:
        """Texts of lengths that are spread evenly; topics take turns."""
        lengths = self.generator.integers(shortest, longest + 1, size=count)
        return [self.text(length, number % len(self.own)) for number, length in enumerate(lengths.tolist())]


def make_lists(passages: int, queries: int, length: int, words: int, tokens: int) -> Lists:
    """Lists of a passage, others of its topic, and some that are drawn.

    Args:
        passages, queries: how many.
        length: of a list.
        words: of the vocabulary.
        tokens: of the longest passage; the shortest has three fifths of them.
    """
    topics = max(1, passages // TOPIC_PASSAGES)
    material = Texts(words, topics)
    corpus = material.texts(passages, tokens * 3 // 5, tokens - 2)
    generator = np.random.default_rng(1)
    rows, asked = np.empty((queries, length), np.int64), []
    near = length // 2
    for query, source in enumerate(generator.integers(0, passages, size=queries).tolist()):
        topic = source % topics
        own = np.arange(topic, passages, topics)
        own = generator.permutation(own[own != source])[: near - 1]
        far = generator.choice(passages, size=2 * length, replace=False)
        far = far[~np.isin(far, [source, *own])][: length - 1 - len(own)]
        rows[query] = [source, *own, *far]
        asked.append(material.text(int(generator.integers(8, 20)), topic))
    scores = np.concatenate([[1.0], np.linspace(0.8, 0.4, near - 1), np.linspace(0.3, 0.0, length - near)])
    return Lists(asked, corpus, rows, np.tile(scores.astype(np.float32), (queries, 1)))
