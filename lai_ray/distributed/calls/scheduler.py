"""Driver-side scheduler of instructor calls: permits, calls in flight, retries, dead callers.  requests -> answers"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import logging
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.contracts import Again, Answered, Fatal, Outcome, Retry
from lai_ray.distributed import causes
from lai_ray.distributed.calls.pool import Pool
from lai_ray.distributed.calls.rate_limiter import Finished, Permit
from lai_ray.distributed.calls.retry import RetryPolicy, RetryTimes
from lai_ray.distributed.calls.runtime import RayRuntime
from lai_ray.errors import StageError
from lai_ray.instructor.provider.parameters import described
from lai_ray.instructor.rate_limit.window import MINUTE
from lai_ray.instructor.spending.tokens import estimate, used
from lai_ray.records import Answer, Completion, Request

log = logging.getLogger(__name__)

PROTOCOL = 3
"""Raised when the messages between scheduler and rate limiter change: jobs of other versions may share a cluster."""
LARGEST_BATCH = 32
"""Requests in one call to the rate limiter, at most."""
NO_LEASE = -1
MOST_DEATHS = 6
"""Callers that may die in a row without an outcome in between."""
MOST_ADAPTED = 6
"""Times that one request may be refused for its parameters."""


@dataclass
class _Call:
    """A request from when it is drawn until it is answered."""

    request: Request
    estimate: int
    lease: int = NO_LEASE
    attempts: int = 0
    adapted: int = 0
    """Refusals for its parameters; no attempts, as nothing was done on it."""
    limited: int = 0
    """Refusals for the rate limit."""


def _limiter_name(settings: InstructorSettings, base_url: str | None, times: RetryTimes) -> str:
    """The same for all jobs of a cluster that share a provider, model and key; holds a digest of the key only."""
    key = os.environ.get(settings.api_key_env or "", settings.api_key_env)
    account = PROTOCOL, settings.engine, settings.model, base_url, key, times.window, times.slack, times.limiter_idle
    return f"rate-limiter-{hashlib.blake2b(repr(account).encode(), digest_size=8).hexdigest()}"


class Scheduler:
    """Draws requests, gets permits for them and gives them to callers. One `_turn` handles one result."""

    def __init__(
        self, requests: Iterator[Request | None], settings: InstructorSettings, limits: LimitSettings,
        cluster: ClusterSettings, base_url: str | None = None, times: RetryTimes | None = None, *,
        may_resend: Again | None = None, report: Callable[[str], None] | None = None, runtime: RayRuntime | None = None,
        run: str | None = None, learned: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """run: a name that only starts of the same run share, so that this one ends the leases of a killed one.

        learned: the names under which the server takes parameters that it refused before; what it refuses is added.
        """
        self.learned = {} if learned is None else learned
        settings = settings.taking(self.learned)
        self.requests, self.limits = requests, limits
        self.times, self.runtime = times or RetryTimes(), runtime or RayRuntime()
        self.may_resend, self.report = may_resend or (lambda request: True), report or log.warning
        self.address = base_url or "the engine's default address"
        self.policy = RetryPolicy(self.times, stall_seconds=cluster.stall_seconds, address=self.address)
        self.calls: dict[int, _Call] = {}
        self.waiting: deque[int] = deque()  # For a permit.
        self.requested: list[int] = []  # Calls in the pending request for permits.
        self.delayed: list[tuple[float, int]] = []  # A heap: (time of the next attempt, call).
        self.numbers = itertools.count()
        self.batch, self.exhausted, self.fatal = 1, False, ""
        self.last_turn = self.requested_at = self.runtime.now()
        self.deaths = self.possibly_paid = 0
        self.limiter_up = self.wait_reported = False
        self.acquiring: Any = None
        run_digest = hashlib.blake2b(run.encode(), digest_size=8).hexdigest() if run else secrets.token_hex(8)
        self.job = f"{run_digest}/{secrets.token_hex(8)}"
        self.limiter_arguments = (
            _limiter_name(settings, base_url, self.times), self.times.window + self.times.slack, self.times.slack,
            settings.timeout + MINUTE, self.times.limiter_idle,
        )  # fmt: skip
        self.limiter = self.runtime.rate_limiter(*self.limiter_arguments)
        self.pool = Pool(min(cluster.instructor_workers, limits.max_in_flight), settings, base_url, self.runtime)

    def answers(self) -> Iterator[Answer]:
        """Every answer, as it comes, until all requests have one."""
        while not self.fatal and self._draw():
            self._request_permits()
            yield from self._turn()
        if self.fatal:
            yield from self._drain()
            yield from self._never_sent()
            raise StageError(
                f"the instructor at {self.address} failed: {self.fatal}\n"
                "Answers received so far are kept. Fix this and run the same command again to continue."
            )

    def close(self) -> None:
        """End the callers. The rate limiter lives on, so every open lease is settled."""
        if not self.runtime.running():
            return
        self.pool.close()
        self._withdraw()
        self._settle_unknown(self.calls)
        if self.possibly_paid:
            self.report(f"  {self.possibly_paid} instructor calls were possibly paid for without an answer")

    def _draw(self) -> bool:
        """Draw what may be sent soon. Returns whether anything is left to do."""
        now = self.runtime.now()
        while self.delayed and self.delayed[0][0] <= now:
            self.waiting.append(heapq.heappop(self.delayed)[1])
        if self.pool.up and not self.waiting and not self.requested and not self.exhausted:
            for request in self._drawn(min(self.batch, self.limits.max_in_flight - len(self.calls))):
                number = next(self.numbers)
                self.calls[number] = _Call(request, estimate(request.messages, request.max_tokens))
                self.waiting.append(number)
        return bool(self.calls) or not self.exhausted

    def _drawn(self, most: int) -> list[Request]:
        """Up to so many requests; fewer when there are no more, or none until a call in flight has finished."""
        drawn: list[Request] = []
        while len(drawn) < most:
            try:
                request = next(self.requests)
            except StopIteration:
                self.exhausted = True
                break
            if request is None:
                self.exhausted = not (drawn or self.calls)  # Without a call in flight there is nothing to wait for.
                break
            drawn.append(request)
        return drawn

    def _request_permits(self) -> None:
        if self.pool.up and self.waiting and not self.requested:
            self.requested = [self.waiting.popleft() for _ in range(min(len(self.waiting), LARGEST_BATCH))]
            estimates = [self.calls[number].estimate for number in self.requested]
            self.acquiring = self.limiter.acquire.remote(self.job, self.limits, estimates)
            self.requested_at = self.last_turn = self.runtime.now()

    def _turn(self) -> list[Answer]:
        """Wait up to a second for one result, and handle it."""
        pending = [*([self.acquiring] if self.requested else []), *self.pool.collecting]
        delay = self.delayed[0][0] - self.runtime.now() if self.delayed else 1.0
        seconds = min(1.0, max(0.0, delay))
        ready = self.runtime.ready(pending, seconds)
        answers: list[Answer] = []
        if ready is None:
            self._check_progress(seconds)
        elif self.requested and ready == self.acquiring:
            self._take_permit()
        else:
            answers = self._collect(ready)
        self.last_turn = self.runtime.now()
        return answers

    def _take_permit(self) -> None:
        """Send the requests that have leases; the others wait on, first in line."""
        permit = Permit([], 0)
        try:
            permit = self.runtime.get(self.acquiring)
        except RayActorError as error:
            self.report(f"  the rate limiter died; Ray restarts it with a full window: {causes.words(error)}")
            self.limiter = self.runtime.rate_limiter(*self.limiter_arguments)
        else:
            self.limiter_up, self.wait_reported = True, False
            self.policy.progressed()
        (numbers, self.requested), leases = (self.requested, []), permit.leases
        expired = self.runtime.now() - self.last_turn > self.times.slack  # The reader of our answers took that long.
        if expired or not self.pool.up:
            self._release(leases)
            leases = []
        granted, left = numbers[: len(leases)], numbers[len(leases) :]
        self.waiting.extendleft(reversed(left))
        # Draw no more than there are leases for, and one that waits for the next.
        self.batch = max(1, min(2 * self.batch, permit.room, LARGEST_BATCH))
        for number, lease in zip(granted, leases, strict=True):
            self.calls[number].lease = lease
        self.pool.submit([(number, self.calls[number].request) for number in granted])

    def _collect(self, result: Any) -> list[Answer]:
        """Handle a caller's outcomes. A dead caller is replaced and its calls are sent again."""
        try:
            outcomes = self.pool.collect(result)
        except RayActorError as error:
            return self._caller_died(self.pool.replace(result), error)
        self.policy.progressed()
        self.deaths = 0 if outcomes else self.deaths
        self.limiter.settle.remote([self._finished(self.calls[number], outcome) for number, outcome in outcomes])
        return [answer for number, outcome in outcomes for answer in self._handle(number, outcome)]

    def _finished(self, call: _Call, outcome: Outcome) -> Finished:
        """What the rate limiter needs to know of an outcome."""
        reached = not isinstance(outcome, Retry) or outcome.reached
        succeeded = isinstance(outcome, Answered) and not outcome.free
        limits = None if isinstance(outcome, Fatal) else outcome.limits
        counted = reached and (succeeded or self.limits.failed_calls_count)
        return Finished(call.lease, self._tokens(call.request, outcome), counted, limits, outcome.seconds)

    def _tokens(self, request: Request, outcome: Outcome) -> int | None:
        """Tokens that the provider counts; None where unknown, as for a failed call."""
        if not isinstance(outcome, Answered) or used(outcome.completion) is None:
            return None
        if self.limits.counted_tokens == "reserved":
            return outcome.completion.prompt_tokens + request.max_tokens
        return used(outcome.completion)

    def _handle(self, number: int, outcome: Outcome) -> list[Answer]:
        """The answer, if the outcome is final."""
        self.calls[number].lease = NO_LEASE
        if isinstance(outcome, Fatal):
            self.fatal = self.fatal or outcome.message
            return [self._error(number, outcome.message, free=outcome.free)]
        if isinstance(outcome, Retry):
            return self._retry(number, outcome)
        self.policy.reached()
        return [self._answer(number, outcome.completion, free=outcome.free)]

    def _retry(self, number: int, retry: Retry) -> list[Answer]:
        """Schedule another attempt, or answer with an error after the last one."""
        call = self.calls[number]
        log.info("%s: %s", call.request.id, retry.why)
        call.limited += retry.limited
        if retry.parameters and call.adapted < MOST_ADAPTED:
            return self._adapt(number, retry)
        if retry.reached:
            call.attempts += 1
            self.policy.reached()
        else:
            self.fatal = self.fatal or self.policy.unreached(self.runtime.now(), retry.why)
        if call.attempts >= self.times.attempts:
            return [self._error(number, f"gave up after {call.attempts} attempts: {retry.why}", free=retry.free)]
        if not retry.free and not self.may_resend(call.request):
            return [self._over_budget(number, retry.why)]
        delay = self.policy.delay(retry, call.attempts)
        if retry.after is not None and retry.after > self.policy.stall_seconds:
            self.fatal = self.fatal or (
                f"it asks to wait {retry.after:,.0f} s ({retry.why}), longer than cluster.stall_seconds"
            )
        if retry.limited:
            self.limiter.penalise.remote(delay)
        heapq.heappush(self.delayed, (self.runtime.now() + delay, number))
        return []

    def _adapt(self, number: int, retry: Retry) -> list[Answer]:
        """Send it again as the server takes it, which all callers learn."""
        self.calls[number].adapted += 1
        new = {name: other for name, other in retry.parameters.items() if self.learned.get(name) != other}
        if new:
            self.learned |= new
            self.pool.adapt(new)
            self.report(f"  the instructor's server refuses a parameter; from now on {described(new)}: {retry.why}")
        self.policy.reached()
        self.waiting.append(number)
        return []

    def _answer(self, number: int, completion: Completion, *, free: bool = False) -> Answer:
        call = self.calls.pop(number)
        return Answer(call.request.id, call.request.key, completion, free, call.limited)

    def _error(self, number: int, message: str, *, free: bool = False) -> Answer:
        return self._answer(number, Completion("", "error", error=message), free=free)

    def _over_budget(self, number: int, reason: str) -> Answer:
        return self._error(number, f"{reason}; the budget does not allow another attempt")

    def _drain(self) -> Iterator[Answer]:
        """Answers of calls in flight, which may be paid for; waits `times.drain` seconds at most."""
        end = self.runtime.now() + self.times.drain
        self._withdraw()
        while self.pool.held and self.runtime.now() < end:
            yield from self._turn()

    def _withdraw(self) -> None:
        """Release the permit that is ready, or cancel the request for it."""
        if self.requested and self.runtime.ready([self.acquiring], 0) is not None:
            with suppress(RayActorError):
                self._release(self.runtime.get(self.acquiring).leases)
        elif self.requested:
            self.runtime.cancel(self.acquiring)
        self.requested = []

    def _release(self, leases: list[int]) -> None:
        """Return the leases of calls that were never sent."""
        self.limiter.settle.remote([Finished(lease, counted=False) for lease in leases])

    def _settle_unknown(self, numbers: Iterable[int]) -> None:
        """End the leases of calls that may or may not have been sent."""
        self.limiter.settle.remote([Finished(self.calls[number].lease) for number in numbers])

    def _never_sent(self) -> Iterator[Answer]:
        """Calls that no caller holds were refused for free or still waited: nothing was paid for them."""
        for number in [number for number in self.calls if not self.pool.holds(number)]:
            yield self._error(number, "never sent", free=True)

    def _caller_died(self, held: list[int], error: Exception) -> list[Answer]:
        """Send its calls again. They count as possibly paid, as they may have been sent."""
        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            raise StageError(
                f"{self.deaths} instructor callers died in a row without an answer, the last one of: "
                f"{causes.words(error)}\nThe workers' logs have the cause.{causes.suspects()} Where they have none, "
                "check the memory. Answers received so far are kept."
            ) from error
        self.possibly_paid += len(held)
        self.report(f"  an instructor caller died; its {len(held)} calls are sent again: {causes.words(error)}")
        self._settle_unknown(held)
        for number in held:
            self.calls[number].lease = NO_LEASE
        allowed = [number for number in held if self.may_resend(self.calls[number].request)]
        self.waiting.extendleft(reversed(allowed))
        return [self._over_budget(number, "the caller died") for number in held if number not in allowed]

    def _check_progress(self, seconds: float) -> None:
        """After so many seconds without a result. A wait for the rate limit or a retry's delay is no stall."""
        held = self.pool.held
        if held or not self.pool.up or (self.requested and not self.limiter_up):
            self.policy.idle(seconds, self._awaited(held))
            return
        self.policy.progressed()
        waited = self.runtime.now() - self.requested_at
        if self.requested and waited > self.times.report_wait and not self.wait_reported:
            self.wait_reported = True
            rates = f"{self.limits.requests_per_minute} requests and {self.limits.tokens_per_minute} tokens"
            self.report(f"  instructor calls wait for the rate limit: {rates} a minute, or what the provider reports")

    def _awaited(self, held: int) -> str:
        starting = [name for name in ("" if self.limiter_up else "the rate limiter", self.pool.starting()) if name]
        parts = [f"{held} calls in flight to {self.address}"] if held else []
        if starting:
            parts.append(f"{' and '.join(starting)} to start (does the cluster have a fraction of a CPU free?)")
        return "; ".join(parts) or "an answer"
