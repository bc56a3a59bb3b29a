"""Everything that would stop a run, for one verdict of `lai check`.  config -> findings"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lai_ray.cli.check import look, machine, memory, names, reuse
from lai_ray.cli.check.memory import TIGHT
from lai_ray.config.config import Config
from lai_ray.errors import LaiError
from lai_ray.report.tables import Table
from lai_ray.stages.job import Job
from lai_ray.storage.run import Run
from lai_ray.training.rendering import Finding


def here(config: Config, run: Run | None, *, cluster: bool) -> list[Finding]:
    """What this machine shows. run: the job's own.  cluster: its resources are looked at there, not here."""
    job = Job.of(config)
    errors = [reuse.refusal(run, config) if run else None, names.key_problem(config)]
    found = [Finding(str(error)) for error in errors if error]
    found += [*machine.findings(job, cluster=cluster), *look.findings(job)]
    # An estimate, and of this machine: no reason to refuse.
    found += [
        Finding(f"{table.title} (its table is above)", False) for table in memory.of(config) if TIGHT in table.title
    ]
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
