"""The costs still to come, and whether the budget is enough for them.  job, its run so far -> tables"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lai_ray.instructor.spending.budget import NOTHING, Amount, Price, caps_of
from lai_ray.instructor.spending.ledger import Spent, entries, spent_in, total
from lai_ray.report.tables import Table
from lai_ray.stages.cost_forecast import ACCURACIES, Forecast, before_evaluation, known
from lai_ray.stages.job import Job
from lai_ray.storage.run import Run, Stage


@dataclass(frozen=True)
class KnownPool:
    """A pool of replies whose mistakes are known: the forecast of its calls, and the calls so far."""

    iteration: int
    stage: Stage
    by_dataset: dict[str, Forecast]
    so_far: Spent
    answered: Spent
    """The part of it that brought a reply: a failed call is asked again."""

    @property
    def likely(self) -> Amount:
        """Of the whole pool."""
        return sum((forecast.likely for forecast in self.by_dataset.values()), start=NOTHING)

    @property
    def to_come(self) -> Amount:
        """The part that has no reply yet; nothing once the stage is complete."""
        if self.stage.facts():
            return NOTHING
        done, likely = self.answered.at_most, self.likely
        return Amount(*(max(getattr(likely, name) - getattr(done, name), 0) for name in ("calls", "input", "output")))


def tables_of(job: Job, run: Run | None) -> list[Table]:
    """Forecast of the iterations whose mistakes are known, and whether the budget is enough."""
    config = job.config
    if not config.iterations:
        return []
    pools = list(known_pools(run, job)) if run else []
    spent = sum(spent_in(run, config.instructor.max_tokens).values(), start=Spent()) if run else Spent()
    return [known_calls(pools, job.price), limits(pools, spent, job)]


def known_pools(run: Run, job: Job) -> Iterator[KnownPool]:
    """Those of every finished `diagnose` of the run, including the pools of a search."""
    for store in run.stores_of("diagnose"):
        folder = store.where.removeprefix(run.store.where).strip("/")
        number = int(folder.partition("/")[0].removeprefix("iteration_"))
        stage = Stage(run, folder.removesuffix("diagnose") + "instruct")
        if number < job.config.iterations and store.exists("done.json"):
            sends = list(entries(stage.store.inside("answers"), job.config.instructor.max_tokens))
            answered = total(send for send in sends if send.state == "done")
            yield KnownPool(number, stage, dict(known(stage, number, job)), total(sends), answered)


def known_calls(pools: list[KnownPool], price: Price | None) -> Table:
    """Calls, tokens and money by iteration and dataset, and what the whole iteration has used so far."""
    columns = ["iteration", "dataset", "mistakes", "samples per call", "calls", "tokens", "US$", "used so far"]
    table = Table(
        "Instructor calls where the mistakes are known", columns,
        note="Tokens and US$ are estimated: from the rendered prompts, and after an iteration of this run from its "
        "replies (tokens per character, length of samples, share accepted).",
    )  # fmt: skip
    for pool in pools:
        used = f"{pool.so_far.at_most.calls} calls, {pool.so_far.at_most.tokens:,} tokens"
        for number, (dataset, forecast) in enumerate(pool.by_dataset.items()):
            likely, usd = forecast.likely, f"{price.usd(forecast.likely):,.4f}" if price else "–"
            cells = [forecast.mistakes, forecast.samples_per_request, likely.calls, f"{likely.tokens:,}", usd]
            table.rows.append([str(pool.iteration), dataset, *map(str, cells), "" if number else used])
    return table


def limits(pools: list[KnownPool], spent: Spent, job: Job) -> Table:
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
        least, most, left = lows[name][0], highs[name][0], limit - counted
        to_come = figure(least) if figure(least) == figure(most) else f"{figure(least)} to {figure(most)}"
        amounts = [figure(limit), figure(counted), figure(max(left, 0)), to_come]
        table.rows.append([f"limits.{name}", *amounts, verdict(left, least, most, counted)])
    return table


def still_to_come(pools: list[KnownPool], job: Job) -> tuple[Amount, Amount]:
    """The lowest and the highest forecast of the remaining iterations."""
    certain = sum((pool.to_come for pool in pools), start=NOTHING)
    left = job.config.iterations - len({pool.iteration for pool in pools})
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
