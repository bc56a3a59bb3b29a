"""How much of a whole iteration is work: seconds of generation and of training steps ÷ seconds of the job.

The quickstart with one iteration, each time from nothing. Useful are the seconds from the first answer of a generation
to its last, and those of the training's steps; the notes name the rest by what it is. `tests/perf/bench.py` finds it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.perf._sides import ROOT
from tests.perf.bench import Figure

JOB = ("jobs/quickstart.toml", "iterations=1")


def bench(pairs: int) -> Iterator[Figure]:
    """One figure: useful seconds, and the wall clock of the same job as its baseline."""
    measured = [_once() for _ in range(pairs)]
    rest = {name: round(statistics.median(each[name] for each in measured), 1) for name in measured[0]}
    useful = [each["answering"] + each["training steps"] for each in measured]
    walls = [each["job"] for each in measured]
    yield Figure("iteration", "useful s / s of the job", useful, walls, "", {"job": " ".join(JOB), "median_s": rest})


def _once() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        command = [sys.executable, "-m", "lai_ray", "run", *JOB, f"storage={folder}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return parts(Path(folder) / "quickstart", time.monotonic() - began)


def parts(run: Path, wall: float) -> dict[str, float]:
    """Seconds by what they were spent on, of a finished run of one iteration."""
    tests = [_facts(run, f"iteration_{i}/evaluate") for i in (0, 1)]
    asked, trained = _facts(run, "iteration_0/instruct"), _facts(run, "iteration_0/train")
    steps = trained["tokens"] / trained["tokens_per_second"]
    stages = {name: sum(each[name] for each in tests) for name in ("starting", "working", "seconds")}
    small = sum(_facts(run, f"iteration_0/{name}")["seconds"] for name in ("diagnose", "curate"))
    found = {
        "job": wall,
        "answering": stages["working"],
        "training steps": steps,
        "engines' starts": stages["starting"],
        "around the answers": stages["seconds"] - stages["starting"] - stages["working"],
        "the instructor": asked["seconds"],
        "placing and starting the training": trained["seconds_placing"] + trained["seconds_starting"],
        "around the training": trained["seconds"] - steps - trained["seconds_placing"] - trained["seconds_starting"],
        "diagnose and curate": small,
    }
    return found | {"before and after the stages": 2 * wall - sum(found.values())}


def _facts(run: Path, stage: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / stage / "done.json").read_text())["facts"]
    return facts
