"""A provider for tests: OpenAI's chat protocol on loopback, limits enforced as real ones do, and faults on request.

    with provider.serve(fault=lambda number, body: "500" if number == 0 else None) as p:
        ask(..., base_url=p.base_url)
        assert p.statuses == [500, 200]

Faults: a status ("500", "401", …), "429 after 0.5" (with Retry-After), "no credit", "broken JSON", "hang", "hang up",
"empty", "refused", "cut off".
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Fault = Callable[[int, dict[str, Any]], str | None]
Reply = Callable[[int, dict[str, Any]], tuple[int, Any] | None]
WORDS = {
    401: "Incorrect API key provided.",
    403: "Your organisation may not use this model.",
    404: "The model does not exist.",
    400: "This model's maximum context length is 10 tokens.",
    500: "The server had an error.",
    503: "Overloaded.",
    429: "Rate limit reached.",
}


@dataclass
class Seen:
    """One request in the provider's log."""

    at: float
    body: dict[str, Any]
    key: str
    status: int = 0
    tokens: int = 0
    """What it counts for against the limit."""
    headers: str = ""
    """What it is told of the limits."""


@dataclass
class Provider:
    """The server's settings, and its log."""

    base_url: str = ""
    requests_per_window: int | None = None
    tokens_per_window: int | None = None
    window: float = 60.0
    counts: str = "reserved"
    """Tokens that count: "reserved" (prompt and max_tokens) or "used" (what was, once it is known)."""
    tells: bool = False
    """Whether replies carry the limits and what is left of them in headers."""
    latency: float = 0.0
    reply_tokens: int = 10
    fault: Fault = lambda number, body: None
    reply: Reply = lambda number, body: None
    """A status and a body of JSON in place of the usual ones; None for these."""
    log: list[Seen] = field(default_factory=list)
    others: list[Seen] = field(default_factory=list)
    """Of the log, what other clients sent."""
    in_flight: int = 0
    most_in_flight: int = 0
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def statuses(self) -> list[int]:
        """The status of every request, in order of arrival; 0 where there was no reply."""
        return [seen.status for seen in self.log]

    @property
    def asked(self) -> Counter[str]:
        """How often each user message came."""
        return Counter(seen.body["messages"][-1]["content"] for seen in self.log)

    def listen_on(self, port: int) -> str:
        """Open one more port; 0 for a free one. Returns its address."""

        async def listen() -> int:
            server = await asyncio.start_server(lambda r, w: _connection(self, r, w), "127.0.0.1", port, backlog=512)
            return int(server.sockets[0].getsockname()[1])

        return f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(listen(), self.loop).result(10)}/v1"

    def counted(self, seen: Seen) -> list[Seen]:
        """Earlier requests that still count when this one comes."""
        return [s for s in self.log if s.status != 429 and s is not seen and s.at > seen.at - self.window]

    def other_client(self, tokens: int) -> bool:
        """Somebody else's request with the same key; False when it was refused."""
        seen = Seen(time.monotonic(), {"seed": None, "messages": [{"content": "other"}]}, "", tokens=tokens)
        seen.status = 429 if self.over_limit(seen) else 200
        self.others.append(seen)
        self.log.append(seen)
        return seen.status == 200

    def limits_told(self, seen: Seen) -> str:
        """The headers of a reply to this request, as of its arrival."""
        granted = [*self.counted(seen), seen]
        said = ""
        for kind, limit, used in (
            ("requests", self.requests_per_window, len(granted)),
            ("tokens", self.tokens_per_window, sum(s.tokens for s in granted)),
        ):
            if limit is not None:
                said += f"x-ratelimit-limit-{kind}: {limit}\r\nx-ratelimit-remaining-{kind}: {max(0, limit - used)}\r\n"
                said += f"x-ratelimit-reset-{kind}: {self.window:g}s\r\n"
        return said

    def over_limit(self, seen: Seen) -> float:
        """Seconds until this request would be within the limits; 0 when it is."""
        granted = self.counted(seen)
        if self.requests_per_window is not None and len(granted) >= self.requests_per_window:
            return granted[-self.requests_per_window].at + self.window - seen.at
        if self.tokens_per_window is not None and granted:
            over = sum(s.tokens for s in granted) + seen.tokens - self.tokens_per_window
            for s in granted:
                if over <= 0:
                    break
                over, wait = over - s.tokens, s.at + self.window - seen.at
                if over <= 0:
                    return wait
        return 0.0


