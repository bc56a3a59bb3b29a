"""What makes two starts the same run: its settings but those that may change, and its models and data by content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lai_ray.config.config import Config
from lai_ray.config.reaching import ReachingSettings
from lai_ray.storage.keys import key_of

MAY_CHANGE = ("name", "storage", "iterations", "limits", "cluster", "report")
"""Top-level settings that may differ between two starts of one run; `evaluate.report_on` may grow."""
HOW_REACHED = tuple(ReachingSettings.model_fields)
"""Instructor settings of access and price, which do not change the requests."""
UNASKED = ("instructor.", "content.instructor", "content.prompts")
"""What may differ as long as the instructor has answered nothing."""
HOW_SEARCHED = ("max_concurrent", "keep_weights")
"""Settings of how a search is carried out, which do not change what is tried."""


def differences(before: dict[str, Any], now: dict[str, Any], *, asked: bool = True) -> list[str]:
    """The settings and contents that differ, a line each; none where `before` is empty: a run not started yet.

    asked: whether the instructor has answered anything; before that, all of [instructor] may change.
    """
    recorded, given = flat(before), flat(now)
    keys = recorded.keys() | {key for key in given if not key.startswith("content.")} if recorded else set()
    reached = {f"instructor.{name}" for name in HOW_REACHED}  # In records of earlier versions.
    return [
        f"{key}: {_what(key)}{_shown(key, recorded)} there, {_shown(key, given)} now"
        for key in causes_first(keys, {**recorded, **given})
        if recorded.get(key) != given.get(key) and key not in reached and (asked or not key.startswith(UNASKED))
    ]


def causes_first(keys: Iterable[str], table: Mapping[str, Any]) -> list[str]:
    """These keys in the order of the table, settings before hashes, which follow from them."""
    order = {key: number for number, key in enumerate(table)}
    return sorted(keys, key=lambda key: (re.fullmatch("[0-9a-f]{16,64}", str(table[key])) is not None, order[key]))


CONTENTS = {
    "target": "the files of target.model",
    "encoder": "the files of contrast.encoder",
    "instructor": "the files of instructor.model",
    "prompts": "the built-in wording of the instructor's prompts",
}
"""What the hashes of a run's identity are of; `data.NAME`: of the training problems of a benchmark."""


def _what(key: str) -> str:
    """What has changed, where the values are hashes: "the training problems of reviews have changed: "."""
    table, _, name = key.partition(".")
    if table != "content":
        return ""
    if name.startswith("files."):
        return f"the samples in the files of strategy.{name.removeprefix('files.')} changed: "
    data = f"the training problems of {name.removeprefix('data.')} (question, answer, or which of them)"
    return f"{CONTENTS.get(name, data)} changed: "


def _shown(key: str, settings: dict[str, Any]) -> str:
    if key not in settings:
        return "not set"
    if key.startswith("content.") and re.fullmatch("[0-9a-f]{32}", str(settings[key])):
        return f"hash {settings[key][:8]}"
    return repr(in_short(key, settings[key]))


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
    """A setting's value for an error message: of a prompt its length and hash."""
    return f"{len(value)} characters, {key_of(value)[:8]}" if key.startswith("instructor.prompts.") else value


def identity_of(config: Config, **hashes: str) -> dict[str, Any]:
    """What makes this run itself: every setting but those that may change; models and data by content hashes."""
    table = config.model_dump(mode="json", exclude=set(MAY_CHANGE))
    for key in ("report_on", "imported"):  # A benchmark counts by its content.
        table["evaluate"].pop(key)
    for key in ("model", "attempts"):
        table["target"].pop(key)
    table.pop("data")
    for own in table["benchmark"]:  # Files count by their content.
        for key in ("train", "dev", "test"):
            own.pop(key)
    for named in (key.split(".")[1] for key in hashes if key.startswith("files.")):  # These too.
        table["strategy"].get(named, {}).pop("files", None)
    table["contrast"].pop("encoder")
    for key in HOW_SEARCHED:
        (table["search"] or {}).pop(key, None)
    for key in (*HOW_REACHED, *(["model"] if config.instructor.in_cluster else [])):
        table["instructor"].pop(key)
    if config.instructor.format == "text":  # As in records of earlier versions.
        table["instructor"].pop("format")
    return {**table, "content": hashes}
