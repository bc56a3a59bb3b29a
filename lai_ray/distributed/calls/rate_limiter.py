"""The quota that all callers share: one actor for a provider, model and key.  estimates -> leave to send"""

from __future__ import annotations

import asyncio
import random
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lai_ray.config.settings import LimitSettings
from lai_ray.instructor.rate_limit.headers import Headers
from lai_ray.instructor.rate_limit.limits import Terms
from lai_ray.instructor.rate_limit.window import Lease, Quota

NAMESPACE = "lai_ray"


@dataclass(frozen=True, slots=True)
class Leave:
    """What the gate gives."""

    leases: list[int]
    room: int
    """How many more requests like the last one it could let through now."""


class Gate:
    """The quota actor: arithmetic in `instructor/quota.py`, the clock and the queue here. First come, first served.

    It outlives the call that started it, so that the next round, or another job, finds the last minute still counted.
    Each asker brings its job's limits along; which hold is for `instructor/terms.py` to say.
    """

    def __init__(self, window: float, slack: float, lease_seconds: float, idle_seconds: float) -> None:
        """window: seconds, `slack` longer than the provider's."""
        self._quota = Quota(
            requests=1, tokens=1, in_flight=1, window=window, slack=slack, lease_seconds=lease_seconds,
            first_id=random.getrandbits(40) << 20,
        )  # fmt: skip
        self._terms = Terms(window)
        self._turn = asyncio.Lock()  # asyncio's locks are first come, first served.
        self._room = asyncio.Event()
        self._idle_seconds, self._busy, self._used_at = idle_seconds, 0, time.monotonic()
        if _restarted():  # What was granted before is not known, so all of it may have been.
            self._quota.penalise(time.monotonic() + window)

    async def acquire(self, job: str, limits: LimitSettings, estimates: list[int]) -> Leave:
        """Leases for the first of these requests, at least one, and as many more as there is leave for at once."""
        self._busy += 1
        self._terms.enter(job, limits, time.monotonic())
        try:
            async with self._turn:
                first = await self._first(estimates[0])
                leases = [first.id]
                for tokens in estimates[1:]:
                    lease = self._quota.acquire(time.monotonic(), tokens)
                    if isinstance(lease, float):
                        break
                    leases.append(lease.id)
                return Leave(leases, self._quota.room(time.monotonic(), estimates[-1]))
        finally:
            self._busy -= 1
            self._used_at = time.monotonic()
            self._terms.leave(job, self._used_at)

    async def _first(self, tokens: int) -> Lease:
        """Wait until this request has leave; time, a settled lease or the provider's word may give it."""
        while isinstance(lease := self._ask(tokens), float):
            self._room.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), lease)
        return lease

    def _ask(self, tokens: int) -> Lease | float:
        now = time.monotonic()
        hold = self._terms.hold(now)
        self._quota.limit(hold.requests, hold.tokens, hold.in_flight)
        return self._quota.acquire(now, tokens)

    async def settle(
        self,
        used_by_lease: dict[int, int | None],
        unsent: list[int],
        told: dict[int, Headers] | None = None,
        lasted: dict[int, float] | None = None,
    ) -> None:
        """These are over, having used so many tokens (None: not known); those were never sent, or count for nothing.

        told: what the provider's headers said in its replies, by lease.  lasted: seconds from leaving for the provider
        to the reply, by lease. Counted back from now, as other machines have other clocks: never too early.
        """
        now, sent = time.monotonic(), lasted or {}
        for lease, headers in (told or {}).items():
            self._terms.tell(headers.requests.limit, headers.tokens.limit)
            self._quota.tell(now, lease, headers.requests, headers.tokens)
        for lease, tokens in used_by_lease.items():
            self._quota.settle(lease, tokens, now - sent[lease] if lease in sent else None)
        for lease in unsent:
            self._quota.release(lease)
        self._room.set()

    async def penalise(self, seconds: float) -> None:
        """Close for everybody: the provider said so."""
        self._quota.penalise(time.monotonic() + seconds)

    async def leave_when_idle(self) -> None:
        """Ends the actor once nobody has used it for `idle_seconds`."""
        while self._busy or time.monotonic() < self._used_at + self._idle_seconds:
            await asyncio.sleep(min(self._idle_seconds, 30.0))
        ray.actor.exit_actor()


def start(actor: type, cpus: float, *arguments: Any, **options: Any) -> Any:
    """An actor that may be placed anywhere, even when its maker sits in a placement group."""
    light = {"num_cpus": cpus, "scheduling_strategy": "DEFAULT", "max_concurrency": 1000}
    return ray.remote(**{**light, **options})(actor).remote(*arguments)


def shared_gate(name: str, *arguments: Any) -> Any:
    """The quota actor of that name on this cluster, whoever started it. Ray starts it again when it dies.

    It sits on the head, with which all is lost anyway: from another node's loss it would come back with a full window
    and keep everybody waiting for a minute. Not `soft`: Ray then takes another node where the head lends no CPU.
    """
    gate = start(
        Gate, 0, *arguments, scheduling_strategy=NodeAffinitySchedulingStrategy(_head(), soft=False),
        name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", max_restarts=-1,
    )  # fmt: skip
    gate.leave_when_idle.remote()
    return gate


def _head() -> str:
    """The id of the cluster's head node."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return str(next((n for n in nodes if "node:__internal_head__" in n["Resources"]), nodes[0])["NodeID"])


def _restarted() -> bool:
    """Whether this is an actor that Ray has started again."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    with warnings.catch_warnings():  # Ray warns of a deprecated call that it makes itself.
        warnings.simplefilter("ignore")
        return context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)
