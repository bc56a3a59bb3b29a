"""Calls the instructor, the target or a judge.  asks -> recorded answers

Every answer is looked up first. A missing one is reserved in the budget where it is billed, marked as sent, sent,
settled and recorded, so that a stage started again asks nothing twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

from lai_ray.contracts import Executor, Model
from lai_ray.errors import DataError, StageError
from lai_ray.instructor.spending.budget import Budget, caps_of
from lai_ray.instructor.spending.ledger import Spent, spent_in
from lai_ray.instructor.spending.reserve import BudgetReservation
from lai_ray.instructor.structure import Structure
from lai_ray.records import Answer, Ask, Completion, Message, Receiver, Request
from lai_ray.stages.evaluate import stop_past_limit
from lai_ray.stages.job import Job
from lai_ray.stages.progress_line import ProgressLine
from lai_ray.storage.answers import Answers
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Stage

FIRST = 24
"""Calls that may fail alike, without a single answer in the whole stage, before no more are sent."""
FOLDERS: dict[Receiver, str] = {
    "instructor": "answers",
    "judge": "judge_answers",
    "target": "target_answers",
}
"""The folder of a stage with each receiver's answers."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one receiver."""

    to: Receiver
    request: Request


@dataclass
class Recorded:
    """The answers of one stage by receiver, and the calls that failed in this start."""

    answers: Mapping[Receiver, Answers]
    failed: dict[str, Completion] = field(default_factory=dict)
    failures: Counter[Receiver] = field(default_factory=Counter)
    """Calls that failed, by receiver."""

    def get(self, call: Call) -> Completion | None:
        """The completion of a call; None where it is still to ask."""
        key, answers = call.request.key, self.answers[call.to]
        if key in answers:
            return answers.get(key)
        if key in answers.final and key not in self.failed:
            self.fail(call.to, key, answers.final[key])
        return self.failed.get(key)

    def fail(self, to: Receiver, key: str, completion: Completion) -> None:
        """Count a call that failed, in this start or for good."""
        self.failed[key] = completion
        self.failures[to] += 1

    def hopeless(self, to: Receiver) -> bool:
        """Whether the first calls all failed, and in the same words."""
        if self.failures[to] < FIRST or len(self.answers[to]):
            return False
        return len({re.sub(r"\S*\d\S*", "0", failed.error or "") for failed in self.failed.values()}) == 1

    @property
    def count(self) -> int:
        """Calls that were answered or failed."""
        return sum(map(len, self.answers.values())) + len(self.failed)


@dataclass(frozen=True)
class Receivers:
    """The models that can be asked in one iteration, and the keys of their answers."""

    job: Job
    target: Model

    def call(self, ask: Ask, *, id: str, seed: int, structure: Structure | None = None) -> Call:
        """The request for an ask. Its key is the hash of all that decides the answer.

        structure: sent with a request to a server whose messages have its brief.
        """
        if ask.to == "target":
            return Call(ask.to, self._to_target(ask, id, seed))
        asked, open_model, messages = self.job.config.instructor, self.instructor, self.messages(ask)
        default = asked.temperature if ask.to == "instructor" else 0.0
        temperature = default if ask.temperature is None else ask.temperature
        model = [open_model.identity, asked.max_model_len] if open_model else asked.model
        format = None
        if structure and not open_model and any(structure.brief in message["content"] for message in messages):
            format = structure.response_format
        key = key_of(asked.engine, model, messages, temperature, asked.max_tokens, seed, *filter(None, [format]))
        return Call(ask.to, Request(id, key, messages, asked.max_tokens, temperature, seed, format))

    def messages(self, ask: Ask) -> list[Message]:
        """The messages as they are sent."""
        return ask.messages if ask.to == "target" or self.instructor is None else without_system(ask.messages)

    def _to_target(self, ask: Ask, id: str, seed: int) -> Request:
        settings, temperature = self.job.config.target, ask.temperature or 0.0
        parts = [self.target.identity, ask.messages, settings.max_new_tokens, settings.max_model_len, temperature]
        if not temperature:  # Greedy: no seed, and the key is that of an evaluation.
            return Request(id, key_of(*parts), ask.messages, settings.max_new_tokens)
        return Request(id, key_of(*parts, seed), ask.messages, settings.max_new_tokens, temperature, seed)

    @property
    def instructor(self) -> Model | None:
        """The open model that is asked; None for a server."""
        return self.job.instructor_for(self.target)


