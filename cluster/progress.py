"""Progress on the terminal: one bar a stage with rate and time left, or one line a stage where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class TaskHandle:
    """One bar. Cheap to call for every shard."""

    def __init__(self, title: str, total: int, unit: str, bars: Bars | None) -> None:
        self.title = title
        self.unit = unit
        self.done = 0
        self.tokens = 0
        self.text = ""
        self._bars = bars
        self._begun = time.monotonic()
        self._id: Any = bars.add_task(title, total=total, rate="", note="") if bars else None

    def advance(self, units: int = 1, tokens: int = 0) -> None:
        """Notes finished units and the tokens they took."""
        self.done += units
        self.tokens += tokens
        if self._bars:
            self._bars.update(self._id, advance=units, rate=self.rate())

    def resumed(self, units: int) -> None:
        """Notes units that an earlier run did: they fill the bar and do not count in the rate."""
        if self._bars and units:
            self._bars.update(self._id, advance=units)

    def resize(self, total: int) -> None:
        """Sets the number of units that fill the bar, where it is known only after the start."""
        if self._bars:
            self._bars.update(self._id, total=total)

    def note(self, text: str) -> None:
        """Shows a short text beside the bar: a loss, a count of rejects."""
        self.text = text
        if self._bars:
            self._bars.update(self._id, note=text)

    def rate(self) -> str:
        """Units and tokens per second, in words."""
        seconds = max(time.monotonic() - self._begun, 1e-6)
        rate = f"{self.done / seconds:,.0f}/s"
        return f"{rate}, {self.tokens / seconds:,.0f} tokens/s" if self.tokens else rate

    def summary(self) -> str:
        """One line for the end of the stage."""
        seconds = time.monotonic() - self._begun
        note = f", {self.text}" if self.text else ""
        return f"{self.title}: {self.done:,} in {seconds:.1f} s ({self.rate()}{note})"


class Progress:
    """Where stages report. `quiet` shows nothing at all."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(stderr=True)

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[TaskHandle]:
        """A bar for the time of the context; it stays on the screen, at whatever it has reached."""
        if self.quiet or not self.console.is_terminal:
            handle = TaskHandle(title, total, unit, None)
            yield handle
            if not self.quiet:
                self.console.print(handle.summary(), highlight=False)
            return
        bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]} {task.fields[note]}"),
            console=self.console,
            refresh_per_second=4,
        )
        with bars:
            yield TaskHandle(title, total, unit, bars)

    def say(self, text: str) -> None:
        """One line of its own, for what is worth keeping on the screen."""
        if not self.quiet:
            self.console.print(text, highlight=False)
