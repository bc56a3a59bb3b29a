"""A training worker is killed at every awkward moment: resumed from the last whole checkpoint, with the same bits.

`make test` holds one stage and moment, in test_train.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lai_ray.contracts import TrainJob
from lai_ray.distributed.fit.train import train
from lai_ray.errors import StageError
from lai_ray.training import checkpoints
from tests.ray.killing import MOMENTS, Killer, workers
from tests.ray.test_train import EVERY, KEEPING, STEPS, TWO_WORKERS, job

pytestmark = pytest.mark.soak
CASES = list(itertools.product((1, 2, 3), MOMENTS))


def staged(folder: Path, stage: int) -> TrainJob:
    made = job(folder)
    return replace(made, settings=made.settings.model_copy(update={"zero_stage": stage}))


def weights(folder: str) -> dict[str, torch.Tensor]:
    return dict(load_file(Path(folder) / "model.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory) -> Callable[[int], dict[str, torch.Tensor]]:
    """The weights of an undisturbed training without checkpoints, by ZeRO stage."""
    found: dict[int, dict[str, torch.Tensor]] = {}

    def by_stage(stage: int) -> dict[str, torch.Tensor]:
        if stage not in found:
            found[stage] = weights(train(staged(tmp_path_factory.mktemp("whole"), stage), TWO_WORKERS, None).path)
        return found[stage]

    return by_stage


@pytest.mark.parametrize(("stage", "moment"), CASES)
def test_a_training_with_a_killed_worker_ends_with_the_same_bits(undisturbed, tmp_path, stage, moment):
    wanted = staged(tmp_path, stage)
    killer = Killer(moment, wanted.out)
    killer.start()
    trained = train(wanted, KEEPING, str(tmp_path / "logs"))
    killer.over.set()
    killer.join()
    assert killer.found, f"no worker was killed {moment}"
    assert trained.metrics["step"] == STEPS
    assert trained.metrics.get("resumed_at", 0) >= killer.found["step"]
    if moment == "before the first state":
        assert "resumed_at" not in trained.metrics
    if moment == "during a save":
        assert killer.half, "it was whole by then"
        assert trained.metrics["resumed_at"] == killer.found["step"] < STEPS - EVERY / 2
    mine, whole = weights(trained.path), undisturbed(stage)
    assert all(torch.equal(mine[name], whole[name]) for name in whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "logs", "out", "tensorboard"]  # And no state.


def test_a_driver_that_dies_leaves_a_checkpoint_from_which_the_next_one_resumes(ray_session, tmp_path, monkeypatch):
    """Every worker dies before the next checkpoint: the training is given up, and the same call resumes it."""
    wanted = job(tmp_path)

    def kill_all(done: int, all_: int) -> None:
        if checkpoints.last_whole(wanted.out):
            for worker in workers():
                worker.kill()

    monkeypatch.setattr("lai_ray.distributed.fit.train.ATTEMPTS", 1)
    with pytest.raises(StageError):
        train(wanted, KEEPING, None, kill_all)
    left = checkpoints.last_whole(wanted.out)
    assert left is not None
    trained = train(wanted, KEEPING, None)
    assert trained.metrics["resumed_at"] == left[1].step
