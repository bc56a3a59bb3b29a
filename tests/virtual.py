"""The scheduler of instructor calls on a virtual clock: its real callers and rate limiter, without Ray or a network.

    runtime = VirtualRay()
    with runtime.serving(requests_per_window=6) as p:
        scheduler = runtime.scheduler(requests, p)

Time passes only while everything waits, and then at once. The provider enforces limits and misbehaves as
`tests.provider` does.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError

from lai_ray.config.settings import ClusterSettings, InstructorSettings, LimitSettings
from lai_ray.contracts import Answered, Fatal, Outcome, Retry
from lai_ray.distributed.calls.callers import Caller
from lai_ray.distributed.calls.rate_limiter import RateLimiter
from lai_ray.distributed.calls.retry import RetryTimes
from lai_ray.distributed.calls.runtime import RayRuntime
from lai_ray.distributed.calls.scheduler import Scheduler
from lai_ray.instructor.rate_limit.headers import read
from lai_ray.records import Completion, Request
from tests.provider import Provider, Seen

PROVIDERS: dict[str | None, Provider] = {}
FAILED = ("empty", "refused")
FATAL = {"401": 401, "no credit": 429}


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.seconds


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everything waits, and no timer is set"
        self._loop.seconds += timeout
        return super().select(0)


class _Actor:
    """A plain object whose coroutines are called as an actor's methods."""

    def __init__(self, loop: VirtualLoop, made: Any) -> None:
        self.loop, self.made, self.dead = loop, made, False
        self.results: list[asyncio.Future[Any]] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return _Method(self, name)

    def call(self, name: str, arguments: tuple[Any, ...]) -> asyncio.Future[Any]:
        result = self.loop.create_future()
        self.results.append(result)
        if self.dead:
            self._fail(result)
            return result
        task = self.loop.create_task(getattr(self.made, name)(*arguments))
        self.tasks.append(task)
        task.add_done_callback(lambda task: task.cancelled() or result.done() or result.set_result(task.result()))
        result.add_done_callback(lambda result: result.cancelled() and task.cancel())
        return result

    def die(self) -> None:
        self.dead = True
        for task in (*self.tasks, *getattr(self.made, "_tasks", ())):
            task.cancel()
        for result in self.results:
            if not result.done():
                self._fail(result)

    @staticmethod
    def _fail(result: asyncio.Future[Any]) -> None:
        result.set_exception(RayActorError())
        result.exception()  # Retrieved once, so that asyncio does not warn where the scheduler does not ask.


class _Method:
    def __init__(self, actor: _Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> asyncio.Future[Any]:
        return self._actor.call(self._name, arguments)


class VirtualRay(RayRuntime):
    """Actors in this process, on a virtual clock."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.callers: list[_Actor] = []
        self.limiters: dict[str, _Actor] = {}
        self.startup = 1.0
        """Seconds until a caller is up."""

    def now(self) -> float:
        return self.loop.time()

    def caller(self, settings: InstructorSettings, base_url: str | None) -> Any:
        actor = _Actor(self.loop, _Slow(settings, base_url, self.startup))
        self.callers.append(actor)
        return actor

    def rate_limiter(self, name: str, *arguments: Any) -> Any:
        if name not in self.limiters or self.limiters[name].dead:
            self.limiters[name] = _Actor(self.loop, RateLimiter(*arguments, clock=self.loop.time))
        return self.limiters[name]

    def ready(self, results: Any, timeout: float) -> Any | None:
        waiting = asyncio.wait(results, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        done, _ = self.loop.run_until_complete(waiting)
        return next((result for result in results if result in done), None)

    def get(self, result: Any) -> Any:
        return self.loop.run_until_complete(result)

    def cancel(self, result: Any) -> None:
        result.cancel()

    def kill(self, actor: Any) -> None:
        actor.die()

    def running(self) -> bool:
        return True

    def close(self) -> None:
        """End every actor."""
        for actor in (*self.callers, *self.limiters.values()):
            actor.die()
        self.sleep(0)
        self.loop.close()

    def sleep(self, seconds: float) -> None:
        """Let time pass, as a reader of answers does that is busy with something else."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @contextmanager
    def serving(self, **settings: Any) -> Iterator[Provider]:
        """A provider on this clock."""
        url = f"virtual://{len(PROVIDERS)}"
        PROVIDERS[url] = Provider(base_url=url, loop=self.loop, **settings)
        yield PROVIDERS[url]

    def scheduler(
        self, requests: Any, provider: Provider | str, *, times: RetryTimes | None = None, stall_seconds: float = 60.0,
        workers: int = 2, timeout: float = 20.0, may_resend: Any = None, report: Any = None, run: str | None = None,
        learned: dict[str, str] | None = None, **limits: Any,
    ) -> Scheduler:  # fmt: skip
        """A scheduler of calls to this provider, with limits that never bind unless they are given."""
        url = provider if isinstance(provider, str) else provider.base_url
        unbound = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "max_in_flight": 8}
        settings = InstructorSettings(engine="tests.virtual:VirtualEngine", model="m", timeout=timeout)
        cluster = ClusterSettings(instructor_workers=workers, stall_seconds=stall_seconds)
        return Scheduler(
            iter(requests), settings, LimitSettings(**(unbound | limits)), cluster, url, times,
            may_resend=may_resend, report=report, runtime=self, run=run, learned=learned,
        )  # fmt: skip


