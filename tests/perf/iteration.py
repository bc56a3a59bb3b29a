"""How much of a whole iteration is work: seconds of generation and of training steps ÷ seconds of the job.

The quickstart with one iteration, each time from nothing; the notes name the rest by cause, as `tests/perf/shares.py`
does for any run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.perf._sides import ROOT
from tests.perf.bench import Figure
from tests.perf.shares import causes

JOB = ("jobs/quickstart.toml", "iterations=1")
USEFUL = ("generate", "train steps")


def bench(pairs: int) -> Iterator[Figure]:
    """One figure: useful seconds, and the wall clock of the same job as its baseline."""
    measured = [_once() for _ in range(pairs)]
    by_cause = {name: round(statistics.median(each[name] for each in measured), 1) for name in measured[0]}
    useful = [sum(each[name] for name in USEFUL) for each in measured]
    walls = [sum(each.values()) for each in measured]
    yield Figure(
        "iteration", "useful s / s of the job", useful, walls, "", {"job": " ".join(JOB), "median_s": by_cause}
    )


def _once() -> dict[str, float]:
    """Seconds by cause."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        command = [sys.executable, "-m", "lai_ray", "run", *JOB, f"storage={folder}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wall, found = time.monotonic() - began, causes(Path(folder) / "quickstart")
    return found | {"outside stages": wall - sum(found.values())}
