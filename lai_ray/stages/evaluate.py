"""The target sits the tests.  problems -> attempts

Training, dev and test problems go through one engine lifetime. Answers are kept as they come; grading is pure and
done again whenever a grader's code changes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lai_ray.common.plugins import code_hash
from lai_ray.config.config import Config
from lai_ray.contracts import DEFAULT_GRADING, Benchmark, Executor, Grading, Model
from lai_ray.errors import ConfigError, DataError, StageError
from lai_ray.grading.sandbox import runner
from lai_ray.instructor.rate_limit.meter import Meter
from lai_ray.instructor.rate_limit.window import MINUTE
from lai_ray.records import Attempt, Completion, Grade, Problem, Request
from lai_ray.stages.select import Part, RecordedPart, grading
from lai_ray.storage import model_folders
from lai_ray.storage.answers import Answers
from lai_ray.storage.run import Run, Stage
from lai_ray.storage.store import View, key_of, key_of_all
from lai_ray.training import model_card


@dataclass(frozen=True)
class Attempts:
    """The attempts of one iteration, one file a part, read anew at each pass."""

    stage: Stage
    key: str
    learning_key: str
    """Of the training attempts alone: a test set added later changes nothing in what is learned."""

    def of(self, benchmark: str, split: str) -> View[Attempt]:
        """The attempts of one benchmark's split."""
        return self.stage.view(_file(f"{benchmark}.{split}"), Attempt)

    def scores(self) -> dict[str, dict[str, Any]]:
        """Right and all, by part and by group, without opening the attempts."""
        scores: dict[str, dict[str, Any]] = self.stage.store.get_json("scores.json")
        return scores


@dataclass
class Tally:
    """Counts of one part, while its attempts are written."""

    n: int = 0
    right: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    groups: dict[str, list[int]] = field(default_factory=dict)
    further: Counter[str] = field(default_factory=Counter)
    ungraded: list[str] = field(default_factory=list)
    """Why the grader reached no verdict on an answer, the first few."""
    ungraded_n: int = 0
    levels: set[str] = field(default_factory=set)
    """Isolations that generated code ran in."""

    def add(self, attempt: Attempt, group: str) -> None:
        """Count one attempt."""
        self.n += 1
        self.right += attempt.right
        self.statuses[attempt.grade.status] += 1
        self.cut_off += attempt.cut_off
        counts = self.groups.setdefault(group, [0, 0])
        counts[0] += attempt.right
        counts[1] += 1
        self.further.update(attempt.grade.further)
        if attempt.grade.status == "error" and attempt.completion.error is None:
            self.ungraded_n += 1
            self.ungraded = [*self.ungraded, f"{attempt.id}: {attempt.grade.note}"][:3]

    def table(self) -> dict[str, Any]:
        """As it stands in scores.json."""
        groups = {name: {"right": r, "n": n} for name, (r, n) in sorted(self.groups.items())}
        further: dict[str, Any] = {"further": dict(self.further)} if self.further else {}
        if self.levels:
            further["weakest_tier"] = runner.weakest(self.levels)
        return {
            "n": self.n, "right": self.right, "cut_off": self.cut_off, **self.statuses, **further, "groups": groups
        }  # fmt: skip


def _file(part: str) -> str:
    return f"attempts/{part}.jsonl"


def request_for(problem: Problem, benchmark: Benchmark, target: Model, config: Config) -> Request:
    """The one greedy request for a problem. Its key holds what decides the answer: model, messages, sampling."""
    messages = benchmark.prompt(problem)
    settings = config.target
    # Greedy: a mistake is counted once, so the target must not be lucky on a second try.
    key = key_of(target.identity, messages, settings.max_new_tokens, settings.max_model_len, 0.0)
    return Request(id=f"{problem.id}#0", key=key, messages=messages, max_tokens=settings.max_new_tokens)


def graded(
    problem: Problem, request: Request, completion: Completion, benchmark: Benchmark, how: Grading = DEFAULT_GRADING
) -> Attempt:
    """The attempt with its verdict. A grader that fails says `error`, never "wrong": a false mistake buys tokens."""
    if completion.error is not None:
        grade = Grade(0.0, None, "none", "error", completion.error)
    else:
        try:
            grade = benchmark.grade(problem, completion.text, how)
        except ConfigError:  # the job asks for what this machine has not: no row can be graded
            raise
        except Exception as error:  # a plug-in's bug is data about that row, not the end of the stage
            grade = Grade(0.0, None, "none", "error", f"the grader failed: {type(error).__name__}: {error}")
    return Attempt(request.id, problem, request.messages, completion, grade)


@dataclass(frozen=True)
class Grader:
    """Grades what was answered, in this process or in a worker of the cluster."""

    benchmark: Benchmark
    how: Grading

    def __call__(self, answered: tuple[Problem, Request, Completion]) -> tuple[Attempt, str | None]:
        """The attempt, and the isolation in which its code ran, if any did."""
        attempt = graded(*answered, self.benchmark, self.how)
        return attempt, runner.level_in_use() if self.benchmark.runs_code else None


def evaluate(stage: Stage, parts: list[Part], target: Model, config: Config, executor: Executor) -> Attempts:
    """Every problem answered once and graded. Raises StageError past limits.max_failed_fraction."""
    asked = {part.name: _asked(part, target, config) for part in parts}
    key = _key(parts, asked, config)
    if not stage.done(key):
        with stage.answers() as answers:
            failed, spent = _generate(stage, answers, parts, target, config, executor)
            tallies = {part.name: _grade(stage, part, answers, failed, target, config, executor) for part in parts}
        scores = {name: tally.table() for name, tally in tallies.items()}
        stage.store.put_json("scores.json", scores)
        _write_card(stage.run, target, scores)
        stage.finish(key, answers=sum(tally.n for tally in tallies.values()), **spent)
    stage.reached()
    return Attempts(stage, key, _key([part for part in parts if part.split == "train"], asked, config))


