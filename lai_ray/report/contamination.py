"""Similarity of samples to the evaluation sets: Table 5 of the paper.  contamination.json -> table"""

from __future__ import annotations

from typing import Any

from lai_ray.report import facts
from lai_ray.report.tables import Table
from lai_ray.storage.run import Run

NOTE = (
    "Highest ROUGE-L F1 of each sample with any question of the set (Table 5 of the paper: the mean over all parsed "
    "samples). It rejects a sample only with curate.max_rouge_l; copies are found by their words."
)


def nearness(run: Run, confidence: float) -> list[Table]:
    """By iteration and evaluation set, all parsed samples and those kept."""
    table = Table(
        "Samples and evaluation sets: ROUGE-L, percent",
        ["set", "iteration", "questions", "copies dropped", "mean, all", "mean, kept", "p90, kept", "max, kept"],
        note=NOTE,
    )
    for pool in facts.pools(run):
        report: dict[str, Any] = pool.stage("curate").store.get_json("contamination.json") or {}
        for name, scores in report.get("rouge_l", {}).items():
            copies = sum(report["copies_dropped"][name].values())
            head = [name, pool.name, str(report["questions"][name]), str(copies)]
            table.rows.append([*head, *cells(scores["all"], "mean"), *cells(scores["kept"], "mean", "p90", "max")])
    return [table]


def cells(distribution: dict[str, Any], *names: str) -> list[str]:
    """Figures of a distribution in percent; dashes where there was no sample."""
    return [f"{100 * distribution[name]:.1f}" if distribution["n"] else "–" for name in names]
