"""Progress of a run on the screen: a live line for each stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from lai_ray.common import screen
from lai_ray.common.screen import printable

EVERY = 15.0
"""Seconds between two plain lines."""
RATES = ("_per_minute", "_per_second")
"""Suffixes of figures that mean nothing once their stage is over."""

log = logging.getLogger(__name__)


class Tracker:
    """Counts one piece of work."""

    def __init__(self, show: Progress, what: str, total: int | None) -> None:
        self.show, self.what, self.total = show, what, total
        self.done = 0
        self.note = ""
        self._began = self._reported = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._task = show.bars.add_task(printable(what), total=total, note="") if show.bars else None

    def times(self) -> dict[str, float]:
        """Seconds until the first was done (startup of engines and actors), and from then until now."""
        if self._first is None:
            return {"starting": round(time.monotonic() - self._began, 2), "working": 0.0}
        starting = self._first[0] - self._began
        return {"starting": round(starting, 2), "working": round(time.monotonic() - self._first[0], 2)}

    def advance(self, steps: int = 1, note: str = "") -> None:
        """So many more are done."""
        self.at(self.done + steps, self.total, note)

    def at(self, done: int, total: int | None, note: str = "") -> None:
        """So many are done, of so many."""
        self.done, self.total, self.note = done, total, note or self.note
        self.show.figures |= {"done": done} if total is None else {"done": done, "total": total}
        if self._first is None:
            self._first = time.monotonic(), done  # The rate is that of the work itself, not of what started it.
        if self.show.bars and self._task is not None:
            self.show.bars.update(self._task, completed=done, total=total, note=printable(self.note))
        if time.monotonic() - self._reported > EVERY:
            self._reported = time.monotonic()
            (self.show.note if self.show.bars else self.show.report)(self.line(), facts=self.show.figures)

    def line(self) -> str:
        """done/total, rate, time left."""
        begun, before = self._first or (time.monotonic(), self.done)
        rate = (self.done - before) / max(time.monotonic() - begun, 1e-6)
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total and rate > 0 else ""
        speed = f" ({rate:.1f}/s{left})" if rate > 0 else ""
        return f"  {self.what}: {self.done}/{self.total or '?'}{speed} {self.note}".rstrip()


class Progress:
    """Stages report their progress here. `quiet` prints nothing."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(highlight=False, quiet=quiet)
        self.quiet = quiet
        self.bars: Bars | None = None
        self.folder = ""
        """Of the current stage."""
        self.figures: dict[str, float] = {}
        """What that stage counts, by name: for the event log and Ray's metrics."""

    def enter(self, folder: str) -> None:
        """A stage begins."""
        self.folder, self.figures = folder, {}

    def stage(self) -> dict[str, Any]:
        """Iteration and name of the current stage; empty before the first."""
        match = re.fullmatch(r"iteration_(\d+)/(.+)", self.folder)
        return {"iteration": int(match[1]), "stage": match[2]} if match else {}

    def note(self, text: str, *, facts: Mapping[str, Any] | None = None) -> None:
        """One line for the event log."""
        log.info("%s", text, extra={"facts": facts or {}})

    def report(self, text: str, style: str | None = None, *, facts: Mapping[str, Any] | None = None) -> None:
        """One line for the user, and for the event log with these facts."""
        self.note(text, facts=facts)
        if not self.quiet:
            screen.show(self.console, text, style)

    def finished(self, folder: str, seconds: float, facts: Mapping[str, Any]) -> None:
        """A stage is complete, with these facts."""
        self.figures |= {name: value for name, value in facts.items() if isinstance(value, int | float)}
        self.report(f"{folder:<24} {seconds:7.1f} s", facts={**facts, "seconds": seconds})

    @contextmanager
    def track(self, what: str, total: int | None) -> Iterator[Tracker]:
        """Follow one piece of work while the block runs."""
        if self.quiet or not self.console.is_terminal or self.console.is_dumb_terminal:
            yield Tracker(self, what, total)
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
        with Bars(
            *columns, TaskProgressColumn(show_speed=True), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False), console=self.console, transient=True,
            # Rich would print on the terminal what libraries write to the streams, which go to the logs.
            redirect_stdout=False, redirect_stderr=False,
        ) as self.bars:  # fmt: skip
            try:
                yield Tracker(self, what, total)
            finally:
                self.bars = None
