"""Everything that would stop a run, for one verdict of `lai check`.  config -> findings"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lai_ray.cli.check import look, machine, memory, names
from lai_ray.cli.check.memory import TIGHT
from lai_ray.common.findings import Finding
from lai_ray.config.config import Config
from lai_ray.errors import LaiError
from lai_ray.instructor.provider import probe
from lai_ray.report.tables import Table
from lai_ray.stages.job import Job


def here(config: Config, *, cluster: bool, probing: bool) -> list[Finding]:
    """What this machine shows. cluster: its resources are looked at there, not here.  probing: ask the instructor's
    server one small request, whose cost is shown and counts in no run.
    """
    job, key = Job.of(config), names.key_problem(config)
    found = [Finding(key)] if key else []
    found += [*machine.findings(job, cluster=cluster), *look.findings(job)]
    # An estimate, and of this machine: no reason to refuse.
    found += [
        Finding(f"{table.title} (its table is above)", False) for table in memory.of(config) if TIGHT in table.title
    ]
    if job.asks_instructor and not key and probing and probe.askable(config.instructor):
        found += probe.probe(config.instructor).findings
    return list(dict.fromkeys(found))  # Both look for the models.


def there(config: Config, show: Callable[[list[Table]], None]) -> list[Finding]:
    """What every node of the cluster shows. show: prints its tables."""
    from lai_ray.distributed.cluster import capacity, storage_check

    try:
        joined = storage_check.cluster(config)
        verdicts = capacity.verdicts(capacity.needs(config), joined.resources, joined.groups)
        capacities = capacity.table(verdicts, joined.resources, joined.groups)
        show([storage_check.table(joined.nodes, config.storage), capacities])
        steps = [partial(storage_check.refuse, joined.nodes, config.storage), partial(capacity.refuse, verdicts)]
    except LaiError as error:
        return [Finding(str(error))]
    return list(machine.refused(steps))
