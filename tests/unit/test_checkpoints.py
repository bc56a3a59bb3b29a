"""A training that was stopped resumes from its last whole checkpoint and ends in the same bits."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lai_ray.errors import DataError, StageError
from lai_ray.training import checkpoints, export, loop, process_group
from lai_ray.training.objectives.sft import Sft
from lai_ray.training.recipe import Recipe, epoch_folder, write_job
from tests.tiny_model import conversations, recipe, tiny_model

ROOT = Path(__file__).parents[2]
EVERY_KIND = list(itertools.product((1, 2, 3), ("fp32", "bf16"), (False, True)))
TRIED = [(1, "bf16", False), (2, "fp32", False), (3, "fp32", True)]
"""In `make test`; the other kinds in `make soak`."""
COUNT, EVERY = 37, 4  # 14 steps: states after 4, 8 and 12.


class Stopped(Exception):
    """Simulates the end of the process."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"))


def run(job: Recipe, *, stop_at: int = 0, name: str = "one") -> dict[str, float]:
    def report(step: int, metrics: dict[str, float]) -> None:
        if step == stop_at:
            raise Stopped

    return loop.train(job, conversations(COUNT), report=report, lineage={"name": name})


def stopped(job: Recipe, at: int) -> Path:
    """The checkpoints of a training that was stopped at a step."""
    with pytest.raises(Stopped):
        run(job, stop_at=at)
    return checkpoints.folder_of(job.out)


def same(a: str, b: str) -> bool:
    one, other = (load_file(Path(folder) / "model.safetensors") for folder in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("stage", "precision", "offload"),
    [case if case in TRIED else pytest.param(*case, marks=pytest.mark.soak) for case in EVERY_KIND],
)
def test_a_resumed_training_ends_in_the_same_bits(model, tmp_path, stage, precision, offload):
    settings = {"zero_stage": stage, "precision": precision, "offload": offload}
    run(recipe(model, tmp_path / "whole", **settings))
    job = recipe(model, tmp_path / "out", state_every=EVERY, **settings)
    left = stopped(job, at=10)
    assert checkpoints.last_whole(job.out) == (
        left / "step_00000008",
        checkpoints.Checkpoint(checkpoints.last_whole(job.out)[1].key, 8, 1),
    )
    metrics = run(job)
    assert metrics["resumed_at"] == 8.0
    assert same(job.out, str(tmp_path / "whole"))
    lines = [(Path(folder) / "metrics.jsonl").read_text().splitlines() for folder in (job.out, tmp_path / "whole")]
    mine, whole = ([(json.loads(line)["step"], json.loads(line)["loss"]) for line in each] for each in lines)
    assert mine == whole
    assert not left.exists(), "removed at the end"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_model_after_an_epoch_is_kept_and_changes_nothing_also_when_resumed(model, tmp_path, stage):
    """At a constant rate an epoch learns the same, whether another follows or not."""
    settings = {"zero_stage": stage, "schedule": "constant"}
    whole, one = (recipe(model, tmp_path / f"{n}/out", epochs=n, **settings) for n in (2, 1))
    run(whole)
    run(one)
    assert not same(whole.out, one.out)
    job = recipe(model, tmp_path / "kept/out", state_every=EVERY, epoch_names=("first",), **settings)
    left, kept = stopped(job, at=10), epoch_folder(job.out, 1)
    assert same(kept, one.out)
    stamp = (Path(kept) / "model.safetensors").stat().st_mtime_ns
    assert run(job)["resumed_at"] == 8.0
    assert (Path(kept) / "model.safetensors").stat().st_mtime_ns == stamp, "it stays, and is not written again"
    assert same(job.out, whole.out)
    assert {p.name for p in Path(kept).iterdir()} == {p.name for p in Path(job.out).iterdir()}
    names = [export.lineage_of(folder)["name"] for folder in (kept, job.out)]
    assert names == ["first", "one"] and export.lineage_of(kept)["metrics"]["step"] == 7
    assert len((Path(kept) / "metrics.jsonl").read_text().splitlines()) == 7
    assert not left.exists()


def test_a_training_that_ends_before_its_first_epoch_leaves_no_model_of_it(model, tmp_path):
    job = recipe(model, tmp_path / "out", epoch_names=("first",))
    stopped(job, at=6)
    assert not Path(epoch_folder(job.out, 1)).exists()


