"""A part of the measurements, and the report of all: every part runs, whatever became of those before."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

Value = float | int | str | bool | None
LINES = 12  # of a traceback


class Outcome(BaseModel):
    """What a part found.

    Attributes:
        status: "passed"; "failed": a check failed, an error was raised, or the part was cut off when the time was up;
            "left out": there was no time, or something that it needs is not installed.
        figures: what was measured, by name; the unit ends the name ("_s", "_tokens_per_s", "_mib").
        failed: checks that failed, in words.
        notes: what else a person should know.
        error: the end of a traceback, or where a part was when it was cut off.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    status: Literal["passed", "failed", "left out"]
    seconds: float
    figures: dict[str, Value]
    failed: list[str]
    notes: list[str]
    error: str | None


class Report(BaseModel):
    """What `--out` holds: the machine, and the parts in the order in which they ran."""

    model_config = ConfigDict(extra="forbid")
    device: str
    dry: bool
    versions: dict[str, str]
    seconds: float
    parts: list[Outcome]


class LeftOutError(Exception):
    """A part cannot run here; the text says what it needs."""


@dataclass
class Findings:
    """What a part finds while it runs; all of it is kept if the part then fails."""

    figures: dict[str, Value] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def figure(self, name: str, value: Value) -> None:
        """Keeps a measurement, and prints it at once."""
        self.figures[name] = float(f"{value:.4g}") if isinstance(value, float) else value
        print(f"  {name} {self.figures[name]}", flush=True)

    def check(self, what: str, holds: bool) -> None:
        """Notes something that has to hold, and whether it does."""
        print(f"  {'ok' if holds else 'FAILED'}: {what}", flush=True)
        if not holds:
            self.failed.append(what)

    def note(self, text: str) -> None:
        """Keeps a sentence for the reader."""
        print(f"  {text}", flush=True)
        self.notes.append(text)


@dataclass(frozen=True)
class Machine:
    """Where the parts run.

    Attributes:
        device: "cuda" or "cpu".
        dry: whether shapes are tiny.
        folder: for files of the parts.
        ends: time of `time.monotonic` at which a part that is at work is cut off.
    """

    device: str
    dry: bool
    folder: Path
    ends: float

    @property
    def left_s(self) -> float:
        """Seconds until then."""
        return self.ends - time.monotonic()


Part = Callable[[Machine, Findings], None]


class Running:
    """A part that is at work, and what it has found so far.

    Args:
        name: of the part.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.findings = Findings()
        self._begun = time.monotonic()

    def run(self, part: Part, machine: Machine) -> Outcome:
        """Runs the part; nothing that it raises ends the others."""
        print(self.name, flush=True)
        try:
            if machine.left_s <= 0:
                raise LeftOutError("no time was left")
            part(machine, self.findings)
        except LeftOutError as reason:
            self.findings.note(str(reason))
            return self._outcome("left out")
        except Exception:
            return self._outcome("failed", traceback.format_exc())
        return self._outcome("passed")

    def cut_off(self, stack: str) -> Outcome:
        """What the part has found when its time is up; it cannot go on after that.

        Args:
            stack: where it is.
        """
        return self._outcome("failed", f"{stack.rstrip()}\nThe time was up, and the part was cut off here.")

    def _outcome(self, status: Literal["passed", "failed", "left out"], error: str | None = None) -> Outcome:
        if error is not None:
            error = "\n".join(error.splitlines()[-LINES:])
            print(error, flush=True)
        found, seconds = self.findings, round(time.monotonic() - self._begun, 2)
        if found.failed:
            status = "failed"
        print(f"  {status} in {seconds} s", flush=True)
        return Outcome(
            name=self.name, status=status, seconds=seconds, figures=dict(found.figures), failed=list(found.failed),
            notes=list(found.notes), error=error,
        )  # fmt: skip


def write(report: Report, file: Path) -> None:
    """Writes the report; it is called after every part, so that an end by a signal loses only the part that runs."""
    file.write_text(json.dumps(report.model_dump(), indent=1) + "\n", encoding="utf-8")


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line for each part."""
    width = max(len(one.name) for one in outcomes)
    lines = [
        f"{one.name:<{width}}  {one.status:<8}  {one.seconds:>6.1f} s  {'; '.join(one.failed)}" for one in outcomes
    ]
    return "\n".join(line.rstrip() for line in lines)
