"""The trials of a search, why the untouched target stayed, and a plot.  trials.json -> tables, trials.png"""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lai_ray.common.intervals import Interval
from lai_ray.config.values import of_dataset
from lai_ray.report import facts
from lai_ray.report.tables import Table, percent, points, sizes_text
from lai_ray.stages.trial import UNTOUCHED
from lai_ray.storage.run import Run

OUTCOME = {"name", "samples", "dev", "dev_low", "dev_high", "gain", "gain_low", "gain_high", "loss", "seconds"}
OUTCOME |= {"gpu_seconds", "error", "same_as", "gained", "lost"}
"""Columns of a trial that are not settings."""
MANY_DROPPED = 0.5
"""Share of the samples in the replies; the checks drop a few percent of the paper's own instructor's."""
NOT_A_CHECK = ("kept", "samples", "derived", "over the cap", "duplicate")
Row = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """The finished search of one iteration."""

    iteration: facts.Iteration
    rows: list[Row]
    """As in trials.csv, the untouched target first."""

    @property
    def winner(self) -> str:
        """The trial whose model is the next target."""
        return str(self.iteration.stage("search").facts()["winner"])

    @property
    def confidence(self) -> float:
        """Of its intervals."""
        return float(self.iteration.stage("search").facts()["confidence"])

    @property
    def tested(self) -> Row:
        """The trial that was compared with the untouched target: the best seed of the best combination."""
        name = self.iteration.stage("search").facts()["tested"]
        return next(row for row in self.rows if row["name"] == name)

    @property
    def ended(self) -> list[Row]:
        """The trials that have a score, without the untouched target."""
        return [row for row in self.rows[1:] if "dev" in row]

    def varied(self) -> list[str]:
        """The settings in which trials differ."""
        names = dict.fromkeys(key for row in self.rows[1:] for key in row if key not in OUTCOME)
        return [name for name in names if len({json.dumps(row.get(name)) for row in self.rows[1:]}) > 1]

    def label(self, row: Row) -> str:
        """ "trial_3: learning rate 0.0003, neighbours 1"."""
        settings = [f"{_words(name)} {_value(row[name])}" for name in self.varied() if name in row]
        return f"{row['name']}: " + (", ".join(settings) or "the job's") if row is not self.rows[0] else "untouched"


def searches(run: Run) -> Iterator[Search]:
    """Every finished search of a run."""
    for iteration in facts.iterations(run):
        stage = iteration.stage("search")
        if stage.facts() and (rows := stage.store.get_json("trials.json")):
            yield Search(iteration, rows)


def trials(run: Run, confidence: float) -> list[Table]:
    """One table a search, with the search's own confidence."""
    return [_table(search) for search in searches(run)]


def _table(search: Search) -> Table:
    # The samples column has the number that each was trained on, which may be below its samples_per_dataset.
    varied, level = [name for name in search.varied() if name != "samples_per_dataset"], search.confidence
    columns = ["trial", *map(_words, varied), "samples", "dev", "gain", "seconds"]
    table = Table(f"Search in iteration {search.iteration.number}, percent of the dev splits", columns)
    for row in search.rows:
        title = row["name"].removeprefix("trial_") + (" ←" if row["name"] == search.winner else "")
        settings = [_value(row[name]) if name in row else "–" for name in varied]
        if why := row.get("error") or ("same_as" in row and f"the same as {row['same_as']}"):
            table.rows.append([title, *settings, str(row["samples"]), str(why), "–", "–"])
            continue
        scores = [percent(_interval(row, "dev")), points(_interval(row, "gain")) if row is not search.rows[0] else "–"]
        spent = f"{row['seconds']:,.0f}" if "seconds" in row else "–"
        table.rows.append([title, *settings, str(row.get("samples", "–")), *scores, spent])
    table.note = (
        "← is the next target; trial 0 is the untouched target; losses and GPU-seconds are in trials.csv. "
        f"Dev: the mean over the dev splits, with {level:.0%} intervals. Gain: paired with trial 0, problem by "
        f"problem; the intervals hold for all {len(search.ended)} trials together (Bonferroni)."
    )
    if search.winner == UNTOUCHED:
        table.note += " No trial beats the untouched target by more than noise, so it stays. "
        table.note += " ".join(reasons(search))
    return table


def reasons(search: Search) -> list[str]:
    """Possible reasons why no trial won, in sentences: dev scores, numbers of samples, checks."""
    return [*_dev_reasons(search), *_size_reasons(search), *_check_reasons(search)]


