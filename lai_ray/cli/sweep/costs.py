"""The instructor calls of a sweep, estimated before it starts.  Sweep -> table"""

from __future__ import annotations

import statistics

from lai_ray.cli.check.check import minutes
from lai_ray.cli.run import existing
from lai_ray.cli.sweep.file import Member, Sweep
from lai_ray.cli.sweep.runs import finished, first_evaluation, first_pool, sharing
from lai_ray.config.config import Config
from lai_ray.instructor.spending.budget import NOTHING, Amount, price_of
from lai_ray.report import facts
from lai_ray.report.tables import Table
from lai_ray.stages.cost_forecast import ACCURACIES, before_evaluation
from lai_ray.stages.job import Job
from lai_ray.storage.keys import key_of

NOT_ASKED = {"name", "storage", "seed", "train", "cluster", "report", "limits", "iterations"}
"""Settings without influence on an iteration's calls."""


def table(sweep: Sweep) -> Table:
    """Calls, tokens and money of all unfinished runs, for several accuracies of the target.

    Raises DataError or ConfigError when the training problems cannot be read.
    """
    todo = [member for member in sweep.members if not finished(member)]
    pools = [group[0].config for group in sharing(todo, first_pool)]
    later = sum(max(member.config.iterations - 1, 0) for member in todo)
    evaluations, firsts = len(sharing(todo, first_evaluation)), len(pools)
    result = Table(
        "Instructor calls of the unfinished runs", ["training accuracy", "calls", "tokens", "US$", "minutes"],
        note=f"{len(todo)} runs. Made once and shared: first evaluations ({evaluations}) and first pools of replies "
        f"({firsts}). For one run each: pools of later iterations ({later}). Estimated as by `lai check`, with the "
        "upper bound below. Calls already made by an unfinished run are counted again. Minutes are the least that the "
        "limits per minute allow." + _measured(sweep, len(todo)),
    )  # fmt: skip
    known: dict[str, tuple[Amount, Amount]] = {}
    for accuracy in ACCURACIES if pools else ():
        likely = worst = NOTHING
        asking = [(config, 0) for config in pools]
        asking += [(member.config, i) for member in todo for i in range(1, member.config.iterations)]
        pace = 0.0
        for config, i in asking:
            one = _iteration(config, i, accuracy, known)
            likely, worst = (a + b for a, b in zip((likely, worst), one, strict=True))
            pace += 0.0 if config.instructor.in_cluster else minutes(one[0], config)
        price = price_of(todo[0].config.instructor.model_dump()) if _one_price(todo) else None
        usd = f"{price.usd(likely):,.2f}\n≤{price.usd(worst):,.2f}" if price else "–"
        tokens = f"{likely.tokens:,}\n≤{worst.tokens:,}"
        result.rows.append([f"{accuracy:.0%}", f"{likely.calls:,}", tokens, usd, f"{pace:.1f}"])
    return result


def _measured(sweep: Sweep, left: int) -> str:
    """A sentence on the time that finished runs took; "" where there is none."""
    runs = [run for member in sweep.members if finished(member) and (run := existing(member.config))]
    seconds = [sum(sum(each.seconds().values()) for each in facts.iterations(run)) for run in runs]
    if not seconds or not left:
        return ""
    mean = statistics.fmean(seconds) / 60
    return f" A finished run took {mean:.1f} minutes on average; {left} more, {mean * left / sweep.at_once:.0f}."


def _iteration(
    config: Config, i: int, accuracy: float, known: dict[str, tuple[Amount, Amount]]
) -> tuple[Amount, Amount]:
    """Expected and upper bound of one iteration; equal configurations are computed once."""
    strategies = [config.schedule.name(i, name) for name in config.evaluate.learn_from]
    key = key_of(config.model_dump(mode="json", exclude=NOT_ASKED), accuracy, strategies)
    if key not in known:
        each = before_evaluation(Job.of(config), accuracy, i).values()
        known[key] = sum((one.likely for one in each), start=NOTHING), sum((one.worst for one in each), start=NOTHING)
    return known[key]


def _one_price(members: list[Member]) -> bool:
    return len({str(price_of(member.config.instructor.model_dump())) for member in members}) == 1
