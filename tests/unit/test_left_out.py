"""Examples that a chat template refuses are counted on the screen and in the report of the run that left them out."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from lai_ray.cli.run import run_job
from lai_ray.contracts import Trained, TrainJob
from lai_ray.report import sections
from tests.local import LocalExecutor, job


class LeavesOut(LocalExecutor):
    """A training that left three examples out."""

    def train(self, job: TrainJob, progress: Any = None) -> Trained:
        trained = super().train(job, progress)
        return Trained(trained.path, trained.metrics | {"refused": 3.0})


def test_examples_left_out_of_a_training_are_on_the_screen_and_in_the_funnel(tmp_path):
    console, executor = Console(width=300, file=io.StringIO()), LeavesOut()
    config = job(tmp_path, limits__max_failed_fraction=0.2)
    run = run_job(config, executor=executor, console=console).run
    assert "3 examples were left out" in console.file.getvalue()
    assert "refused by the target's chat template: 3" in sections.funnel(run, 0.95)[0].note
    assert executor.jobs[0].max_failed_fraction == 0.2, "the training applies the job's limit"
    whole = run_job(job(tmp_path, name="whole"), executor=LocalExecutor()).run
    assert "left out" not in sections.funnel(whole, 0.95)[0].note.lower()
