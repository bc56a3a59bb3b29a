"""The model card of a trained model: README.md beside the weights, as the Hugging Face hub shows it.

Written with the weights, and again when the model has been tested. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lai_ray.common.unread import unread
from lai_ray.training.export import lineage_of

CARD = "README.md"


def write(folder: str, scores: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the card of a model that a run made; does nothing for another folder, or one that cannot be written.

    scores: as in scores.json, {"gsm8k.test": {"right", "n", …}, …}.
    """
    lineage = lineage_of(folder)
    if lineage is None:
        return
    made = Path(folder) / f".{CARD}"
    with contextlib.suppress(OSError):  # A missing card harms nothing: the folder may have been moved or locked.
        made.write_text(text(lineage, scores or {}), encoding="utf-8")
        os.replace(made, Path(folder) / CARD)


def text(lineage: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: the model's base, samples, settings and scores."""
    settings: Mapping[str, Any] = lineage.get("settings", {})
    metrics: Mapping[str, Any] = lineage.get("metrics", {})
    samples: Mapping[str, Any] = lineage.get("samples", {})
    names: Mapping[str, str] = lineage.get("names", {})
    replay: Mapping[str, Any] | None = lineage.get("replay")
    lines = [
        "---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- lai-ray", "---",
        f"# {names.get('model') or lineage.get('name', 'A model')}", "",
        "Fully fine-tuned by lai-ray on samples that an instructor model wrote for its mistakes "
        "(LLMs-as-Instructors, arXiv 2407.00497).", "",
        *_table("what", "value", {
            "base": names.get("base") or lineage.get("base"),
            "identity": lineage.get("name"),
            "identity of the base": lineage.get("base"),
            "iteration": lineage.get("iteration"),
            "samples": samples.get("count"),
            "samples whose final line was derived": samples.get("derived"),
            "right answers replayed": replay and f"{replay['count']} of {replay['of']}, {replay['texts']} texts",
            "hash of the samples": samples.get("hash"),
            "dropped, no room for a response": _whole(metrics.get("dropped")),
            "left out, refused by the chat template": _whole(metrics.get("refused")),
            "truncated": _whole(metrics.get("truncated")),
            "learning rate at the start": lineage.get("learning_rate"),
            "seed": lineage.get("seed"),
            **{name: value for name, value in settings.items() if name != "learning_rate"},
            **_epochs(lineage.get("early_stopping")),
            "steps": _whole(metrics.get("steps")),
            "loss of the last step": _rounded(metrics.get("loss")),
        }),
    ]  # fmt: skip
    if scores:
        lines += ["## Scores", "", *_table("part", "right", {name: _score(one) for name, one in scores.items()})]
        lines += ["Its mistakes are collected on the parts named train; compare test parts only.", ""]
    return "\n".join(lines)


def _epochs(early_stopping: Mapping[str, Any] | None) -> dict[str, str]:
    """The epoch that was kept, and each epoch's dev scores."""
    if early_stopping is None:
        return {}
    rows = {"epoch kept, by dev score": f"{early_stopping['epoch']} of {early_stopping['of']}"}
    for epoch, scores in enumerate(early_stopping["dev"], 1):
        rows[f"after epoch {epoch}"] = ", ".join(f"{part} {_score(one)}" for part, one in scores.items())
    return rows


def _table(left: str, right: str, rows: Mapping[str, Any]) -> list[str]:
    known = [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value is not None]
    return [f"| {left} | {right} |", "|---|---|", *known, ""]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _score(one: Mapping[str, Any]) -> str:
    if not one["n"]:
        return "0 of 0"
    doubts = f"; {found}" if (found := unread(one)) else ""
    return f"{one['right']} of {one['n']} ({one['right'] / one['n']:.1%}{doubts})"


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
