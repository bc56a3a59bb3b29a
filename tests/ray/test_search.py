"""Ray Tune runs trials, each with an executor of its own; one that fails is recorded and the others go on."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lai_ray.config.settings import TrainSettings
from lai_ray.contracts import Example, Executor, Model, TrainJob
from lai_ray.distributed.executor import RayExecutor
from lai_ray.distributed.search import DIED
from lai_ray.errors import DataError
from tests.local import job
from tests.ray.placing import HELD
from tests.tiny_model import tiny_model


def squares_in_a_trial(settings: dict[str, Any], executor: Executor) -> dict[str, Any]:
    import ray

    if settings["name"] == "trial_2":
        raise DataError("the loss is NaN at step 3")
    holder = hold_both_processors() if settings.get("holds") else None
    if settings.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    del holder
    shown = json.dumps(ray.get_runtime_context().runtime_env, default=str)
    return {"squares": list(executor.map(abs, [-settings["seed"]] * 3)), "folder": os.getcwd(), "shown": shown}


def hold_both_processors() -> Any:
    """An actor of this trial's own, once it has started."""
    import ray

    class Holder:
        def held(self) -> bool:
            return True

    holder = ray.remote(num_cpus=1.9, scheduling_strategy="DEFAULT")(Holder).remote()
    assert ray.get(holder.held.remote(), timeout=90)
    return holder


def test_trials_that_want_all_gpus_take_turns_and_what_has_no_place_says_so(tmp_path):
    command = [sys.executable, "-m", "tests.ray.placing", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fits"] == [{"answers": 4}] * 2
    held: dict[int, list[tuple[float, float, int]]] = {}
    for line in (tmp_path / HELD).read_text().splitlines():
        told = json.loads(line)
        for gpu in told["gpus"]:
            held.setdefault(gpu, []).append((told["from"], told["to"], told["pid"]))
    assert held and sum(len(spans) for spans in held.values()) == 8
    for spans in held.values():
        spans.sort()
        for (_, until, one), (since, _, other) in itertools.pairwise(spans):
            assert one == other or until <= since, "one GPU, two engines at once"
    [large] = found["too large"]
    assert "asks for 1 CPU, 3 GPU; the cluster has 2 CPU, 2 GPU" in large["error"].replace("0.5 CPU", "1 CPU")
    assert found["seconds"] < 60


@pytest.mark.soak
def test_trials_whose_training_takes_both_processors_take_turns(tmp_path, ray_session):
    """Of two logical CPUs one training holds nearly all: a trial holds none."""
    config = job(
        tmp_path, search__learning_rate=[1e-4], search__max_concurrent=2,
        cluster={
            "train_workers": 2, "gpus_per_worker": 0, "gpus_per_replica": 0, "cpus_per_worker": 0.9,
            "stall_seconds": 300,
        },
    )  # fmt: skip
    base = tiny_model(tmp_path / "base")
    trials = [{"name": f"trial_{i}", "base": base, "out": str(tmp_path / f"out_{i}"), "fails": i == 1} for i in (1, 2)]
    results = RayExecutor(config, str(tmp_path / "logs")).search(studies, trials, str(tmp_path / "tune"))
    assert "is not a number at step" in results[0]["error"]
    assert results[1]["steps"] == 2 and Path(results[1]["path"], "model.safetensors").is_file()


def studies(settings: dict[str, Any], executor: Executor) -> dict[str, Any]:
    """A trial that trains on two workers; where it is to fail, at a learning rate that no number survives."""
    rate = 1e30 if settings["fails"] else 1e-3
    examples = [Example(f"e{i}", [{"role": "user", "content": f"w{i % 7} w3"}], [("w1 w2", 1.0)]) for i in range(16)]
    train = TrainSettings(
        sequences_per_step=8, precision="fp32", gradient_checkpointing=False, epochs=3 if settings["fails"] else 1
    )
    made = executor.train(
        TrainJob(settings["name"], Model(settings["base"], "tiny"), examples, train, rate, 0, settings["out"])
    )
    return {"steps": made.metrics["step"], "path": made.path}


def test_results_are_in_the_order_of_the_trials_and_a_failure_has_its_reason(ray_session, tmp_path, monkeypatch):
    """One trial raises and one is killed; what the killed one held is free for the last."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-key")
    monkeypatch.chdir(tmp_path)
    config = job(tmp_path, search__learning_rate=[1e-4], search__max_concurrent=2)
    trials = [{"name": f"trial_{i}", "seed": i, "holds": i > 2, "dies": i == 3} for i in (1, 2, 3, 4)]
    reported: dict[str, dict[str, Any]] = {}
    with open(tmp_path / "log", "w", encoding="utf-8") as log:  # Cannot be pickled, as a terminal.

        def report(settings: dict[str, Any], result: dict[str, Any]) -> None:
            reported[settings["name"]] = result
            log.write("ended")

        executor = RayExecutor(config, str(tmp_path / "logs"))
        results = executor.search(squares_in_a_trial, trials, str(tmp_path / "tune"), report)
    assert reported == {trial["name"]: result for trial, result in zip(trials, results, strict=True)}
    assert results[0]["squares"] == [1, 1, 1]
    assert results[0]["folder"] == str(tmp_path), "the driver's working directory, not that of the node's Ray"
    assert "planted-key" not in results[0]["shown"], "the dashboard shows a trial's runtime environment"
    assert "the loss is NaN at step 3" in results[1]["error"]
    assert results[2]["error"] == DIED
    assert results[3]["squares"] == [4, 4, 4]


INTERRUPTED = """
import sys
from pathlib import Path
import ray
from lai_ray.distributed.executor import RayExecutor
from tests.local import job
from tests.ray.test_search import sleeps
folder = Path(sys.argv[1])
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
config = job(folder, search__learning_rate=[1e-4], search__max_concurrent=1)
trials = [{"name": f"trial_{i}", "folder": str(folder)} for i in (1, 2)]
try:
    print("ended", RayExecutor(config, None).search(sleeps, trials, str(folder / "tune")))
except KeyboardInterrupt:
    print("interrupted")
"""


def sleeps(settings: dict[str, Any], executor: Executor) -> dict[str, Any]:
    Path(settings["folder"], settings["name"]).touch()
    time.sleep(100)
    return {}


@pytest.mark.soak
def test_ctrl_c_ends_a_search_and_is_not_taken_for_its_end(tmp_path):
    """Tune's own answer to it is to hand out what there is, as if the search were over."""
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "trial_1").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert "interrupted" in said and "ended" not in said
    assert not (tmp_path / "trial_2").exists()
