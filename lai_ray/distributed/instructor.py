"""The instructor's callers: a pool of async actors, and the one quota they share.  requests -> answers, in any order

The driver draws requests, gets leave for them from the quota actor, and hands them to the caller with the least to do;
a caller makes single attempts. Whatever is to be tried again goes through the quota again.
Leave is asked for, and outcomes collected, for many requests at once: a round trip costs about a millisecond.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from lai_ray.config import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.distributed.callers import GATE_CPUS, Gate, Leave, Pool, start
from lai_ray.engines.openai import Answered, Fatal, Outcome, Retry
from lai_ray.errors import StageError
from lai_ray.instructor.quota import MINUTE
from lai_ray.instructor.usage import estimate, used
from lai_ray.records import Answer, Completion, Request

log = logging.getLogger(__name__)

LARGEST_BATCH = 32
"""Requests for which leave is asked at once, at most."""
MOST_DEATHS = 6
"""Callers that may die one after the other, without anything coming home in between."""


@dataclass(frozen=True)
class Pace:
    """How patient the callers are: constants of this room, given here so that tests need not wait minutes. Seconds."""

    window: float = MINUTE
    slack: float = 1.0
    """Longest way from leave to provider that is reckoned with; the quota's window is longer than a minute by it."""
    attempts: int = 8
    backoff: float = 1.0
    longest_backoff: float = 60.0
    unreachable: float = 30.0
    """Without any connection for so long, nobody is there."""
    farewell: float = 5.0
    """After a fatal answer, how long calls in flight, which may be paid for, may take to come home."""
    say_wait: float = 30.0


def ask(
    requests: Iterable[Request],
    settings: InstructorSettings,
    limits: LimitSettings,
    cluster: ClusterSettings,
    base_url: str | None = None,
    logs: str | None = None,
    *,
    pace: Pace = Pace(),
) -> Iterator[Answer]:
    """The instructor's answers, as they come; a request that failed for good comes back with `completion.error`.

    A request is drawn when a call is free, at most `limits.max_in_flight` before their answers, and only one or two
    ahead of the quota once the quota sets the pace. No request, no actor. Ray must be initialised; `base_url` must be
    reachable from its workers, and the key's variable set in their environment. `logs`: a folder for a line on every
    attempt that failed; warnings (a dead caller, a long wait for the quota) go to Python's logging either way.

    Raises StageError, in the provider's own words where it has some, when no request can succeed (wrong key, unknown
    model, empty account), nobody answers at the address, callers keep dying, or nothing moves for
    `cluster.stall_seconds`. Waiting for the quota is not standing still: it is logged.
    """
    drawn = iter(requests)
    first = next(drawn, None)
    if first is None:
        return
    with _logged(logs):
        desk = _Desk(itertools.chain([first], drawn), settings, limits, cluster, base_url, pace)
        try:
            yield from desk.answers()
        finally:
            desk.close()


