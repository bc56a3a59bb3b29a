"""From wherever a start was killed, the same command goes on, also with other limits: before each write, in turn."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.storage.run import Run
from lai_ray.storage.store import Store
from tests.local import Crash, LocalExecutor
from tests.unit.test_check_equals_run import small

CHANGES: list[dict[str, Any]] = [
    {}, {"limits__max_calls": 500}, {"limits__max_in_flight": 3}, {"limits__max_failed_fraction": 0.5},
    {"limits__max_usd": 9.0, "limits__unknown_price_is_free": True}, {"limits__counted_tokens": "reserved"},
    {"limits__max_tokens": 10**7}, {"instructor__timeout": 3.0}, {"cluster__target_replicas": 3},
    {"instructor__usd_per_million_input": 1.0, "instructor__usd_per_million_output": 1.0},
]  # fmt: skip
"""What may differ at the second start."""
JOBS: list[dict[str, Any]] = [
    {}, {"curate__rehearse": 1, "curate__check_keys": True, "train__epochs": 2, "train__early_stopping": True},
    {"iterations": 1, "search__neighbours": [1, 3]},
]  # fmt: skip
STEP, NEVER = 7, 10**9


class Writes:
    """Counts the writes of runs, and ends the process, as far as the loop can tell, at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.last = 0, NEVER
        for name in ("put", "put_lines"):
            monkeypatch.setattr(Store, name, self._counted(getattr(Store, name)))

    def _counted(self, write: Any) -> Any:
        def counted(store: Store, *arguments: Any) -> Any:
            if not store.where.endswith("/driver"):
                if self.count >= self.last:
                    raise Crash("killed")
                self.count += 1
            return write(store, *arguments)

        return counted


def results(run: Run) -> dict[str, bytes | None]:
    names = ("samples.jsonl", "replies.jsonl", "dropped.jsonl")
    return {name: run.store.get(name) for name in run.store.names("iteration_0") if name.endswith(names)}


@pytest.mark.parametrize("number", range(len(JOBS)))
def test_killed_before_any_write_the_same_command_goes_on_with_other_limits(tmp_path: Path, monkeypatch, number):
    monkeypatch.setattr("lai_ray.stages.curate.nearness", lambda *arguments: {})
    settings = {"contrast__encoder": "target", "iterations": 1} | JOBS[number]
    writes = Writes(monkeypatch)
    undisturbed = results(cli_run.run_job(small(tmp_path, name="whole", **settings), executor=LocalExecutor()).run)
    assert undisturbed
    for last in range(number, writes.count, STEP):
        name, writes.last, writes.count = f"killed_{last}", last, 0
        with contextlib.suppress(Crash):
            cli_run.run_job(small(tmp_path, name=name, **settings), executor=LocalExecutor())
        writes.last = NEVER
        shutil.rmtree(tmp_path / name / "driver", ignore_errors=True)  # Its process, which is this one, lives on.
        change = CHANGES[last % len(CHANGES)]
        run = cli_run.run_job(small(tmp_path, name=name, **settings, **change), executor=LocalExecutor()).run
        assert results(run) == undisturbed, (last, change)
        shutil.rmtree(tmp_path / name)
