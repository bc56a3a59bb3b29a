"""The actors that call the instructor, and the pool of them.  requests -> outcomes"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lai_ray.common.plugins import load
from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Fatal, Outcome
from lai_ray.distributed.actors import name_for
from lai_ray.distributed.calls.rate_limiter import start
from lai_ray.distributed.cluster.resources import CALLER_CPUS
from lai_ray.errors import LaiError
from lai_ray.records import Request

log = logging.getLogger(__name__)

LINGER = 0.01
"""Seconds in which a caller gathers more outcomes for one trip home."""


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
            outcome = await self._engine.call(request) if self._engine else Fatal(self._unfit, free=True)
        except Exception as error:  # An engine raises nothing that a provider causes: this is a fault of its own.
            log.exception("call %s", request.id)
            outcome = Fatal(f"the instructor's engine broke: {type(error).__name__}: {error}")
        await self._finished.put((number, outcome))


def of_this_machine(url: str) -> bool:
    """Whether only this machine finds somebody at an address."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


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
        self._placed: dict[str, Any] = {}
        if base_url and of_this_machine(base_url):
            # Beside this process, which may be on a node that lends no CPUs: from another one nobody answers there.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._placed = {"num_cpus": 0, "scheduling_strategy": here}
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

    def holds(self, number: int) -> bool:
        """Whether some caller has this call."""
        return any(number in member.held for member in self._members)

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
        actor = start(Caller, CALLER_CPUS, *self._given, name=name_for("caller"), **self._placed)
        return _Member(actor, actor.collect.remote())

    def _member(self, reference: Any) -> _Member:
        return next(member for member in self._members if member.collecting == reference)