@contextmanager
def _logged(folder: str | None) -> Iterator[None]:
    """What this room logs goes to a file in `folder` as well, retries included."""
    if folder is None:
        yield
        return
    handler = logging.FileHandler(Path(folder) / "instructor.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)
        handler.close()


@dataclass
class _Call:
    """A request from the moment it is drawn to its answer."""

    request: Request
    estimate: int
    lease: int = -1
    attempts: int = 0


class _Desk:
    """The driver's side: who waits for what. One `_turn` handles one thing that came home."""

    def __init__(
        self,
        requests: Iterator[Request],
        settings: InstructorSettings,
        limits: LimitSettings,
        cluster: ClusterSettings,
        base_url: str | None,
        pace: Pace,
    ) -> None:
        self.requests, self.settings, self.limits, self.cluster = requests, settings, limits, cluster
        self.base_url, self.pace = base_url, pace
        self.calls: dict[int, _Call] = {}
        self.waiting: deque[int] = deque()  # For leave.
        self.asking: list[int] = []  # Those whose leave the gate is being asked for.
        self.resting: list[tuple[float, int]] = []  # A heap: (when to try again, call).
        self.numbers = itertools.count()
        self.batch, self.exhausted, self.fatal = 1, False, ""
        self.moved = self.contact = self.looked = self.asked_at = time.monotonic()
        self.unanswered = self.deaths = self.possibly_paid = 0
        self.gate_up = self.said_wait = False
        self.acquiring: Any = None
        lease_seconds = settings.timeout + MINUTE
        self.gate = start(Gate, GATE_CPUS, limits, pace.window + pace.slack, lease_seconds, restarts=-1)
        self.pool = Pool(min(cluster.instructor_workers, limits.max_in_flight), settings, base_url)

    def answers(self) -> Iterator[Answer]:
        """Everything that comes home, until nothing is left to ask."""
        while not self.fatal and self._draw():
            self._seek_leave()
            yield from self._turn()
        if self.fatal:
            yield from self._last_answers()
            raise StageError(
                f"the instructor at {self._address()} cannot go on: {self.fatal}\n"
                "What was answered is kept; once this is put right, the same command goes on from there."
            )

    def close(self) -> None:
        """End the actors."""
        self.pool.close()
        ray.kill(self.gate)
        if self.possibly_paid:
            log.warning("%d instructor calls were possibly paid for without an answer", self.possibly_paid)

    def _draw(self) -> bool:
        """Whether anything is left to do, after taking on what may be sent soon."""
        now = time.monotonic()
        while self.resting and self.resting[0][0] <= now:
            self.waiting.append(heapq.heappop(self.resting)[1])
        room = min(self.batch, self.limits.max_in_flight - len(self.calls))
        if self.pool.up and not self.waiting and not self.asking and not self.exhausted:
            drawn = list(itertools.islice(self.requests, max(room, 0)))
            self.exhausted = len(drawn) < room
            for request in drawn:
                number = next(self.numbers)
                self.calls[number] = _Call(request, estimate(request.messages, request.max_tokens))
                self.waiting.append(number)
        return bool(self.calls) or not self.exhausted

    def _seek_leave(self) -> None:
        if self.pool.up and self.waiting and not self.asking:
            self.asking = [self.waiting.popleft() for _ in range(min(len(self.waiting), LARGEST_BATCH))]
            self.acquiring = self.gate.acquire.remote([self.calls[number].estimate for number in self.asking])
            self.asked_at = self.looked = time.monotonic()

    def _turn(self) -> list[Answer]:
        """Wait a little for something to come home, and deal with it."""
        pending = [*([self.acquiring] if self.asking else []), *self.pool.collecting]
        rest = self.resting[0][0] - time.monotonic() if self.resting else 1.0
        ready, _ = ray.wait(pending, num_returns=1, timeout=min(1.0, max(0.0, rest)))
        answers: list[Answer] = []
        if not ready:
            self._look_for_a_stall()
        elif self.asking and ready[0] == self.acquiring:
            self._take_leave()
        else:
            answers = self._collect(ready[0])
        self.looked = time.monotonic()
        return answers

    def _take_leave(self) -> None:
        """Send what has leave; the rest waits on, first in line."""
        try:
            leave: Leave = ray.get(self.acquiring)
        except RayActorError as error:
            log.warning("the quota actor died; Ray starts it again, closed for one window: %s", error)
            leave = Leave([], 0)
        else:
            self.moved, self.gate_up, self.said_wait = time.monotonic(), True, False
        (asked, self.asking), leases = (self.asking, []), leave.leases
        late = time.monotonic() - self.looked > self.pace.slack
        if late or not self.pool.up:  # Leave that grew old while our answers were dealt with no longer holds.
            self.gate.settle.remote({}, leases)
            leases = []
        granted, left = asked[: len(leases)], asked[len(leases) :]
        self.waiting.extendleft(reversed(left))
        # No more is drawn than there is leave for, but for the one that waits at the gate.
        self.batch = max(1, min(2 * self.batch, leave.room, LARGEST_BATCH))
        for number, lease in zip(granted, leases, strict=True):
            self.calls[number].lease = lease
        self.pool.submit([(number, self.calls[number].request) for number in granted])

    def _collect(self, reference: Any) -> list[Answer]:
        """What a caller brings home. A dead one is replaced, and what it held is asked again."""
        try:
            outcomes = self.pool.collect(reference)
        except RayActorError as error:
            self._lost(self.pool.replace(reference), error)
            return []
        self.moved, self.deaths = time.monotonic(), 0 if outcomes else self.deaths
        settled: dict[int, int | None] = {}
        unsent: list[int] = []
        answers = []
        for number, outcome in outcomes:
            lease = self.calls[number].lease
            if isinstance(outcome, Retry) and not outcome.reached:
                unsent.append(lease)
            else:  # What a provider counts for a failed call is not known: the estimate stands.
                settled[lease] = used(outcome.completion) if isinstance(outcome, Answered) else None
            answers += self._became(number, outcome)
        self.gate.settle.remote(settled, unsent)
        return answers

    def _became(self, number: int, outcome: Outcome) -> list[Answer]:
        """The answer, if this is one; else what happens next is arranged."""
        if isinstance(outcome, Answered):
            self.contact, self.unanswered = self.moved, 0
            return [self._answer(number, outcome.completion)]
        if isinstance(outcome, Fatal):
            self.fatal = self.fatal or outcome.words
            return []
        return self._again(number, outcome)

    def _again(self, number: int, retry: Retry) -> list[Answer]:
        """Arrange another attempt; an error for an answer when there were enough."""
        call = self.calls[number]
        log.info("%s: %s", call.request.id, retry.why)
        if retry.reached:
            call.attempts += 1
            self.contact, self.unanswered = self.moved, 0
        else:
            self._look_whether_anybody_is_there(retry.why)
        if call.attempts >= self.pace.attempts:
            words = f"gave up after {call.attempts} attempts: {retry.why}"
            return [self._answer(number, Completion("", "error", error=words))]
        delay = min(self.pace.backoff * 2**call.attempts, self.pace.longest_backoff) * random.uniform(0.5, 1.0)
        if retry.after is not None:
            if retry.after > self.cluster.stall_seconds:
                self.fatal = f"it asks to wait {retry.after:,.0f} s ({retry.why}), longer than cluster.stall_seconds"
            delay = retry.after + random.uniform(0, self.pace.backoff)
        if retry.limited:
            self.gate.penalise.remote(delay)
        heapq.heappush(self.resting, (time.monotonic() + delay, number))
        return []

    def _answer(self, number: int, completion: Completion) -> Answer:
        request = self.calls.pop(number).request
        return Answer(request.id, request.key, completion)

    def _last_answers(self) -> Iterator[Answer]:
        """Calls in flight may be paid for: give them a moment to come home."""
        end = time.monotonic() + self.pace.farewell
        self.asking = []
        while self.pool.held and time.monotonic() < end:
            yield from self._turn()

    def _lost(self, held: list[int], error: Exception) -> None:
        """A caller died with these calls. They may have been sent, and count as possibly paid."""
        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            raise StageError(
                f"{self.deaths} of the instructor's callers died one after the other without an answer, last: {error}\n"
                "The logs of the workers say why; memory is the first thing to look at. What was answered is kept."
            ) from error
        self.possibly_paid += len(held)
        log.warning("an instructor caller died; the %d calls it held are sent again: %s", len(held), error)
        self.gate.settle.remote({self.calls[number].lease: None for number in held}, [])
        self.waiting.extendleft(reversed(held))

    def _look_whether_anybody_is_there(self, why: str) -> None:
        self.unanswered += 1
        if self.unanswered == 1:
            self.contact = self.moved
        silent = self.moved - self.contact
        if silent > self.pace.unreachable:
            raise StageError(
                f"nobody answers at {self._address()}: {why} ({self.unanswered} attempts in {silent:.0f} s). Is the "
                "server running there, is instructor.base_url right, and can the workers reach that address? What was "
                "answered is kept; the same command goes on from there."
            )

    def _look_for_a_stall(self) -> None:
        """Called when nothing came home for a second."""
        now = time.monotonic()
        held = self.pool.held
        if self.pool.up and not held and (self.gate_up or not self.asking):
            self.moved = now  # Waiting for the quota, or for the time to try again.
            if self.asking and now - self.asked_at > self.pace.say_wait and not self.said_wait:
                self.said_wait = True
                log.warning(
                    "the instructor waits for the quota: %d requests and %d tokens per minute",
                    self.limits.requests_per_minute,
                    self.limits.tokens_per_minute,
                )
        if now - self.moved > self.cluster.stall_seconds:
            seconds = f"{now - self.moved:.0f} s"
            raise StageError(f"the instructor stood still for {seconds}, waiting for {self._awaited(held)}.")

    def _awaited(self, held: int) -> str:
        idle = [name for name in ("" if self.gate_up else "the quota actor", self.pool.down()) if name]
        parts = [f"{held} calls in flight to {self._address()}"] if held else []
        if idle:
            parts.append(f"{' and '.join(idle)} that did not report yet (has the cluster a fraction of a CPU free?)")
        return "; ".join(parts) or "an answer"

    def _address(self) -> str:
        return self.base_url or "the engine's own address"
