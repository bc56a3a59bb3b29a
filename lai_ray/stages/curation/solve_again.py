"""A paid check of samples: the instructor solves each new problem again, without its answer, and must agree.

    curate.solve_again = true

A wrapper around any strategy. When its dialogue is over, the instructor is asked each sample not yet dropped as the
benchmark asks the target, one per turn; the benchmark grades the solution against the sample's own answer. These calls
are instructor calls like any other: recorded, within the budget, and never repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lai_ray.contracts import Benchmark, Executor, Grading, Strategy, StrategySettings
from lai_ray.grading.answer_part import unclosed, without_thoughts
from lai_ray.records import Ask, Attempt, Case, Grade, Message, Reply, Sample
from lai_ray.storage.keys import key_of

DISAGREES = "solved again with another answer"
UNPARSED = "solved again without an answer"
NOT_SOLVED = "not solved again"
"""The call failed."""


class SolvedAgain:
    """A strategy whose samples are kept only where a second solution agrees; all else is the inner strategy's.

    A call for a second solution that fails drops its own sample only.
    """

    def __init__(self, inner: Strategy, grading: Grading) -> None:
        self.inner, self._grading = inner, grading
        self._to_solve: dict[str, list[bool]] = {}
        """By a hash of a dialogue's replies, the samples to solve: it is replayed many times."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)

    def cases(self, attempts: Iterable[Attempt], settings: StrategySettings, executor: Executor) -> Iterator[Case]:
        """The inner strategy's."""
        return self.inner.cases(attempts, settings, executor)

    def next(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> Ask | None:
        """The inner dialogue's next request; after its end, the problem of the next sample."""
        turns, ask = self._inner_turns(case, replies, benchmark, settings)
        if ask is not None:
            return ask
        solved = {_text(reply.messages) for reply in replies[turns:]}
        samples = self._samples(case, replies[:turns], benchmark, settings)
        prompts = (benchmark.prompt(sample.problem) for sample, to_solve in samples if to_solve)
        prompt = next((prompt for prompt in prompts if _text(prompt) not in solved), None)
        return None if prompt is None else Ask("instructor", prompt)

    def samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[Sample]:
        """The inner samples, dropped where the second solution disagrees."""
        turns, _ = self._inner_turns(case, replies, benchmark, settings)
        solutions = {_text(reply.messages): reply for reply in replies[turns:]}
        return [
            self._compared(sample, solutions.get(_text(benchmark.prompt(sample.problem))), benchmark)
            if to_solve
            else sample
            for sample, to_solve in self._samples(case, replies[:turns], benchmark, settings)
        ]

    def _samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[tuple[Sample, bool]]:
        """The inner samples, each with whether it is to be solved."""
        samples = self.inner.samples(case, replies, benchmark, settings)
        key = key_of(case.id, [(reply.id, reply.completion.text) for reply in replies])
        if key not in self._to_solve:
            self._to_solve[key] = [self._passes_free_checks(sample, benchmark) for sample in samples]
        return list(zip(samples, self._to_solve[key], strict=True))

    def _inner_turns(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> tuple[int, Ask | None]:
        """How many of the replies belong to the inner dialogue, and its next request; None when it is over."""
        # `curate` does not know the number of samples asked for; the number of turns does not depend on it.
        known = replace(settings, samples_per_request=max(settings.samples_per_request, 1))
        for turns in range(len(replies) + 1):
            if (ask := self.inner.next(case, replies[:turns], benchmark, known)) is None:
                return turns, None
        return len(replies), ask

    def _passes_free_checks(self, sample: Sample, benchmark: Benchmark) -> bool:
        """False for a sample that a free check drops: it is not paid for. Programs are not run here, but later."""
        if sample.dropped or benchmark.runs_code:
            return not sample.dropped
        answer = "".join(turn.text for turn in sample.turns)
        return self.inner.accepts(sample, self._grade(sample, answer, benchmark)) is None

    def _compared(self, sample: Sample, solution: Reply | None, benchmark: Benchmark) -> Sample:
        if solution is None or solution.completion.error is not None:
            return replace(sample, dropped=NOT_SOLVED, note=(solution and solution.completion.error) or "")
        grade = self._grade(sample, solution.completion.text, benchmark)
        if grade.status == "error":
            return replace(sample, dropped="the grader failed", note=grade.note)
        if grade.score == 1:
            return sample
        if grade.status == "unparsed":
            return replace(sample, dropped=UNPARSED, note=solution.id)
        note = f"{solution.id}: {grade.answer!r}, not {sample.problem.answer!r}"
        return replace(sample, dropped=DISAGREES, note=note)

    def _grade(self, sample: Sample, response: str, benchmark: Benchmark) -> Grade:
        answer = without_thoughts(response)
        return unclosed() if answer is None else benchmark.grade(sample.problem, answer, self._grading)


def _text(messages: Sequence[Message]) -> str:
    """The text of a prompt, the same where the system message was merged into the user's."""
    return "\n\n".join(message["content"] for message in messages)
