"""A provider's reply as the outcome of a call.  status, body, headers -> Answered, Retry or Fatal

Whatever comes is one of the three: what was not foreseen is an error of its own row, with the beginning of what came.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Answered, Fatal, Outcome, Retry
from lai_ray.grading.answer_part import without_thoughts
from lai_ray.instructor.provider import errors, parameters
from lai_ray.instructor.provider.errors import ProviderError
from lai_ray.instructor.rate_limit import headers as rate_headers
from lai_ray.records import Completion

ADVICE_ON_NAMES = "instructor.parameters can give it another name, or leave it out"
_SETTINGS = {"response_format": "format"}
"""The settings of parameters with another name."""
MAX_MESSAGE = 500
"""Characters of a provider's message that are kept."""
QUOTED = 100
"""Characters of an unreadable reply that are shown."""
UNFINISHED = (408, 499, 504, 522, 524)
"""Statuses under which the model may go on working, and its provider bill it."""
RETRYABLE = (408, 409, 425, 429, 499)
ADVICE = {
    errors.KEY: "Is the key in {key} the right one for this server, and still valid?",
    errors.RIGHTS: "May the key in {key} use the model {model!r}?",
    errors.WHERE: "Does the server know the model {model!r}? Does instructor.base_url end as its manual says (mostly "
    "/v1)?",
    errors.ACCOUNT: "Does the account have credit left?",
}
BROKEN_OFF = (
    "error", "abort", "aborted", "cancelled", "canceled", "network_error", "model_error", "insufficient_system_resource"
)  # fmt: skip
"""Reasons for which a reply ends before the model does."""
FILTERED = (
    "content_filter", "content_filtered", "safety", "recitation", "prohibited_content", "blocklist", "sensitive"
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """Reads the replies to requests with these settings. names: the parameters as they were sent."""

    settings: InstructorSettings
    names: Mapping[str, str]
    clean: Callable[[str], str]
    """Takes the key out of a message."""

    def outcome(self, status: int, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """The outcome of a call."""
        content = errors.parsed(body)
        try:
            found = self._found(status, content, body, headers)
        except Exception as error:  # The last resort: one odd reply must not end a run.
            found = self._odd(f"{type(error).__name__}: {error}", content, body)
        return found if isinstance(found, Fatal) else replace(found, limits=rate_headers.read(headers))

    def _found(self, status: int, content: Any, body: bytes, headers: Mapping[str, str]) -> Outcome:
        text = body.decode(errors="replace")
        if status != 200:
            return self._failed(errors.of(status, content, text), content, headers)
        if error := errors.in_reply(content):
            return self._failed(error, content, headers)
        if content is None and text.strip()[:1] in ("", "{", "["):
            return Retry(f"half a reply: {self._quoted(body)}")
        choice = _choice(content)
        if choice is None:
            return self._odd("not a chat completion", content, body)
        if (told := choice.get("error")) or _reason(choice) in BROKEN_OFF:
            broken = f"the reply broke off (finish_reason = {_reason(choice)})"
            error = errors.of(200, told, told if isinstance(told, str) else broken)
            error = replace(error, status=error.status if error.status != 200 else errors.SERVER)
            return self._failed(error, content, headers)
        return self._answered(choice, content)

    def _answered(self, choice: dict[str, Any], content: Any) -> Answered:
        message, reason = choice["message"], _reason(choice)
        completion = Completion(text_of(message.get("content")), reason, *counts(content))
        return Answered(replace(completion, error=self._error_of(message, completion)))

    def _error_of(self, message: Mapping[str, Any], completion: Completion) -> str | None:
        refusal = message.get("refusal") or _refusal_in(message.get("content"))
        if refusal:
            return f"refused: {self._short(str(refusal))}"
        if completion.finish_reason == "content_filter":
            return "refused: stopped by the provider's content filter"
        if completion.finish_reason == "length" and not (without_thoughts(completion.text) or "").strip():
            most = self.settings.max_tokens
            return f"the reply was cut off at instructor.max_tokens = {most} before any text came: thoughts count too"
        if completion.text.strip():
            return None
        thought = any(message.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
        return "the reply is empty" + (": all of it is in its reasoning" if thought else "")

    def _failed(self, error: ProviderError, content: Any, headers: Mapping[str, str]) -> Outcome:
        """An error: fatal, worth a retry, or of this request alone."""
        prompt, reply = counts(content)
        free = error.status not in UNFINISHED and not prompt + reply
        status = error.status
        message = self._short(f"{status}: {error.message}" if status else error.message)
        if status in ADVICE and not (status == errors.RIGHTS and error.filtered):
            key = self.settings.api_key_env or "(no instructor.api_key_env)"
            return Fatal(f"{message}\n{ADVICE[status].format(key=key, model=self.settings.model)}", free=free)
        if status in (400, 405, 422, 500, 501) and (names := self._learned(error)):
            return Retry(message, free=free, parameters=names)
        if status in RETRYABLE or status >= 500:
            return Retry(message, after=retry_after(headers), limited=status == errors.LIMIT, free=free)
        named = parameters.named(error, self.names)
        if self.settings.format == "text" and "response_format" in named:
            named.remove("response_format")
        if named:
            settings = ", ".join(f"instructor.{_SETTINGS.get(name, name)}" for name in named if name != "seed")
            settings = settings or "the seed"
            other = 'format = "auto" or "text" goes without' if "response_format" in named else ADVICE_ON_NAMES
            message += f" (it is about {settings}; {other})"
        return Answered(Completion("", "error", prompt, reply, error=message), free=free)

    def _learned(self, error: ProviderError) -> dict[str, str]:
        """What another request would leave out. Never the format that a job demands, or did not ask for."""
        names = parameters.learned(error, self.names)
        return {key: name for key, name in names.items() if key != "response_format" or self.settings.format == "auto"}

    def _odd(self, what: str, content: Any, body: bytes) -> Answered:
        prompt, reply = counts(content)
        message = f"{what}: {self._quoted(body)}"
        if content is None:
            message += ". Is instructor.base_url the address of the API (mostly ending in /v1)?"
        return Answered(Completion("", "error", prompt, reply, error=message), free=not prompt + reply)

    def _quoted(self, body: bytes) -> str:
        return repr(self._short(body[: 8 * QUOTED].decode(errors="replace"))[:QUOTED])

    def _short(self, message: str) -> str:
        """One line of at most MAX_MESSAGE characters, without the key."""
        return " ".join(printable(self.clean(message)).split())[:MAX_MESSAGE]


def counts(content: Any) -> tuple[int, int]:
    """Tokens of prompt and reply as the provider counted; (0, 0) where either is not known.

    Some leave thoughts out of `completion_tokens` and bill them: these are in `total_tokens`.
    """
    usage = content.get("usage") if isinstance(content, dict) else None
    if not isinstance(usage, dict):
        return 0, 0
    prompt, reply, whole = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if prompt is None or reply is None:
        return 0, 0
    return prompt, max(reply, (whole or 0) - prompt)


def _count(value: Any) -> int | None:
    """A whole number of tokens; None for anything else, as a negative one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return int(value)


def text_of(content: Any) -> str:
    """The text of a message: as it is, or the text parts joined; thoughts are left out."""
    if isinstance(content, list):
        return "".join(map(_part, content))
    return printable(content) if isinstance(content, str) else _part(content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return printable(part)
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "output_text"):
        return ""
    text = part.get("text")
    text = text.get("value") if isinstance(text, dict) else text
    return printable(text) if isinstance(text, str) else ""


def _refusal_in(content: Any) -> str:
    parts = content if isinstance(content, list) else []
    return next((str(p["refusal"]) for p in parts if isinstance(p, dict) and p.get("refusal")), "")


def printable(text: str) -> str:
    """Half a surrogate pair cannot be written to a file."""
    return text.encode("utf-8", "replace").decode()


def _choice(content: Any) -> dict[str, Any] | None:
    choices = content.get("choices") if isinstance(content, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        return choice if isinstance(choice, dict) and choice.get("error") else None
    content = choice["message"].get("content")
    return choice if content is None or isinstance(content, str | list | dict) else None


def _reason(choice: Mapping[str, Any]) -> str:
    reason = str(choice.get("finish_reason") or "stop")
    return "content_filter" if reason.lower() in FILTERED else reason


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.

    now: seconds since the epoch, for a date; None for this machine's clock. Returns None where no header has it.
    """
    milliseconds, text = headers.get("retry-after-ms"), headers.get("retry-after")
    if milliseconds is not None and (wait := _seconds(milliseconds)) is not None:
        return wait / 1000
    if text is None or (wait := _seconds(text)) is not None:
        return None if text is None else wait
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now))
    except (TypeError, ValueError, OverflowError):
        return None


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
