"""What a sweep will ask of the instructor, before it is started.  Sweep -> table"""

from __future__ import annotations

from lai_ray.cli.sweep.file import Member, Sweep
from lai_ray.cli.sweep.runs import finished, first_evaluation, first_pool, sharing
from lai_ray.config.config import Config
from lai_ray.instructor.spending.budget import NOTHING, Amount, price_of
from lai_ray.report.tables import Table
from lai_ray.stages.cost_forecast import ACCURACIES, before_evaluation
from lai_ray.storage.store import key_of

NOT_ASKED = {"name", "storage", "seed", "train", "cluster", "report", "limits", "iterations"}
"""Settings on which an iteration's calls do not depend."""


def table(sweep: Sweep) -> Table:
    """Calls, tokens and money of all runs that are not done, for stated accuracies of the target.

    Raises DataError or ConfigError when the training problems cannot be read.
    """
    todo = [member for member in sweep.members if not finished(member)]
    pools = [group[0].config for group in sharing(todo, first_pool)]
    later = sum(max(member.config.iterations - 1, 0) for member in todo)
    evaluations, firsts = len(sharing(todo, first_evaluation)), len(pools)
    found = Table(
        "Instructor calls of the runs that are not done", ["training accuracy", "calls", "tokens", "US$"],
        note=f"{len(todo)} runs. Asked once for all that share them: first evaluations ({evaluations}) and first pools "
        f"of replies ({firsts}). Of one run each: pools of later iterations ({later}). Estimated as by `lai check`; "
        "below it, at most. What a run that has begun has paid for counts here again.",
    )  # fmt: skip
    made: dict[str, tuple[Amount, Amount]] = {}
    for accuracy in ACCURACIES if pools else ():
        likely = worst = NOTHING
        asked = [*pools, *(m.config for m in todo for _ in range(1, m.config.iterations))]
        for config in asked:
            likely, worst = (a + b for a, b in zip((likely, worst), _iteration(config, accuracy, made), strict=True))
        price = price_of(asked[0].instructor.model_dump()) if _alike(todo) else None
        usd = f"{price.usd(likely):,.2f}\n≤ {price.usd(worst):,.2f}" if price else "–"
        found.rows.append([f"{accuracy:.0%}", f"{likely.calls:,}", f"{likely.tokens:,}\n≤ {worst.tokens:,}", usd])
    return found


def _iteration(config: Config, accuracy: float, made: dict[str, tuple[Amount, Amount]]) -> tuple[Amount, Amount]:
    """Likely and at most, of one iteration; equal configurations are worked out once."""
    key = key_of(config.model_dump(mode="json", exclude=NOT_ASKED), accuracy)
    if key not in made:
        each = before_evaluation(config, accuracy).values()
        made[key] = sum((one.likely for one in each), start=NOTHING), sum((one.worst for one in each), start=NOTHING)
    return made[key]


def _alike(members: list[Member]) -> bool:
    """Whether all pay one price."""
    return len({str(price_of(member.config.instructor.model_dump())) for member in members}) == 1
