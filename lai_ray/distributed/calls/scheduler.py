"""The driver's side of asking an instructor: who waits for what.  requests -> answers"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.contracts import Again, Answered, Fatal, Outcome, Retry
from lai_ray.distributed.calls.callers import Pool
from lai_ray.distributed.calls.rate_limiter import Leave, shared_gate
from lai_ray.distributed.calls.retry import Pace, Patience
from lai_ray.errors import StageError
from lai_ray.instructor.rate_limit.headers import Headers
from lai_ray.instructor.rate_limit.window import MINUTE
from lai_ray.instructor.spending.tokens import estimate, used
from lai_ray.records import Answer, Completion, Request

log = logging.getLogger(__name__)

PROTOCOL = 2
"""Raised when what desk and gate say to each other changes: jobs of other versions may share a cluster."""
LARGEST_BATCH = 32
"""Requests for which leave is asked at once, at most."""
NO_LEASE = -1
MOST_DEATHS = 6
"""Callers that may die one after the other, without anything coming home in between."""


@dataclass
class _Call:
    """A request from the moment it is drawn to its answer."""

    request: Request
    estimate: int
    lease: int = NO_LEASE
    attempts: int = 0


def _gate_name(settings: InstructorSettings, base_url: str | None, pace: Pace) -> str:
    """The same for all jobs of a cluster that share a provider, model and key; of the key there is a digest in it."""
    key = os.environ.get(settings.api_key_env or "", settings.api_key_env)
    account = PROTOCOL, settings.engine, settings.model, base_url, key, pace.window, pace.slack, pace.gate_idle
    return f"quota-{hashlib.blake2b(repr(account).encode(), digest_size=8).hexdigest()}"


class Desk:
    """The driver's side: who waits for what. One `_turn` handles one thing that came home."""

    def __init__(
        self,
        requests: Iterator[Request | None],
        settings: InstructorSettings,
        limits: LimitSettings,
        cluster: ClusterSettings,
        base_url: str | None,
        pace: Pace,
        again: Again | None = None,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self.say = say
        self.may_send_again = again or (lambda request: True)
        self.requests, self.limits, self.pace = requests, limits, pace
        self.address = base_url or "the engine's own address"
        self.patience = Patience(pace, stall_seconds=cluster.stall_seconds, address=self.address)
        self.calls: dict[int, _Call] = {}
        self.waiting: deque[int] = deque()  # For leave.
        self.asking: list[int] = []  # Those whose leave the gate is being asked for.
        self.resting: list[tuple[float, int]] = []  # A heap: (when to try again, call).
        self.numbers = itertools.count()
        self.batch, self.exhausted, self.fatal = 1, False, ""
        self.looked = self.asked_at = time.monotonic()
        self.deaths = self.possibly_paid = 0
        self.gate_up = self.said_wait = False
        self.acquiring: Any = None
        self.job = secrets.token_hex(8)
        self.gate_name = _gate_name(settings, base_url, pace)
        self.gate_arguments = pace.window + pace.slack, pace.slack, settings.timeout + MINUTE, pace.gate_idle
        self.gate = shared_gate(self.gate_name, *self.gate_arguments)
        self.pool = Pool(min(cluster.instructor_workers, limits.max_in_flight), settings, base_url)

    def answers(self) -> Iterator[Answer]:
        """Everything that comes home, until nothing is left to ask."""
        while not self.fatal and self._draw():
            self._seek_leave()
            yield from self._turn()
        if self.fatal:
            yield from self._last_answers()
            yield from self._never_sent()
            raise StageError(
                f"the instructor at {self.address} cannot go on: {self.fatal}\n"
                "What was answered is kept; once this is put right, the same command goes on from there."
            )

    def close(self) -> None:
        """End the callers. The quota lives on, so it must hear of every lease that is still out."""
        if not ray.is_initialized():
            return
        self.pool.close()
        self._want_no_leave()
        self.gate.settle.remote({call.lease: None for call in self.calls.values()}, [])
        if self.possibly_paid:
            self.say(f"  {self.possibly_paid} instructor calls were possibly paid for without an answer")

    def _draw(self) -> bool:
        """Whether anything is left to do, after taking on what may be sent soon."""
        now = time.monotonic()
        while self.resting and self.resting[0][0] <= now:
            self.waiting.append(heapq.heappop(self.resting)[1])
        room = min(self.batch, self.limits.max_in_flight - len(self.calls))
        if self.pool.up and not self.waiting and not self.asking and not self.exhausted:
            for request in self._drawn(room):
                number = next(self.numbers)
                self.calls[number] = _Call(request, estimate(request.messages, request.max_tokens))
                self.waiting.append(number)
        return bool(self.calls) or not self.exhausted

    def _drawn(self, room: int) -> list[Request]:
        """At most so many further requests; fewer when there are no more, or none before something came home."""
        drawn: list[Request] = []
        while len(drawn) < room:
            try:
                request = next(self.requests)
            except StopIteration:
                self.exhausted = True
                break
            if request is None:
                self.exhausted = not (drawn or self.calls)  # Nothing is out that could come home.
                break
            drawn.append(request)
        return drawn

    def _seek_leave(self) -> None:
        if self.pool.up and self.waiting and not self.asking:
            self.asking = [self.waiting.popleft() for _ in range(min(len(self.waiting), LARGEST_BATCH))]
            estimates = [self.calls[number].estimate for number in self.asking]
            self.acquiring = self.gate.acquire.remote(self.job, self.limits, estimates)
            self.asked_at = self.looked = time.monotonic()

    def _turn(self) -> list[Answer]:
        """Wait a little for something to come home, and deal with it."""
        pending = [*([self.acquiring] if self.asking else []), *self.pool.collecting]
        rest = self.resting[0][0] - time.monotonic() if self.resting else 1.0
        wait = min(1.0, max(0.0, rest))
        ready, _ = ray.wait(pending, num_returns=1, timeout=wait)
        answers: list[Answer] = []
        if not ready:
            self._nothing_came(wait)
        elif self.asking and ready[0] == self.acquiring:
            self._take_leave()
        else:
            answers = self._collect(ready[0])
        self.looked = time.monotonic()
        return answers

    def _take_leave(self) -> None:
        """Send what has leave; the rest waits on, first in line."""
        leave = Leave([], 0)
        try:
            leave = ray.get(self.acquiring)
        except RayActorError as error:
            self.say(f"  the quota actor died; Ray starts it again, closed for one window: {_first_line(error)}")
            self.gate = shared_gate(self.gate_name, *self.gate_arguments)
        else:
            self.gate_up, self.said_wait = True, False
            self.patience.moved()
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
            return self._lost(self.pool.replace(reference), error)
        self.patience.moved()
        self.deaths = 0 if outcomes else self.deaths
        settled: dict[int, int | None] = {}
        unsent: list[int] = []
        told: dict[int, Headers] = {}
        answers = []
        lasted: dict[int, float] = {}
        for number, outcome in outcomes:
            call = self.calls[number]
            if outcome.seconds is not None:
                lasted[call.lease] = outcome.seconds
            if self._counts(outcome):
                settled[call.lease] = self._counted(call.request, outcome)
            else:
                unsent.append(call.lease)
            if not isinstance(outcome, Fatal) and outcome.limits:
                told[call.lease] = outcome.limits
            answers += self._became(number, outcome)
        self.gate.settle.remote(settled, unsent, told, lasted)
        return answers

    def _counts(self, outcome: Outcome) -> bool:
        """Whether the provider counts this call against its limits."""
        if isinstance(outcome, Retry) and not outcome.reached:
            return False
        failed = not isinstance(outcome, Answered) or outcome.free
        return self.limits.failed_calls_count or not failed

    def _counted(self, request: Request, outcome: Outcome) -> int | None:
        """Tokens that the provider counts; None where that is not known, as for a failed call: the estimate stands."""
        if not isinstance(outcome, Answered) or used(outcome.completion) is None:
            return None
        if self.limits.counted_tokens == "reserved":
            return outcome.completion.prompt_tokens + request.max_tokens
        return used(outcome.completion)

    def _became(self, number: int, outcome: Outcome) -> list[Answer]:
        """The answer, if this is one; else what happens next is arranged."""
        self.calls[number].lease = NO_LEASE
        if isinstance(outcome, Fatal):
            self.fatal = self.fatal or outcome.message
            return [self._answer(number, Completion("", "error", error=outcome.message), free=outcome.free)]
        if isinstance(outcome, Retry):
            return self._again(number, outcome)
        self.patience.reached()
        return [self._answer(number, outcome.completion, free=outcome.free)]

    def _again(self, number: int, retry: Retry) -> list[Answer]:
        """Arrange another attempt; an error for an answer when there were enough."""
        call = self.calls[number]
        log.info("%s: %s", call.request.id, retry.why)
        if retry.reached:
            call.attempts += 1
            self.patience.reached()
        else:
            self.fatal = self.fatal or self.patience.unreached(time.monotonic(), retry.why)
        if call.attempts >= self.pace.attempts:
            words = f"gave up after {call.attempts} attempts: {retry.why}"
            return [self._answer(number, Completion("", "error", error=words), free=retry.free)]
        if not retry.free and not self.may_send_again(call.request):
            return [self._no_more(number, retry.why)]
        delay = self.patience.delay(retry, call.attempts)
        if retry.after is not None and retry.after > self.patience.stall_seconds:
            self.fatal = (
                self.fatal or f"it asks to wait {retry.after:,.0f} s ({retry.why}), longer than cluster.stall_seconds"
            )
        if retry.limited:
            self.gate.penalise.remote(delay)
        heapq.heappush(self.resting, (time.monotonic() + delay, number))
        return []

    def _answer(self, number: int, completion: Completion, *, free: bool = False) -> Answer:
        request = self.calls.pop(number).request
        return Answer(request.id, request.key, completion, free)

    def _no_more(self, number: int, why: str) -> Answer:
        words = f"{why}; the budget has no room for another attempt"
        return self._answer(number, Completion("", "error", error=words))

    def _last_answers(self) -> Iterator[Answer]:
        """Calls in flight may be paid for: give them a moment to come home."""
        end = time.monotonic() + self.pace.farewell
        self._want_no_leave()
        while self.pool.held and time.monotonic() < end:
            yield from self._turn()

    def _want_no_leave(self) -> None:
        """Give back what was asked for at the gate and came, and ask no more for the rest."""
        if self.asking and ray.wait([self.acquiring], timeout=0)[0]:
            with suppress(RayActorError):
                self.gate.settle.remote({}, ray.get(self.acquiring).leases)
        elif self.asking:
            ray.cancel(self.acquiring)
        self.asking = []

    def _never_sent(self) -> Iterator[Answer]:
        """What no caller has was turned away for nothing or still waits: nobody is paid for it."""
        for number in [number for number in self.calls if not self.pool.holds(number)]:
            yield self._answer(number, Completion("", "error", error="never sent"), free=True)

    def _lost(self, held: list[int], error: Exception) -> list[Answer]:
        """A caller died with these calls. They may have been sent, and count as possibly paid."""
        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            raise StageError(
                f"{self.deaths} of the instructor's callers died one after the other without an answer, last: {error}\n"
                "The logs of the workers say why; memory is the first thing to look at. What was answered is kept."
            ) from error
        self.possibly_paid += len(held)
        self.say(f"  an instructor caller died; the {len(held)} calls it held are sent again: {_first_line(error)}")
        self.gate.settle.remote({self.calls[number].lease: None for number in held}, [])
        for number in held:
            self.calls[number].lease = NO_LEASE
        allowed = [number for number in held if self.may_send_again(self.calls[number].request)]
        self.waiting.extendleft(reversed(allowed))
        return [self._no_more(number, "the caller died") for number in held if number not in allowed]

    def _nothing_came(self, seconds: float) -> None:
        """In so many seconds. Waiting for the quota, or for the time to try again, is not standing still."""
        held = self.pool.held
        if held or not self.pool.up or (self.asking and not self.gate_up):
            self.patience.still(seconds, self._awaited(held))
            return
        self.patience.moved()
        if self.asking and time.monotonic() - self.asked_at > self.pace.say_wait and not self.said_wait:
            self.said_wait = True
            rates = self.limits.requests_per_minute, self.limits.tokens_per_minute
            self.say(
                f"  the instructor waits for the quota: {rates[0]} requests and {rates[1]} tokens per minute, or what "
                "the provider says"
            )

    def _awaited(self, held: int) -> str:
        idle = [name for name in ("" if self.gate_up else "the quota actor", self.pool.down()) if name]
        parts = [f"{held} calls in flight to {self.address}"] if held else []
        if idle:
            parts.append(f"{' and '.join(idle)} that did not report yet (has the cluster a fraction of a CPU free?)")
        return "; ".join(parts) or "an answer"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
