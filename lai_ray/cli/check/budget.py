"""The costs still to come, and whether the budget is enough for them.  job, what is recorded of it -> tables"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lai_ray.cli.check.dry_executor import Missing
from lai_ray.cli.check.dry_run import Replay
from lai_ray.instructor.spending.budget import NOTHING, Amount, Price, caps_of
from lai_ray.instructor.spending.ledger import Spent, entries, spent_in, total
from lai_ray.instructor.spending.tokens import characters
from lai_ray.report.tables import Table
from lai_ray.stages import cost_forecast
from lai_ray.stages.calls import FOLDERS
from lai_ray.stages.cost_forecast import ACCURACIES, IN_DOUBT, LATER, Forecast
from lai_ray.stages.job import Job
from lai_ray.storage.answers import Answers
from lai_ray.storage.run import Run, Stage

REJECTED = 2
"""Times as many calls where the samples are not known: every second one may be rejected."""
WIDEST = 4
"""The most calls of an iteration by the least, where no recorded reply may apply."""


@dataclass(frozen=True)
class Range:
    """The least and the most of a forecast."""

    least: Amount = NOTHING
    most: Amount = NOTHING

    def __add__(self, other: Range) -> Range:
        return Range(self.least + other.least, self.most + other.most)


@dataclass(frozen=True)
class KnownPool:
    """A pool of replies whose mistakes are known: the forecast of its calls, and the calls so far."""

    iteration: int
    stage: Stage
    by_dataset: dict[str, Forecast]
    to_ask: dict[str, int]
    """Calls to come, by dataset: those without a reply, failed ones included."""
    guessed: bool
    """Whether its requests are not known yet: then some of the replies that are recorded may apply."""
    so_far: Spent
    """Of the job's own run."""

    @property
    def likely(self) -> Amount:
        """Of the whole pool."""
        return sum((forecast.likely for forecast in self.by_dataset.values()), start=NOTHING)

    @property
    def to_come(self) -> Amount:
        """The part that has no reply yet."""
        return sum((_scaled(each.likely, self.to_ask[name]) for name, each in self.by_dataset.items()), start=NOTHING)

    @property
    def range(self) -> Range:
        """The same; from nothing where replies that are recorded may apply."""
        return Range(NOTHING if self.guessed else self.to_come, self.to_come)


def tables_of(job: Job, replay: Replay | None = None, run: Run | None = None) -> list[Table]:
    """Forecast of the iterations whose mistakes are known, and whether the budget is enough. run: the job's own."""
    if not job.config.iterations:
        return []
    pools = list(known_pools(replay, run)) if replay else []
    spent = sum(spent_in(run, job.config.instructor.max_tokens).values(), start=Spent()) if run else Spent()
    return [known_calls(pools, job.price), limits(still_to_come(pools, job, replay), spent, job)]


def known_pools(replay: Replay, run: Run | None) -> Iterator[KnownPool]:
    """Those of every `diagnose` that the replay came to, including the pools of a search. run: the job's own."""
    longest = replay.job.config.instructor.max_tokens
    for store in replay.run.stores_of("diagnose"):
        folder = store.where.removeprefix(replay.run.store.where).strip("/").removesuffix("diagnose") + "instruct"
        number = int(folder.partition("/")[0].removeprefix("iteration_"))
        if not store.exists("done.json"):
            continue
        stage = Stage(replay.run, folder)
        unknown = replay.partly if number == replay.iteration else {}
        known = cost_forecast.known(stage, number, replay.job)
        forecasts = {name: forecast for name, forecast in known if name not in unknown}
        so_far = total(entries(run.store.inside(f"{folder}/answers"), longest)) if run else Spent()
        to_ask = {name: _to_ask(name, one, stage, replay) for name, one in forecasts.items()}
        guessed = folder in replay.executor.guessed and reusable(replay, number)
        yield KnownPool(number, stage, forecasts, to_ask, guessed, so_far)


def _to_ask(dataset: str, forecast: Forecast, stage: Stage, replay: Replay) -> int:
    """The calls for one dataset that have no reply: those that are missing, and what probably follows from them."""
    if stage.folder not in replay.run.reached:  # Another pool comes first.
        return forecast.likely.calls
    missing = replay.executor.missing.get((stage.folder, "instructor"), Missing())
    begun, answered = missing.begun[dataset], Counter[bool]()
    for answer in Answers(stage.store.inside(FOLDERS["instructor"])).inherited():
        if answer.id.startswith(f"{dataset}/"):
            answered["@0." in answer.id] += 1
    if stage.folder in replay.executor.guessed:  # What was found was found by chance.
        return forecast.likely.calls
    if not begun:
        return missing.by_dataset[dataset]
    more = max(forecast.dialogues - begun - answered[True], 0)
    checks = forecast.fit if replay.job.config.curate.solve_again else 0
    return missing.by_dataset[dataset] + begun * checks + more * (1 + checks)


