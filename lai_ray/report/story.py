"""One problem from mistake to sample: attempt, case, instructor's reply, samples, next attempt.  run, id -> chapters"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from lai_ray.errors import ConfigError
from lai_ray.grading.answer_part import thoughts, without_thoughts
from lai_ray.instructor.prompts.built_in import explained
from lai_ray.instructor.spending.ledger import entries
from lai_ray.records import UNCLOSED, Attempt, Case, Reply, Sample
from lai_ray.report import facts
from lai_ray.report.annotation_sheet import question_of
from lai_ray.stages.select import RECORDED
from lai_ray.storage.run import Run
from lai_ray.storage.store import View

T = TypeVar("T")


@dataclass(frozen=True)
class Chapter:
    """A heading and a text."""

    title: str
    text: str


def some_case(run: Run) -> str:
    """The id of a problem with a story: the first with a kept sample, else the first asked about, else the first case.

    Raises ConfigError when there is neither.
    """
    for pool in facts.pools(run):
        for sample in _records(pool, "curate", "samples.jsonl", Sample):
            return sample.id.partition("#")[0]
    for pool in facts.pools(run):
        for reply in _records(pool, "instruct", "replies.jsonl", Reply):
            return reply.id.partition("#")[0]
        # Before the stage is complete. Sorted: answers come in any order.
        sends = entries(
            pool.stage("instruct").store.inside("answers"), run.record()["config"]["instructor"]["max_tokens"]
        )
        if asked := sorted(send.id for send in sends if send.id):
            return asked[0].partition("#")[0]
    for pool in facts.pools(run):
        for case in _records(pool, "diagnose", "cases.jsonl", Case):
            return case.attempt.problem.id
    raise ConfigError(f"{run.store.where}: no mistake was diagnosed yet, so there is no story to show")


def story(run: Run, problem_id: str) -> list[Chapter]:
    """The chapters of one problem in a run. Raises ConfigError when the run has no attempt at it."""
    problem_id = problem_id.partition("#")[0]
    chapters = [chapter for iteration in facts.iterations(run) for chapter in _of(iteration, problem_id)]
    if not chapters:
        raise ConfigError(
            f"{run.store.where}: no attempt at {problem_id!r}. Ids look like {some_case(run)!r}; "
            "all are in iteration_0/evaluate/attempts/."
        )
    return chapters


def _of(iteration: facts.Iteration, problem_id: str) -> Iterator[Chapter]:
    where = f"iteration {iteration.number}"
    benchmark, _, rest = problem_id.partition("/")
    split = rest.partition("/")[0]
    part = f"{benchmark}.{'train' if split == RECORDED else split}"
    if part in iteration.scores():
        for attempt in facts.attempts(iteration, part):
            if attempt.problem.id == problem_id:
                yield from _answered(f"{where}: the target", "answers", attempt)
    for pool in iteration.pools():
        yield from _in_pool(pool, problem_id)


def _in_pool(pool: facts.Pool, problem_id: str) -> Iterator[Chapter]:
    where = f"iteration {pool.name}"
    for case in _records(pool, "diagnose", "cases.jsonl", Case):
        if case.attempt.problem.id == problem_id and case.contrasts:
            yield Chapter(f"{where}: similar questions answered correctly", _contrasts(case))
    for reply in _records(pool, "instruct", "replies.jsonl", Reply):
        if reply.case_id.partition("#")[0] == problem_id:
            turn = f", turn {reply.turn + 1}" if reply.turn else ""
            yield Chapter(f"{where}: the instructor is asked{turn}", reply.messages[-1]["content"])
            mistake = explained(reply.completion.text).mistake
            if mistake is not None:
                yield Chapter(f"{where}: the instructor explains the mistake", mistake)
            cut_off = "\n(cut off at instructor.max_tokens)" if reply.completion.finish_reason == "length" else ""
            yield Chapter(f"{where}: the instructor writes{turn}", f"{reply.completion.text}{cut_off}")
    for name, title in (("attempts.jsonl", "rehearses"), ("hints.jsonl", "tries again after a hint")):
        for attempt in _records(pool, "rehearse", name, Attempt):
            if attempt.id.partition("#")[0] == problem_id:
                yield from _answered(f"{where}: the target", title, attempt)
    rehearsed = pool.stage("rehearse").store.exists("samples.jsonl")
    last = "rehearse" if rehearsed else "curate"
    for stage, name in ((last, "samples.jsonl"), ("rehearse", "dropped.jsonl"), ("curate", "dropped.jsonl")):
        for sample in _records(pool, stage, name, Sample):
            if sample.id.partition("#")[0] == problem_id:
                outcome = f"dropped, {sample.dropped}" if sample.dropped else "learned"
                outcome += f", {sample.note}" if sample.note and not sample.dropped else ""
                yield Chapter(f"{where}: {outcome}", _sample(sample))


def _records(pool: facts.Pool, stage: str, name: str, kind: type[T]) -> Iterator[T]:
    folder = pool.stage(stage)
    if folder.store.exists(name):
        yield from View(folder.store, name, kind)


def _answered(who: str, what: str, attempt: Attempt) -> Iterator[Chapter]:
    """An attempt, its thoughts in a chapter of their own."""
    if thought := thoughts(attempt.completion.text):
        yield Chapter(f"{who} thinks", thought)
    yield Chapter(f"{who} {what}", _attempt(attempt))


def _attempt(attempt: Attempt) -> str:
    text = attempt.completion.text
    if thoughts(text):
        text = (without_thoughts(text) or f"(no answer: {UNCLOSED})").strip()
    verdict = "right" if attempt.right else f"not right ({attempt.grade.status})"
    cut_off = "\n(cut off at the token limit)" if attempt.completion.finish_reason == "length" else ""
    return (
        f"{question_of(attempt.problem)}\n\n{text}{cut_off}\n\n"
        f"Read as {attempt.grade.answer!r} by rule {attempt.grade.rule}; the reference answer is "
        f"{attempt.problem.answer!r}: {verdict}."
    )


def _contrasts(case: Case) -> str:
    shown = (f"{c.distance:.4f}  {c.attempt.problem.id}  {question_of(c.attempt.problem)}" for c in case.contrasts)
    return "\n".join(shown)


def _sample(sample: Sample) -> str:
    turns = "\n".join(turn.text for turn in sample.turns)
    return f"{sample.id}\n{question_of(sample.problem)}\n\n{turns}"
