"""A real search, killed in its middle, moved, and gone on with; compared with one that was left alone.

    python -m tests.perf.searching WHOLE FOLDER

WHOLE is a finished run of jobs/search_cpu.toml. In FOLDER the same job is started without test splits, killed (SIGKILL)
once four trials have ended, its run moved to another folder, and started again there. Prints what differs, and what the
second start asked for. A third start goes on where this was stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAME = "search-cpu"
WITHOUT_TESTS = ["evaluate.report_on=[]", "curate.keep_clear_of=none"]
KILL_AFTER = 4
COMPARED = ("name", "learning_rate", "neighbours", "samples_per_dataset", "seed", "samples", "dev", "gain", "loss")


def command(storage: Path) -> list[str]:
    """The search and nothing after it."""
    job = [sys.executable, "-m", "lai_ray", "run", "jobs/search_cpu.toml", f"storage={storage}", *WITHOUT_TESTS]
    return [*job, "--until", "0/search"]


def results(run: Path) -> list[Path]:
    """What the trials that ended have written."""
    return sorted(run.glob("iteration_0/search/trial_*/start_*/result.json"))


def rows(run: Path) -> list[dict[str, Any]]:
    """The trials, as far as they can be compared."""
    found = json.loads((run / "iteration_0/search/trials.json").read_text())
    return [{key: row.get(key) for key in COMPARED} for row in found]


def calls(run: Path) -> dict[str, int]:
    """Calls paid for, by pool."""
    files = sorted(run.glob("iteration_0/search/pool_*/instruct/usage.json"))
    return {file.parts[-3]: json.loads(file.read_text())["calls"] for file in files}


def main() -> None:
    """See above."""
    whole, folder = Path(sys.argv[1]), Path(sys.argv[2])
    before, after = folder / "before", folder / "after"
    if not after.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "first.log", "w") as log:
            driver = subprocess.Popen(command(before), stdout=log, stderr=log, start_new_session=True)
        while driver.poll() is None and len(results(before / NAME)) < KILL_AFTER:
            time.sleep(0.2)
        assert driver.poll() is None, f"it ended by itself: {folder}/first.log"
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        after.mkdir()
        shutil.move(before / NAME, after / NAME)
    moved = after / NAME
    ended, asked = [json.loads(file.read_text())["settings"]["name"] for file in results(moved)], calls(moved)
    began = time.monotonic()
    with open(folder / "second.log", "a") as log:
        subprocess.run(command(after), stdout=log, stderr=log, check=True)
    facts = [json.loads((run / "iteration_0/search/done.json").read_text())["facts"] for run in (whole, moved)]
    tried = sorted({file.parts[-3] for file in results(moved)} - set(ended))
    said = {
        "ended before the kill": ended,
        "tried after it": tried,
        "calls by pool": {"whole": calls(whole / ""), "killed": asked, "then": calls(moved)},
        "winners": [fact["winner"] for fact in facts],
        "rows that differ": [pair for pair in zip(rows(whole), rows(moved), strict=True) if pair[0] != pair[1]],
        "written where it was": [str(path) for path in before.rglob("*") if path.is_file()],
        "weights left": sorted({path.parts[-5] for path in moved.glob("**/search/**/model.safetensors")}),
        "seconds of the second start": round(time.monotonic() - began),
    }
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
