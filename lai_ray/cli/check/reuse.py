"""Which answers of existing runs a job would reuse. Without Ray or models.  replay -> tables"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

from rich.console import Console

from lai_ray.cli.check.dry_run import Replay, answers_of, folder_of, replayed
from lai_ray.cli.run import Admission, admission
from lai_ray.common import screen
from lai_ray.config.config import Config
from lai_ray.config.rehearsal import RehearsalSettings
from lai_ray.errors import ConfigError
from lai_ray.records import Attempt, Reply, Request
from lai_ray.report import tables
from lai_ray.report.tables import Table
from lai_ray.stages.early_stopping import model_names
from lai_ray.stages.select import RECORDED
from lai_ray.storage.answers import Answers
from lai_ray.storage.identity import causes_first, flat
from lai_ray.storage.run import STAGES, Run, Stage

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


def show(replay: Replay | None, config: Config, console: Console) -> None:
    """Print what a job would reuse of each run. Prints nothing for a run without answers."""
    for source in replay.run.reuse if replay else ():
        reused = reuse_of(source, config, replay)
        columns = ["stage", "answers", "apply", "differ", "first difference (there → now)"]
        rows = [stage.row() for stage in reused.stages]
        if rows:
            tables.show([Table(f"Answers to reuse from {source.store.where}", columns, rows, reused.end)], console)
        elif reused.end:
            screen.show(console, f"{source.store.where}: {reused.end}", wrap=True)


def refusal(run: Run, config: Config) -> ConfigError | None:
    """The error with which a start of this job would refuse its own run; None where it goes on with it."""
    try:
        run.check_same(config, admission(config, dict(run.record().get("folders", {}))).identity)
    except ConfigError as error:
        return error
    return None


def reuse_of(source: Run, config: Config, replay: Replay | None = None) -> RunReuse:
    """What a job reuses of a run, stage by stage, as far as it is known. replay: with it among others, made before."""
    if replay is None:
        with replayed(config, [source]) as replay:
            assert replay is not None
            return reuse_of(source, config, replay)
    change, recorded = _contrast_change(source, replay.admitted), dict[str, set[str]]()
    for store in answers_of(source):
        recorded.setdefault(folder_of(store, source).rpartition("/")[0], set()).update(Answers(store).keys())
    reached = {START.sub("/start/", folder) for folder in replay.run.reached}
    stages = [
        StageReuse(folder, len(keys), len(keys & replay.used), _why(replay, source, folder, change))
        for folder, keys in sorted(recorded.items(), key=lambda each: _order(each[0]))
        if keys and START.sub("/start/", folder) in reached
    ]
    return RunReuse(stages, _end(replay, source))


START = re.compile(r"/start_\d+/")


def _order(folder: str) -> tuple[int, int, str]:
    number, _, inside = folder.removeprefix("iteration_").partition("/")
    return int(number), STAGES.index(inside.split("/")[0]), folder


def _why(replay: Replay, source: Run, folder: str, contrast_change: str) -> str:
    """The first difference between what is asked in a stage and what is recorded there, or ""."""
    asked = [one for (where, _), missing in replay.executor.missing.items() if where == folder for one in missing.first]
    if folder in replay.executor.guessed:
        reason = replay.executor.guessed[folder]
        return f"{contrast_change} ({reason})" if contrast_change else reason
    stage, iteration = Stage(source, folder), int(folder.removeprefix("iteration_").partition("/")[0])
    for request in asked:
        dataset, _, rest = request.id.partition("/")
        if folder.endswith("/evaluate"):
            split = rest.partition("/")[0].replace(RECORDED, "train")
            difference = _difference(stage, f"attempts/{dataset}.{split}.jsonl", Attempt, request, replay.job.config)
        else:
            if contrast_change and replay.job.strategy(iteration, dataset).uses_neighbours:
                return contrast_change
            difference = _difference(stage, "replies.jsonl", Reply, request, replay.job.config)
        if difference:
            return difference
    return ""


def _end(replay: Replay, source: Run) -> str:
    """Where the job parts from a run: the first training of another model there, else where its answers end."""
    for folder, mine in replay.executor.trained.items():
        lineage = source.store.get_json(f"{folder}/checkpoint/lineage.json")
        if lineage is not None and lineage["name"] not in model_names(mine["name"], replay.job):
            there, now = flat(lineage), flat(mine)
            differ = (key for key in causes_first(now, now) if key != "name" and not key.startswith("names."))
            key = next((key for key in differ if there.get(key) != now[key]), "name")
            difference = f"{key}: {there.get(key)!r} there, {now[key]!r} now."
            return f"{folder}: the model there is not the one that this job would make. {difference}"
    if (folder := replay.end.partition(":")[0]).endswith("/rehearse"):
        return f"{replay.end} {_rehearsal_change(source, replay.job.config)}".strip()
    if folder.endswith("/instruct"):
        return f"{replay.end} With other replies, the samples and later models differ."
    return replay.end


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
        return _another_strategy(request, stage) if kind is Reply else ""
    section = "target" if kind is Attempt else "instructor"
    for before, after in zip(recorded, request.messages, strict=False):
        for one, other in itertools.zip_longest(before["content"].splitlines(), after["content"].splitlines()):
            if one != other:
                return f"{request.id}: {_short(one)} → {_short(other)}"
    earlier, present = (flat(table) for table in (stage.run.record()["config"], config.model_dump(mode="json")))
    for key in causes_first(present, present):
        if key.startswith("instructor.prompts."):
            continue  # The messages are equal, so this setting did not change the prompt.
        if (key == "seed" or key.startswith(f"{section}.")) and earlier.get(key) != present[key]:
            return f"{key}: {earlier.get(key)!r} → {present[key]!r}"
    return f"{request.id}: the same prompt to another {section}"


def _another_strategy(request: Request, stage: Stage) -> str:
    """ "strategy lec → le", where an attempt was the case of another strategy there; else ""."""
    attempt, _, rest = request.id.partition(">")
    now = rest.partition("@")[0]
    for reply in stage.view("replies.jsonl", Reply) if stage.store.exists("replies.jsonl") else ():
        other, _, there = reply.case_id.partition(">")
        if other == attempt and there != now:
            return f"strategy {there} → {now}"
    return ""


def _short(line: str | None) -> str:
    text = "nothing" if line is None else repr(line)
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…"


def _rehearsal_change(run: Run, config: Config) -> str:
    """The first difference in the settings of a rehearsal, or ""."""
    there, names = run.record()["config"]["curate"], RehearsalSettings.model_fields
    for name, now in config.curate.model_dump(include=set(names)).items():
        if (before := there.get(name, names[name].default)) != now:
            return f"curate.{name}: {before!r} there, {now!r} now."
    return ""
