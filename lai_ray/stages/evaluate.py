"""The target answers the problems.  parts -> attempts

Training, dev and test problems share one engine lifetime. Answers are written as they come; grading is pure and
repeated when the code of a grader changes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lai_ray.common import plugins
from lai_ray.common.plugins import code_hash
from lai_ray.common.unread import WORDS
from lai_ray.config.settings import TargetSettings
from lai_ray.contracts import Benchmark, Executor, Grading, Model
from lai_ray.errors import ConfigError, DataError, StageError
from lai_ray.grading.answer_part import unclosed, without_thoughts
from lai_ray.grading.sandbox import runner
from lai_ray.instructor.rate_limit.meter import Meter
from lai_ray.instructor.rate_limit.window import MINUTE
from lai_ray.records import Attempt, Completion, Grade, Problem, Request
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part, RecordedPart
from lai_ray.storage import model_folders
from lai_ray.storage.answers import Answers
from lai_ray.storage.keys import key_of, key_of_all
from lai_ray.storage.run import Run, Stage
from lai_ray.storage.spool import Spool
from lai_ray.storage.store import View
from lai_ray.training import model_card


@dataclass(frozen=True)
class Attempts:
    """The attempts of one iteration, one file per part, read again at each pass."""

    stage: Stage
    key: str
    learning_key: str
    """The key of the training attempts alone: a test set added later does not change what is learned."""

    def of(self, benchmark: str, split: str) -> View[Attempt]:
        """The attempts of one benchmark's split."""
        return self.stage.view(_file(f"{benchmark}.{split}"), Attempt)

    def scores(self) -> dict[str, dict[str, Any]]:
        """Counts by part and group, without reading the attempts."""
        scores: dict[str, dict[str, Any]] = self.stage.store.get_json("scores.json")
        return scores


def attempts_in(stage: Stage) -> Attempts:
    """The attempts of a finished evaluation, to be read."""
    return Attempts(stage, "", "")


@dataclass
class Tally:
    """Counts the attempts of one part as they are written."""

    n: int = 0
    right: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    groups: dict[str, Counter[str]] = field(default_factory=dict)
    """By group: n, right, and what was not read (`common.unread`), where any was."""
    further: Counter[str] = field(default_factory=Counter)
    ungraded: list[str] = field(default_factory=list)
    """The first few answers that could not be graded, with the error."""
    ungraded_n: int = 0
    levels: set[str] = field(default_factory=set)
    """Isolation levels at which generated code ran."""

    def add(self, attempt: Attempt, group: str) -> None:
        """Count one attempt."""
        self.n += 1
        self.right += attempt.right
        self.statuses[attempt.grade.status] += 1
        self.cut_off += attempt.cut_off
        counts = self.groups.setdefault(group, Counter(right=0, n=0))
        counts.update(n=1, right=attempt.right)
        counts.update([name for name in (attempt.grade.status, *["cut_off"] * attempt.cut_off) if name in WORDS])
        self.further.update(attempt.grade.further)
        if attempt.grade.status == "error" and attempt.completion.error is None:
            self.ungraded_n += 1
            self.ungraded = [*self.ungraded, f"{attempt.id}: {attempt.grade.note}"][:3]

    def table(self) -> dict[str, Any]:
        """As in scores.json."""
        groups = {name: dict(counts) for name, counts in sorted(self.groups.items())}
        further: dict[str, Any] = {"further": dict(self.further)} if self.further else {}
        if self.levels:
            further["weakest_tier"] = runner.weakest(self.levels)
        return {
            "n": self.n, "right": self.right, "cut_off": self.cut_off, **self.statuses, **further, "groups": groups
        }  # fmt: skip


def _file(part: str) -> str:
    return f"attempts/{part}.jsonl"


def request_for(problem: Problem, benchmark: Benchmark, target: Model, settings: TargetSettings) -> Request:
    """The greedy request for a problem. Its key holds what decides the answer: model, messages, sampling."""
    messages = plugins.messages(benchmark.prompt(problem), f"prompt of benchmark {benchmark.name}")
    # Greedy: each problem is tried once, so chance must not decide.
    key = key_of(target.identity, messages, settings.max_new_tokens, settings.max_model_len, 0.0)
    return Request(id=f"{problem.id}#0", key=key, messages=messages, max_tokens=settings.max_new_tokens)


