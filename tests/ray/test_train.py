"""Training under Ray Train: two workers on two logical CPUs, the same model after a death, and errors that explain."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lai_ray.config.settings import ClusterSettings, TrainSettings
from lai_ray.contracts import Example, Model, TrainJob
from lai_ray.distributed.fit.train import EarlyStart, train
from lai_ray.errors import DataError, StageError
from lai_ray.training import checkpoints, export
from lai_ray.training.recipe import epoch_folder
from tests.ray.killing import Killer
from tests.tiny_model import conversations, tiny_model

TWO_WORKERS = ClusterSettings(train_workers=2, gpus_per_worker=0, cpus_per_worker=0.9, stall_seconds=60)
EVERY = 40
KEEPING = TWO_WORKERS.model_copy(update={"train_state_every": EVERY})
STEPS = 140  # Long enough to be interrupted: a few seconds for a model of this size.


def job(folder: Path, **changed: Any) -> TrainJob:
    settings = TrainSettings(
        learning_rate=1e-3, epochs=20, sequences_per_step=6, sequences_per_device=3, max_length=64, precision="fp32",
        gradient_checkpointing=False,
    )  # fmt: skip
    examples = [Example(c.id, c.messages, c.turns) for c in conversations(37)]
    base = Model(tiny_model(folder / "base"), "tiny")
    made = TrainJob("aaaa", base, examples, settings, 1e-3, 0, str(folder / "out"), {"base": "tiny"})
    return replace(made, **changed)


def weights(folder: str) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory):
    """One training with two workers, its result and the progress it reported."""
    folder = tmp_path_factory.mktemp("undisturbed")
    reported: list[tuple[int, int]] = []
    wanted = job(folder)
    trained = train(wanted, TWO_WORKERS, str(folder / "logs"), lambda done, all_: reported.append((done, all_)))
    return folder, wanted, trained, reported


def test_two_workers_fit_on_two_processors_and_leave_a_model(undisturbed):
    folder, wanted, trained, _ = undisturbed
    assert trained.path == wanted.out and trained.metrics["step"] == trained.metrics["steps"] == STEPS
    assert json.loads((folder / "out" / "lineage.json").read_text())["name"] == "aaaa"
    before, after = weights(wanted.model.path), weights(wanted.out)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_progress_is_reported_up_to_the_last_step(undisturbed):
    reported = undisturbed[3]
    assert reported[-1] == (STEPS, STEPS) and reported == sorted(reported)


def test_workers_write_their_logs_and_nothing_else_is_left(undisturbed):
    folder = undisturbed[0]
    assert sorted(p.name for p in folder.iterdir()) == ["base", "logs", "out", "tensorboard"]
    assert '"loss"' in (folder / "logs" / "train-0.log").read_text()
    assert (folder / "logs" / "train-1.log").exists()


def test_workers_that_waited_for_their_training_leave_the_same_bits(undisturbed, tmp_path):
    _, first, _, _ = undisturbed
    early = EarlyStart(TWO_WORKERS)
    wanted = replace(first, out=str(tmp_path / "out"))
    train(wanted, TWO_WORKERS, None, early=early)
    expected, found = weights(first.out), weights(wanted.out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert early.take({}) is None, "they have ended"
    early.end()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "tensorboard"]


def test_an_existing_model_is_not_trained_again(undisturbed):
    _, wanted, trained, _ = undisturbed
    stamp = os.stat(Path(wanted.out) / "model.safetensors").st_mtime_ns
    again = train(replace(wanted, examples=[]), TWO_WORKERS, None)
    assert again.path == trained.path and again.metrics["loss"] == trained.metrics["loss"]
    assert os.stat(Path(wanted.out) / "model.safetensors").st_mtime_ns == stamp


def test_a_worker_killed_during_a_checkpoint_resumes_from_the_one_before_with_the_same_bits(undisturbed, tmp_path):
    """Other stages and moments: test_states.py, by `make soak`. The model after an epoch is kept on the way."""
    wanted = job(tmp_path, epoch_names=("bbbb",))
    killer = Killer("during a save", wanted.out)
    killer.start()
    trained = train(wanted, KEEPING, str(tmp_path / "logs"))
    killer.over.set()
    killer.join()
    assert killer.half, "no worker was killed during a checkpoint"
    assert trained.metrics["step"] == STEPS
    assert trained.metrics["resumed_at"] == killer.found["step"] > 0
    a, b, first = weights(undisturbed[1].out), weights(wanted.out), weights(epoch_folder(wanted.out, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(first[name], b[name]) for name in b)
    names = [export.lineage_of(folder)["name"] for folder in (epoch_folder(wanted.out, 1), wanted.out)]
    assert names == ["bbbb", "aaaa"]
    assert not checkpoints.folder_of(wanted.out).exists()


def test_a_workers_error_is_reported_once_with_its_own_message(ray_session, tmp_path):
    wanted = job(tmp_path)
    broken = replace(wanted, examples=[*wanted.examples[:3], wanted.examples[3]._replace(turns=[(" ", 1.0)])])
    with pytest.raises(StageError) as caught:
        train(broken, TWO_WORKERS, str(tmp_path / "logs"))
    assert str(caught.value).count("tiny/train/00003: the response is empty") == 1
    assert "workers with" not in str(caught.value), "an error of the data does not name the workers"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "logs"]


def test_a_folder_that_cannot_be_written_is_reported_before_workers_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="writable"):
        train(replace(job(tmp_path), out=str(tmp_path / "file" / "out")), TWO_WORKERS, None)


def test_more_workers_than_fit_are_reported_with_what_was_asked_for(ray_session, tmp_path):
    cluster = TWO_WORKERS.model_copy(update={"train_workers": 3, "stall_seconds": 2.0})
    with pytest.raises(StageError, match="3 workers with 0.9 CPU and 0 GPU each"):
        train(job(tmp_path), cluster, None)


def test_errors_of_the_data_come_before_those_of_workers_that_lost_their_peer():
    from lai_ray.distributed.fit.train import _explained, _is_death

    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
    assert _is_death(lost) and not _is_death(DataError("no")) and not _is_death(ValueError("no"))
    assert str(_explained([lost, DataError("no positions")], TWO_WORKERS, None)) == "training stopped: no positions"
    assert "ValueError: a bug" in str(_explained([lost, ValueError("a bug")], TWO_WORKERS, "logs"))


def test_a_module_that_workers_cannot_import_is_not_retried():
    from ray.exceptions import RaySystemError, RayTaskError

    from lai_ray.distributed.fit.train import _explained, _is_death

    cause = RaySystemError("No module named 'my_pkg'", "Traceback …")
    error = RayTaskError("run_train_fn", "Traceback …", cause)
    assert not _is_death(error)
    assert "No module named 'my_pkg'" in str(_explained([error], TWO_WORKERS, None))
