"""Which answers of existing runs a job would reuse. Without Ray or models.  config, runs -> tables"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from lai_ray.cli.run import Admission, admission, existing
from lai_ray.config.config import Config
from lai_ray.config.rehearsal import RehearsalSettings
from lai_ray.contracts import Model
from lai_ray.errors import ConfigError
from lai_ray.records import Attempt, Case, Reply, Request
from lai_ray.report import tables
from lai_ray.report.tables import Table
from lai_ray.stages.calls import FOLDERS, Receivers, Recorded
from lai_ray.stages.dialogues import Dialogues
from lai_ray.stages.early_stopping import model_names
from lai_ray.stages.evaluate import attempts_in, request_for
from lai_ray.stages.instruct import planned, seeded_order, taken_in_order
from lai_ray.stages.job import Job
from lai_ray.stages.rehearse import samples_studied, stage_studied
from lai_ray.stages.select import select
from lai_ray.stages.train import training_key, training_set
from lai_ray.storage.answers import Answers
from lai_ray.storage.identity import flat
from lai_ray.storage.run import Run, Stage

MAX_LINE = 90
"""Characters shown of a differing line."""


@dataclass
class StageReuse:
    """Recorded answers of one stage of a run, and how many of them the job would reuse."""

    stage: str
    recorded: int
    reused: int
    difference: str = ""

    def row(self) -> list[str]:
        """As a row of the table."""
        counts = [self.recorded, self.reused, self.recorded - self.reused]
        why = (self.difference or "answers to other requests") if counts[-1] else ""
        return [self.stage, *(f"{n:,}" for n in counts), why]


@dataclass
class RunReuse:
    """What a job would reuse of a run."""

    stages: list[StageReuse] = field(default_factory=list)
    end: str = ""
    """Where and why the job diverges from this run."""


def show(config: Config, reuse: Sequence[Run], console: Console) -> None:
    """Print what the job would reuse of its own run and of these. Prints nothing for a run without answers."""
    own = existing(config)
    for run in [*([own] if own else []), *reuse]:
        reused = reuse_of(run, config)
        columns = ["stage", "answers", "apply", "differ", "first difference (there → now)"]
        rows = [stage.row() for stage in reused.stages]
        tables.show([Table(f"Answers to reuse from {run.store.where}", columns, rows, reused.end)], console)


def refusal(run: Run, config: Config) -> ConfigError | None:
    """The error with which a start of this job would refuse its own run; None where it goes on with it."""
    try:
        run.check_same(config, admission(config, dict(run.record().get("folders", {}))).identity)
    except ConfigError as error:
        return error
    return None


def reuse_of(run: Run, config: Config) -> RunReuse:
    """Stage by stage, up to the first model that differs."""
    reused = RunReuse()
    admitted = admission(config, dict(run.record().get("folders", {})))
    job, target = admitted.job, admitted.target
    for i in range(config.iterations + 1):
        stage = run.stage(i, "evaluate")
        if not stage.store.exists("done.json") and not stage.store.names("answers"):
            break
        if not (i == 0 and config.target.attempts):
            reused.stages.append(_target_answers(run, i, target, job))
        if i == config.iterations or config.search is not None:
            reused.end = "The answers of a search are not compared." if config.search is not None else ""
            break
        if run.stage(i, "instruct").store.names("answers") and run.stage(i, "diagnose").facts():
            reused.stages.append(_instructor_answers(run, i, Receivers(job, target), _contrast_change(run, admitted)))
            if reused.stages[-1].difference:
                reused.end = f"iteration_{i}/instruct: with other replies, the samples and later models differ."
                break
        lineage = run.stage(i, "train").store.get_json("checkpoint/lineage.json")
        if lineage is None or not run.stage(i, "curate").facts():
            break
        if change := _rehearsal_change(run, i, config):
            reused.end = f"iteration_{i}/rehearse: what is studied may differ. {change}"
            break
        name, difference = _training_difference(run, i, target, job, lineage)
        if difference:
            reused.end = f"iteration_{i}/train: the model there is not the one that this job would make. {difference}"
            break
        target = Model(target.path, name)
    return reused


def _target_answers(run: Run, i: int, target: Model, job: Job) -> StageReuse:
    stage = run.stage(i, "evaluate")
    answers = Answers(stage.store.inside("answers"))
    reused, first = 0, None
    for part in select(job, i):
        for problem in part:
            request = request_for(problem, part.benchmark, target, job.config.target)
            reused += request.key in answers
            first = first or (None if request.key in answers else (part.name, request))
    difference = ""
    if first and reused < len(answers):
        difference = _difference(stage, f"attempts/{first[0]}.jsonl", Attempt, first[1], job.config)
    return StageReuse(stage.folder, len(answers), reused, difference)


def _instructor_answers(run: Run, i: int, receivers: Receivers, contrast_change: str) -> StageReuse:
    stage, job = run.stage(i, "instruct"), receivers.job
    recorded = Recorded({to: Answers(stage.store.inside(folder)) for to, folder in FOLDERS.items()})
    plan: dict[str, dict[str, int]] = stage.store.get_json("plan.json") or {}
    view = run.stage(i, "diagnose").view("cases.jsonl", Case)
    reused, first = 0, None
    for dataset, count in run.stage(i, "diagnose").facts()["cases"].items():
        if not count or dataset not in job.config.evaluate.learn_from:
            continue
        strategy = job.dialogue(i, dataset)
        if strategy.uses_neighbours and contrast_change:
            first = first or contrast_change
            continue  # The recorded cases have other neighbours.
        numbers = planned([plan.get(dataset)], job.config.curate.most(dataset), count)
        settings = job.settings_for(i, dataset, samples_per_request=numbers["samples_per_request"])
        dialogues = Dialogues(strategy, job.benchmark(dataset), settings, receivers, recorded)
        order = seeded_order(view, dataset, job.config, i)
        for case, draw in taken_in_order(view, order, min(recorded.count, len(order) * 50)):
            if case.strategy != strategy.name:
                first = first or f"strategy {case.strategy} → {strategy.name}"
                continue
            replies, pending = dialogues.replay(case, draw)
            reused += len(replies)
            if pending and not first:
                first = _difference(stage, "replies.jsonl", Reply, pending.request, job.config)
    return StageReuse(stage.folder, recorded.count, reused, first or "")


def _contrast_change(run: Run, admitted: Admission) -> str:
    """The first difference in what decides the neighbours of a mistake, or ""."""
    identities = run.record()["identity"], admitted.identity
    there, now = ({**each["contrast"], "encoder": each["content"].get("encoder")} for each in identities)
    changed = [key for key in ("neighbours", "text", "within", "encoder") if there.get(key) not in (None, now[key])]
    return f"contrast.{changed[0]}: {there[changed[0]]!r} → {now[changed[0]]!r}" if changed else ""


def _difference(stage: Stage, name: str, kind: type[Attempt | Reply], request: Request, config: Config) -> str:
    """The first difference of a request to its record in a file of the stage, in its prompt or in a setting."""
    records = stage.view(name, kind) if stage.store.exists(name) else ()
    recorded = next((record.messages for record in records if record.id == request.id), None)
    if recorded is None:
        return ""
    section = "target" if kind is Attempt else "instructor"
    for before, after in zip(recorded, request.messages, strict=False):
        for one, other in itertools.zip_longest(before["content"].splitlines(), after["content"].splitlines()):
            if one != other:
                return f"{request.id}: {_short(one)} → {_short(other)}"
    earlier, present = (flat(table) for table in (stage.run.record()["config"], config.model_dump(mode="json")))
    for key in sorted(present):
        if key.startswith("instructor.prompts."):
            continue  # The messages are equal, so this setting did not change the prompt.
        if (key == "seed" or key.startswith(f"{section}.")) and earlier.get(key) != present[key]:
            return f"{key}: {earlier.get(key)!r} → {present[key]!r}"
    return f"{request.id}: the same prompt to another {section}"


def _short(line: str | None) -> str:
    text = "nothing" if line is None else repr(line)
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…"


def _rehearsal_change(run: Run, i: int, config: Config) -> str:
    """The first difference in the settings of a rehearsal, or ""."""
    there, names = run.record()["config"]["curate"], RehearsalSettings.model_fields
    for name, now in config.curate.model_dump(include=set(names)).items():
        if (before := there.get(name, names[name].default)) != now:
            return f"curate.{name}: {before!r} there, {now!r} now."
    return "" if run.stage(i, stage_studied(config)).facts() else "It is not complete there."


def _training_difference(run: Run, i: int, target: Model, job: Job, lineage: dict[str, Any]) -> tuple[str, str]:
    """The name of the model that this job would make of the samples there, and its first difference (or "")."""
    evaluated = run.stage(i, "evaluate")
    attempts = attempts_in(evaluated)
    if any(not evaluated.store.exists(f"attempts/{name}.train.jsonl") for name in job.config.evaluate.learn_from):
        return "", "evaluate.learn_from names benchmarks that were not attempted there."
    samples = samples_studied(run, f"iteration_{i}", job.config)
    name, mine = training_key(training_set(samples, attempts, i, job), job.base(target), i, job)
    if lineage["name"] in model_names(name, job):
        return lineage["name"], ""
    there, now = flat(lineage), flat(mine)
    key = next((k for k in sorted(now) if k != "name" and there.get(k) != now[k]), "name")
    return name, f"{key}: {there.get(key)!r} there, {now[key]!r} now."
