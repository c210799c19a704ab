"""Progress on the terminal: a bar with notes for the running stage, and one line for each stage that has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.disclosure import disclose
from cluster.watch.estimate import TimeLeft
from cluster.watch.heartbeat import Heartbeat
from cluster.watch.phrases import describe, duration, plural, rate, span

TITLE_WIDTH = 40  # a longer title takes several lines: two that are cut may look alike


class TaskHandle:
    """The progress of one stage. Its methods are cheap enough for every shard; the text is made only when it is drawn.

    Attributes:
        total: units that fill the bar; 0 while unknown.
        done: units that this run has finished.
        before: units that an earlier run had finished.
        tokens: tokens of the units in `done`.
        text: a short text under the bar.
        beat: the last heartbeat, of a stage over shards.
        left: the estimated time left, of a one-process stage.
        over: whether the stage has ended.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title = title
        self.unit = unit
        self.total = total
        self.done = 0
        self.before = 0
        self.tokens = 0
        self.text = ""
        self.beat: Heartbeat | None = None
        self.left: TimeLeft | None = None
        self.over = False
        self._begun = time.monotonic()
        self._first: tuple[int, float] | None = None  # `done` and time at the first advance

    def advance(self, units: int = 1, tokens: int = 0) -> None:
        """Adds finished units and their tokens."""
        self.done += units
        self.tokens += tokens
        self._first = self._first or (self.done, time.monotonic())

    def resumed(self, units: int) -> None:
        """Adds units that an earlier run finished: they fill the bar and do not count in the rate."""
        self.before += units

    def resize(self, total: int) -> None:
        """Sets the number of units that fill the bar, if it becomes known only after the start."""
        self.total = total

    def note(self, text: str) -> None:
        """Shows a short text under the bar: a loss, a learning rate."""
        self.text = text

    def show(self, beat: Heartbeat) -> None:
        """Shows the heartbeat of a stage over shards."""
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
        """Units and tokens per second, as text."""
        text = f"{rate(self.per_s)}/s"
        return f"{text}, {rate(self.tokens_per_s)} tokens/s" if self.tokens else text

    def time_left(self) -> list[str]:
        """The time left as text, or an empty list if it is unknown.

        Without an estimate it is computed from the rate since the first advance, because the time before that also
        contains the loading.
        """
        units = self.total - self.before - self.done
        if units <= 0 or not self._first:
            return []
        if self.left:
            return [f"{span(self.left)} left"]
        first_done, first_time = self._first
        if self.done == first_done:
            return []
        return [f"{duration(units * (time.monotonic() - first_time) / (self.done - first_done))} left"]

    def summary(self) -> str:
        """The line that stays on the screen when the stage has ended."""
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
        """Two lines while the stage runs, more if workers are slow; one line when it has ended."""
        if self.over:
            return Text(disclose(self.summary()), overflow="fold")
        count = self.before + self.done
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(max_width=TITLE_WIDTH, overflow="fold")
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        line.add_column(no_wrap=True, justify="right")
        line.add_row(
            Text(disclose(self.title)),
            # it moves until something is done: a stage of one shard has nothing to count before its end
            ProgressBar(total=self.total or None, completed=count, pulse=not self.total or not count),
            f"{count:,}/{self.total:,} {plural(self.unit)}" if self.total else f"{count:,} {plural(self.unit)}",
            duration(time.monotonic() - self._begun),
        )
        doing = describe(self.beat) if self.beat else [" · ".join([self.rate(), *self.time_left()])]
        notes = [*doing, *([self.text] if self.text else [])]
        styles = ["dim", *("yellow" if note.startswith("slow: ") else "dim" for note in notes[1:])]
        return Group(line, *(Padding(Text(disclose(n), s), (0, 0, 0, 2)) for n, s in zip(notes, styles, strict=True)))


class Progress:
    """The terminal output of a run. With `quiet` it shows nothing."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(stderr=True)
        self.current: TaskHandle | None = None  # of the stage that was begun last
        self._stages: Sequence[str] = ()
        self._stage = ""

    def expect(self, stages: Sequence[str]) -> None:
        """Tells the stages that this run passes through, so that titles show which of them runs."""
        self._stages = stages

    def enter(self, stage: str) -> None:
        """The titles that follow belong to this stage."""
        self._stage = stage

    def titled(self, title: str) -> str:
        """A title with the number of its stage."""
        if self._stage not in self._stages:
            return title
        return f"[{self._stages.index(self._stage) + 1}/{len(self._stages)}] {title}"

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[TaskHandle]:
        """A bar that is shown while the context lasts. Its summary stays on the screen, also after an error."""
        handle = self.current = TaskHandle(self.titled(title), total, unit)
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
        """Prints a line that stays on the screen."""
        if not self.quiet:
            self.console.print(disclose(text), highlight=False, markup=False)
