"""Reads the runs of the study.  runs/method_dev, runs/method -> settings chosen on dev, tables, a plot

python jobs/studies/method.py students      # pre-train the missing students, two at a time: 14 minutes of a core each
python jobs/studies/method.py chosen        # each arm's settings, by the mean over the dev students
python jobs/studies/method.py tables        # what method.toml compares, from the runs that are finished
python jobs/studies/method.py plot FILE     # each seed's scores as a picture (PNG)
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lai_ray.common.intervals import Interval, mean_of, t_of
from lai_ray.world import STUDENT

RUNS = Path("runs")
DEV_SEEDS, SEEDS = (0, 101), (102, 103, 104, 105, 106)
IN, OUT = "word_problems_unused.test", "word_problems_plus.test"
CONTROL = "untargeted"


def students() -> None:
    """One for each seed, in runs/students; seed 0 is the built-in one."""
    RUNS.mkdir(exist_ok=True)
    if not (RUNS / "students/0").exists():
        shutil.copytree(STUDENT, RUNS / "students/0")
    missing = [seed for seed in (*DEV_SEEDS, *SEEDS) if not (RUNS / f"students/{seed}/tokenizer.json").exists()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_pretrain, missing))


def _pretrain(seed: int) -> None:
    command = ["lai_ray.world.make_student", "--seed", str(seed), "--out", str(RUNS / f"students/{seed}")]
    subprocess.run([sys.executable, "-m", *command, "--measure", "0"], check=True)


def trials(arm: str) -> dict[str, list[float]]:
    """By combination of settings: the dev score of each dev student, as a fraction."""
    found = defaultdict[str, list[float]](list)
    for seed in DEV_SEEDS:
        searched = RUNS / f"method_dev/{arm}-seed_{seed}/iteration_0/search"
        for folder in sorted(searched.glob("trial_*")):
            results = sorted(folder.glob("start_*/result.json"))
            if results and (result := json.loads(results[-1].read_text())):
                settings = {k: v for k, v in result["settings"].items() if k not in ("name", "seed")}
                found[json.dumps(settings, sort_keys=True)].append(result["result"]["mean"])
    return found


def chosen() -> None:
    """Print the grid of each arm, best mean first."""
    for arm in sorted({path.name.partition("-seed_")[0] for path in (RUNS / "method_dev").glob("*-seed_*")}):
        print(arm)
        for settings, scores in sorted(trials(arm).items(), key=lambda item: -statistics.fmean(item[1])):
            print(f"  {100 * statistics.fmean(scores):.1f}  {[round(100 * s, 1) for s in scores]}  {settings}")


def finished() -> dict[str, dict[int, Path]]:
    """The finished runs by arm and seed."""
    runs = defaultdict[str, dict[int, Path]](dict)
    for path in sorted((RUNS / "method").glob("*-seed_*")):
        if (path / "iteration_1/evaluate/ledger.json").exists():
            arm, _, seed = path.name.partition("-seed_")
            runs[arm][int(seed)] = path
    return runs


def score(run: Path, part: str, iteration: int = 1) -> float:
    """Percent right."""
    scores = json.loads((run / f"iteration_{iteration}/evaluate/scores.json").read_text())[part]
    return 100 * scores["right"] / scores["n"]


def losses(run: Path) -> dict[str, float]:
    """By group of the in-domain test: the change of its score in points."""
    parts = json.loads((run / "iteration_1/evaluate/ledger.json").read_text())["parts"]
    return {name: 100 * group["change"][0] for name, group in parts[IN]["groups"].items()}


def tokens(run: Path) -> int:
    """Instructor tokens in and out."""
    usage = json.loads((run / "iteration_0/instruct/usage.json").read_text())
    return int(usage["prompt_tokens"] + usage["completion_tokens"])


def examples(run: Path) -> tuple[int, int]:
    """(samples, right answers replayed) of the training."""
    facts = json.loads((run / "iteration_0/train/lineage.json").read_text())
    return int(facts["samples"]["count"]), int(facts.get("replay", {}).get("count", 0))


def interval(values: Iterable[float]) -> str:
    """Mean and Student's 95% interval over seeds; of one seed its value."""
    found: Interval = mean_of(list(values))
    if math.isinf(found.low):
        return f"{found.value:.1f}"
    return f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f})"