def _scaled(amount: Amount, calls: int) -> Amount:
    """As much for so many calls."""
    if not amount.calls:
        return NOTHING
    share = calls / amount.calls
    return Amount(calls, round(amount.input * share), round(amount.output * share))


def known_calls(pools: list[KnownPool], price: Price | None) -> Table:
    """Calls, tokens and money by iteration and dataset, and what the whole iteration has used so far."""
    columns = ["iteration", "dataset", "mistakes", "samples per call", "calls", "to ask", "tokens", "US$"]
    begun = any(pool.so_far.at_most.calls for pool in pools)
    table = Table(
        "Instructor calls where the mistakes are known", [*columns, *["used so far"] * begun],
        note="To ask: without the replies that are recorded. Tokens and US$ are estimated: from the rendered prompts, "
        "and after an iteration of this run from its replies (tokens per character, length of samples, share "
        "accepted).",
    )  # fmt: skip
    if any(pool.guessed for pool in pools):
        table.note += " At most: the neighbours are not known yet, and replies to the same request are reused."
    for pool in pools:
        used = f"{pool.so_far.at_most.calls} calls, {pool.so_far.at_most.tokens:,} tokens"
        for number, (dataset, forecast) in enumerate(pool.by_dataset.items()):
            likely, usd = forecast.likely, f"{price.usd(forecast.likely):,.4f}" if price else "–"
            to_ask = f"{pool.to_ask[dataset]}" + " at most" * pool.guessed
            cells = [forecast.mistakes, forecast.samples_per_request, likely.calls, to_ask, f"{likely.tokens:,}", usd]
            used_cell = ["" if number else used] * begun
            table.rows.append([str(pool.iteration), dataset, *map(str, cells), *used_cell])
    return table


def limits(to_come: Range, spent: Spent, job: Job) -> Table:
    """Each limit that is set: spent, left, still to come in the whole run, and whether it is enough."""
    config = job.config
    caps = caps_of(config.limits.model_dump(), config.instructor.model_dump())
    low, high = to_come.least, to_come.most
    few, *_, many = ACCURACIES
    table = Table(
        "Budget", ["limit", "at most", "spent", "left", "still to come, about", "verdict"],
        note="For all remaining iterations; where the mistakes are not known yet, with "
        f"{many:.0%} to {few:.0%} of the training problems right, or {LATER[0]:g} to {LATER[1]:g} times the mistakes "
        "known last, and up to every second sample rejected; from 0 where recorded replies may apply to the same "
        "mistakes. Possibly paid calls count as spent, at their worst case.",
    )  # fmt: skip
    if config.limits.max_usd is not None and caps.price is None:
        table.note += " max_usd has no effect: the price is unknown and counts as 0 (limits.unknown_price_is_free)."
    needed = caps.by_name(low), caps.by_name(high)
    for name, (counted, limit) in caps.by_name(spent.at_most).items():
        least_needed, most_needed, left = needed[0][name][0], needed[1][name][0], limit - counted
        shown = text_of(least_needed, most_needed)
        amounts = [figure(limit), figure(counted), figure(max(left, 0)), shown]
        table.rows.append([f"limits.{name}", *amounts, verdict(left, least_needed, most_needed, counted)])
    if not table.rows:
        usd = [price.usd(amount) for amount in (spent.at_most, low, high)] if (price := caps.price) else []
        for name, counts in (("calls", [spent.at_most.calls, low.calls, high.calls]), ("US$", usd)):
            if counts:
                table.rows.append([f"{name}, no limit", "–", figure(counts[0]), "–", text_of(*counts[1:]), "–"])
    return table


def text_of(least: float, most: float) -> str:
    """ "15", or "10 to 40"."""
    return figure(least) if figure(least) == figure(most) else f"{figure(least)} to {figure(most)}"


