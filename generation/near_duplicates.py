"""Near-duplicates among all queries of a run: of texts that say the same, the first stays.

Two texts are compared by the Jaccard index of their character 4-grams, after case, spaces and the punctuation around
words are taken off, so that `What is honey?` and `what  is honey ?` are equal. Texts that differ in a number, a symbol
or a negation are never the same. Candidates come from MinHash (Broder, 1997) with banding (Leskovec, Rajaraman, Ullman,
Mining of Massive Datasets, chapter 3); each is then compared exactly, so that chance decides only what is overlooked:
of pairs at an index of 0.85 one in 110, at 0.9 one in 1,900. At 0.85 a slip of a letter in a query of ten words makes
no new query; another word does.

Memory does not grow with the length of texts. In RAM lie 16 bytes a query for the keys of the band that is looked at,
32 for its order, 4 for what is known of a query: about 0.5 GB for ten million; and some 200 bytes for each query that
shares a key with another. On the disk lie the texts, and 96 bytes a query for keys and places: about 1.5 GB.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

SHINGLE = 4  # characters
BANDS, ROWS = 10, 6  # finds a pair of index s with probability 1 - (1 - s^6)^10
ROUNDS = 4  # after the first, those are found whose own neighbours went
PART = 4096  # texts that are hashed together

_AROUND_WORDS = ".,;:!?\"'()[]{}`*“”‘’«»…¿¡。、，？！؟،؛"
_IN_WORDS = "-'’"
_NEGATIONS_LIST = (
    "not no non nor never none without except cannot nicht kein keine keinen keiner ohne nie pas sans jamais ne sin "
    "nunca senza mai sem não niet geen zonder"
)
_NEGATIONS = frozenset(_NEGATIONS_LIST.split())
_PRIME = np.uint64(0x100000001B3)
_SEEDS = np.random.default_rng(0).integers(1, 2**63, size=(BANDS * ROWS, 2), dtype=np.uint64) | np.uint64(1)


def normalised(text: str) -> str:
    """A text in lower case, with single spaces, without the punctuation around its words."""
    spoken = (word.strip(_AROUND_WORDS) for word in unicodedata.normalize("NFKC", text).casefold().split())
    return " ".join(word for word in spoken if word)


def jaccard(first: str, second: str) -> float:
    """Jaccard index of the 4-grams of two normalised texts; 0 where they differ in a number, a symbol or a negation."""
    if _decisive(first) != _decisive(second):
        return 0.0
    one, other = _shingles(first), _shingles(second)
    return len(one & other) / len(one | other)


def near_duplicates(batches: Iterable[Sequence[str]], threshold: float, folder: Path) -> np.ndarray:
    """Which texts repeat an earlier one that stays.

    Args:
        batches: all texts in order, a batch at a time.
        threshold: Jaccard index from which two texts are the same, 0.5 to 1; below 0.8 many pairs are overlooked.
        folder: an empty one, for files that are read band by band.

    Returns:
        (n,) bool. For each text that is true there is an earlier false one with an index of at least `threshold`.
    """
    count = _write_keys(batches, folder)
    dropped = _repeated(np.fromfile(folder / "whole", dtype=np.uint64))
    if threshold >= 1 or count == 0:
        return dropped
    texts = _Texts(folder)
    is_needed = np.zeros(count, dtype=bool)  # stays, since one that is gone was near it
    for _ in range(ROUNDS):
        before = int(dropped.sum())
        for later, earlier in _links(texts, np.flatnonzero(~dropped), threshold, folder):
            if not dropped[earlier] and not is_needed[later]:
                dropped[later] = is_needed[earlier] = True
        if int(dropped.sum()) == before:
            break
    return dropped


def _links(texts: _Texts, rows: np.ndarray, threshold: float, folder: Path) -> list[tuple[int, int]]:
    """For rows that are near an earlier one of `rows` one such pair (later, earlier), in order."""
    is_linked = np.zeros(len(rows), dtype=bool)
    links: list[tuple[int, int]] = []
    for band in range(BANDS):
        keys = np.fromfile(folder / f"band-{band}", dtype=np.uint64)[rows]
        for later, earlier in _pairs(keys, ~is_linked):
            if jaccard(texts[int(rows[later])], texts[int(rows[earlier])]) >= threshold:
                is_linked[later] = True
                links.append((int(rows[later]), int(rows[earlier])))
    return sorted(links)


class _Texts:
    """Normalised texts in a file, by number."""

    def __init__(self, folder: Path) -> None:
        self._ends = np.memmap(folder / "ends", dtype=np.int64, mode="r")
        self._bytes = (folder / "texts").open("rb")

    def __getitem__(self, number: int) -> str:
        start = int(self._ends[number - 1]) if number else 0
        self._bytes.seek(start)
        return self._bytes.read(int(self._ends[number]) - start).decode()


def _write_keys(batches: Iterable[Sequence[str]], folder: Path) -> int:
    """Writes texts, where each ends, a key of each whole text, and one key for each band; returns how many texts."""
    count = end = 0
    names = ["texts", "ends", "whole", *(f"band-{band}" for band in range(BANDS))]
    files = {name: (folder / name).open("wb") for name in names}
    try:
        for batch in batches:
            for first in range(0, len(batch), PART):
                texts = [normalised(text) for text in batch[first : first + PART]]
                encoded = [text.encode() for text in texts]
                ends = end + np.cumsum([len(text) for text in encoded], dtype=np.int64)
                count, end = count + len(texts), int(ends[-1])
                files["texts"].write(b"".join(encoded))
                files["ends"].write(ends.tobytes())
                files["whole"].write(np.array([_digest(text) for text in encoded], dtype=np.uint64).tobytes())
                for band, keys in enumerate(_band_keys(texts)):
                    files[f"band-{band}"].write(keys.tobytes())
    finally:
        for file in files.values():
            file.close()
    return count


def _repeated(keys: np.ndarray) -> np.ndarray:
    """(n,) bool: whether an earlier key is the same."""
    repeated = np.ones(len(keys), dtype=bool)
    repeated[np.unique(keys, return_index=True)[1]] = False
    return repeated


def _pairs(keys: np.ndarray, wanted: np.ndarray) -> list[tuple[int, int]]:
    """Each wanted position with the first, and with the last earlier, position that has the same key.

    Args:
        keys: (n,) uint64.
        wanted: (n,) bool.
    """
    order = np.argsort(keys, kind="stable")
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = keys[order[1:]] != keys[order[:-1]]
    heads = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    at = np.flatnonzero(~starts & wanted[order])
    later = order[at].tolist()
    return sorted(
        {*zip(later, order[heads[at]].tolist(), strict=True), *zip(later, order[at - 1].tolist(), strict=True)}
    )


def _band_keys(texts: Sequence[str]) -> np.ndarray:
    """(BANDS, n) uint64: texts whose smallest hashes agree in a band have the same key there."""
    padded = [f" {text} ".ljust(SHINGLE) for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded])
    shingles = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint64)
    for offset in range(SHINGLE):
        shingles = shingles * _PRIME + codes[offset : offset + len(shingles)]
    # shingles that reach into the next text count for none
    inside = np.repeat(np.cumsum(lengths), lengths)[: len(shingles)] - np.arange(len(shingles)) >= SHINGLE
    shingles = _mixed(shingles[inside])
    starts = np.concatenate([[0], np.cumsum(lengths - SHINGLE + 1)[:-1]])
    keys = np.array([_digest(" ".join(_decisive(text)).encode()) for text in texts], dtype=np.uint64)
    result = np.empty((BANDS, len(texts)), dtype=np.uint64)
    for band in range(BANDS):
        key = keys.copy()
        for multiplier, addend in _SEEDS[band * ROWS : (band + 1) * ROWS]:
            smallest = np.minimum.reduceat((shingles * multiplier + addend) >> np.uint64(32), starts)
            key = _mixed(key ^ smallest)
        result[band] = key
    return result


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spreads uint64 over all bits: the finaliser of splitmix64 (Steele, Lea, Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _shingles(text: str) -> set[str]:
    padded = f" {text} ".ljust(SHINGLE)
    return {padded[start : start + SHINGLE] for start in range(len(padded) - SHINGLE + 1)}


def _decisive(text: str) -> list[str]:
    """Words of a normalised text on which its meaning turns: with digits or symbols, and negations, in order."""
    return sorted(
        word
        for word in text.split()
        if word in _NEGATIONS or word.endswith(("n't", "n’t")) or not all(_is_letter(letter) for letter in word)
    )


def _is_letter(letter: str) -> bool:
    return letter.isalpha() or letter in _IN_WORDS or unicodedata.combining(letter) > 0


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
