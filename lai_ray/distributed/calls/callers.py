"""The actor that calls the instructor.  requests -> outcomes"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from lai_ray.common.plugins import load
from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Answered, Fatal, Outcome
from lai_ray.distributed import causes
from lai_ray.errors import LaiError
from lai_ray.records import Completion, Request

log = logging.getLogger(__name__)

LINGER = 0.01
"""Seconds in which a caller gathers more outcomes before it returns them."""


class Caller:
    """An actor with one client: `submit` starts calls without waiting, `collect` returns those that are finished."""

    def __init__(self, settings: InstructorSettings, base_url: str | None) -> None:
        self._finished: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._settings, self._base_url = settings, base_url
        self._started = False
        self._make_engine()

    def _make_engine(self) -> None:
        self._engine: Any = None
        try:
            self._engine = load("engines", self._settings.engine)(self._settings, self._base_url)
        except Exception as error:  # Raised here, it would look like a dead actor; an outcome keeps its message.
            log.exception("the instructor's engine")
            self._error = str(error) if isinstance(error, LaiError) else causes.words(error)

    async def adapt(self, parameters: Mapping[str, str]) -> None:
        """Send further requests with these names of parameters, which the server takes."""
        self._settings = self._settings.taking(parameters)
        self._make_engine()

    async def submit(self, calls: list[tuple[int, Request]]) -> None:
        """Start these calls."""
        for number, request in calls:
            task = asyncio.create_task(self._call(number, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def collect(self) -> list[tuple[int, Outcome]]:
        """The outcomes of finished calls, at least one. The first time none, at once: the actor has started."""
        if not self._started:
            self._started = True
            return []
        outcomes = [await self._finished.get()]
        await asyncio.sleep(LINGER)
        while not self._finished.empty():
            outcomes.append(self._finished.get_nowait())
        return outcomes

    async def _call(self, number: int, request: Request) -> None:
        try:
            outcome = await self._engine.call(request) if self._engine else Fatal(self._error, free=True)
        except Exception as error:  # Of this request alone, as far as anybody knows; it may be paid for.
            log.exception("call %s", request.id)
            failed = f"the instructor's engine failed: {type(error).__name__}: {error}"
            outcome = Answered(Completion("", "error", error=failed))
        await self._finished.put((number, outcome))
