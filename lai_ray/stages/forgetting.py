"""What an iteration's learning changed: learned, kept, forgotten, never, by group.  two evaluations -> ledger.json

Rates as in eq. 4 of arXiv 2407.00497: learned or forgotten problems, divided by all that were answered both times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lai_ray.common.intervals import paired, sign_test
from lai_ray.stages.evaluate import Attempts
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Run

FILE = "ledger.json"
CHANCE = 0.05
"""A loss that chance explains with at least this probability (McNemar's exact test) is not reported."""
SHRUNK = 2 / 3
"""Answers shorter than this share of what they were are reported."""
FATES = {(False, True): "learned", (True, True): "kept", (True, False): "forgotten", (False, False): "never"}
"""(right before, right after)"""


@dataclass
class Changes:
    """Problems of one part, or of one group of it, that were answered in both evaluations."""

    before: dict[str, bool] = field(default_factory=dict)
    after: dict[str, bool] = field(default_factory=dict)
    characters: list[int] = field(default_factory=lambda: [0, 0])
    """Of all answers, before and after."""

    def table(self) -> dict[str, Any]:
        """Counts, rates, the paired change with its 95% interval, and mean lengths of answers."""
        counts = dict.fromkeys(FATES.values(), 0)
        for key, right in self.before.items():
            counts[FATES[right, self.after[key]]] += 1
        n = len(self.before)
        change = paired(self.before, self.after)
        return {
            "n": n,
            **counts,
            "learned_rate": round(counts["learned"] / n, 6),
            "forgotten_rate": round(counts["forgotten"] / n, 6),
            "change": [round(each, 6) for each in (change.value, change.low, change.high)],
            "characters": [round(total / n, 1) for total in self.characters],
        }


def report_changes(run: Run, before: Attempts | None, after: Attempts, parts: Iterable[Part], job: Job) -> None:
    """Write the ledger beside the later of two evaluations, and report it: a line a part, and what to look at.

    Does nothing for a first evaluation, and for a ledger that is written already. A part that was not in the earlier
    evaluation is left out.
    """
    if before is None:
        return
    key, store = key_of(before.key, after.key), after.stage.store
    if (store.get_json(FILE) or {}).get("key") == key:
        return
    common = [part for part in parts if part.name in before.scores()]
    ledger = {part.name: table for part in common if (table := _part(before, after, part, job))}
    store.put_json(FILE, {"key": key, "parts": ledger})
    for line in lines(ledger):
        run.progress.report(line)
    for warning in warnings(ledger):
        run.progress.report(warning, style="yellow")


def lines(ledger: dict[str, Any]) -> Iterator[str]:
    """One table of all parts, a line each."""
    head = "since the last iteration"
    width = max(map(len, (*ledger, head)))
    if ledger:
        yield f"  {head:<{width}}  {'n':>6} learned    kept forgotten   never  change"
    for part, t in ledger.items():
        counts = f"{t['n']:>6} {t['learned']:>7} {t['kept']:>7} {t['forgotten']:>9} {t['never']:>7}"
        yield f"  {part:<{width}}  {counts} {100 * t['change'][0]:>+7.1f}"


def _part(before: Attempts, after: Attempts, part: Part, job: Job) -> dict[str, Any]:
    benchmark, split = part.benchmark, part.split
    was = {attempt.id: (attempt.right, len(attempt.completion.text)) for attempt in before.of(benchmark.name, split)}
    everything, groups = Changes(), defaultdict[str, Changes](Changes)
    for attempt in after.of(benchmark.name, split):
        if attempt.id in was:
            for changes in (everything, groups[benchmark.group(attempt.problem)]):
                changes.before[attempt.id], characters = was[attempt.id]
                changes.after[attempt.id] = attempt.right
                changes.characters[0] += characters
                changes.characters[1] += len(attempt.completion.text)
    if not everything.before:
        return {}
    return everything.table() | {"groups": {name: each.table() for name, each in sorted(groups.items())}}


def warnings(ledger: dict[str, Any]) -> Iterator[str]:
    """A group whose loss exceeds its interval; a part whose answers shrank by a third."""
    for part, table in ledger.items():
        for group, counts in table["groups"].items():
            value, _, high = counts["change"]
            # A few changed answers have an interval that is narrower than it should be.
            if high < 0 and sign_test(counts["learned"], counts["forgotten"]) <= CHANCE:
                lost = f"{counts['forgotten']} of {counts['n']} forgotten"
                yield f"  {part}: {group} lost {-100 * value:.1f} points ({lost})"
        before, after = table["characters"]
        if after < SHRUNK * before:
            yield f"  {part}: answers shrank from {before:.0f} to {after:.0f} characters"
