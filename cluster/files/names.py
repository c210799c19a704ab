"""What the name of a file says: its kind, and how it is compressed. Upper and lower case are the same.

Only the name that a person gave counts, not what a link leads to: caches of hubs keep `passages.tsv` as a link to a
file that is called after its checksum.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cluster.errors import InputError

CODECS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}


def codec_of(name: str) -> str | None:
    """How a file is compressed by its name: gzip, bzip2, xz or zstd; None: it is not."""
    return next((codec for suffix, codec in CODECS.items() if name.lower().endswith(suffix)), None)


def plain_name(name: str) -> str:
    """The name in lower case, without the suffix of a compression: `B.JSONL.gz` becomes `b.jsonl`."""
    lowered = name.lower()
    return next((lowered.removesuffix(suffix) for suffix in CODECS if lowered.endswith(suffix)), lowered)


def has_ending(name: str, endings: Collection[str]) -> bool:
    """Whether a file is of a kind, compressed or not.

    Args:
        name: of the file.
        endings: of the kind, in lower case and with their dot.
    """
    return plain_name(name).endswith(tuple(endings))


def find_named(folder: Path, name: str) -> Path | None:
    """The file of a folder with a name, or else the one that is this file compressed or in another case.

    Raises:
        InputError: there are several of the latter.
    """
    if (folder / name).is_file() or not folder.is_dir():
        return folder / name if folder.is_dir() else None
    found = [path for path in sorted(folder.iterdir()) if plain_name(path.name) == name.lower() and path.is_file()]
    if len(found) > 1:
        raise InputError(
            f"{folder}: {' and '.join(path.name for path in found)} are both {name}. Keep the one that is meant."
        )
    return found[0] if found else None