@dataclass(frozen=True, slots=True)
class Asked:
    """A problem and its request."""

    problem: Problem
    request: Request


class Prompts:
    """The requests of one part in the order of its problems, re-iterable; `key` is a hash of all.

    keep: keep them in a file, so that each is rendered once.
    """

    def __init__(self, part: Part, target: Model, settings: TargetSettings, *, keep: bool) -> None:
        self.part, self._target, self._settings = part, target, settings
        self._kept = Spool(self._rendered(), Asked) if keep else None
        if isinstance(part, RecordedPart):  # The target's identity is the hash of its files of answers.
            self.key = key_of(target.identity, part.limit, part.seed)
        else:
            self.key = key_of_all(asked.request.key for asked in self)

    def __iter__(self) -> Iterator[Asked]:
        return iter(self._rendered() if self._kept is None else self._kept)

    def _rendered(self) -> Iterator[Asked]:
        if not isinstance(self.part, RecordedPart):
            for problem in self.part:
                yield Asked(problem, request_for(problem, self.part.benchmark, self._target, self._settings))


def grade_of(benchmark: Benchmark, problem: Problem, response: str, how: Grading) -> Grade:
    """The verdict on a response without its thoughts; paper rules read them too. A grader that fails returns `error`,
    never "wrong": a false mistake costs instructor tokens.

    Raises ConfigError where this machine lacks what the job requires: then no row can be graded.
    """
    text = response if how.rules == "paper" else without_thoughts(response)
    if text is None:
        return unclosed()
    try:
        return benchmark.grade(problem, text, how)
    except ConfigError:
        raise
    except Exception as error:  # A plug-in's bug fails that row, not the stage.
        return Grade(0.0, None, "none", "error", f"the grader failed: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class Grader:
    """Grades an answer, in this process or in a worker of the cluster."""

    benchmark: Benchmark
    how: Grading

    def __call__(self, answered: tuple[Problem, Request, Completion]) -> tuple[Attempt, str | None]:
        """The attempt, and the isolation level at which its code ran, if it has any."""
        problem, request, completion = answered
        if completion.error is not None:
            grade = Grade(0.0, None, "none", "error", completion.error)
        else:
            grade = grade_of(self.benchmark, problem, completion.text, self.how)
        attempt = Attempt(request.id, problem, request.messages, completion, grade)
        return attempt, runner.level_in_use() if self.benchmark.runs_code else None


def evaluate(stage: Stage, parts: list[Part], target: Model, job: Job, executor: Executor) -> Attempts:
    """Answer every problem once and grade it. Raises StageError past limits.max_failed_fraction."""
    prompts = _prompts(parts, target, job, keep=not stage.store.exists("done.json"))
    key = _key(prompts, job.grading)
    if not stage.done(key):
        limit = job.config.limits.max_failed_fraction
        with stage.answers() as answers:
            failed, seconds = _generate(stage, answers, prompts, target, limit, executor)
            tallies = {
                each.part.name: _grade(stage, each, answers, failed, job.grading, limit, executor) for each in prompts
            }
        scores = {name: tally.table() for name, tally in tallies.items()}
        stage.store.put_json("scores.json", scores)
        _write_card(stage.run, target, scores)
        stage.finish(key, answers=sum(tally.n for tally in tallies.values()), **seconds)
    return Attempts(stage, key, _key([each for each in prompts if each.part.split == "train"], job.grading))


def key_for(parts: list[Part], target: Model, job: Job) -> str:
    """Hash of what decides these parts' attempts: questions, sampling, grading, and the target."""
    return _key(_prompts(parts, target, job), job.grading)


def answered(stage: Stage, parts: list[Part], target: Model, job: Job) -> bool:
    """Whether every question has an answer already, in this stage or in one whose answers are reused."""
    return next(_missing(_prompts(parts, target, job), stage.answers()), None) is None


def _prompts(parts: list[Part], target: Model, job: Job, *, keep: bool = False) -> list[Prompts]:
    return [Prompts(part, target, job.config.target, keep=keep) for part in parts]


def _key(prompts: Iterable[Prompts], how: Grading) -> str:
    asked = [(each.part.name, each.key) for each in prompts]
    return key_of(asked, how, code_hash(*(each.part.benchmark for each in prompts)))


def _missing(prompts: Iterable[Prompts], answers: Answers) -> Iterator[Request]:
    asked: set[bytes] = set()  # Packed: half as large as the digits, and there may be millions.
    for request in (one.request for each in prompts for one in each):
        packed = bytes.fromhex(request.key)
        if request.key not in answers and packed not in asked:
            asked.add(packed)
            yield request


def _generate(
    stage: Stage, answers: Answers, prompts: list[Prompts], target: Model, limit: float, executor: Executor
) -> tuple[dict[str, Completion], dict[str, float]]:
    """Ask what is not answered yet; returns the failures by key, and the seconds taken."""
    total = sum(1 for _ in _missing(prompts, answers))
    failed: dict[str, Completion] = {}
    if not total:
        return failed, {}
    meter: Meter | None = None
    with stage.progress.track(f"{stage.folder}: answers", total) as tracker:
        for answer in executor.generate(_missing(prompts, answers), target):
            if answer.completion.error is None:
                answers.record(answer)
            else:
                failed[answer.key] = answer.completion
            now = time.monotonic()
            meter = meter or Meter(now)  # From the first answer: engines are slow to start.
            meter.add(now, answer.completion.completion_tokens)
            stage.progress.figures["tokens_per_second"] = meter.per_minute(now)[1] / MINUTE
            tracker.advance()
        seconds = tracker.times()
    stop_past_limit(len(failed), total, limit, next(iter(failed.values()), None))
    return failed, seconds


def stop_past_limit(failed: int, total: int, limit: float, example: Completion | None) -> None:
    """Raises StageError when more than the allowed fraction of rows failed."""
    if failed > limit * total:
        raise StageError(
            f"{failed} of {total} requests failed, more than limits.max_failed_fraction = {limit:g} allows. "
            f"The first error: {example.error if example else 'none was given'}. All answers are kept; fix the cause "
            "or raise the limit, and start the same command again."
        )


def _answered(
    prompts: Prompts, answers: Answers, failed: dict[str, Completion]
) -> Iterator[tuple[Problem, Request, Completion]]:
    if isinstance(prompts.part, RecordedPart):
        for problem, messages, completion in prompts.part.answered():
            yield problem, Request(f"{problem.id}#0", "", messages, 0), completion
        return
    for problem, request in ((asked.problem, asked.request) for asked in prompts):
        if request.key not in failed and request.key not in answers:
            raise DataError(
                f"{request.id} was sent and never answered: the engine lost it. Start the same command again."
            )
        yield problem, request, failed.get(request.key) or answers.get(request.key)


def _grade(
    stage: Stage, prompts: Prompts, answers: Answers, failed: dict[str, Completion], how: Grading, limit: float,
    executor: Executor,
) -> Tally:  # fmt: skip
    part, tally = prompts.part, Tally()
    # Running code takes milliseconds each, so it is spread; all else is graded faster than it is sent.
    spread = executor.map if part.benchmark.runs_code else map

    def attempts() -> Iterator[Attempt]:
        for attempt, level in spread(Grader(part.benchmark, how), _answered(prompts, answers, failed)):
            tally.add(attempt, part.benchmark.group(attempt.problem))
            tally.levels |= {level} if level else set()
            yield attempt

    stage.write(_file(part.name), attempts(), Attempt)
    if part.benchmark.runs_code and tally.ungraded_n > limit * tally.n:
        raise StageError(
            f"{part.name}: {tally.ungraded_n} of {tally.n} answers could not be graded, more than "
            f"limits.max_failed_fraction = {limit:g} allows. The first: {'; '.join(tally.ungraded)}. All answers "
            "are kept; fix the cause or raise the limit, and start the same command again."
        )
    return tally


def _write_card(run: Run, target: Model, scores: dict[str, Any]) -> None:
    """Add the scores to the model card, if the model was trained in this run."""
    if run.store.local:
        if Path(target.path).absolute().is_relative_to(run.store.local):
            model_card.write(target.path, scores)
    elif target.path.startswith(f"{run.store.where}/") and (lineage := model_folders.lineage_of(target.path)):
        name = f"{target.path.removeprefix(f'{run.store.where}/')}/{model_card.CARD}"
        run.store.put(name, model_card.text(lineage, scores).encode())
