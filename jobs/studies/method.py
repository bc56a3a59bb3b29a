"""Reads the runs of the study.  runs/method* -> settings chosen on dev, a line a run, tables, a plot

python jobs/studies/method.py students      # pre-train the missing students, two at a time: 14 minutes of a core each
python jobs/studies/method.py chosen        # each arm's settings, by the mean over the dev students
python jobs/studies/method.py collect       # the finished runs as lines of docs/results/method_runs.csv
python jobs/studies/method.py tables        # what these lines show
python jobs/studies/method.py plot FILE     # each seed's scores as a picture (PNG)
"""

from __future__ import annotations

import csv
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
ROWS = Path("docs/results/method_runs.csv")
MAIN = ("le", "untargeted")
AGAINST = {
    ("le", "lec", "answer_hidden", "other_answer", "random_contrast", "fine_tuning", "auggpt", "untargeted_failed"):
        "untargeted",
    ("lec", "answer_hidden", "other_answer", "random_contrast"): "le",
    ("lec",): "random_contrast",
    ("le_150",): "untargeted_150", ("le_300",): "untargeted_300", ("le_600",): "untargeted_600",
    ("le_2400",): "untargeted_2400",
}  # fmt: skip
"""Arms, and what each is compared with."""


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


def collect() -> None:
    """Add the finished runs to ROWS, a line each; a run that is gone keeps its line."""
    known = {(row["arm"], int(row["seed"])): row for row in read()}
    for path in sorted(RUNS.glob("method*/*-seed_*")):
        arm, _, seed = path.name.partition("-seed_")
        if not path.parent.name.startswith("method_dev") and (path / "iteration_1/evaluate/ledger.json").exists():
            known[arm, int(seed)] = {"arm": arm, "seed": seed, **measured(path)}
    with ROWS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(next(iter(known.values()))), lineterminator="\n")
        writer.writeheader()
        writer.writerows(known[key] for key in sorted(known))


def measured(run: Path) -> dict[str, Any]:
    """A finished run in figures: percent right, points of its groups, tokens, examples."""
    found: dict[str, Any] = {}
    for name, part in (("in", IN), ("out", OUT)):
        found |= {f"{name}_{when}": round(score(run, part, i), 3) for i, when in enumerate(("before", "after"))}
    facts = json.loads((run / "iteration_0/train/lineage.json").read_text())
    replies = map(json.loads, (run / "iteration_0/instruct/replies.jsonl").open())
    found["tokens"] = sum(r["completion"]["prompt_tokens"] + r["completion"]["completion_tokens"] for r in replies)
    found |= {"samples": facts["samples"]["count"], "replayed": facts.get("replay", {}).get("count", 0)}
    return found | {f"{group} points": round(change, 2) for group, change in sorted(losses(run).items())}


def read() -> list[dict[str, str]]:
    """The lines of ROWS."""
    if not ROWS.exists():
        return []
    with ROWS.open(newline="") as file:
        return list(csv.DictReader(file))


def finished() -> dict[str, dict[int, dict[str, str]]]:
    """The lines by arm and seed."""
    rows = defaultdict[str, dict[int, dict[str, str]]](dict)
    for row in read():
        rows[row["arm"]][int(row["seed"])] = row
    return rows


def score(run: Path, part: str, iteration: int = 1) -> float:
    """Percent right."""
    scores = json.loads((run / f"iteration_{iteration}/evaluate/scores.json").read_text())[part]
    return 100 * scores["right"] / scores["n"]


def losses(run: Path) -> dict[str, float]:
    """By group of the in-domain test: the change of its score in points."""
    parts = json.loads((run / "iteration_1/evaluate/ledger.json").read_text())["parts"]
    return {name: 100 * group["change"][0] for name, group in parts[IN]["groups"].items()}


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
    print("| arm | students | in-domain before | after | out-of-domain before | after | worst | tokens | examples |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arm, by_seed in runs.items():
        print(f"| {' | '.join([arm, str(len(by_seed)), *_row(list(by_seed.values()))])} |")
    for of, than in AGAINST.items():
        _differences(runs, of, than)


def _differences(runs: dict[str, dict[int, dict[str, str]]], of: tuple[str, ...], than: str) -> None:
    """Arms less one, over the students that both have."""
    several = {arm: each for arm in of if len(each := _against(runs, arm, than, "in_after")) > 1}
    values = {arm: list(each.values()) for arm, each in several.items()}
    corrected = holm({arm: p_value(each) for arm, each in values.items() if (arm, than) != MAIN})
    print(f"\n| minus {than} | students | in-domain, each | mean (95%) | p | p (Holm) | out of domain |")
    print("|---|---|---|---|---|---|---|")
    for arm, each in values.items():
        listed = ", ".join(f"{value:+.1f}" for value in each)
        holms = f"{corrected[arm]:.4f}" if arm in corrected else "main"
        out = interval(_against(runs, arm, than, "out_after").values())
        print(f"| {arm} | {len(each)} | {listed} | {interval(each)} | {p_value(each):.4f} | {holms} | {out} |")


def _row(rows: list[dict[str, str]]) -> Iterator[str]:
    for column in ("in_before", "in_after", "out_before", "out_after"):
        yield interval(float(row[column]) for row in rows)
    groups = [name for name in rows[0] if name.endswith(" points")]
    worst = [min((float(row[name]), name.removesuffix(" points")) for name in groups) for row in rows]
    yield ", ".join(f"{name} {points:+.1f}" for points, name in worst)
    yield f"{statistics.fmean(float(row['tokens']) for row in rows):,.0f}"
    yield " + ".join(f"{statistics.fmean(float(row[name]) for row in rows):,.0f}" for name in ("samples", "replayed"))


def _against(runs: dict[str, dict[int, dict[str, str]]], arm: str, than: str, column: str) -> dict[int, float]:
    """By seed: the arm's score less the other's, in points."""
    both = sorted(runs.get(arm, {}).keys() & runs.get(than, {}).keys())
    return {seed: float(runs[arm][seed][column]) - float(runs[than][seed][column]) for seed in both}


def plot(out: str) -> None:
    """Each student a dot, each arm's mean a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = finished()
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 0.5 + 0.45 * len(runs)), sharey=True)
    for axis, part, title in zip(axes, ("in", "out"), ("in-domain", "out of domain"), strict=True):
        for at, by_seed in enumerate(runs.values()):
            before, after = ([float(row[f"{part}_{when}"]) for row in by_seed.values()] for when in ("before", "after"))
            axis.plot(before, [at] * len(before), "o", color="0.7", markersize=4)
            axis.plot(after, [at] * len(after), "o", color="C0", markersize=5)
            axis.vlines(statistics.fmean(after), at - 0.3, at + 0.3, color="C0")
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
        case ["collect"]:
            return collect()
        case ["tables"]:
            return tables()
        case ["plot", out]:
            return plot(out)
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
