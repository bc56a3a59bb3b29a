"""The actors behind `instructor.py`: the quota that callers share, and the pool of callers.  requests -> outcomes"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from lai_ray.config import InstructorSettings, LimitSettings
from lai_ray.engines.openai import Fatal, Outcome
from lai_ray.errors import LaiError
from lai_ray.instructor.quota import Quota
from lai_ray.plugins import load
from lai_ray.records import Request

log = logging.getLogger(__name__)

CALLER_CPUS, GATE_CPUS = 0.05, 0.01
"""Little: they wait for the network, and two logical CPUs must do for a whole run."""
LINGER = 0.01
"""Seconds in which a caller gathers more outcomes for one trip home."""


@dataclass(frozen=True, slots=True)
class Leave:
    """What the gate gives."""

    leases: list[int]
    room: int
    """How many more requests like the last one it could let through now."""


class Gate:
    """The quota actor: arithmetic in `instructor/quota.py`, the clock and the queue here. First come, first served."""

    def __init__(self, limits: LimitSettings, window: float, lease_seconds: float) -> None:
        self._quota = Quota(
            requests=limits.requests_per_minute,
            tokens=limits.tokens_per_minute,
            in_flight=limits.max_in_flight,
            window=window,
            lease_seconds=lease_seconds,
            first_id=random.getrandbits(40) << 20,
        )
        self._turn = asyncio.Lock()  # asyncio's locks are first come, first served.
        self._room = asyncio.Event()
        if _restarted():  # What was granted before is not known, so all of it may have been.
            self._quota.penalise(time.monotonic() + window)

    async def acquire(self, estimates: list[int]) -> Leave:
        """Leases for the first of these requests, at least one, and as many more as there is leave for at once."""
        async with self._turn:
            while isinstance(first := self._quota.acquire(time.monotonic(), estimates[0]), float):
                self._room.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), first)
            leases = [first.id]
            for tokens in estimates[1:]:
                lease = self._quota.acquire(time.monotonic(), tokens)
                if isinstance(lease, float):
                    break
                leases.append(lease.id)
            return Leave(leases, self._quota.room(time.monotonic(), estimates[-1]))

    async def settle(self, used_by_lease: dict[int, int | None], unsent: list[int]) -> None:
        """These are over, having used so many tokens (None: not known); those were never sent."""
        for lease, tokens in used_by_lease.items():
            self._quota.settle(lease, tokens)
        for lease in unsent:
            self._quota.release(lease)
        self._room.set()

    async def penalise(self, seconds: float) -> None:
        """Close for everybody: the provider said so."""
        self._quota.penalise(time.monotonic() + seconds)


class Caller:
    """An actor with one client. Takes calls without waiting, and brings home what is finished."""

    def __init__(self, settings: InstructorSettings, base_url: str | None) -> None:
        self._finished: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._engine: Any = None
        self._greeted = False
        try:
            self._engine = load("engines", settings.engine)(settings, base_url)
        except LaiError as error:  # Raised here it would come home as a dead actor; as an outcome it keeps its words.
            self._unfit = str(error)

    async def submit(self, calls: list[tuple[int, Request]]) -> None:
        """Start these calls."""
        for number, request in calls:
            task = asyncio.create_task(self._call(number, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def collect(self) -> list[tuple[int, Outcome]]:
        """What became of calls that are over, at least one. The first time nothing, at once: it says "I am up"."""
        if not self._greeted:
            self._greeted = True
            return []
        outcomes = [await self._finished.get()]
        await asyncio.sleep(LINGER)
        while not self._finished.empty():
            outcomes.append(self._finished.get_nowait())
        return outcomes

    async def _call(self, number: int, request: Request) -> None:
        try:
            outcome = await self._engine.call(request) if self._engine else Fatal(self._unfit)
        except Exception as error:  # An engine raises nothing that a provider causes: this is a fault of its own.
            log.exception("call %s", request.id)
            outcome = Fatal(f"the instructor's engine broke: {type(error).__name__}: {error}")
        await self._finished.put((number, outcome))


@dataclass
class _Member:
    """A caller as the driver sees it."""

    actor: Any
    collecting: Any
    """The reference that comes true when it has something to bring home."""
    held: set[int] = field(default_factory=set)
    up: bool = False


class Pool:
    """The callers, and which of them has which call."""

    def __init__(self, size: int, settings: InstructorSettings, base_url: str | None) -> None:
        self._given = settings, base_url
        self._members = [self._new() for _ in range(size)]

    @property
    def collecting(self) -> list[Any]:
        """References to wait for: one comes true when a caller has something to bring home, or is dead."""
        return [member.collecting for member in self._members]

    @property
    def up(self) -> bool:
        """Whether any caller can take a call now. Leave that a starting caller were to use would grow old meanwhile."""
        return any(member.up for member in self._members)

    @property
    def held(self) -> int:
        """Calls that callers have."""
        return sum(len(member.held) for member in self._members)

    def down(self) -> str:
        """Which callers have not started yet, as "2 of 4 callers"; empty when all have."""
        down = sum(not member.up for member in self._members)
        return f"{down} of {len(self._members)} callers" if down else ""

    def submit(self, calls: Sequence[tuple[int, Request]]) -> None:
        """Hand on calls, each to the caller with the least to do. Some caller must be up."""
        shares: dict[int, list[tuple[int, Request]]] = {}
        ready = [i for i, member in enumerate(self._members) if member.up]
        for number, request in calls:
            place = min(ready, key=lambda i: len(self._members[i].held))
            self._members[place].held.add(number)
            shares.setdefault(place, []).append((number, request))
        for place, share in shares.items():
            self._members[place].actor.submit.remote(share)

    def collect(self, reference: Any) -> list[tuple[int, Outcome]]:
        """What a caller brings home. Raises RayActorError when it is dead; `replace` it then."""
        member = self._member(reference)
        outcomes: list[tuple[int, Outcome]] = ray.get(reference)
        member.collecting, member.up = member.actor.collect.remote(), True
        member.held.difference_update(number for number, _ in outcomes)
        return outcomes

    def replace(self, reference: Any) -> list[int]:
        """Put another caller in a dead one's place. Returns the calls that it held: they may have been sent."""
        member = self._member(reference)
        ray.kill(member.actor)
        self._members[self._members.index(member)] = self._new()
        return sorted(member.held)

    def close(self) -> None:
        """End the callers."""
        for member in self._members:
            ray.kill(member.actor)

    def _new(self) -> _Member:
        actor = start(Caller, CALLER_CPUS, *self._given)
        return _Member(actor, actor.collect.remote())

    def _member(self, reference: Any) -> _Member:
        return next(member for member in self._members if member.collecting == reference)


def start(actor: type, cpus: float, *arguments: Any, restarts: int = 0) -> Any:
    """An actor that may be placed anywhere, even when its maker sits in a placement group."""
    options = {"num_cpus": cpus, "scheduling_strategy": "DEFAULT", "max_concurrency": 1000, "max_restarts": restarts}
    return ray.remote(**options)(actor).remote(*arguments)


def _restarted() -> bool:
    """Whether this is an actor that Ray has started again."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    with warnings.catch_warnings():  # Ray warns of a deprecated call that it makes itself.
        warnings.simplefilter("ignore")
        return context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)
