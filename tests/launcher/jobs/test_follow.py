"""A log that Ray sends from its beginning again and again is shown once."""

from __future__ import annotations

import io
import random

from launcher.jobs.follow import _Log


def pieces(text: str, dice: random.Random) -> list[str]:
    cuts = sorted(dice.randrange(len(text) + 1) for _ in range(dice.randrange(6)))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_a_log_is_shown_once_wherever_connections_break_and_pieces_are_cut() -> None:
    dice = random.Random(0)
    whole = "".join(f"line {number} ü\n" for number in range(40))
    for _ in range(300):
        out = io.StringIO()
        log = _Log(out)
        for _ in range(dice.randrange(5)):
            log.take(pieces(whole[: dice.randrange(len(whole) + 1)], dice))
        log.take(pieces(whole, dice))
        assert out.getvalue() == whole
        assert log.last() == "\n".join(f"  line {number} ü" for number in range(30, 40))
