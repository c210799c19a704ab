"""The content of a text file as lines of UTF-8: decompressed, and recoded where it is UTF-16 or ends lines with CR.

A plain file is read from any byte. Every other file can only be read from its beginning, so offsets are those of its
lines in UTF-8, and a worker that reads one shard after another goes on where it stopped (`_idle`).
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import shlex
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from cluster.errors import InputError
from cluster.files.names import codec_of

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError)
_BLOCK = 1 << 18  # bytes
_KEPT_BLOCKS = 16  # that a stream can go back: a shard begins with a record that was read before
_LOOKED_AT = 1 << 16  # bytes, which show encoding and line ends
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # the longer ones first
GIT_LFS = b"version https://git-lfs.github.com/spec/"
_TESTS = {"gzip": "gzip -t", "bzip2": "bzip2 -t", "xz": "xz -t", "zstd": "zstd -t"}

_idle: dict[tuple[str, int, int], _Stream] = {}  # the last stream that was left before its end, by file


def lines_from(path: Path, offset: int = 0) -> Iterator[bytes]:
    """Lines of a file, each with its line feed, from the one that begins at byte `offset`.

    Raises:
        InputError: the file is no text that can be read; says how to convert it.
        OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError: it cannot be opened, decompressed or decoded.
    """
    with path.open("rb") as file:
        head = file.read(_LOOKED_AT)
        if _compression(path, head) is None and _recoder(path, head) is None:
            file.seek(offset)
            yield from file
            return
        stat = os.fstat(file.fileno())
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    stream = _idle.pop(key, None)
    if stream is None or not stream.reaches(offset):
        stream = _Stream(path)
    try:
        yield from stream.lines(offset)
    except GeneratorExit:
        if offset:  # a look at the beginning of a file must not replace a stream that is far ahead
            _idle.clear()
            _idle[key] = stream
        raise


def open_decompressed(path: Path) -> IO[bytes]:
    """Opens a file for reading its bytes; those of a compressed file are decompressed.

    The name of the file says how it is compressed, and where it says nothing, its first bytes.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        codec = _compression(path, file.read(16))
    return _OPENERS[codec](path)


def why_unreadable(path: Path, error: BaseException) -> str:
    """The reason of one of `UNREADABLE`, and for a compressed file the command that checks it."""
    reason = getattr(error, "strerror", None) or str(error)
    codec = codec_of(path.name)
    if codec is None or (isinstance(error, OSError) and error.errno is not None):
        return reason
    return f"{reason}; the file is cut or damaged, see: {_TESTS[codec]} {shlex.quote(str(path))}"


class _Stream:
    """Content of a file that is read from its beginning, of which the last blocks are kept."""

    def __init__(self, path: Path) -> None:
        self._blocks = _recoded(path)
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=_KEPT_BLOCKS)  # with the byte at which each begins
        self._end = 0

    def reaches(self, offset: int) -> bool:
        """Whether byte `offset` is among those that are kept or still to come."""
        return not self._kept or offset >= self._kept[0][0]

    def lines(self, offset: int) -> Iterator[bytes]:
        begun: list[bytes] = []  # parts of a line whose end is still to come
        for begin, block in self._from(offset):
            first, *others = block[max(0, offset - begin) :].split(b"\n")
            begun.append(first)
            for part in others:
                yield b"".join(begun) + b"\n"
                begun = [part]
        if rest := b"".join(begun):
            yield rest

    def _from(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """Blocks that hold bytes from `offset` on, each with the byte at which it begins."""
        yield from [(begin, block) for begin, block in self._kept if begin + len(block) > offset]
        for block in self._blocks:
            begin, self._end = self._end, self._end + len(block)
            self._kept.append((begin, block))
            if self._end > offset:
                yield begin, block


def _recoded(path: Path) -> Iterator[bytes]:
    """Blocks of the content in UTF-8, with line feeds."""
    with open_decompressed(path) as stream:
        if not (block := _read(stream, _LOOKED_AT)) and codec_of(path.name):
            raise EOFError("there is nothing in it")
        recode = _recoder(path, block) or (lambda block, _: block)
        while block:
            yield recode(block, False)
            block = stream.read(_BLOCK)
        if rest := recode(b"", True):
            yield rest


def _read(stream: IO[bytes], size: int) -> bytes:
    """The first `size` bytes of a stream, or all that it has: decompressors may give less than asked for."""
    parts, left = [], size
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _recoder(path: Path, head: bytes) -> Callable[[bytes, bool], bytes] | None:
    """What makes UTF-8 with line feeds of blocks, the last of them with True; None: they are that already.

    Raises:
        InputError: the content is a pointer of Git LFS, or seems to be UTF-16 or no text.
    """
    refuse_pointer(path, head)
    encoding = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
    if encoding is None:
        _refuse_zero_bytes(path, head)
        return _line_feeds if _ends_lines_with_cr(head) else None
    decoder = codecs.getincrementaldecoder(encoding)()
    cr = _ends_lines_with_cr(codecs.getincrementaldecoder(encoding)().decode(head).encode())

    def decode(block: bytes, last: bool) -> bytes:
        text = decoder.decode(block, last).encode()
        return _line_feeds(text, last) if cr else text

    return decode


def _ends_lines_with_cr(head: bytes) -> bool:
    return b"\n" not in head and b"\r" in head[: _LOOKED_AT - 1]


def _line_feeds(block: bytes, _: bool) -> bytes:
    return block.replace(b"\r", b"\n")


def _refuse_zero_bytes(path: Path, head: bytes) -> None:
    """Refuses content with a zero in its first line; text of UTF-16 without a mark has one beside every letter."""
    if (place := head.partition(b"\n")[0].find(0)) < 0:
        return
    encoding = "UTF-16LE" if place % 2 else "UTF-16BE"
    raise InputError(
        f"{path}, byte {place + 1}: a zero, which no UTF-8 text holds. If the file is {encoding}, convert it with: "
        f"{convert(path, encoding)}"
    )


def refuse_pointer(path: Path, head: bytes) -> None:
    """Refuses a file that Git LFS has not fetched.

    Args:
        path: the file.
        head: its first bytes, at least as many as `GIT_LFS` has.

    Raises:
        InputError: it is a pointer.
    """
    if head.startswith(GIT_LFS):
        raise InputError(f"{path}: this is a pointer of Git LFS, and not the file. Fetch the file with: git lfs pull")


def convert(path: Path, encoding: str) -> str:
    """The command that converts a file to UTF-8."""
    stem = path.name
    unpack = ""
    if codec := codec_of(path.name):
        stem = path.stem
        unpack = f"{codec} -dc {shlex.quote(str(path))} | "
    name, dot, ending = stem.rpartition(".")
    target = shlex.quote(str(path.with_name(f"{name or ending}-utf8{dot}{ending if name else ''}")))
    source = "" if unpack else f" {shlex.quote(str(path))}"
    return f"{unpack}iconv -f {encoding} -t UTF-8{source} > {target}"


def _compression(path: Path, head: bytes) -> str | None:
    return codec_of(path.name) or next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)


def _open_zstd(path: Path) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")


_OPENERS: dict[str | None, Callable[[Path], Any]] = {
    None: lambda path: path.open("rb"),
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
    "zstd": _open_zstd,
}
