"""The costs still to come, and whether the budget is enough for them.  job, its run so far -> tables"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lai_ray.config.config import Config
from lai_ray.instructor.spending.budget import NOTHING, Amount, caps_of
from lai_ray.instructor.spending.ledger import Spent, entries, spent_in, total
from lai_ray.report.tables import Table
from lai_ray.stages.cost_forecast import ACCURACIES, Forecast, before_evaluation, known
from lai_ray.stages.job import Job
from lai_ray.storage.run import Run, Stage


@dataclass(frozen=True)
class Known:
    """A pool of replies whose mistakes are known: the forecast of its calls, and the calls so far."""

    iteration: int
    stage: Stage
    by_dataset: dict[str, Forecast]
    so_far: Spent

    @property
    def likely(self) -> Amount:
        """All of it."""
        return sum((found.likely for found in self.by_dataset.values()), start=NOTHING)

    @property
    def to_come(self) -> Amount:
        """What is not spent yet; nothing once the stage is complete."""
        if self.stage.facts():
            return NOTHING
        done, likely = self.so_far.at_most, self.likely
        return Amount(*(max(getattr(likely, name) - getattr(done, name), 0) for name in ("calls", "input", "output")))


def of(job: Job, run: Run | None) -> list[Table]:
    """Forecast of the iterations whose mistakes are known, and whether the budget is enough."""
    config = job.config
    if not config.iterations:
        return []
    pools = list(pools_known(run, job)) if run else []
    spent = sum(spent_in(run, config.instructor.max_tokens).values(), start=Spent()) if run else Spent()
    return [mistakes_known(pools, config), budget(pools, spent, job)]


def pools_known(run: Run, job: Job) -> Iterator[Known]:
    """Those of every finished `diagnose` of the run, including the pools of a search."""
    for store in run.stores_of("diagnose"):
        folder = store.where.removeprefix(run.store.where).strip("/")
        number = int(folder.partition("/")[0].removeprefix("iteration_"))
        stage = Stage(run, folder.removesuffix("diagnose") + "instruct")
        if number < job.config.iterations and store.exists("done.json"):
            so_far = total(entries(stage.store.inside("answers"), job.config.instructor.max_tokens))
            yield Known(number, stage, dict(known(stage, number, job)), so_far)


def mistakes_known(pools: list[Known], config: Config) -> Table:
    """Calls, tokens and money by iteration and dataset, beside what was used in all of the iteration."""
    price = caps_of({}, config.instructor.model_dump()).price
    columns = [
        "iteration",
        "dataset",
        "mistakes",
        "samples per call",
        "calls",
        "tokens, about",
        "US$, about",
        "used",
    ]
    table = Table(
        "Instructor calls where the mistakes are known", columns,
        note="Estimated from the rendered prompts; after an iteration of this run, also from its replies: tokens per "
        "character, length of samples, share accepted.",
    )  # fmt: skip
    for pool in pools:
        used = f"{pool.so_far.at_most.calls} calls, {pool.so_far.at_most.tokens:,} tokens"
        for number, (dataset, found) in enumerate(pool.by_dataset.items()):
            usd = f"{price.usd(found.likely):,.4f}" if price else "–"
            cells = [found.mistakes, found.samples_per_request, found.likely.calls, f"{found.likely.tokens:,}", usd]
            table.rows.append([str(pool.iteration), dataset, *map(str, cells), "" if number else used])
    return table


def budget(pools: list[Known], spent: Spent, job: Job) -> Table:
    """Each limit that is set: spent, left, still to come in the whole run, and whether it is enough."""
    config = job.config
    caps = caps_of(config.limits.model_dump(), config.instructor.model_dump())
    low, high = still_to_come(pools, job)
    table = Table(
        "Budget", ["limit", "at most", "spent", "left", "still to come, about", "verdict"],
        note="For all remaining iterations; where the mistakes are not known yet, with 90% to 30% of the training "
        "problems right. Possibly paid calls count as spent, at their worst case.",
    )  # fmt: skip
    if config.limits.max_usd is not None and caps.price is None:
        table.note += " max_usd has no effect: the price is unknown and counts as 0 (limits.unknown_price_is_free)."
    lows, highs, done = (caps.by_name(amount) for amount in (low, high, spent.at_most))
    for name, (counted, limit) in done.items():
        least, most = lows[name][0], highs[name][0]
        left, words = max(limit - counted, 0), verdict(limit - counted, least, most, counted)
        between = figure(least) if figure(least) == figure(most) else f"{figure(least)} to {figure(most)}"
        table.rows.append([f"limits.{name}", figure(limit), figure(counted), figure(left), between, words])
    return table


def still_to_come(pools: list[Known], job: Job) -> tuple[Amount, Amount]:
    """The lowest and the highest forecast of the remaining iterations."""
    begun = {pool.iteration for pool in pools}
    certain = sum((pool.to_come for pool in pools), start=NOTHING)
    left = job.config.iterations - len(begun)
    amounts = [
        sum((found.likely for found in before_evaluation(job, accuracy).values()), start=NOTHING)
        for accuracy in ACCURACIES
    ] if left else [NOTHING]  # fmt: skip
    least, most = (
        Amount(*(choose(getattr(a, name) for a in amounts) * left for name in ("calls", "input", "output")))
        for choose in (min, max)
    )
    return certain + least, certain + most


def verdict(left: float, least: float, most: float, spent: float) -> str:
    """Whether what is left is enough."""
    if most <= left:
        return "enough"
    return f"{'may be ' if least <= left else ''}too low; {figure(spent + most)} is enough"


def figure(number: float) -> str:
    """Whole numbers without decimals, others with four."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.4f}"
