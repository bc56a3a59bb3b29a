"""Where a finished run's wall clock went:  python -m tests.perf.shares RUN

Named work is what the run is for: starting engines, generating, asking, training steps. Ray Train's start stands apart.
The rest is said by cause, largest first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def causes(run: Path) -> dict[str, float]:
    """Seconds by cause, over all iterations; "outside stages" is what the driver's life had besides."""
    total: dict[str, float] = {}

    def add(cause: str, seconds: float) -> None:
        total[cause] = total.get(cause, 0.0) + seconds

    for marker in sorted(run.glob("iteration_*/*/done.json")):
        facts: dict[str, Any] = json.loads(marker.read_text())["facts"]
        left = facts["seconds"]
        for cause, seconds in named(marker.parent.name, facts).items():
            add(cause, seconds)
            left -= seconds
        add(f"{marker.parent.name}: rest", left)
    return total


def named(stage: str, facts: dict[str, Any]) -> dict[str, float]:
    """What of a stage's seconds has a name."""
    if stage == "evaluate":
        return {"engine start": facts.get("starting", 0.0), "generate": facts.get("working", 0.0)}
    if stage == "instruct":
        return {"ask": facts.get("working", 0.0), "callers' start": facts.get("starting", 0.0)}
    if stage == "train" and "seconds_placing" in facts:
        steps = facts["seconds_in_worker"] - facts["seconds_starting"]
        return {"Train start-up": facts["seconds_placing"] + facts["seconds_starting"], "train steps": steps}
    return {}


WORK = {"engine start", "generate", "ask", "train steps"}
APART = {"Train start-up"}


def main() -> None:
    run, wall = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else None
    found = causes(run)
    if wall is not None:
        found["outside stages"] = wall - sum(found.values())
    everything = sum(found.values())
    for cause, seconds in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{cause:20} {seconds:7.1f} s  {seconds / everything:6.1%}")
    outside = sum(seconds for cause, seconds in found.items() if cause not in WORK | APART)
    print(f"{'outside the work':20} {outside:7.1f} s  {outside / everything:6.1%}")


if __name__ == "__main__":
    main()