class Calls:
    """Sends the calls of one stage and records their answers, within the budget of the whole run."""

    def __init__(self, stage: Stage, receivers: Receivers, recorded: Recorded, executor: Executor) -> None:
        self.recorded, self.seconds = recorded, dict[str, float]()
        self._stage, self._receivers, self._executor = stage, receivers, executor
        config = receivers.job.config
        # By all earlier starts and other stages of the run, possibly paid calls at their worst.
        spent = sum(spent_in(stage.run, config.instructor.max_tokens).values(), start=Spent())
        self._budget = Budget(caps_of(config.limits.model_dump(), config.instructor.model_dump()), spent.at_most)
        self._reservations: dict[Receiver, BudgetReservation] = {}

    def _reservation(self, to: Receiver) -> BudgetReservation:
        if to not in self._reservations:
            config = self._receivers.job.config
            self._reservations[to] = BudgetReservation(
                self._budget, self.recorded.answers[to], config.limits.max_in_flight,
                marks=not config.instructor.in_cluster,
            )  # fmt: skip
        return self._reservations[to]

    def ask(
        self, what: str, pending: Callable[[], Iterable[Call]], on_answer: Callable[[str], int] | None = None
    ) -> None:
        """Ask the pending calls until there are none, all calls of one turn to one receiver together.

        on_answer: called with the id of each request as it is answered; returns how many samples that brought. None
        for calls that bring none.
        Raises StageError when the budget ends or too many calls fail, after recording the calls in flight.
        """
        while waiting := Counter(call.to for call in pending()):
            for to in (to for to in FOLDERS if waiting[to]):
                title = what if to == "instructor" else f"{what}, {to}"
                self._send(to, title, waiting[to], _distinct(to, pending()), on_answer)
                self._check(to, lambda to=to: list(_distinct(to, pending())))  # type: ignore[misc]
        for to in list(self.recorded.failures):  # Also those of earlier starts, where nothing was left to ask.
            self._check(to, list)

    def _send(
        self, to: Receiver, what: str, count: int, requests: Iterator[Request], on_answer: Callable[[str], int] | None
    ) -> None:
        config, figures = self._receivers.job.config, self._stage.progress.figures
        limited = to != "target" and self._receivers.instructor is None
        line = ProgressLine(config.limits if limited else None, self._budget, None if on_answer is None else 0)
        accepted_before, answered_before = figures.get("samples_accepted", 0), self.recorded.count
        with self._stage.progress.track(what, count) as tracker, ExitStack() as stack:
            for answer in self._answers(to, requests, stack):
                line.add(answer)
                if on_answer is not None:
                    line.accepted = (line.accepted or 0) + on_answer(answer.id)
                figures |= {**line.figures(), "samples_accepted": accepted_before + (line.accepted or 0)}
                tracker.advance(note=line.note(count - tracker.done - 1))
            for name, seconds in tracker.times().items():
                self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 2)
        if to == "target" and self.recorded.count == answered_before:
            raise DataError(f"{what}: {count} requests were sent and the engine answered none of them")

    def _answers(self, to: Receiver, requests: Iterator[Request], stack: ExitStack) -> Iterator[Answer]:
        """Send the requests; yields the answers as they come, each recorded."""
        config = self._receivers.job.config
        if to == "target":
            for answer in self._executor.generate(requests, self._receivers.target):
                if answer.completion.error is None:
                    self.recorded.answers[to].record(answer)
                else:
                    self.recorded.fail(to, answer.key, answer.completion)
                yield answer
            return
        settings, reservation = config.instructor, self._reservation(to)
        if (open_model := self._receivers.instructor) is not None:
            settings = settings.model_copy(update={"model": open_model.path})
        drawn = stack.enter_context(closing(reservation.draw(requests)))
        for answer in self._executor.ask(drawn, settings, config.limits, reservation.again):
            if reservation.settle(answer) and answer.completion.error is not None:
                self.recorded.fail(to, answer.key, answer.completion)
                reservation.stopped = config.limits.max_failed_fraction < 1 and self.recorded.hopeless(to)
            yield answer

    def _check(self, to: Receiver, left: Callable[[], list[Request]]) -> None:
        failed, limit = self.recorded.failures[to], self._receivers.job.config.limits.max_failed_fraction
        example = next(reversed(self.recorded.failed.values()), None)
        if to != "target" and self._reservation(to).stopped:
            raise StageError(
                f"the first {failed} requests all failed alike, and no more were sent: "
                f"{example.error if example else ''}\nPut it right, and start the same command again: until the first "
                "reply all of [instructor] may change."
            )
        stop_past_limit(failed, len(self.recorded.answers[to]) + failed, limit, example)
        if to != "target" and self._reservation(to).reached:
            raise StageError(self._reservation(to).exhausted(left()))


def _distinct(to: Receiver, calls: Iterable[Call]) -> Iterator[Request]:
    """The requests to one receiver, each once: two greedy ones may be the same."""
    keys: set[str] = set()
    for call in calls:
        if call.to == to and call.request.key not in keys:
            keys.add(call.request.key)
            yield call.request


class _Opened(dict[Receiver, Answers]):
    """The answers of each receiver, opened when it is first asked."""

    def __init__(self, open_answers: Callable[[Receiver], Answers]) -> None:
        super().__init__()
        self._open_answers = open_answers

    def __missing__(self, to: Receiver) -> Answers:
        self[to] = self._open_answers(to)
        return self[to]


@contextmanager
def recording(stage: Stage, *, rows: int) -> Iterator[Recorded]:
    """The answers of one stage, opened for adding. rows: the most that a kill can lose."""
    evaluated = {"target": ["evaluate/answers"]}  # The target may have answered the same prompt.
    with ExitStack() as stack:
        yield Recorded(
            _Opened(
                lambda to: stack.enter_context(stage.answers(folder=FOLDERS[to], rows=rows, also=evaluated.get(to, [])))
            )
        )


def without_system(messages: list[Message]) -> list[Message]:
    """With the system message at the start of the user's: many open models' chat templates have no system role."""
    match messages:
        case [{"role": "system", "content": system}, {"role": "user", "content": user}, *rest]:
            return [{"role": "user", "content": f"{system}\n\n{user}"}, *rest]
    return messages
