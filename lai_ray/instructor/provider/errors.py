"""A provider's error, in whatever form it comes.  status, JSON -> ProviderError"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KEY, RIGHTS, WHERE, ACCOUNT, LIMIT, TIMEOUT, SERVER = 401, 403, 404, 402, 429, 408, 500
STATUS = {
    KEY: "invalid_api_key authentication_error unauthenticated unauthorized api_key_invalid invalid_authentication",
    RIGHTS: "permission_denied permission_error forbidden",
    WHERE: "model_not_found not_found not_found_error",
    ACCOUNT: "insufficient_quota billing_hard_limit_reached billing_not_active account_deactivated payment_required "
    "insufficient_balance insufficient_credits insufficient_funds arrearage billing_error",
    LIMIT: "rate_limit_exceeded rate_limit_error rate_limit too_many_requests resource_exhausted",
    SERVER: "server_error internal_server_error internal_error internal api_error overloaded_error unavailable "
    "overloaded service_unavailable engine_overloaded",
    TIMEOUT: "timeout timeout_error deadline_exceeded",
    400: "invalid_request_error invalid_argument bad_request unsupported_parameter unsupported_value",
}
"""By HTTP status, the words that providers have for it."""
_BY_WORD = {word: status for status, words in STATUS.items() for word in words.split()}
_BY_MESSAGE = {
    KEY: r"\b(?:api|access|secret|auth\w*)[ _-]?(?:key|token)\b.{0,40}\b(?:in|not |un)?(?:valid|correct|expired|missing"
    r"|found|wrong|provided|revoked|authorized)\b"
    r"|\b(?:invalid|incorrect|wrong|expired|missing|no)\b.{0,20}\bapi[ _-]?key",
    ACCOUNT: r"(?:insufficient|not enough|no|out of) (?:credits?|balance|quota|funds?)|(?:credit|account) balance|"
    r"balance is (?:too low|insufficient)",
}
"""By HTTP status, what a message says where no word tells."""
_UNDER_200 = {LIMIT: r"rate.?limit|too many requests", SERVER: r"overload|temporar|try again|upstream|timed? ?out|busy"}
FILTERED = re.compile(
    r"moderat|flagged|content.?(?:filter|policy|management)|safety|guardrail|harmful|blocked by .{0,30}polic",
    re.I,
)


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What a provider refused, or failed at."""

    status: int
    """The HTTP status that it means: its own code counts where it came under another one. 0 where nothing tells."""
    message: str
    codes: frozenset[str] = frozenset()
    """Its words for the error, in lower case."""
    parameters: frozenset[str] = frozenset()
    """The parameters that it names as such."""

    @property
    def filtered(self) -> bool:
        """Whether this one prompt was refused for what it says."""
        return bool(FILTERED.search(self.message) or any(FILTERED.search(code) for code in self.codes))


def in_reply(body: Any) -> ProviderError | None:
    """The error in the body of a reply that came with status 200; None where it has none."""
    body = body[0] if isinstance(body, list) and body else body
    if not isinstance(body, dict):
        return None
    told = body.get("error") or body.get("errors")
    if not told and (body.get("choices") or not any(body.get(key) for key in ("message", "detail", "msg"))):
        return None
    error = of(200, body, "")
    if error.status != 200:
        return error
    meant = next((code for code, words in _UNDER_200.items() if re.search(words, error.message, re.I)), 0)
    return ProviderError(meant, error.message, error.codes, error.parameters)


def of(status: int, body: Any, text: str) -> ProviderError:
    """The error of a reply. body: its JSON, None where it has none.  text: the body as it came."""
    tables = list(_tables(body))
    message = next((words for table in tables if (words := _words(table))), "") or text.strip() or "no message"
    if raw := next((words for table in tables if (words := _behind(table))), ""):
        message = f"{message}: {raw}"
    values = [table[key] for table in tables for key in ("code", "type", "status", "reason") if table.get(key)]
    codes = frozenset(str(value).lower() for value in values)
    places = (place for table in tables for place in (table.get("param"), _last(table.get("loc"))))
    parameters = frozenset(place for place in places if isinstance(place, str) and place)
    return ProviderError(_status(status, codes, message), message, codes, parameters)


def _status(status: int, codes: frozenset[str], message: str) -> int:
    """The status meant. An account or a key is known by its words under any 4xx but 429, whose limit may be a quota."""
    words = sorted({_BY_WORD[code] for code in codes if code in _BY_WORD})
    if any(FILTERED.search(text) for text in (message, *codes)):
        return 400 if status == 200 else status
    if status != 200:
        if ACCOUNT in words or (KEY in words and status != LIMIT):
            return ACCOUNT if ACCOUNT in words else KEY
        if "model_not_found" in codes:
            return WHERE
        if status in (400, RIGHTS, 422):
            return next((s for s, pattern in _BY_MESSAGE.items() if re.search(pattern, message, re.I)), status)
        return status
    numbers = [int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)]
    by_message = (s for s, pattern in _BY_MESSAGE.items() if re.search(pattern, message, re.I))
    return next(iter([*numbers, *words, *by_message]), 200)


def _tables(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The tables of an error, the most telling first: what `error` holds, then what is around it."""
    if depth > 4:
        return
    if isinstance(value, list):
        for each in value[:4]:
            yield from _tables(each, depth + 1)
    elif isinstance(value, dict):
        for key in ("error", "errors", "message", "detail", "details"):
            if isinstance(value.get(key), dict | list):
                yield from _tables(value[key], depth + 1)
        yield value


def _words(table: dict[str, Any]) -> str:
    for key in ("message", "msg", "detail", "error", "error_description", "description", "title"):
        if isinstance(table.get(key), str) and table[key].strip():
            at = _last(table.get("loc"))
            return f"{at}: {table[key]}" if at else str(table[key])
    return ""


def _behind(table: dict[str, Any]) -> str:
    """What a router passes on of the error of the provider behind it."""
    metadata = table.get("metadata")
    return str(metadata["raw"]) if isinstance(metadata, dict) and metadata.get("raw") else ""


def _last(places: Any) -> str:
    return str(places[-1]) if isinstance(places, list) and places else ""


def parsed(body: bytes) -> Any:
    """The JSON of a body; None where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
