"""A paid check of samples: the instructor solves each new problem anew, unseen its own answer, and must agree.

    curate.solve_again = true

A wrapper round any strategy. When its dialogue is over, each sample that is still good is put to the instructor as the
benchmark puts a problem to the target, one a turn; the benchmark grades what comes back against the sample's own
answer. The calls are instructor calls like all others: recorded, within the budget, replayed and never asked twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lai_ray.contracts import Benchmark, Executor, Grading, Improve, Strategy
from lai_ray.records import Attempt, Case, Grade, Message, Reply, Sample

DISAGREES = "solved again with another answer"
UNPARSED = "solved again without an answer"
NOT_SOLVED = "not solved again"
"""The call failed."""


class SolvedAgain:
    """A strategy whose samples hold only where a second solution agrees; its name, and all else, is the inner one's."""

    after_errors = True
    """A solution that failed costs its own sample, not those after it."""

    def __init__(self, inner: Strategy, how: Grading) -> None:
        self.inner, self._how = inner, how
        self.name, self.uses_neighbours = inner.name, inner.uses_neighbours
        self.any_verdict = getattr(inner, "any_verdict", False)
        self._known: dict[tuple[str, ...], list[tuple[Sample, bool]]] = {}

    def cases(self, attempts: Iterable[Attempt], settings: Improve, executor: Executor) -> Iterator[Case]:
        """As the strategy inside."""
        return self.inner.cases(attempts, settings, executor)

    def next_messages(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve
    ) -> list[Message] | None:
        """The next request of the dialogue inside; after its end the next sample's problem, and nothing else."""
        turns, messages = self._inside(case, replies, benchmark, settings)
        if messages is not None:
            return messages
        solved = {_asked(reply.messages) for reply in replies[turns:]}
        wanted = (
            benchmark.prompt(s.problem) for s, worth in self._found(case, replies[:turns], benchmark, settings) if worth
        )
        return next((prompt for prompt in wanted if _asked(prompt) not in solved), None)

    def samples(self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve) -> list[Sample]:
        """The samples inside, each with the verdict of its second solution."""
        turns, _ = self._inside(case, replies, benchmark, settings)
        solutions = {_asked(reply.messages): reply for reply in replies[turns:]}
        return [
            self._judged(sample, solutions.get(_asked(benchmark.prompt(sample.problem))), benchmark)
            if worth
            else sample
            for sample, worth in self._found(case, replies[:turns], benchmark, settings)
        ]

    def _found(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve
    ) -> list[tuple[Sample, bool]]:
        """The samples inside, each with whether it is worth solving. Remembered: a dialogue is replayed many times."""
        key = (case.id, *(text for reply in replies for text in (reply.id, reply.completion.text)))
        if key not in self._known:
            found = self.inner.samples(case, replies, benchmark, settings)
            self._known[key] = [(sample, self._worth_solving(sample, benchmark)) for sample in found]
        return self._known[key]

    def _inside(
        self, case: Case, replies: Sequence[Reply], benchmark: Benchmark, settings: Improve
    ) -> tuple[int, list[Message] | None]:
        """How many of the replies belong to the dialogue inside, and its next request where it is not over."""
        # Who reads replies need not know how many samples were asked for; how long a dialogue is does not hang on it.
        told = replace(settings, samples_per_request=max(settings.samples_per_request, 1))
        for turns in range(len(replies) + 1):
            if turns and replies[turns - 1].completion.error is not None:
                return turns, None
            messages = self.inner.next_messages(case, replies[:turns], benchmark, told)
            if messages is None:
                return turns, None
        return len(replies), messages

    def _worth_solving(self, sample: Sample, benchmark: Benchmark) -> bool:
        """Nothing is paid for a sample that a free check drops. Where grading runs a program it is left for later."""
        if sample.dropped:
            return False
        return benchmark.runs_code or self._grade(sample, _said(sample), benchmark).score == 1

    def _judged(self, sample: Sample, solution: Reply | None, benchmark: Benchmark) -> Sample:
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


def _asked(messages: Sequence[Message]) -> str:
    """All that is asked, the same where a system message was put before the user's."""
    return "\n\n".join(message["content"] for message in messages)


def _said(sample: Sample) -> str:
    return "".join(turn.text for turn in sample.turns)
