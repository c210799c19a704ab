"""Progress on the terminal: a bar for the stage in work with what goes on in it, and one line for each that is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.disclosure import disclose
from cluster.watch.estimate import Left
from cluster.watch.heartbeat import Heartbeat
from cluster.watch.phrases import describe, duration, rate, span

TITLE_WIDTH = 22


class TaskHandle:
    """One stage in work. Cheap to call for every shard; what is shown is made when the screen is drawn."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title = title
        self.unit = unit
        self.total = total
        self.done = 0
        self.before = 0
        self.tokens = 0
        self.text = ""
        self.beat: Heartbeat | None = None
        self.left: Left | None = None
        self.over = False
        self._begun = time.monotonic()
        self._first: tuple[int, float] | None = None  # what was done when the first units were, and when

    def advance(self, units: int = 1, tokens: int = 0) -> None:
        """Notes finished units and the tokens they took."""
        self.done += units
        self.tokens += tokens
        self._first = self._first or (self.done, time.monotonic())

    def resumed(self, units: int) -> None:
        """Notes units that an earlier run did: they fill the bar and do not count in the rate."""
        self.before += units

    def resize(self, total: int) -> None:
        """Sets the number of units that fill the bar, where it is known only after the start."""
        self.total = total

    def note(self, text: str) -> None:
        """Shows a short text under the bar: a loss, a learning rate."""
        self.text = text

    def show(self, beat: Heartbeat) -> None:
        """Shows what goes on in a stage over shards."""
        self.beat = beat

    @property
    def per_s(self) -> float:
        """Units per second since the start."""
        return self.done / max(time.monotonic() - self._begun, 1e-6)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second since the start."""
        return self.tokens / max(time.monotonic() - self._begun, 1e-6)

    def rate(self) -> str:
        """Units and tokens per second, in words."""
        text = f"{rate(self.per_s)}/s"
        return f"{text}, {rate(self.tokens_per_s)} tokens/s" if self.tokens else text

    def rest(self) -> list[str]:
        """The time left in words: with its spread, or by the rate since the first units, which took the loading too."""
        units = self.total - self.before - self.done
        if units <= 0 or not self._first:
            return []
        if self.left:
            return [f"{span(self.left)} left"]
        since, begun = self._first
        return (
            [f"{duration(units * (time.monotonic() - begun) / (self.done - since))} left"] if self.done > since else []
        )

    def summary(self) -> str:
        """One line for the end of the stage."""
        seconds = time.monotonic() - self._begun
        more = [self.rate()]
        if self.beat and self.beat.totals.rejects:
            more.append(f"{self.beat.totals.rejects:,} rejected")
        if self.beat and self.beat.state in ("failed", "interrupted"):
            more.append(self.beat.state)
        if self.text:
            more.append(self.text)
        return f"{self.title}: {self.done:,} in {seconds:.1f} s ({', '.join(more)})"

    def __rich__(self) -> RenderableType:
        """Two lines while it is in work, more where workers are slow; one when it is over."""
        if self.over:
            return Text(disclose(self.summary()), overflow="fold")
        count = self.before + self.done
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True, max_width=TITLE_WIDTH)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        line.add_column(no_wrap=True, justify="right")
        line.add_row(
            Text(disclose(self.title)),
            ProgressBar(total=self.total or None, completed=count, pulse=not self.total),
            f"{count:,}/{self.total:,} {self.unit}" if self.total else f"{count:,} {self.unit}",
            duration(time.monotonic() - self._begun),
        )
        doing = describe(self.beat) if self.beat else [" · ".join([self.rate(), *self.rest()])]
        notes = [*doing, *([self.text] if self.text else [])]
        styles = ["dim", *("yellow" if note.startswith("slow: ") else "dim" for note in notes[1:])]
        return Group(line, *(Padding(Text(disclose(n), s), (0, 0, 0, 2)) for n, s in zip(notes, styles, strict=True)))


class Progress:
    """Where stages report. `quiet` shows nothing at all."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(stderr=True)
        self.current: TaskHandle | None = None  # the bar that was begun last

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[TaskHandle]:
        """A bar for the time of the context; its last line stays on the screen, at whatever it has reached."""
        handle = self.current = TaskHandle(title, total, unit)
        if self.quiet or not self.console.is_terminal:
            yield handle
            self.say(handle.summary())
            return
        with Live(handle, console=self.console, refresh_per_second=4):
            try:
                yield handle
            finally:
                handle.over = True

    def say(self, text: str) -> None:
        """One line of its own, for what is worth keeping on the screen."""
        if not self.quiet:
            self.console.print(disclose(text), highlight=False, markup=False)