def test_a_replaced_training_keeps_no_epoch(model, tmp_path):
    job = recipe(model, tmp_path / "out", epoch_names=("first",))

    def report(step: int, metrics: dict[str, float]) -> None:
        if step == 6:
            export.begin(job.out, needed=0)

    with pytest.raises(StageError, match="another training"):
        loop.train(job, conversations(COUNT), report=report, lineage={"name": "one"})
    assert not Path(epoch_folder(job.out, 1)).exists()


def test_an_epoch_that_cannot_be_written_is_reported_and_nothing_half_written_stays(model, tmp_path, monkeypatch):
    job = recipe(model, tmp_path / "out", state_every=EVERY, epoch_names=("first",))

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(export, "write", full)
        with pytest.raises(StageError, match="epoch_1/out: .*No space"):
            run(job)
    assert not list(Path(epoch_folder(job.out, 1)).parent.iterdir())
    assert run(job)["resumed_at"] == 4.0
    assert export.lineage_of(epoch_folder(job.out, 1))["name"] == "first"


def test_offload_learns_what_the_device_learns(model, tmp_path):
    here, there = (recipe(model, tmp_path / str(offload), offload=offload) for offload in (False, True))
    assert run(here)["loss"] == pytest.approx(run(there)["loss"], abs=1e-5)


