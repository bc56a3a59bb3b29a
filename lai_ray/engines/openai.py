"""Client of servers with the OpenAI chat-completions protocol.  request -> Outcome

One call is one attempt: the SDK's own retries are off, so that the rate limiter counts every attempt. The key is read
from the environment of the calling process, is never logged, and is removed from a provider's messages.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from lai_ray.common import proxies
from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Answered, Outcome, Retry
from lai_ray.errors import ConfigError
from lai_ray.instructor.provider.parameters import body_of
from lai_ray.instructor.provider.replies import Reader
from lai_ray.records import Completion, Request

CONNECT_SECONDS = 10.0

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
        self._names: dict[str, str] = dict(settings.parameters.items())
        self._reader = Reader(settings, self._names, self._clean)

    async def call(self, request: Request) -> Outcome:
        """One attempt at one request, of at most `settings.timeout` seconds. Errors of the provider are returned."""
        SENT_AT.set(None)
        outcome = await self._attempt(request)
        sent_at = SENT_AT.get()
        return outcome if sent_at is None else replace(outcome, seconds=time.monotonic() - sent_at)

    async def _attempt(self, request: Request) -> Outcome:
        messages: Any = request.messages  # The SDK wants its own TypedDicts.
        try:
            async with asyncio.timeout(self._settings.timeout):  # The SDK's timeout restarts with every byte.
                response = await self._create(
                    model=self._settings.model,
                    messages=messages,
                    extra_body=body_of(request, self._names),
                )
            return self._reader.outcome(200, response.http_response.content, response.headers)
        except (self._openai.APITimeoutError, TimeoutError) as error:
            connecting = "Connect" in type(error.__cause__).__name__
            return Retry(f"timeout after {self._settings.timeout:g} s", reached=not connecting, free=connecting)
        except self._openai.APIStatusError as error:
            return self._reader.outcome(error.status_code, error.response.content, error.response.headers)
        except self._openai.APIConnectionError as error:
            return self._unconnected(error.__cause__ or error)
        except UnicodeError as error:  # Of this prompt: nothing was sent.
            message = self._clean(f"the prompt cannot be sent: {type(error).__name__}: {error}")
            return Answered(Completion("", "error", error=message), free=True)

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

    def _clean(self, message: str) -> str:
        """Without the key."""
        return message.replace(self._key, "***") if self._settings.api_key_env else message


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