@contextmanager
def serve(**settings: Any) -> Iterator[Provider]:
    """Serve in a thread. Yields the provider, whose settings may be changed while it runs."""
    provider = Provider(**settings)
    loop = provider.loop
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        provider.base_url = provider.listen_on(0)
        yield provider
    finally:
        asyncio.run_coroutine_threadsafe(_end(loop), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end(loop: asyncio.AbstractEventLoop) -> None:
    mine = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks(loop) if task is not mine]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _connection(provider: Provider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            key = next((line.split()[-1] for line in head.split("\r\n") if line.lower().startswith("auth")), "")
            body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
            provider.in_flight += 1
            provider.most_in_flight = max(provider.most_in_flight, provider.in_flight)
            try:
                reply = await _reply(provider, body, key)
            finally:
                provider.in_flight -= 1
            if reply is None:
                break
            writer.write(reply)
            await writer.drain()
    with suppress(ConnectionError, RuntimeError):
        writer.close()


async def _reply(provider: Provider, body: dict[str, Any], key: str) -> bytes | None:
    number, prompt = len(provider.log), sum(len(m["content"]) for m in body["messages"]) // 4
    seen = Seen(
        time.monotonic(), body, key, tokens=prompt + body.get("max_tokens", body.get("max_completion_tokens", 0))
    )
    provider.log.append(seen)
    wait = provider.over_limit(seen)
    seen.headers = provider.limits_told(seen) if provider.tells else ""
    if wait > 0:
        return _answer(seen, 429, {"error": _error(429)}, wait)
    fault = provider.fault(number, body) or ""
    await asyncio.sleep(3600 if fault == "hang" else provider.latency)
    if fault == "hang up":
        return None
    if (given := provider.reply(number, body)) is not None:
        return _answer(seen, *given)
    if fault == "no credit":
        return _answer(seen, 429, {"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}})
    if fault.startswith("429 after "):
        return _answer(seen, 429, {"error": _error(429)}, float(fault.split()[-1]))
    if fault.isdigit():
        return _answer(seen, int(fault), {"error": _error(int(fault))})
    if provider.counts == "used":
        seen.tokens = prompt + provider.reply_tokens
    return _good(seen, prompt, provider.reply_tokens, fault)


def _error(status: int) -> dict[str, Any]:
    return {"message": WORDS.get(status, "An error."), "type": "test", "code": None}


def _good(seen: Seen, prompt: int, reply_tokens: int, fault: str) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": f"echo: {seen.body['messages'][-1]['content']}"}
    if fault == "empty":
        message["content"] = ""
    if fault == "refused":
        message |= {"content": None, "refusal": "I cannot help with that."}
    usage = {"prompt_tokens": prompt, "completion_tokens": reply_tokens, "total_tokens": prompt + reply_tokens}
    reason = "length" if fault == "cut off" else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return _answer(seen, 200, reply, broken=fault == "broken JSON")


def _answer(seen: Seen, status: int, body: Any, retry_after: float = 0.0, *, broken: bool = False) -> bytes:
    seen.status = status
    data = json.dumps(body).encode()
    data = data[: len(data) // 2] if broken else data
    wait = ""
    if retry_after:
        wait = f"Retry-After: {math.ceil(retry_after)}\r\nRetry-After-Ms: {retry_after * 1000:.0f}\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    head = f"HTTP/1.1 {status} X\r\n{kind}{wait}{seen.headers}\r\n"
    return head.encode() + data
