"""Client of servers with the OpenAI chat-completions protocol.  request -> Outcome

One call is one attempt: the SDK's own retries are off, so that the rate limiter counts every attempt. The key is read
from the environment of the calling process, is never logged, and is removed from a provider's messages.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

from lai_ray.common import proxies
from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Answered, Fatal, Outcome, Retry
from lai_ray.errors import ConfigError
from lai_ray.instructor.rate_limit import headers as rate_headers
from lai_ray.records import Completion, Request

CONNECT_SECONDS = 10.0
MAX_MESSAGE = 500
"""Characters of a provider's message that are kept."""

KEY, RIGHTS, WHERE, ACCOUNT = 401, 403, 404, 402
ACCOUNT_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated")
RETRYABLE = (408, 409, 425, 429)
ADVICE = {
    KEY: "Is the key in {key} the right one for this server, and still valid?",
    RIGHTS: "May the key in {key} use the model {model!r}?",
    WHERE: "Does the server know the model {model!r}? Does instructor.base_url end as its manual says (mostly /v1)?",
    ACCOUNT: "Does the account have credit left?",
}


SENT_AT: ContextVar[float | None] = ContextVar("SENT_AT", default=None)
"""When this task's request was sent. Later than the start of `call` where many calls start at once."""


async def _note_sent(_: object) -> None:
    SENT_AT.set(time.monotonic())


def check(settings: InstructorSettings) -> None:
    """Raises ConfigError when the variable `instructor.api_key_env` holds no key, or the proxy on the way to the server
    cannot be used. Checks this process only.

    A worker inherits the environment that its node was started with: locally the driver's; on a cluster that of
    `ray start`. The key is not passed in a runtime_env, where every user of the cluster's dashboard could read it.
    """
    _key(settings)
    if (settings.base_url is None) or "://" in settings.base_url:
        proxies.check(_address(settings.base_url))


