"""Replays the dialogues of cases from recorded answers.  case, draw -> replies, and the call still to be answered

Stateless: the same answers give the same dialogues, so a resumed stage continues where the last one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lai_ray.common import plugins
from lai_ray.contracts import Benchmark, Strategy, StrategySettings
from lai_ray.errors import StageError
from lai_ray.records import Case, Reply
from lai_ray.stages.calls import Call, Receivers, Recorded
from lai_ray.storage.keys import key_of, number_of

MOST_TURNS = 500
"""A longer dialogue is taken to be endless."""
Pair = tuple[Case, int]
"""A case and the number of the draw: one dialogue."""


@dataclass(frozen=True)
class Dialogues:
    """The dialogues of one dataset in one iteration."""

    strategy: Strategy
    benchmark: Benchmark
    settings: StrategySettings
    receivers: Receivers
    recorded: Recorded

    def call(self, case: Case, replies: list[Reply], draw: int) -> Call | None:
        """The next call of one dialogue, or None when it is over."""
        job = self.receivers.job
        ask = self.strategy.next(case, replies, job.asked(self.benchmark.name), self.settings)
        if ask is None:
            return None
        plugins.messages(ask.messages, f"a request of strategy {self.strategy.name}")
        if len(replies) >= MOST_TURNS:
            raise StageError(f"{case.id}: strategy {self.strategy.name} does not end after {MOST_TURNS} requests")
        run_seed = None if job.config.instructor.reuse_across_seeds else self.settings.seed
        # With the iteration, so that a repeated mistake gets new problems. A later turn counts by its messages, not its
        # number: an edited parser may find other samples before it, and the call must not be paid for again.
        turn = key_of(self.receivers.messages(ask)) if replies else 0
        seed = number_of(run_seed, self.settings.iteration, case.id, turn, draw)
        structure = job.structure(self.benchmark.name)
        return self.receivers.call(ask, id=f"{case.id}@{len(replies)}.{draw}", seed=seed, structure=structure)

    def replay(self, case: Case, draw: int) -> tuple[list[Reply], Call | None]:
        """The replies so far, and the call still to be answered; None when the dialogue is over."""
        replies: list[Reply] = []
        while (call := self.call(case, replies, draw)) is not None:
            completion = self.recorded.get(call)
            if completion is None:
                return replies, call
            request = call.request
            replies.append(Reply(request.id, case.id, len(replies), draw, request.messages, completion, call.to))
        return replies, None

    def pending(self, pairs: Iterable[Pair]) -> Iterator[Call]:
        """The next calls of the dialogues that are not over."""
        for case, draw in pairs:
            if (call := self.replay(case, draw)[1]) is not None:
                yield call
