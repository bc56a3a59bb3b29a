"""A training worker is SIGKILLed at every awkward moment: gone on from the last whole state, the same bits at the end.

Three ZeRO stages times three moments are nine; `make test` holds one moment of one stage, `make soak` the rest.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from lai_ray.contracts import TrainJob
from lai_ray.distributed.train import train
from lai_ray.errors import StageError
from lai_ray.training import export, state
from tests.ray.test_train import STEPS, TWO_WORKERS, job, workers

EVERY = 40
KEEPING = TWO_WORKERS.model_copy(update={"train_state_every": EVERY})
IN_TEST = (2, "during a save")
CASES = list(itertools.product((1, 2, 3), ("before the first state", "between states", "during a save")))


def staged(folder: Path, stage: int) -> TrainJob:
    made = job(folder)
    return replace(made, settings=made.settings.model_copy(update={"zero_stage": stage}))


def weights(folder: str) -> dict[str, torch.Tensor]:
    return dict(load_file(Path(folder) / "model.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory) -> Callable[[int], dict[str, torch.Tensor]]:
    """The weights of a training that nobody touches and that keeps no state, by stage."""
    found: dict[int, dict[str, torch.Tensor]] = {}

    def by_stage(stage: int) -> dict[str, torch.Tensor]:
        if stage not in found:
            found[stage] = weights(train(staged(tmp_path_factory.mktemp("whole"), stage), TWO_WORKERS, None).path)
        return found[stage]

    return by_stage


def is_time(moment: str, out: str) -> bool:
    kept, states = state.last_whole(out), state.folder_of(out)
    if moment == "before the first state":
        metrics = export.part_of(out) / export.METRICS
        return kept is None and not states.exists() and metrics.exists() and metrics.stat().st_size > 0
    if kept is None:
        return False  # Something to lose: the second save is the one that is broken off.
    being_written = any(any(folder.iterdir()) for folder in states.glob(".*"))
    return being_written if moment == "during a save" else not being_written


class Killer(threading.Thread):
    """Kills one worker as soon as the moment is there; looks all the time."""

    def __init__(self, moment: str, out: str) -> None:
        super().__init__(daemon=True)
        self.moment, self.out, self.over = moment, out, threading.Event()
        self.found: dict[str, int] = {}
        self.half: list[str] = []

    def run(self) -> None:
        victims: list[int] = []
        while not self.over.is_set() and not self.found:
            try:
                # Whom to kill is found beforehand: a look at all processes takes longer than a save.
                if not victims and (export.part_of(self.out) / export.METRICS).exists():
                    victims = [each.pid for each in workers()]
                if victims and is_time(self.moment, self.out):
                    os.kill(victims[-1], signal.SIGKILL)
                    kept = state.last_whole(self.out)
                    self.half = [each.name for each in state.folder_of(self.out).glob(".*")]
                    self.found = {"step": kept[1].step if kept else 0}
            except (FileNotFoundError, ProcessLookupError, psutil.Error):  # Renamed, or ended, in between.
                pass
            time.sleep(0.001 if victims else 0.05)


@pytest.mark.parametrize(
    ("stage", "moment"), [case if case == IN_TEST else pytest.param(*case, marks=pytest.mark.soak) for case in CASES]
)
def test_a_killed_worker_goes_on_and_ends_in_the_same_bits(undisturbed, tmp_path, stage, moment):
    wanted = staged(tmp_path, stage)
    killer = Killer(moment, wanted.out)
    killer.start()
    trained = train(wanted, KEEPING, str(tmp_path / "logs"))
    killer.over.set()
    killer.join()
    assert killer.found, f"nobody was killed {moment}"
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


def test_a_driver_that_dies_leaves_a_state_that_its_successor_goes_on_from(ray_session, tmp_path, monkeypatch):
    """Every worker dies again and again before the next state: given up on, kept, and gone on from by the same call."""
    wanted = job(tmp_path)

    def kill_all(done: int, all_: int) -> None:
        if state.last_whole(wanted.out):
            for worker in workers():
                worker.kill()

    monkeypatch.setattr("lai_ray.distributed.train.ATTEMPTS", 1)
    with pytest.raises(StageError):
        train(wanted, KEEPING, None, kill_all)
    left = state.last_whole(wanted.out)
    assert left is not None
    trained = train(wanted, KEEPING, None)
    assert trained.metrics["resumed_at"] == left[1].step
