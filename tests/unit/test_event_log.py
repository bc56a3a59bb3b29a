"""The driver's event log: every line is JSON with iteration and stage, and the error that ended a run is its last."""

from __future__ import annotations

import json
import logging

import pytest

from lai_ray.cli import run
from lai_ray.common.event_log import event_log
from lai_ray.common.progress import Progress
from tests.local import Crash, LocalExecutor, job


def lines(folder):
    return [json.loads(line) for line in (folder / "driver.jsonl").read_text().splitlines()]


def test_each_stage_of_a_run_has_its_line(tmp_path):
    run.run_job(job(tmp_path), executor=LocalExecutor())
    events = lines(tmp_path / "small" / "logs")
    assert {line["run"] for line in events} == {"small"}
    finished = [(line["iteration"], line["stage"]) for line in events if "seconds" in line]
    stages = ["evaluate", "diagnose", "instruct", "curate", "train"]
    assert finished == [*((0, stage) for stage in stages), (1, "evaluate")]
    [train] = [line for line in events if line.get("stage") == "train" and "seconds" in line]
    assert (train["samples"], train["loss"], train["level"]) == (30, 1.0, "info")


def test_what_ended_a_run_is_the_last_line(tmp_path):
    with pytest.raises(Crash):
        run.run_job(job(tmp_path), executor=LocalExecutor(die_after={"ask": 3}))
    last = lines(tmp_path / "small" / "logs")[-1]
    assert (last["level"], last["iteration"], last["stage"], last["ended"]) == ("error", 0, "instruct", True)
    assert "Crash" in last["message"]


def test_warnings_of_our_own_are_in_it_and_still_on_stderr(tmp_path, capsys):
    with event_log(str(tmp_path), "r", progress := Progress(quiet=True)):
        progress.enter("iteration_2/instruct")
        logging.getLogger("lai_ray.distributed.calls.scheduler").warning("a caller died: %s", "why")
        logging.getLogger("urllib3").error("not ours")
    assert [(line["level"], line["iteration"], line["message"]) for line in lines(tmp_path)] == [
        ("warning", 2, "a caller died: why")
    ]
    logging.getLogger("lai_ray").warning("after it")
    assert len(lines(tmp_path)) == 1


def test_stages_count_what_a_dashboard_wants(tmp_path, monkeypatch):
    progress, seen = Progress(quiet=True), []

    class Looking(LocalExecutor):
        def ask(self, *arguments):
            for answer in super().ask(*arguments):
                yield answer
                seen.append(dict(progress.figures))

    monkeypatch.setattr(run, "Progress", lambda *_, **__: progress)
    run.run_job(job(tmp_path, limits__requests_per_minute=77), executor=Looking())
    last = seen[-1]
    assert last["samples_accepted"] > 10
    assert last["requests_per_minute_limit"] == 77
    assert last["requests_per_minute"] > 0
    assert last["spent_calls"] >= last["done"] > 0
