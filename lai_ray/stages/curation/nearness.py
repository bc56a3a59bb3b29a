"""The paper's Table 5: the distribution of ROUGE-L to each evaluation set, and the closest pairs.

samples with their greatest ROUGE-L -> numbers
"""

from __future__ import annotations

import heapq
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CLOSEST = 10
"""Pairs shown for each evaluation set."""


@dataclass
class _OfSet:
    everything: array[float] = field(default_factory=lambda: array("d"))
    kept: array[float] = field(default_factory=lambda: array("d"))
    closest: list[tuple[float, int, str, int]] = field(default_factory=list)


@dataclass
class Nearness:
    """Counts samples; holds one number for each, and the closest pairs of each set."""

    _sets: dict[str, _OfSet] = field(default_factory=dict)
    _seen: int = 0

    def add(self, sample_id: str, near: dict[str, tuple[float, int]], *, kept: bool) -> None:
        """near: by set, the greatest ROUGE-L F1 and the row of that question."""
        self._seen += 1
        for name, (score, row) in near.items():
            of_set = self._sets.setdefault(name, _OfSet())
            of_set.everything.append(score)
            if kept:
                of_set.kept.append(score)
            # Of equals the first is kept: a later one has a smaller second number.
            entry = (score, -self._seen, sample_id, row)
            if len(of_set.closest) < CLOSEST:
                heapq.heappush(of_set.closest, entry)
            else:
                heapq.heappushpop(of_set.closest, entry)

    def table(self) -> dict[str, dict[str, Any]]:
        """By set: {"all": …, "kept": …, "closest": [{"rouge_l", "sample", "row"}, …]}, shares between 0 and 1."""
        return {
            name: {
                "all": distribution(of_set.everything),
                "kept": distribution(of_set.kept),
                "closest": [
                    {"rouge_l": round(score, 4), "sample": sample, "row": row}
                    for score, _, sample, row in sorted(of_set.closest, reverse=True)
                ],
            }
            for name, of_set in self._sets.items()
        }


def distribution(scores: array[float]) -> dict[str, Any]:
    """Number, mean, quantiles, and the count in each tenth (the last includes 1.0)."""
    if not scores:
        return {"n": 0}
    values = np.frombuffer(scores, np.float64)
    # Rounded first: in float64, 2 * 3 / 20 may be below 0.3.
    tenths = np.bincount(np.minimum(np.floor(np.round(values, 9) * 10), 9).astype(int), minlength=10)
    return {
        "n": len(values),
        "mean": round(float(values.mean()), 6),
        "median": round(float(np.quantile(values, 0.5)), 4),
        "p90": round(float(np.quantile(values, 0.9)), 4),
        "p99": round(float(np.quantile(values, 0.99)), 4),
        "max": round(float(values.max()), 4),
        "tenths": tenths.tolist(),
    }