def p_value(values: list[float]) -> float:
    """Two-sided, of Student's paired test that the mean is 0, by bisection over confidence."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    if deviation == 0:
        return float(mean == 0)
    t, low, high = abs(mean) / (deviation / len(values) ** 0.5), 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < 1 and t_of(middle, len(values) - 1) < t else (low, middle)
    return 1 - low


def holm(found: dict[str, float]) -> dict[str, float]:
    """p values corrected for their number."""
    corrected, worst = {}, 0.0
    for rank, (name, p) in enumerate(sorted(found.items(), key=lambda item: item[1])):
        worst = max(worst, min(1.0, p * (len(found) - rank)))
        corrected[name] = worst
    return corrected


def tables() -> None:
    """The main comparison and everything beside it, in Markdown."""
    runs = finished()
    print("| arm | seeds | in-domain before | after | out of domain before | after | worst group | tokens | examples |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arm, by_seed in runs.items():
        print(f"| {' | '.join([arm, str(len(by_seed)), *_row(list(by_seed.values()))])} |")
    differences = {arm: _against(runs, arm, IN) for arm in runs if arm != CONTROL}
    several = {arm: list(each.values()) for arm, each in differences.items() if len(each) > 1}
    corrected = holm({arm: p_value(each) for arm, each in several.items() if arm != "le"})
    print(f"\n| minus {CONTROL} | in-domain, each seed | mean (95%) | p | p (Holm) | out of domain |")
    print("|---|---|---|---|---|---|")
    for arm, each in several.items():
        seeds = ", ".join(f"{value:+.1f}" for value in each)
        holms = "main" if arm == "le" else f"{corrected[arm]:.4f}"
        out = interval(_against(runs, arm, OUT).values())
        print(f"| {arm} | {seeds} | {interval(each)} | {p_value(each):.4f} | {holms} | {out} |")


def _row(paths: list[Path]) -> Iterator[str]:
    for part in (IN, OUT):
        for iteration in (0, 1):
            yield interval(score(path, part, iteration) for path in paths)
    groups = [losses(path) for path in paths]
    name, change = min(((g, statistics.fmean(each[g] for each in groups)) for g in groups[0]), key=lambda item: item[1])
    yield f"{name} {change:+.1f}"
    yield f"{statistics.fmean(map(tokens, paths)):,.0f}"
    yield " + ".join(f"{statistics.fmean(counts):,.0f}" for counts in zip(*map(examples, paths), strict=True))


def _against(runs: dict[str, dict[int, Path]], arm: str, part: str) -> dict[int, float]:
    """By seed: the arm's score less the control's, in points."""
    both = sorted(runs[arm].keys() & runs.get(CONTROL, {}).keys())
    return {seed: score(runs[arm][seed], part) - score(runs[CONTROL][seed], part) for seed in both}


def plot(out: str) -> None:
    """Each seed a dot, each arm's mean a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = finished()
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 0.5 + 0.45 * len(runs)), sharey=True)
    for axis, part, title in zip(axes, (IN, OUT), ("in-domain", "out of domain"), strict=True):
        for row, by_seed in enumerate(runs.values()):
            before, after = ([score(path, part, i) for path in by_seed.values()] for i in (0, 1))
            axis.plot(before, [row] * len(before), "o", color="0.7", markersize=4)
            axis.plot(after, [row] * len(after), "o", color="C0", markersize=5)
            axis.vlines(statistics.fmean(after), row - 0.3, row + 0.3, color="C0")
        axis.set_title(f"{title}, % right")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(runs)), list(runs))
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(out, dpi=130)


def main(arguments: list[str]) -> Any:
    match arguments:
        case ["students"]:
            return students()
        case ["chosen"]:
            return chosen()
        case ["tables"]:
            return tables()
        case ["plot", out]:
            return plot(out)
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
