"""Programs with the usual imports, two at a time, against bare Python starts with the same imports, in turn.

python -m tests.perf.sandbox [ROUNDS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lai_ray.grading.sandbox import runner

IMPORTS = "import typing, math, collections, re, heapq, itertools, functools\n"
PROGRAM = IMPORTS + "def add(a, b): return a + b\n"
TESTS = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0"
CHECKS = runner.Checks(TESTS, "add", check=True)
COUNT = 60


def in_the_sandbox(_: int) -> None:
    """One program, judged."""
    assert runner.run(PROGRAM, CHECKS).verdict == "passed"


def bare(_: int) -> None:
    """One start of the interpreter that the sandbox uses."""
    subprocess.run([runner._python(), "-I", "-S", "-c", PROGRAM], check=True)


def per_second(work: Callable[[int], None]) -> float:
    """COUNT of them, two at a time."""
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(COUNT)))
    return COUNT / (time.monotonic() - begun)


def main(rounds: int) -> None:
    """One JSON line: the median ratio, and every round."""
    in_the_sandbox(0)
    runs = [(per_second(in_the_sandbox), per_second(bare)) for _ in range(rounds)]
    ratios = [ours / theirs for ours, theirs in runs]
    print(json.dumps({
        "name": "sandbox.throughput", "ratio": round(statistics.median(ratios), 3), "reach": 0.8,
        "value": round(statistics.median(ours for ours, _ in runs), 1), "unit": "programs/s",
        "baseline": round(statistics.median(theirs for _, theirs in runs), 1),
        "ratios": [round(r, 2) for r in ratios], "load": os.getloadavg(), "level": runner.level_in_use(),
    }))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
