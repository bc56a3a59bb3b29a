"""The main job by `ray start --head` and `ray job submit`, on two logical CPUs and with token authentication."""

from __future__ import annotations

import json


def test_the_main_job_runs_as_a_submitted_job_on_two_logical_cpus(submitted):
    assert "Test scores" in submitted.printed
    run = json.loads((submitted.folder / "run.json").read_text())
    assert run["config"]["iterations"] == 2
    assert (submitted.folder / "iteration_1/train/checkpoint/model.safetensors").is_file()


def test_a_relative_storage_is_refused_where_it_would_be_lost(submitted):
    refused = submitted.refused
    assert refused.returncode != 0
    assert "is a relative path: in a submitted job" in refused.stdout + refused.stderr
