"""`lai evaluate` needs a target and tests, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lai_ray.cli import run as cli_run
from lai_ray.cli.main import app
from lai_ray.config import job_file
from lai_ray.errors import ConfigError
from lai_ray.storage.run import Run
from tests.local import LocalExecutor, job


@pytest.fixture
def alone(tmp_path) -> Path:
    job(tmp_path)  # Makes the model.
    path = tmp_path / "alone.toml"
    path.write_text(f"""
        storage = "{tmp_path}"
        [target]
        model = "{tmp_path}/model"
        engine = "tests.local:LocalExecutor"
        [evaluate]
        report_on = ["word_problems"]
        max_test_problems = 20
    """)
    return path


@pytest.fixture
def evaluated(monkeypatch):
    original, executor = cli_run.run_job, LocalExecutor()

    def run_here(config: Any, **options: Any) -> Any:
        return original(config, executor=executor, **options)

    monkeypatch.setattr(cli_run, "run_job", run_here)
    return executor


def test_a_target_and_tests_are_enough(tmp_path, alone, evaluated):
    shown = CliRunner().invoke(app, ["evaluate", str(alone)])
    assert shown.exit_code == 0, shown.output
    assert "Test scores, percent" in shown.output
    run = Run.read(f"{tmp_path}/alone-tests")
    assert run.stage(0, "evaluate").store.get_json("scores.json")["word_problems.test"]["n"] == 20
    assert evaluated.asked == {"generate": 20}
    assert CliRunner().invoke(app, ["evaluate", str(alone)]).exit_code == 0
    assert evaluated.asked == {"generate": 20}, "the same command asks nothing again"
    shown = CliRunner().invoke(
        app, ["check", str(alone), "iterations=0", "cluster.gpus_per_replica=0", "cluster.gpus_per_worker=0"]
    )
    assert shown.exit_code == 0 and "alone: ready to run" in shown.output


def test_a_job_that_learns_keeps_its_identity_when_only_its_tests_run(tmp_path):
    whole = cli_run.only_tests(job(tmp_path))
    assert whole == cli_run.only_tests(job(tmp_path, iterations=0))
    assert whole.instructor.model == "rules" and whole.evaluate.learn_from == ["word_problems"]


def test_a_job_that_learns_still_needs_both(alone):
    with pytest.raises(ConfigError, match="instructor is missing"):
        job_file.read(alone)
    with pytest.raises(ConfigError, match=r"evaluate\.learn_from names no benchmark.*iterations = 0"):
        job_file.read(alone, ["instructor.model=m"])


def test_no_tests_are_refused(alone):
    shown = CliRunner().invoke(app, ["evaluate", str(alone), "evaluate.report_on=[]"])
    assert isinstance(shown.exception, ConfigError) and "evaluate.report_on" in str(shown.exception)
