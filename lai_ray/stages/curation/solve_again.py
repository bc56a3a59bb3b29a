"""A paid check of samples: the instructor solves each new problem once more, without its own answer, and must agree.

    curate.solve_again = true

A wrapper around any strategy. When its dialogue is over, each sample that is still good is put to the instructor as the
benchmark puts a problem to the target, one a turn; the benchmark grades the solution against the sample's own answer.
These calls are instructor calls like all others: recorded, within the budget, and never repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lai_ray.contracts import Benchmark, Executor, Grading, Strategy, StrategySettings
from lai_ray.records import Ask, Attempt, Case, Grade, Message, Reply, Sample
from lai_ray.storage.keys import key_of

DISAGREES = "solved again with another answer"
UNPARSED = "solved again without an answer"
NOT_SOLVED = "not solved again"
"""The call failed."""


class SolvedAgain:
    """A strategy whose samples are kept only where a second solution agrees; everything else is the inner strategy's.

    A second solution that failed costs its own sample, not those after it.
    """

    def __init__(self, inner: Strategy, how: Grading) -> None:
        self.inner, self._how = inner, how
        self._worth: dict[str, list[bool]] = {}
        """Which samples of a dialogue are worth solving, by a hash of its replies: it is replayed many times."""

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
        """The inner dialogue's next request; after its end the next sample's problem, and nothing else."""
        turns, ask = self._inner_turns(case, replies, benchmark, settings)
        if ask is not None:
            return ask
        solved = {_text(reply.messages) for reply in replies[turns:]}
        wanted = (
            benchmark.prompt(sample.problem)
            for sample, worth in self._samples(case, replies[:turns], benchmark, settings)
            if worth
        )
        prompt = next((prompt for prompt in wanted if _text(prompt) not in solved), None)
        return None if prompt is None else Ask("instructor", prompt)

    def samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[Sample]:
        """The inner samples, each with the verdict of its second solution."""
        turns, _ = self._inner_turns(case, replies, benchmark, settings)
        solutions = {_text(reply.messages): reply for reply in replies[turns:]}
        return [
            self._compared(sample, solutions.get(_text(benchmark.prompt(sample.problem))), benchmark)
            if worth
            else sample
            for sample, worth in self._samples(case, replies[:turns], benchmark, settings)
        ]

    def _samples(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> list[tuple[Sample, bool]]:
        """The inner samples, each with whether it is worth solving."""
        samples = self.inner.samples(case, replies, benchmark, settings)
        key = key_of(case.id, [(reply.id, reply.completion.text) for reply in replies])
        if key not in self._worth:
            self._worth[key] = [self._worth_solving(sample, benchmark) for sample in samples]
        return list(zip(samples, self._worth[key], strict=True))

    def _inner_turns(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: StrategySettings
    ) -> tuple[int, Ask | None]:
        """How many of the replies belong to the inner dialogue, and its next request where it is not over."""
        # Replies are read without knowing how many samples were asked for; the number of turns does not depend on it.
        known = replace(settings, samples_per_request=max(settings.samples_per_request, 1))
        for turns in range(len(replies) + 1):
            if (ask := self.inner.next(case, replies[:turns], benchmark, known)) is None:
                return turns, None
        return len(replies), ask

    def _worth_solving(self, sample: Sample, benchmark: Benchmark) -> bool:
        """Nothing is paid for a sample that a free check drops. Where grading runs a program it is left for later."""
        if sample.dropped:
            return False
        return (
            benchmark.runs_code or self.inner.accepts(sample, self._grade(sample, _answer(sample), benchmark)) is None
        )

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
        return replace(
            sample, dropped=DISAGREES, note=f"{solution.id}: {grade.answer!r}, not {sample.problem.answer!r}"
        )

    def _grade(self, sample: Sample, response: str, benchmark: Benchmark) -> Grade:
        return benchmark.grade(sample.problem, response, self._how)


def _text(messages: Sequence[Message]) -> str:
    """All that is asked, the same where a system message was put before the user's."""
    return "\n\n".join(message["content"] for message in messages)


def _answer(sample: Sample) -> str:
    return "".join(turn.text for turn in sample.turns)
