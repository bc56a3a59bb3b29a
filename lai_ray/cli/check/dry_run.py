"""Replays a job's loop on what other runs have recorded, asking and training nothing.  job, runs -> Replay

The stages are the run's own, so `lai check` counts what `lai run` then does. They work in a temporary folder; where an
answer is missing, it is counted and an empty one takes its place, and the loop ends after that stage.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from lai_ray.cli.check.dry_executor import DryExecutor, NotKnown
from lai_ray.cli.run import Admission, admission
from lai_ray.config.config import Config
from lai_ray.contracts import Model
from lai_ray.errors import ConfigError, LaiError
from lai_ray.loop import improve
from lai_ray.stages.calls import FOLDERS
from lai_ray.stages.evaluate import evaluate, key_for, request_for
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part, select
from lai_ray.storage.answers import Answers
from lai_ray.storage.run import ASKED_AGAIN, Run, Stage, Stopped
from lai_ray.storage.store import Store

WEIGHTS = re.compile(r"(^|/)\.?checkpoint[^/]*/(?!lineage\.json$)")
"""Files in a model's folder, but for its lineage."""
KEPT_APART = re.compile(r"(^|/)(answers|target_answers|judge_answers|tensorboard|tune)/")
"""Files that no later stage reads, and answers, which are looked up where they are."""
FREE = {"max_calls": None, "max_tokens": None, "max_usd": None, "max_failed_fraction": 1.0}
"""Limits of a replay: nothing is spent, and nothing fails."""


class DryRun(Run):
    """A run in a temporary folder. `reuse` has the runs that it is replayed from, the job's own first."""

    def __init__(self, where: str, sources: Sequence[Run], wording: str) -> None:
        super().__init__(where, create=True)
        self.wording = wording
        """Hash of the built-in prompts, which are in the keys of requests and not in that of a stage."""
        self.reuse, self.dry, self.start = sources, True, 1
        self.reached: dict[str, str] = {}
        """By folder of a stage that the loop came to: the run from which it was taken complete; "" for none."""

    def prepare(self, stage: Stage, key: str) -> None:
        """Link the files of a complete stage of a source here, so that neither its grading is repeated."""
        if self.reached.get(stage.folder):
            return
        self.reached[stage.folder] = ""
        for source in self.reuse:
            if stage.name == "instruct" and _wording(source.record()["identity"]) != self.wording:
                continue  # Its replies are looked up one by one.
            if (source.store.get_json(f"{stage.folder}/done.json") or {}).get("key") == key:
                self.reached[stage.folder] = source.store.where
                for name in source.store.names(stage.folder):
                    if not WEIGHTS.search(name) and not KEPT_APART.search(name):
                        _link(source.store, name, self.store)
                return

    def copy_model(self, source: Store, target: str) -> None:
        """Its lineage alone: no weights are needed here."""
        _link(source, "lineage.json", Store(target))


def _wording(identity: dict[str, Any]) -> str:
    return str(identity["content"].get("prompts", ""))


def _link(source: Store, name: str, target: Store) -> None:
    """One file by a link, or from an object store by a copy."""
    assert target.local is not None
    here = target.local / name
    if source.local is None:
        target.put(name, source.get(name) or b"")
    else:
        here.parent.mkdir(parents=True, exist_ok=True)
        here.unlink(missing_ok=True)
        here.symlink_to(source.local / name)