def test_dropout_too_is_a_function_of_the_step(tmp_path):
    base = tiny_model(tmp_path / "base")
    config = json.loads((Path(base) / "config.json").read_text())
    (Path(base) / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    run(recipe(base, tmp_path / "whole"))
    job = recipe(base, tmp_path / "out", state_every=EVERY)
    stopped(job, at=6)
    assert run(job)["resumed_at"] == 4.0
    assert same(job.out, str(tmp_path / "whole"))


def test_a_half_written_checkpoint_is_never_resumed(model, tmp_path):
    job = recipe(model, tmp_path / "out", state_every=EVERY)
    left = stopped(job, at=10)
    shutil.copytree(left / "step_00000008", left / ".somebody")
    shutil.copytree(left / "step_00000008", left / "step_00000012")
    (left / "step_00000012" / checkpoints.STATE).unlink()
    assert run(job)["resumed_at"] == 8.0


def test_the_checkpoint_of_another_training_is_not_resumed(model, tmp_path):
    job = recipe(model, tmp_path / "out", state_every=EVERY)
    stopped(job, at=10)
    assert "resumed_at" not in run(job, name="two")
    stopped(job, at=10)
    other = recipe(model, tmp_path / "out", state_every=EVERY, learning_rate=1e-4)
    left = stopped(other, at=2)
    assert [each.name for each in left.glob("step*")] == ["step_00000008"], "kept until another is whole"
    stopped(other, at=6)
    assert [each.name for each in left.glob("step*")] == ["step_00000004"]
    theirs = json.dumps({"key": "theirs", "step": 12, "workers": 1})
    (left / "step_00000012").mkdir()  # Another's, whose removal was broken off.
    (left / "step_00000012" / checkpoints.STATE).write_text(theirs)
    with pytest.raises(Stopped):
        run(other, stop_at=5)
    assert run(other)["resumed_at"] == 4.0


def test_another_number_of_workers_is_refused_with_both_ways_out(model, tmp_path, monkeypatch):
    job = recipe(model, tmp_path / "out", state_every=EVERY)
    left = stopped(job, at=10)
    monkeypatch.setattr(process_group, "count", lambda: 4)
    with pytest.raises(
        StageError,
        match=r"step_00000008: .* step 8 .* 1 workers.* 4\. .*cluster\.train_workers = 1 .*remove that folder",
    ):
        run(job)
    assert (left / "step_00000008").exists()


def test_the_interval_of_checkpoints_may_change_between_starts(model, tmp_path):
    job = recipe(model, tmp_path / "out", state_every=EVERY)
    stopped(job, at=10)
    assert run(recipe(model, tmp_path / "out", state_every=0))["resumed_at"] == 8.0


def test_a_moved_run_is_resumed(model, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    shutil.copytree(model, there / "base")
    stopped(recipe(str(there / "base"), there / "out", state_every=EVERY), at=6)
    there.rename(here)
    assert run(recipe(str(here / "base"), here / "out", state_every=EVERY))["resumed_at"] == 4.0


def test_a_missing_part_of_another_worker_is_reported(model, tmp_path, monkeypatch):
    monkeypatch.setattr(process_group, "count", lambda: 2)
    with pytest.raises(StageError, match="1 of 2 workers"):
        run(recipe(model, tmp_path / "out", state_every=EVERY))
    assert checkpoints.last_whole(str(tmp_path / "out")) is None


def test_a_broken_checkpoint_is_reported(model, tmp_path):
    job = recipe(model, tmp_path / "out", state_every=EVERY)
    left = stopped(job, at=10)
    for file in (left / "step_00000008").glob("*.pt"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StageError, match="step_00000008: .* step 8 .* Remove that folder"):
        run(job)


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(model, tmp_path, monkeypatch):
    job = recipe(model, tmp_path / "out", state_every=EVERY)
    losses = Sft.losses
    seen: list[Any] = []

    def broken(*arguments: Any) -> Any:
        seen.append(1)
        return losses(*arguments) * (float("nan") if len(seen) > 20 else 1.0)

    monkeypatch.setattr(Sft, "losses", broken)
    with pytest.raises(DataError, match=r"step 8, in tiny/train/.* step 4 is kept"):
        run(job)
    found = checkpoints.last_whole(job.out)
    assert found and found[1].step == 4


def test_a_replaced_training_writes_no_checkpoint(model, tmp_path):
    job = recipe(model, tmp_path / "out", state_every=EVERY)

    def report(step: int, metrics: dict[str, float]) -> None:
        if step == 6:
            export.begin(job.out, needed=0)

    with pytest.raises(StageError, match="another training"):
        loop.train(job, conversations(COUNT), report=report, lineage={"name": "one"})
    found = checkpoints.last_whole(job.out)
    assert found and found[1].step == 4


def test_a_disk_that_fills_during_a_save_keeps_the_checkpoint_before(model, tmp_path):
    """The limit on a file's size stands for the disk, set after the first state."""
    job = recipe(model, tmp_path / "out", state_every=EVERY)
    write_job(tmp_path / "job.json", job, conversations(COUNT), {"name": "one"})
    code = (
        "import resource, sys; from pathlib import Path; from lai_ray.training import loop\n"
        "from lai_ray.training.recipe import read_job; from lai_ray.errors import StageError\n"
        "job, lineage, examples = read_job(Path(sys.argv[1]))\n"
        "def full(step, metrics):\n"
        "    if step == 6: resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))\n"
        "try: loop.train(job, examples, report=full, lineage=lineage)\n"
        "except StageError as error: print('ERROR', error)"
    )
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "job.json")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert "ERROR" in done.stdout, done.stderr[-2000:]
    assert "step 8 could not be saved" in done.stdout and "step 4 is kept" in done.stdout
    assert run(job)["resumed_at"] == 4.0
    run(recipe(model, tmp_path / "whole"))
    assert same(job.out, str(tmp_path / "whole"))


def test_disk_space_is_checked_for_two_checkpoints_less_what_is_there(model, tmp_path, monkeypatch):
    asked: list[int] = []
    begin = export.begin
    monkeypatch.setattr(export, "begin", lambda out, *, needed: (asked.append(needed), begin(out, needed=needed))[1])
    run(recipe(model, tmp_path / "a"))
    run(recipe(model, tmp_path / "b", state_every=EVERY))
    assert asked[1] == 9 * asked[0]  # 4 bytes a number; 2 x 16 besides.
    run(recipe(model, tmp_path / "d", epoch_names=("first",)))
    assert asked.pop(2) == 2 * asked[0] and asked.pop(2) == 0, "room for both models, checked at the start"
    job = recipe(model, tmp_path / "c", state_every=EVERY)
    left = stopped(job, at=6)
    shutil.copytree(left / "step_00000004", left / ".half")
    there = sum(file.stat().st_size for file in (left / "step_00000004").rglob("*"))
    run(job)
    assert asked[1] - 3 * there < asked[3] < asked[1] - there / 2, "space in use is not needed again"
