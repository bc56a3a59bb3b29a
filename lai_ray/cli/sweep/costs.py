"""The instructor calls of a sweep, estimated before it starts.  Sweep -> table"""

from __future__ import annotations

from lai_ray.cli.sweep.file import Member, Sweep
from lai_ray.cli.sweep.runs import finished, first_evaluation, first_pool, sharing
from lai_ray.config.config import Config
from lai_ray.instructor.spending.budget import NOTHING, Amount, price_of
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
        "Instructor calls of the unfinished runs", ["training accuracy", "calls", "tokens", "US$"],
        note=f"{len(todo)} runs. Made once and shared: first evaluations ({evaluations}) and first pools of replies "
        f"({firsts}). For one run each: pools of later iterations ({later}). Estimated as by `lai check`, with the "
        "upper bound below. Calls already made by an unfinished run are counted again.",
    )  # fmt: skip
    known: dict[str, tuple[Amount, Amount]] = {}
    for accuracy in ACCURACIES if pools else ():
        likely = worst = NOTHING
        asking = [*pools, *(m.config for m in todo for _ in range(1, m.config.iterations))]
        for config in asking:
            likely, worst = (a + b for a, b in zip((likely, worst), _iteration(config, accuracy, known), strict=True))
        price = price_of(asking[0].instructor.model_dump()) if _one_price(todo) else None
        usd = f"{price.usd(likely):,.2f}\n≤{price.usd(worst):,.2f}" if price else "–"
        result.rows.append([f"{accuracy:.0%}", f"{likely.calls:,}", f"{likely.tokens:,}\n≤{worst.tokens:,}", usd])
    return result


def _iteration(config: Config, accuracy: float, known: dict[str, tuple[Amount, Amount]]) -> tuple[Amount, Amount]:
    """Expected and upper bound of one iteration; equal configurations are computed once."""
    key = key_of(config.model_dump(mode="json", exclude=NOT_ASKED), accuracy)
    if key not in known:
        each = before_evaluation(Job.of(config), accuracy).values()
        known[key] = sum((one.likely for one in each), start=NOTHING), sum((one.worst for one in each), start=NOTHING)
    return known[key]


def _one_price(members: list[Member]) -> bool:
    return len({str(price_of(member.config.instructor.model_dump())) for member in members}) == 1
