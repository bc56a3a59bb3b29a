"""What makes two starts the same run: its settings but those that may change, and its models and data by content."""

from __future__ import annotations

from typing import Any

from lai_ray.config.config import Config
from lai_ray.storage.store import key_of

MAY_CHANGE = ("name", "storage", "iterations", "limits", "cluster", "report")
"""Top-level settings that may differ between two starts of one run; `evaluate.report_on` may grow."""
HOW_REACHED = ("api_key_env", "timeout", "usd_per_million_input", "usd_per_million_output")
"""Instructor settings that say how it is reached and what it costs, not what it is asked."""
HOW_SEARCHED = ("max_concurrent", "keep_weights")
"""Settings of a search that say how it is carried out, not what is tried."""


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings and contents of one identity that are others in another, a line each; none of a run not started."""
    there, here = flat(before), flat(now)
    known = there | {key: value for key, value in here.items() if not key.startswith("content.")} if there else {}
    return [
        f"{key}: {_shown(key, there)} there, {_shown(key, here)} now"
        for key in sorted(known)
        if there.get(key) != here.get(key)
    ]


def _shown(key: str, settings: dict[str, Any]) -> str:
    return repr(in_short(key, settings[key])) if key in settings else "not set"


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return result


def in_short(key: str, value: Any) -> Any:
    """A setting's value as a person wants to see it: a prompt by its length and hash."""
    return f"{len(value)} characters, {key_of(value)[:8]}" if key.startswith("instructor.prompts.") else value


def identity_of(config: Config, **hashes: str) -> dict[str, Any]:
    """What makes this run itself: every setting but those that may change; models and prompts by content."""
    table = config.model_dump(mode="json", exclude=set(MAY_CHANGE))
    for key in ("report_on", "imported"):  # A benchmark counts by what it holds.
        table["evaluate"].pop(key)
    for key in ("model", "attempts"):
        table["target"].pop(key)
    table.pop("data")
    for own in table["benchmark"]:  # Files count by what they hold.
        for key in ("train", "dev", "test"):
            own.pop(key)
    table["contrast"].pop("encoder")
    for key in HOW_SEARCHED:
        (table["search"] or {}).pop(key, None)
    for key in (*HOW_REACHED, *(["model"] if config.instructor.in_cluster else [])):
        table["instructor"].pop(key)
    return {**table, "content": hashes}
