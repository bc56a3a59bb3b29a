"""What a start finds of its run, and what it leaves.  run -> lines for the screen"""

from __future__ import annotations

import shlex

from lai_ray.report import facts
from lai_ray.storage.run import Run


def count(number: int, noun: str) -> str:
    """ "1 iteration", "2 iterations"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def found(run: Run) -> str:
    """What an earlier start of this run has done; "" where there was none. The run has its record."""
    if not any(iteration.seconds() or iteration.usage().get("calls") for iteration in facts.iterations(run)):
        return ""
    if not (stage := facts.next_stage(run)):
        return "finished before: nothing is computed again"
    return f"resumed: {_done(run)}; goes on with {stage}"


def ended(run: Run, model: str | None) -> list[str]:
    """Of a finished run: its model, its time and money in all starts, and what can follow.

    model: the folder of the last target; None where nothing was trained.
    """
    last = run.record()["config"]["iterations"]
    where = run.store.where
    lines = [f"model: {model}, after {count(last, 'iteration')}"] if model and last else []
    lines.append(f"in all: {_done(run)}")
    if last:
        lines.append(
            f"next: `lai show {shlex.quote(where)}` for the story of one mistake, or the same command with "
            f"iterations={last + 1}"
        )
    return lines


def _done(run: Run) -> str:
    seconds = sum(sum(iteration.seconds().values()) for iteration in facts.iterations(run))
    used = facts.sum_of(iteration.usage() for iteration in facts.iterations(run))
    parts = [f"{_duration(seconds)} in complete stages"]
    if calls := used.get("calls"):
        money = "" if used.get("usd") is None else f" for US$ {used['usd']:.4f}"
        parts.append(f"{count(calls, 'instructor call')}{money}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    """ "48 s", "7 min 3 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