class OpenAIEngine:
    """An asynchronous client for one server and model. Use it from one event loop only."""

    check = staticmethod(check)

    def __init__(self, settings: InstructorSettings, base_url: str | None) -> None:
        """base_url: the resolved address; None for the SDK's default (OPENAI_BASE_URL, or api.openai.com).

        Raises ConfigError when the key's variable is unset or openai is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise ConfigError(f"the engine 'openai' needs the openai package ({error}): pip install openai") from error
        self._openai = openai
        self._settings = settings
        self._key = _key(settings)
        timeout = openai.Timeout(settings.timeout, connect=min(CONNECT_SECONDS, settings.timeout))
        self._proxy = proxies.of(_address(base_url))
        routed = proxies.client_options(self._proxy)
        transport = openai.DefaultAsyncHttpxClient(event_hooks={"request": [_note_sent]}, **routed)
        client = openai.AsyncOpenAI(
            api_key=self._key, base_url=base_url, max_retries=0, timeout=timeout, http_client=transport
        )
        self._create = client.chat.completions.with_raw_response.create  # Loads modules now, not in the first call.

    async def call(self, request: Request) -> Outcome:
        """One attempt at one request, of at most `settings.timeout` seconds. Errors of the provider are returned."""
        SENT_AT.set(None)
        outcome = await self._attempt(request)
        sent_at = SENT_AT.get()
        return outcome if sent_at is None else replace(outcome, seconds=time.monotonic() - sent_at)

    async def _attempt(self, request: Request) -> Outcome:
        seed: dict[str, Any] = {} if request.seed is None else {"seed": request.seed}
        messages: Any = request.messages  # The SDK wants its own TypedDicts.
        try:
            async with asyncio.timeout(self._settings.timeout):  # The SDK's timeout restarts with every byte.
                response = await self._create(
                    model=self._settings.model,
                    messages=messages,
                    temperature=request.temperature,
                    max_tokens=request.max_tokens,
                    **seed,
                )
            return replace(_read(response.http_response.content), limits=rate_headers.read(response.headers))
        except (self._openai.APITimeoutError, TimeoutError) as error:
            connecting = "Connect" in type(error.__cause__).__name__
            return Retry(f"timeout after {self._settings.timeout:g} s", reached=not connecting, free=connecting)
        except self._openai.APIStatusError as error:
            return self._refused(error.status_code, error.body, error.response.text, error.response.headers)
        except self._openai.APIConnectionError as error:
            return self._unconnected(error.__cause__ or error)

    def _unconnected(self, cause: BaseException) -> Retry:
        """ConnectError: nothing was sent. Any other error may have come after the server began its work."""
        root = cause
        while root.__cause__ or root.__context__:
            root = root.__cause__ or root.__context__ or root
        message = self._clean(f"{type(root).__name__}: {root}" if str(root) else type(root).__name__)
        connecting = any(word in type(cause).__name__ for word in ("Connect", "Proxy"))
        if self._proxy is not None:
            message += f", through the proxy of {self._proxy}"
        return Retry(f"no connection: {message}", reached=not connecting, free=connecting)

    def _refused(self, status: int, body: object, text: str, headers: Mapping[str, str]) -> Outcome:
        """The outcome of an HTTP status other than 200: fatal, worth a retry, or an error of this request."""
        error = body if isinstance(body, dict) else {}
        message = self._clean(f"{status}: {error.get('message') or text or 'no message'}")
        code = str(error.get("code") or error.get("type") or "")
        if status in ADVICE or code in ACCOUNT_CODES or error.get("type") in ACCOUNT_CODES:
            advice = ADVICE[status if status in ADVICE else ACCOUNT]
            names = {"key": self._settings.api_key_env or "(no instructor.api_key_env)", "model": self._settings.model}
            return Fatal(f"{message}\n{advice.format(**names)}", free=status < 500)
        limits, free = rate_headers.read(headers), status < 500
        if status in RETRYABLE or status >= 500:
            return Retry(message, after=retry_after(headers), limited=status == 429, free=free, limits=limits)
        return Answered(Completion("", "error", error=message), free=free, limits=limits)

    def _clean(self, message: str) -> str:
        """One line of at most MAX_MESSAGE characters, without the key."""
        if self._settings.api_key_env:
            message = message.replace(self._key, "***")
        return " ".join(message.split())[:MAX_MESSAGE]


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.

    now: seconds since the epoch, for a date; None for this machine's clock. Returns None where no header has it.
    """
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after")
        if text is None:
            return None
        if text.strip().replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now))
    except (TypeError, ValueError):
        return None


def _read(body: bytes) -> Answered | Retry:
    """A reply's body as outcome. Incomplete JSON or another schema is worth a retry; an empty text is an error."""
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        usage = reply.get("usage") or {}
        counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return Retry(f"not a chat completion ({type(error).__name__}): {body[:80].decode(errors='replace')!r}")
    reason = str(choice.get("finish_reason") or "stop")
    return Answered(Completion(text, reason, *counts, error=_error_of(message, reason, text)))


def _error_of(message: Mapping[str, Any], reason: str, text: str) -> str | None:
    if message.get("refusal"):
        return f"refused: {str(message['refusal'])[:MAX_MESSAGE]}"
    if reason == "content_filter":
        return "refused: stopped by the provider's content filter"
    return None if text.strip() else "the reply is empty"


def _address(base_url: str | None) -> str:
    """The server's, as the SDK takes it."""
    return base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


def _key(settings: InstructorSettings) -> str:
    """The key; "none" for a server that needs none, since the SDK requires one."""
    name = settings.api_key_env
    if name is None:
        return "none"
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"instructor.api_key_env names the variable {name}, which is not set here. Set it in the shell that starts "
            f"the run (export {name}=...); on a cluster, where `ray start` runs on each node, before it. A server that "
            "needs no key needs no api_key_env."
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the key in the variable {name} has characters that an HTTP header cannot hold.")
    return key


ENGINE = OpenAIEngine
