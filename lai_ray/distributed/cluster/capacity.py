"""Whether the cluster has the resources that a job asks for: now, after it has grown, or never.  config -> verdicts"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lai_ray.common.plugins import load
from lai_ray.config.config import Config
from lai_ray.distributed.cluster.resources import CALLER_CPUS, MAP_CPUS, Group, Resources, describe
from lai_ray.errors import ConfigError
from lai_ray.report.tables import Table
from lai_ray.stages.job import Job


@dataclass(frozen=True)
class Need:
    """Equal actors that one stage places."""

    stage: str
    what: str
    count: int
    each: Resources
    together: bool = False
    """Whether all must be placed before any starts; otherwise one is enough, and the others join later."""


@dataclass(frozen=True)
class Verdict:
    """How many of a need's actors the cluster can place."""

    need: Need
    now: int
    """On the running nodes, if they were otherwise idle."""
    grown: int
    """After the autoscaler has added all it may."""
    known: bool = True
    """Whether it is known what it may add."""

    @property
    def ever(self) -> bool:
        """Whether its stage can ever run, or that is unknown."""
        return not self.known or self.grown >= (self.need.count if self.need.together else 1)

    def words(self) -> str:
        """For the table and the error."""
        count = self.need.count
        if self.now >= count:
            return "fits"
        if not self.known:
            return f"{self.now} of {count} fit now; it is not known whether an autoscaler adds nodes"
        if self.grown >= count:
            return f"{self.now} of {count} fit now; the stage waits for the autoscaler to add nodes"
        if not self.ever:
            why = "no node has that much" if not self.grown else f"only {self.grown} of {count} ever fit"
            return f"NEVER: {why} ({describe(self.need.each)} each); ask for less, or add nodes"
        return f"{self.grown} of {count} ever fit: these do all the work; ask for {self.grown}, or add nodes"


def needs(config: Config) -> Iterator[Need]:
    """What each stage of a job places, in the order of the stages."""
    cluster, job = config.cluster, Job.of(config)
    gpus = cluster.gpus_per_replica * config.target.tensor_parallel
    yield Need("evaluate", "engines", cluster.target_replicas, _bundle(cluster.cpus_per_replica, gpus))
    if any(job.benchmark(name).runs_code for name in (*config.evaluate.learn_from, *config.evaluate.report_on)):
        yield Need("evaluate", "grading of code", 1, _bundle(MAP_CPUS, 0))
    if not config.iterations:
        return
    if any(load("strategies", name).uses_neighbours for name in config.strategies):
        each = _bundle(cluster.cpus_per_replica, cluster.gpus_per_replica)
        yield Need("diagnose", "encoders", cluster.target_replicas, each)
    if config.instructor.in_cluster:
        held = cluster.gpus_per_replica * config.instructor.tensor_parallel
        each = _bundle(cluster.cpus_per_replica, held)
        yield Need("instruct", "instructor engines", cluster.instructor_replicas, each)
    else:
        yield Need("instruct", "callers", cluster.instructor_workers, _bundle(CALLER_CPUS, 0))
    each = _bundle(cluster.cpus_per_worker, cluster.gpus_per_worker)
    yield Need("train", "workers", cluster.train_workers, each, together=True)


def verdicts(wanted: Iterable[Need], nodes: Sequence[Resources], groups: Sequence[Group] | None = ()) -> list[Verdict]:
    """Each need by itself, since stages run one after the other. groups: None if it is unknown what may be added."""
    result = []
    for need in wanted:
        now = sum(_fitting(need, node) for node in nodes)
        more = sum(group.more * _fitting(need, group.each) for group in groups or ())
        result.append(Verdict(need, now, now + more, known=groups is not None))
    return result


def _fitting(need: Need, node: Resources) -> int:
    """How many of its equal actors one node holds."""
    asked = [(kind, amount) for kind, amount in need.each.items() if amount]
    return min([math.floor(node.get(kind, 0) / amount + 1e-9) for kind, amount in asked], default=sys.maxsize)


def table(judged: Sequence[Verdict], nodes: Sequence[Resources], groups: Sequence[Group] | None) -> Table:
    """For `lai check --cluster`."""
    made = Table("Resources in the cluster", ["stage", "what", "each asks for", "verdict"])
    for verdict in judged:
        need = verdict.need
        what = f"{need.count} {need.what}" + (", together" if need.together else "")
        made.rows.append([need.stage, what, describe(need.each), verdict.words()])
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU", "memory")}
    many = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    made.note = f"{many} with {describe(total)}. Stages run one after the other and never share a GPU."
    if groups:
        may = ", ".join(f"{group.more} {group.name} ({describe(group.each)})" for group in groups)
        made.note += f" The autoscaler may add {may}."
    elif groups is None:
        made.note += " It is not known what an autoscaler may add: see the file that made the cluster."
    return made


def refuse(judged: Iterable[Verdict]) -> None:
    """Raises ConfigError that names each stage which can never run."""
    if never := [verdict for verdict in judged if not verdict.ever]:
        lines = [f"  {v.need.stage}, {v.need.count} {v.need.what}: {v.words().removeprefix('NEVER: ')}" for v in never]
        raise ConfigError("the cluster does not have the resources for\n" + "\n".join(lines) + "\nNothing was started.")


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus}