def _write_card(run: Run, target: Model, scores: dict[str, Any]) -> None:
    """The scores go onto the card of a model of this run, and no other's."""
    if run.store.local:
        if Path(target.path).absolute().is_relative_to(run.store.local):
            model_card.write(target.path, scores)
    elif target.path.startswith(f"{run.store.where}/") and (lineage := model_folders.lineage_of(target.path)):
        name = f"{target.path.removeprefix(f'{run.store.where}/')}/{model_card.CARD}"
        run.store.put(name, model_card.text(lineage, scores).encode())


def key_for(parts: list[Part], target: Model, config: Config) -> str:
    """Of what these parts' attempts and verdicts depend on: questions, sampling, grading, and who is asked."""
    return _key(parts, {part.name: _asked(part, target, config) for part in parts}, config)


def answered(stage: Stage, parts: list[Part], target: Model, config: Config) -> bool:
    """Whether there is an answer to every question already, here or wherever answers are taken over from."""
    return next(_missing(parts, stage.answers(), target, config), None) is None


def _key(parts: list[Part], asked: dict[str, str], config: Config) -> str:
    """Of what these parts' attempts and verdicts depend on."""
    code = code_hash(*(part.benchmark for part in parts))
    return key_of([(part.name, asked[part.name]) for part in parts], grading(config), code)


def _asked(part: Part, target: Model, config: Config) -> str:
    """Hash of what a part asks. A recorded part's answers are known by its files, which the target is named by."""
    if isinstance(part, RecordedPart):
        return key_of(target.identity, part.limit, part.seed)
    return key_of_all(request_for(problem, part.benchmark, target, config).key for problem in part)


def _missing(parts: Iterable[Part], answers: Answers, target: Model, config: Config) -> Iterator[Request]:
    asked: set[bytes] = set()  # Half as large as the digits: there may be millions.
    for part in parts:
        for problem in () if isinstance(part, RecordedPart) else part:
            request = request_for(problem, part.benchmark, target, config)
            packed = bytes.fromhex(request.key)
            if request.key not in answers and packed not in asked:
                asked.add(packed)
                yield request


def _generate(
    stage: Stage, answers: Answers, parts: list[Part], target: Model, config: Config, executor: Executor
) -> tuple[dict[str, Completion], dict[str, float]]:
    """Ask what is not answered yet; returns the failures, by key, and the seconds it took."""
    total = sum(1 for _ in _missing(parts, answers, target, config))
    failed: dict[str, Completion] = {}
    if not total:
        return failed, {}
    meter: Meter | None = None
    with stage.progress.track(f"{stage.folder}: answers", total) as tracker:
        for answer in executor.generate(_missing(parts, answers, target, config), target):
            if answer.completion.error is None:
                answers.record(answer)
            else:
                failed[answer.key] = answer.completion
            now = time.monotonic()
            meter = meter or Meter(now)  # From the first answer: engines take their time to start.
            meter.add(now, answer.completion.completion_tokens)
            stage.progress.figures["tokens_per_second"] = meter.per_minute(now)[1] / MINUTE
            tracker.advance()
        spent = tracker.times()
    stop_past_limit(len(failed), total, config.limits.max_failed_fraction, next(iter(failed.values()), None))
    return failed, spent


def stop_past_limit(failed: int, total: int, limit: float, example: Completion | None) -> None:
    """Raises StageError when more than the allowed fraction of rows failed."""
    if failed > limit * total:
        raise StageError(
            f"{failed} of {total} requests failed, more than limits.max_failed_fraction = {limit:g} allows. "
            f"The first said: {example.error if example else 'nothing'}. The answers that came are kept; mend the "
            "cause, or raise the limit, and start the same command again."
        )


def _answered(
    part: Part, answers: Answers, failed: dict[str, Completion], target: Model, config: Config
) -> Iterator[tuple[Problem, Request, Completion]]:
    if isinstance(part, RecordedPart):
        for problem, messages, completion in part.answered():
            yield problem, Request(f"{problem.id}#0", "", messages, config.target.max_new_tokens), completion
        return
    for problem in part:
        request = request_for(problem, part.benchmark, target, config)
        if request.key not in failed and request.key not in answers:
            raise DataError(
                f"{request.id} was asked and never answered: the engine lost it. Start the same command again."
            )
        yield problem, request, failed.get(request.key) or answers.get(request.key)


def _grade(
    stage: Stage,
    part: Part,
    answers: Answers,
    failed: dict[str, Completion],
    target: Model,
    config: Config,
    executor: Executor,
) -> Tally:
    tally, grader = Tally(), Grader(part.benchmark, grading(config))
    # Code takes milliseconds each and is worth spreading; everything else is graded faster than it is sent.
    spread = executor.map if part.benchmark.runs_code else map

    def attempts() -> Iterator[Attempt]:
        for attempt, level in spread(grader, _answered(part, answers, failed, target, config)):
            tally.add(attempt, part.benchmark.group(attempt.problem))
            tally.levels |= {level} if level else set()
            yield attempt

    stage.write(_file(part.name), attempts(), Attempt)
    limit, shown = config.limits.max_failed_fraction, "; ".join(tally.ungraded)
    if part.benchmark.runs_code and tally.ungraded_n > limit * tally.n:
        raise StageError(
            f"{part.name}: {tally.ungraded_n} of {tally.n} answers got no verdict, more than "
            f"limits.max_failed_fraction = {limit:g} allows. The first: {shown}. The answers "
            "are kept; mend the cause, or raise the limit, and start the same command again."
        )
    return tally
