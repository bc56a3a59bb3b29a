"""`make bench`: speed as ratios against a baseline in the same run, a JSON line each in build/bench.jsonl.

    make bench                  all of them
    make bench ONLY=generation  one
    python -m tests.perf.bench --pairs 3 generation

A bench is one file of this folder with a function `bench(pairs)` that yields a `Figure` for each ratio; its name is the
file's, and it is found by import. Files without that function are something else.

Both sides of a ratio are measured in turn, `pairs` times (`_sides.in_turn`); printed and written are the median of the
pairs' ratios and an interval of order statistics: the narrowest pair of ranks that holds the median with at least 95%
where there are pairs enough for it (6), the whole range where there are not. `confidence` says what it came to.

A line: name, value, unit, baseline, ratio, low, high, confidence, ratios, pairs, reach, notes, date, commit, dirty,
machine (cpus, memory, load average when the bench began, platform).
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import pkgutil
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build/bench.jsonl"
PAIRS = 7
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """One ratio: what was measured on each side, pair by pair."""

    name: str
    unit: str
    values: Sequence[float]
    baselines: Sequence[float]
    reach: str
    """What the ratio should be, "≥ 0.95"; "" where nothing is asked."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Both sides' settings and whatever else a reader must know."""


@dataclass(frozen=True)
class Interval:
    """Where the median lies, with this confidence."""

    low: float
    high: float
    confidence: float


def interval(values: Sequence[float], wanted: float = CONFIDENCE) -> Interval:
    """For the median, by order statistics: values k and n + 1 - k from below, k as large as `wanted` allows (or 1).

    No distribution is assumed, only that the values are drawn independently. Raises ValueError without values.
    """
    ordered, n = sorted(values), len(values)
    if not n:
        raise ValueError("no values")

    def covered(k: int) -> float:
        return 1 - 2 * sum(comb(n, i) for i in range(k)) / 2**n

    k = max((k for k in range(1, (n + 1) // 2 + 1) if covered(k) >= wanted), default=1)
    return Interval(ordered[k - 1], ordered[n - k], max(covered(k), 0.0))


def line_of(figure: Figure) -> dict[str, Any]:
    """A figure as it is written."""
    ratios = [value / baseline for value, baseline in zip(figure.values, figure.baselines, strict=True)]
    around = interval(ratios)
    return {
        "name": figure.name,
        "value": statistics.median(figure.values),
        "unit": figure.unit,
        "baseline": statistics.median(figure.baselines),
        "ratio": statistics.median(ratios),
        "low": around.low,
        "high": around.high,
        "confidence": around.confidence,
        "ratios": ratios,
        "pairs": len(ratios),
        "reach": figure.reach,
        "notes": figure.notes,
    }


def benches() -> dict[str, Callable[[int], Iterator[Figure]]]:
    """Every bench of this folder, by name."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = {name: importlib.import_module(f"tests.perf.{name}") for name in names if not name.startswith("_")}
    return {name: module.bench for name, module in modules.items() if hasattr(module, "bench")}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()


def _machine() -> dict[str, Any]:
    import psutil

    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": [round(load, 2) for load in os.getloadavg()],
        "platform": platform.platform(),
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The lines for a person."""
    rows = [("name", "value", "baseline", "unit", "ratio", "interval", "pairs", "reach")]
    rows += [
        (
            line["name"],
            f"{line['value']:,.4g}",
            f"{line['baseline']:,.4g}",
            line["unit"],
            f"{line['ratio']:.3f}",
            f"{line['low']:.3f} to {line['high']:.3f} ({line['confidence']:.0%})",
            str(line["pairs"]),
            line["reach"],
        )
        for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    """Run the benches named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parser.parse_args()
    known = benches()
    if unknown := set(arguments.names) - set(known):
        raise SystemExit(f"no bench is called {', '.join(unknown)}. There are: {', '.join(known)}.")
    about = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
    }
    lines = []
    OUT.parent.mkdir(exist_ok=True)
    for name in arguments.names or known:
        machine = _machine()
        for figure in known[name](arguments.pairs):
            lines.append(line_of(figure) | about | {"machine": machine})
            with OUT.open("a") as out:
                out.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
