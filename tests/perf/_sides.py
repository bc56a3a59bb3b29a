"""The two sides of a ratio, in turn, each in a process of its own.  commands -> pairs of results

On a machine that is shared, LAI_BENCH_WITH names a command to put before each side ("flock FILE", "taskset -c 0,1").
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
QUIET = {
    "PYTHONPATH": str(ROOT),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
"""What every side has in its environment, workers included."""


def side(module: str, *arguments: object) -> dict[str, Any]:
    """What `python -m module arguments` prints on its last line, as JSON; it is shown as it comes.

    Started once more when it fails, which is said: a busy machine does not always start Ray in time.
    """
    before = shlex.split(os.environ.get("LAI_BENCH_WITH", ""))
    command = [*before, sys.executable, "-m", module, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUIET
    for last in (False, True):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        if not done.returncode:
            break
        print(f"{shlex.join(command)} failed:\n{done.stderr[-1000:]}", file=sys.stderr, flush=True)
        if last:
            raise SystemExit("it failed twice")
    last_line = done.stdout.strip().splitlines()[-1]
    print(last_line, flush=True)
    found: dict[str, Any] = json.loads(last_line)
    return found


def in_turn(pairs: int, module: str, sides: tuple[str, str], *arguments: object) -> list[dict[str, dict[str, Any]]]:
    """`pairs` times both sides, each once; whoever was second begins the next pair."""
    return [
        {name: side(module, name, *arguments) for name in (sides if i % 2 == 0 else sides[::-1])} for i in range(pairs)
    ]
