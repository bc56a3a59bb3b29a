"""`make bench`: speed as ratios against a baseline in the same run, a JSON line each in build/bench.jsonl.

python -m tests.perf.bench [NAME]
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lai_ray.world import STUDENT

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build/bench.jsonl"


def generation() -> Iterator[dict[str, Any]]:
    """Our engine actors against ray.data.llm: the same prompts, in turn, each in a process of its own."""
    script = Path(__file__).parent / "generate_two_ways.py"
    command = [sys.executable, str(script), "--model", STUDENT, "--prompts", "1024", "--rounds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    runs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for figure, unit in (("tokens_per_s_after", "tokens/s"), ("first_answers_s", "s")):
        sides = {way: [run[figure] for run in runs if run["way"] == way] for way in ("ours", "theirs")}
        ratios = [ours / theirs for ours, theirs in zip(sides["ours"], sides["theirs"], strict=True)]
        yield {
            "name": f"generation.{figure}",
            "value": statistics.median(sides["ours"]),
            "unit": unit,
            "baseline": statistics.median(sides["theirs"]),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "reach": None,
        }


BENCHES: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {"generation": generation}


def main() -> None:
    """Run the benches named, or all."""
    names = sys.argv[1:] or list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        raise SystemExit(f"no bench is called {', '.join(unknown)}. There are: {', '.join(BENCHES)}.")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    OUT.parent.mkdir(exist_ok=True)
    for name in names:
        for figures in BENCHES[name]():
            line = json.dumps(figures | {"commit": commit, "machine": platform.platform()})
            print(line, flush=True)
            with OUT.open("a") as out:
                out.write(line + "\n")


if __name__ == "__main__":
    main()
