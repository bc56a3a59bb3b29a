"""What this process is at, for whoever watches the cluster: run, iteration, stage, trial.

quickstart/iteration_0/evaluate        search-cpu/iteration_0/search/trial_3/start_1/train
"""

from __future__ import annotations

_now = "lai"


def begin(what: str) -> None:
    """A stage begins."""
    global _now
    _now = what


def now() -> str:
    """The stage that began last in this process."""
    return _now