def _dev_reasons(search: Search) -> Iterator[str]:
    ended, worse, best = search.ended, [row for row in search.ended if row["gain_high"] < 0], search.tested
    if worse:
        yield f"Dev is falling: {len(worse)} of {len(ended)} trials are worse beyond noise."
        rates = sorted({row["learning_rate"] for row in ended})
        lowest = max(row["gain"] for row in ended if row["learning_rate"] == rates[0])
        if len(rates) > 1 and all(row["gain_high"] < lowest for row in ended if row["learning_rate"] > rates[0]):
            yield f"The lowest learning rate ({rates[0]:g}) does best: try lower ones."
    if len(worse) < len(ended):
        width = 100 * max(row["gain_high"] - row["gain"] for row in ended)
        yield (
            f"Dev is flat for {len(ended) - len(worse)}: they differ from the target by no more than noise (as far as "
            f"±{width:.1f} points here); a larger dev split would show smaller differences."
        )
    if any(row["gain_low"] > 0 for row in ended):
        yield (
            f"Tested: {best['name']}, the best seed of the combination with the best mean over seeds: "
            f"{best['gained']} answers gained, {best['lost']} lost."
        )


def _size_reasons(search: Search) -> Iterator[str]:
    for pool, dataset, wanted, kept in _shortages(search):
        yield f"Too few samples: pool {pool} has {kept} of {dataset}, {wanted} were wanted."
    pairs = list(_by_size(search))
    clear = any(large["gain_low"] > small["gain_high"] for small, large in pairs)
    if clear and all(large["gain"] > small["gain"] for small, large in pairs):
        yield "Every larger training set did better than the smaller one with the same settings: more may help."


def _by_size(search: Search) -> Iterator[tuple[Row, Row]]:
    """Pairs of trials that differ only in their number of samples, the smaller first."""
    groups: dict[str, list[Row]] = {}
    for row in search.ended:
        rest = {key: value for key, value in row.items() if key not in OUTCOME and key != "samples_per_dataset"}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(row)
    for rows in groups.values():
        yield from itertools.pairwise(sorted(rows, key=lambda row: row["samples"]))


def _shortages(search: Search) -> Iterator[tuple[str, str, int, int]]:
    """(pool, dataset, samples wanted, samples kept) where there are too few."""
    config = search.iteration.run.record()["config"]
    sizes = config["search"]["samples_per_dataset"] or [config["curate"]["samples_per_dataset"]]
    for pool in search.iteration.pools():
        for dataset, kept in pool.studied().items():
            wanted = max(of_dataset(size, dataset) for size in sizes)
            if kept < wanted:
                yield pool.name, dataset, wanted, kept


def _check_reasons(search: Search) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for pool in search.iteration.pools():
        for funnel in pool.funnel().values():
            counts.update(funnel)
    failed = {reason: n for reason, n in counts.items() if not reason.startswith(NOT_A_CHECK)}
    share = sum(failed.values()) / max(counts["samples"], 1)
    if share >= MANY_DROPPED:
        most = ", ".join(f"{reason}: {n}" for reason, n in Counter(failed).most_common(3))
        yield f"Checks fail: {share:.0%} of {counts['samples']} samples were dropped ({most}): see dropped.jsonl."


def draw(search: Search) -> bytes:
    """A PNG: every trial's gain on dev with its interval, best first, the untouched target as the line at 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(search.ended, key=lambda row: row["gain"])
    figure = Figure(figsize=(9, 1.6 + 0.34 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvline(0, color="0.4", linewidth=1)
    for y, row in enumerate(rows):
        won = row["name"] == search.winner
        colour = "#1a7f37" if won else "#b42318" if row["gain_high"] < 0 else "#475467"
        gain = _interval(row, "gain")
        reach = [[100 * (gain.value - gain.low)], [100 * (gain.high - gain.value)]]
        axes.errorbar([100 * gain.value], [y], xerr=reach, fmt="o", color=colour, capsize=3, markersize=6)
    axes.set_yticks(
        range(len(rows)),
        [search.label(row) + (" (next target)" if row["name"] == search.winner else "") for row in rows],
    )
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"points on dev against the untouched target, {search.confidence:.0%} intervals for all trials together"
    )
    kept = "the untouched target stays" if search.winner == UNTOUCHED else f"{search.winner} is the next target"
    axes.set_title(f"{search.iteration.run.name}, iteration {search.iteration.number}: {kept}", loc="left", fontsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    return out.getvalue()


def plot(run: Run) -> list[str]:
    """Draw every search of a run that has scores. Returns the names of the plots, relative to the run's folder."""
    names = []
    for search in searches(run):
        if search.ended:
            stage = search.iteration.stage("search")
            stage.store.put("trials.png", draw(search))
            names.append(f"{stage.folder}/trials.png")
    return names


def _interval(row: Row, name: str) -> Interval:
    return Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _words(name: str) -> str:
    """ "train.epochs" -> "epochs", "learning_rate" -> "learning rate"."""
    return name.rpartition(".")[2].replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return sizes_text(value) if isinstance(value, dict) else str(value)