@dataclass
class Replay:
    """How far a job's loop comes with what is recorded."""

    run: DryRun
    admitted: Admission
    executor: DryExecutor
    tests: set[str] = field(default_factory=set)
    """Keys of answers to tests that apply. Tests are not graded here."""
    iteration: int = 0
    """The last that it came to."""
    partly: dict[str, int] = field(default_factory=dict)
    """By dataset, the training problems in that iteration that have no answer; those without are not in it."""
    end: str = ""
    """Where it ends before the job does, and why; "" where nothing is left to ask."""

    @property
    def job(self) -> Job:
        """The job, with its models located."""
        return self.admitted.job

    def go(self) -> None:
        """The loop, as far as it is known."""
        job = replace(self.job, config=_without_limits(self.job.config))
        try:
            self._loop(job, self.admitted.target)
        except Stopped as stopped:
            self.end = f"{stopped}: {self.executor.missing_text(str(stopped))}."
        except (NotKnown, LaiError) as error:
            self.end = f"{self.run.progress.folder}: {str(error).rstrip('.')}."

    def _loop(self, job: Job, target: Model) -> None:
        for self.iteration in range(job.config.iterations + 1):
            stage, parts = self.run.stage(self.iteration, "evaluate"), select(job, self.iteration)
            if parts:
                self.run.prepare(stage, key_for(parts, target, job))
            if not stage.facts():
                self._count_tests(stage, [part for part in parts if part.split == "test"], target, job)
                parts = [part for part in parts if part.split != "test"]
            if self.iteration == job.config.iterations:
                break
            attempts = evaluate(stage, parts, target, job, self.executor)
            self.partly = self.executor.training_problems(stage.folder)
            if len(self.partly) < len(job.config.evaluate.learn_from):  # What the others ask is known.
                target = improve(self.run, self.iteration, attempts, target, job, self.executor)
            if self.executor.unknown:
                raise Stopped(self.executor.unknown)

    def _count_tests(self, stage: Stage, parts: list[Part], target: Model, job: Job) -> None:
        answers, folder = stage.answers(), stage.folder
        for part in parts:
            for problem in part:
                request = request_for(problem, part.benchmark, target, job.config.target)
                if request.key in answers:
                    self.tests.add(request.key)
                else:
                    self.executor.count(folder, "target", request)

    @cached_property
    def used(self) -> set[str]:
        """The keys of all recorded answers that apply."""
        keys = set(self.tests)
        for store in answers_of(self.run):
            if folder_of(store, self.run).rpartition("/")[0] not in self.executor.guessed:
                keys |= {answer.key for answer in Answers(store).inherited()}
        for folder, where in self.run.reached.items():
            if where:
                keys |= _used_in(Stage(self.run, folder), Run(where))
        return keys


def answers_of(run: Run) -> Iterator[Store]:
    """Every folder with answers."""
    for ending in (f"{stage}/{folder}" for stage in ASKED_AGAIN for folder in FOLDERS.values()):
        yield from run.stores_of(ending)


def folder_of(store: Store, run: Run) -> str:
    """Relative to the run's."""
    return store.where.removeprefix(run.store.where).strip("/")


class _Done(msgspec.Struct):
    error: str | None = None


class _Named(msgspec.Struct):
    id: str = ""
    completion: _Done | None = None


def _used_in(stage: Stage, source: Run) -> set[str]:
    """The keys of the source's answers that the records of a complete stage are made of."""
    decoder, ids = msgspec.json.Decoder(_Named), set[str]()
    for name in stage.store.names():
        if re.search(r"(^|/)(attempts/.*|attempts|replies|hints|solutions)\.jsonl$", name):
            records = map(decoder.decode, stage.store.lines(name))
            ids |= {each.id for each in records if each.completion and each.completion.error is None}
    mine = [store for store in answers_of(source) if f"{folder_of(store, source)}/".startswith(f"{stage.folder}/")]
    recorded = (answer for store in map(Answers, mine) for answer in (*store.paid(), *store.inherited()))
    return {answer.key for answer in recorded if answer.id in ids}


def _without_limits(config: Config) -> Config:
    return config.model_copy(update={"limits": config.limits.model_copy(update=FREE)})


@contextmanager
def replayed(config: Config, sources: Sequence[Run]) -> Iterator[Replay | None]:
    """A job as far as these runs, its own first, or files with the target's answers have it recorded.

    None for neither, and where a model that the job names is not there.
    """
    if not sources and not config.target.attempts:
        yield None
        return
    known = {name: value for run in reversed(sources) for name, value in run.record().get("folders", {}).items()}
    try:
        admitted = admission(config, known)
    except ConfigError:  # `lai_ray.cli.check.findings` has it.
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="lai-check-") as folder:
        run = DryRun(str(Path(folder) / config.name), sources, _wording(admitted.identity))
        replay = Replay(run, admitted, DryExecutor(run, config))
        replay.go()
        yield replay
