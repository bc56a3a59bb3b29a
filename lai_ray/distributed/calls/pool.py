"""The pool of callers, and which of them holds which call.  requests -> outcomes"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Outcome
from lai_ray.distributed.calls.runtime import RayRuntime
from lai_ray.records import Request


@dataclass
class _Member:
    """A caller as the driver sees it."""

    actor: Any
    collecting: Any
    """The result of `collect`: ready when the caller has outcomes, or died."""
    held: set[int] = field(default_factory=set)
    up: bool = False


class Pool:
    """Gives each call to the caller with the fewest, and replaces callers that die."""

    def __init__(self, size: int, settings: InstructorSettings, base_url: str | None, runtime: RayRuntime) -> None:
        self._settings, self._base_url, self._runtime = settings, base_url, runtime
        self._members = [self._new() for _ in range(size)]

    @property
    def collecting(self) -> list[Any]:
        """Results to wait for: one is ready when its caller has outcomes, or died."""
        return [member.collecting for member in self._members]

    @property
    def up(self) -> bool:
        """Whether any caller has started. A permit for a call that has to wait for one would expire."""
        return any(member.up for member in self._members)

    @property
    def held(self) -> int:
        """How many calls the callers hold."""
        return sum(len(member.held) for member in self._members)

    def holds(self, number: int) -> bool:
        """Whether some caller holds this call."""
        return any(number in member.held for member in self._members)

    def starting(self) -> str:
        """How many callers have not started yet, as "2 of 4 callers"; empty when all have."""
        starting = sum(not member.up for member in self._members)
        return f"{starting} of {len(self._members)} callers" if starting else ""

    def submit(self, calls: Sequence[tuple[int, Request]]) -> None:
        """Hand out calls, each to the caller that holds the fewest. Some caller must be up."""
        shares: dict[int, list[tuple[int, Request]]] = {}
        ready = [i for i, member in enumerate(self._members) if member.up]
        for number, request in calls:
            least = min(ready, key=lambda i: len(self._members[i].held))
            self._members[least].held.add(number)
            shares.setdefault(least, []).append((number, request))
        for i, share in shares.items():
            self._members[i].actor.submit.remote(share)

    def adapt(self, parameters: Mapping[str, str]) -> None:
        """Have every caller send what is submitted from now on with these names of parameters."""
        self._settings = self._settings.taking(parameters)
        for member in self._members:
            member.actor.adapt.remote(parameters)

    def collect(self, result: Any) -> list[tuple[int, Outcome]]:
        """The outcomes in one of `collecting`. Raises RayActorError when the caller died; `replace` it then."""
        member = self._member(result)
        outcomes: list[tuple[int, Outcome]] = self._runtime.get(result)
        member.collecting, member.up = member.actor.collect.remote(), True
        member.held.difference_update(number for number, _ in outcomes)
        return outcomes

    def replace(self, result: Any) -> list[int]:
        """Start another caller for a dead one. Returns the calls that it held: they may have been sent."""
        member = self._member(result)
        self._runtime.kill(member.actor)
        self._members[self._members.index(member)] = self._new()
        return sorted(member.held)

    def close(self) -> None:
        """End the callers."""
        for member in self._members:
            self._runtime.kill(member.actor)

    def _new(self) -> _Member:
        actor = self._runtime.caller(self._settings, self._base_url)
        return _Member(actor, actor.collect.remote())

    def _member(self, result: Any) -> _Member:
        return next(member for member in self._members if member.collecting == result)
