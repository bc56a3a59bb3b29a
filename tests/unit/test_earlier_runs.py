"""Runs made at commit e60d363, before the package was laid out anew: today's code goes on with them and asks nothing.

`tests/fixtures/runs_e60d363.tar.xz` holds two small runs of the quickstart's world as `lai run` left them, without
weights and logs: `small` (two iterations, LE and LEC, curate.solve_again) and `searched` (a search of four trials).
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.config import job_file
from tests.local import LocalExecutor

ARCHIVE = Path(__file__).parent.parent / "fixtures" / "runs_e60d363.tar.xz"
JOBS: dict[str, dict[str, Any]] = {
    "small": {"iterations": 2, "schedule": {"strategy": ["le", "lec"]}, "curate": {"solve_again": True}},
    "searched": {
        "iterations": 1, "schedule": {"strategy": "lec"},
        "search": {"neighbours": [1, 3], "samples_per_dataset": [20, 40], "seeds": [0], "max_concurrent": 1},
    },
}  # fmt: skip


class Refusing(LocalExecutor):
    """Nothing that costs anything is left to do: only searching among embeddings that are there, and grading."""

    def _count(self, verb: str) -> None:
        assert verb == "nearest", f"{verb} was called for"


def job(storage: Path, name: str) -> Any:
    table: dict[str, Any] = {
        "name": name,
        "storage": str(storage),
        "target": {"model": "lai_ray.world:STUDENT", "max_new_tokens": 64, "max_model_len": 256, "dtype": "float32"},
        "evaluate": {
            "learn_from": ["word_problems"], "report_on": ["word_problems", "word_problems_plus"],
            "max_train_problems": 60, "max_test_problems": 20,
        },
        "contrast": {"neighbours": 3, "encoder": "target"},
        "instructor": {
            "model": "lai-tutor-rules", "base_url": "lai_ray.world.tutor:serve", "temperature": 0.8, "max_tokens": 2048,
            "usd_per_million_input": 0.0, "usd_per_million_output": 0.0,
        },
        "curate": {"samples_per_dataset": 40},
        "train": {
            "learning_rate": 3e-4, "learning_rate_decay": 0.7, "epochs": 1, "sequences_per_step": 32,
            "sequences_per_device": 16, "max_length": 256, "warmup_steps": 10, "precision": "fp32",
            "gradient_checkpointing": False, "zero_stage": 2,
        },
    }  # fmt: skip
    for key, value in JOBS[name].items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return job_file.parse(table)


def contents(folder: Path, *names: str) -> dict[str, Any]:
    """Files by name: rows of JSON lines decoded, others as bytes."""
    paths = [path for name in names for path in folder.rglob(name)]
    assert paths
    return {str(path.relative_to(folder)): rows(path) for path in paths}


def rows(path: Path) -> Any:
    if path.suffix != ".jsonl":
        return path.read_bytes()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", JOBS)
def test_a_run_made_before_the_move_asks_nothing_and_keeps_its_samples_and_its_checkpoint(tmp_path, name):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    kept = ("samples.jsonl", "dropped.jsonl", "replies.jsonl", "lineage.json", "scores.json", "*.npz")
    before = contents(tmp_path / name, *kept)
    outcome = cli_run.run_job(job(tmp_path, name), executor=Refusing())
    assert outcome.stopped_at is None
    assert outcome.target is not None
    after = contents(tmp_path / name, *kept)
    for file, written in before.items():
        if isinstance(written, bytes):
            assert after[file] == written
        else:  # A field may have been added since; its default is in every row.
            assert [{key: row[key] for key in old} for row, old in zip(after[file], written, strict=True)] == written