class _Slow(Caller):
    """A caller that takes a while to start."""

    def __init__(self, settings: InstructorSettings, base_url: str | None, seconds: float) -> None:
        super().__init__(settings, base_url)
        self._seconds = seconds

    async def collect(self) -> Any:
        seconds, self._seconds = self._seconds, 0.0
        await asyncio.sleep(seconds)
        return await super().collect()


class VirtualEngine:
    """One attempt at a virtual provider, with the outcome that `engines/openai.py` would give."""

    def __init__(self, settings: InstructorSettings, base_url: str | None) -> None:
        self._timeout, self._base_url, self._names = settings.timeout, base_url, settings.parameters

    async def call(self, request: Request) -> Outcome:
        loop, p = asyncio.get_running_loop(), PROVIDERS.get(self._base_url)
        if p is None:
            return Retry("connection refused", reached=False)
        prompt = sum(len(m["content"]) for m in request.messages) // 4
        body = {"seed": request.seed, "messages": request.messages}
        seen = Seen(loop.time(), body, "", tokens=prompt + request.max_tokens)
        p.log.append(seen)
        wait, fault = p.over_limit(seen), p.fault(len(p.log) - 1, body) or ""
        limits = read(dict(line.split(": ") for line in p.limits_told(seen).splitlines())) if p.tells else None
        if wait > 0:
            seen.status = 429
            return Retry("429", after=wait, limited=True, free=True, limits=limits, seconds=0.0)
        if fault in FATAL:
            await asyncio.sleep(p.latency)
            seen.status = FATAL[fault]
            return Fatal(f"{fault}: told so", free=True, seconds=p.latency)
        if fault == "refuses seed" and "seed" not in self._names:
            await asyncio.sleep(p.latency)
            seen.status = 422
            return Retry("422: no seed here", free=True, parameters={"seed": ""}, seconds=p.latency)
        if fault == "refuses seed":
            fault = ""
        p.in_flight += 1
        p.most_in_flight = max(p.most_in_flight, p.in_flight)
        try:
            return replace(
                await asyncio.wait_for(self._reply(p, request, seen, fault, prompt), self._timeout), limits=limits
            )
        except TimeoutError:
            return Retry(f"timeout after {self._timeout:g} s", seconds=self._timeout)
        finally:
            p.in_flight -= 1

    async def _reply(self, p: Provider, request: Request, seen: Seen, fault: str, prompt: int) -> Outcome:
        await asyncio.sleep(10**6 if fault == "hang" else p.latency)
        seconds = p.latency
        if fault.startswith("429 after "):
            seen.status = 429
            return Retry("429", after=float(fault.split()[-1]), limited=True, free=True, seconds=seconds)
        seen.status = int(fault) if fault.isdigit() else 200
        if fault == "400":
            return Answered(Completion("", "error", error=fault), free=True, seconds=seconds)
        if fault and fault not in FAILED:
            return Retry(fault, free=fault.isdigit(), seconds=seconds)
        if p.counts == "used":
            seen.tokens = prompt + p.reply_tokens
        text, error = (f"echo: {request.messages[-1]['content']}", None) if not fault else ("", fault)
        return Answered(Completion(text, "stop", prompt, p.reply_tokens, error), seconds=seconds)