def still_to_come(pools: list[KnownPool], job: Job, replay: Replay | None) -> Range:
    """The lowest and the highest forecast of what is left of the job."""
    certain = sum((pool.range for pool in pools), start=Range())
    if replay and not replay.end:
        return certain
    sizes, known = cost_forecast.training_sizes(job), {pool.iteration for pool in pools}
    now, later = _mistakes(sizes, replay)
    for iteration in range(replay.iteration if replay else 0, job.config.iterations):
        ranges = later if replay and iteration > replay.iteration else now
        names = [name for name in sizes if iteration not in known or (replay and name in replay.partly)]
        ends = ({name: ranges[name][end] for name in names} for end in (0, 1))
        forecasts = (cost_forecast.for_mistakes(job, iteration, each, sizes).values() for each in ends)
        spread = _spread(sum((one.likely for one in each), start=NOTHING) for each in forecasts)
        spread = replace(spread, most=_with_rejections(spread))
        certain += replace(spread, least=NOTHING) if replay and reusable(replay, iteration) else spread
        if not (replay and _keys_known(iteration, replay)):
            certain += Range(*(cost_forecast.keys_in_doubt(job, share) for share in IN_DOUBT))
    return certain + _solutions(job, replay)


def reusable(replay: Replay, iteration: int) -> bool:
    """Whether replies of this iteration are recorded: they apply where the same mistakes are made."""
    names = (name for source in replay.run.reuse for name in source.store.names(f"iteration_{iteration}"))
    return any("/instruct/answers/" in name for name in names)


def _keys_known(iteration: int, replay: Replay) -> bool:
    """Whether it is known which keys of an iteration's new problems are in doubt."""
    stage = replay.run.stage(iteration, "rehearse")
    return bool(stage.facts()) and (stage.folder, "target") not in replay.executor.missing


def _solutions(job: Job, replay: Replay | None) -> Range:
    """The missing second solutions of rehearsals whose answers are known."""
    amount = NOTHING
    for (folder, whom), missing in replay.executor.missing.items() if replay else ():
        if whom == "instructor" and folder.endswith("/rehearse"):
            each = cost_forecast.usual_rates(job, next(iter(missing.by_dataset)))
            sent = sum(characters(request.messages) for request in missing.first) / max(len(missing.first), 1)
            one = Amount(1, round(sent * each.tokens_per_character), round(each.tokens_per_sample))
            amount += one.times(missing.by_dataset.total())
    return Range(amount, amount)


def _spread(amounts: Iterable[Amount]) -> Range:
    """The least and the most of these, field by field."""
    listed = list(amounts)
    least, most = (
        Amount(*(choose(getattr(amount, name) for amount in listed) for name in ("calls", "input", "output")))
        for choose in (min, max)
    )
    return Range(least, most)


def _with_rejections(spread: Range) -> Amount:
    """The most calls, if up to every second sample is rejected; at most four times the least."""
    pairs = ((getattr(spread.least, name), getattr(spread.most, name)) for name in ("calls", "input", "output"))
    return Amount(*(max(most, min(REJECTED * most, WIDEST * least)) for least, most in pairs))


Ends = dict[str, tuple[int, int]]
"""By dataset, the fewest and the most mistakes."""


def _mistakes(sizes: Mapping[str, int], replay: Replay | None) -> tuple[Ends, Ends]:
    """The mistakes of the iteration that a replay came to, as far as they are known, and those of a later one."""
    scores = (replay.run.stage(replay.iteration, "evaluate").store.get_json("scores.json") if replay else None) or {}
    now, later = Ends(), Ends()
    for name, size in sizes.items():
        part = scores.get(f"{name}.train")
        missing = replay.partly.get(name, 0) if replay and part else size
        wrong = part["n"] - part["right"] - missing if part else 0
        now[name] = _ends(wrong, missing, 1 - ACCURACIES[-1], 1 - ACCURACIES[0])
        later[name] = now[name] if missing else _ends(0, wrong, *LATER, most=size)
    return now, later


def _ends(known: int, others: int, least: float, most_share: float, most: int | None = None) -> tuple[int, int]:
    """`known` and a share of the others, from the least to the most, rounded inwards; at least 1."""
    few = max(known + math.ceil(round(least * others, 6)), 1)
    many = known + math.floor(round(most_share * others, 6))
    return few, max(few, many if most is None else min(many, most))


def verdict(left: float, least: float, most: float, spent: float) -> str:
    """Whether what is left is enough."""
    if most <= left:
        return "enough"
    return f"{'may be ' if least <= left else ''}too low; {figure(spent + most)} is enough"


def figure(number: float) -> str:
    """Whole numbers without decimals, others with four."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.4f}"
