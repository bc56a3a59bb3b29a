"""Ray Tune runs the trials, each with an executor of its own; one that fails is recorded and the rest go on."""

from __future__ import annotations

from typing import Any

from lai_ray.contracts import Executor
from lai_ray.distributed.search import search
from lai_ray.errors import DataError
from tests.local import job


def squares_in_a_trial(settings: dict[str, Any], executor: Executor) -> dict[str, Any]:
    if settings["name"] == "trial_2":
        raise DataError("the loss is NaN at step 3")
    return {"squares": list(executor.map(abs, [-settings["seed"]] * 3)), "loss": 0.5}


def test_results_come_in_the_order_of_the_trials_and_a_failure_says_why(ray_session, tmp_path):
    config = job(tmp_path, search__learning_rate=[1e-4], search__max_concurrent=2)
    trials = [{"name": f"trial_{i}", "seed": i} for i in (1, 2, 3)]
    heard: dict[str, dict[str, Any]] = {}
    with open(tmp_path / "said", "w", encoding="utf-8") as said:  # What no pickle can hold, as a terminal.

        def tell(settings: dict[str, Any], result: dict[str, Any]) -> None:
            heard[settings["name"]] = result
            said.write("heard")

        folders = str(tmp_path / "tune"), str(tmp_path / "logs")
        results = search(squares_in_a_trial, trials, folders[0], config=config, logs=folders[1], heard=tell)
    assert heard == {trial["name"]: result for trial, result in zip(trials, results, strict=True)}
    assert results[0] == {"squares": [1, 1, 1], "loss": 0.5}
    assert "the loss is NaN at step 3" in results[1]["error"]
    assert results[2]["squares"] == [3, 3, 3]
    again = search(squares_in_a_trial, trials[2:], str(tmp_path / "tune"), config=config, logs=None)
    assert again[0]["squares"] == [3, 3, 3]
