"""How often the trial that is best on dev is best on the test too, and how much better dev makes it look.

    python -m tests.perf.dev_against_test FOLDER [SEARCHES]

Real searches of the built-in student (2 learning rates x 2 sizes, one seed of the job each; ten unless said), every
trial kept and asked the test afterwards, which no search does. Goes on where it was stopped; prints a row a search and
what they come to. Optimism: the winner's gain on dev less its gain on the test, in points.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

JOB = "jobs/search_cpu.toml"
SMALL = ["search.neighbours=[3]", "search.learning_rate=[2e-4, 3e-4]", "search.samples_per_dataset=[1200, 2400]"]
TEST = "word_problems"


def lai(*arguments: str) -> None:
    """One command, its output where it can be read afterwards."""
    subprocess.run([sys.executable, "-m", "lai_ray", *arguments], check=True, stdout=subprocess.DEVNULL)


def share(part: dict[str, Any]) -> float:
    """Right of all."""
    return float(part["right"] / part["n"])


def searched(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The trials of one search, the untouched target first: dev and test scores as fractions."""
    name = f"search-{seed}"
    kept = [f"storage={folder}", f"name={name}", f"seed={seed}", f'evaluate.report_on=["{TEST}"]']
    # The untouched target answers alike in all searches.
    reused = ["--reuse", f"{folder}/search-0"] if seed else []
    lai("run", JOB, *kept, *SMALL, "search.keep_weights=true", "--until", "0/search", *reused)
    search = folder / name / "iteration_0" / "search"
    before = json.loads((search.parent / "evaluate/scores.json").read_text())
    found = [{"name": "trial_0", "dev": share(before[f"{TEST}.dev"]), "test": share(before[f"{TEST}.test"])}]
    for row in json.loads((search / "trials.json").read_text())[1:]:
        # Of the last start that tried it, where an earlier one was stopped.
        *_, model = sorted(path.parent for path in search.glob(f"{row['name']}/start_*/train/checkpoint/lineage.json"))
        tested = f"{name}-{row['name']}"
        given = [f"target.model={model}", f'evaluate.report_on=["{TEST}"]', f"storage={folder}", f"name={tested}"]
        if not (folder / f"{tested}-tests/iteration_0/evaluate/scores.json").is_file():
            lai("evaluate", JOB, *given)
        scores = json.loads((folder / f"{tested}-tests/iteration_0/evaluate/scores.json").read_text())
        found.append({"name": row["name"], "dev": row["dev"], "test": share(scores[f"{TEST}.test"])})
    return found


def main() -> None:
    """See above."""
    folder, count = Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    agree, optimism, lost = 0, [], []
    for seed in range(count):
        rows = searched(folder, seed)
        by_dev, by_test = (max(rows, key=lambda row: row[split]) for split in ("dev", "test"))
        agree += by_dev is by_test
        gains = [100 * (by_dev[split] - rows[0][split]) for split in ("dev", "test")]
        optimism.append(gains[0] - gains[1])
        lost.append(100 * (by_test["test"] - by_dev["test"]))
        print(
            json.dumps({"seed": seed, "dev": by_dev["name"], "test": by_test["name"], "gains": gains, "rows": rows}),
            flush=True,
        )
    print(f"{agree} of {count} agree; optimism {statistics.fmean(optimism):+.2f} points (of each: {sorted(optimism)}); "
          f"the dev winner is {statistics.fmean(lost):.2f} points below the best on the test")  # fmt: skip


if __name__ == "__main__":
    main()
