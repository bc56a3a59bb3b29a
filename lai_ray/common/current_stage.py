"""The stage that this process works on, as names of actors and trainings show it: run, iteration, stage, trial.

quickstart/iteration_0/evaluate        search-cpu/iteration_0/search/trial_3/start_1/train
"""

from __future__ import annotations

_now = "lai"


def begin(stage: str) -> None:
    """Set the stage, when it begins."""
    global _now
    _now = stage


def now() -> str:
    """The stage that began last in this process."""
    return _now
