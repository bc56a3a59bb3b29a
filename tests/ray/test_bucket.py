"""Storage in an object store, with real parts: Ray Train, Ray Tune, an engine and an encoder, on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from lai_ray.config.settings import ClusterSettings, TargetSettings
from lai_ray.contracts import Model
from lai_ray.distributed.executor import RayExecutor
from lai_ray.distributed.fit.train import train
from lai_ray.distributed.generation.generate import generate
from lai_ray.distributed.neighbours.embed import _Encoder
from lai_ray.records import Answer, Completion, Request
from lai_ray.storage import model_folders
from lai_ray.storage.store import Store
from tests import bucket as server
from tests.local import job as small
from tests.ray.test_search import squares_in_a_trial
from tests.ray.test_train import TWO_WORKERS, job

ONE = ClusterSettings(gpus_per_replica=0, cpus_per_replica=0.9)


class Reader:
    """An engine that answers with the path and the size of its weights."""

    def __init__(self, model: Model, settings: TargetSettings, gpus: float) -> None:
        self._reply = f"{model.path} {sum(tensor.numel() for tensor in tensors(model.path).values())}"

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        return [Answer(request.id, request.key, Completion(self._reply, "stop")) for request in requests]


def tensors(folder: str) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def test_a_training_in_a_bucket_leaves_a_model_that_engines_and_encoders_open(ray_session, bucket, tmp_path, logs):
    wanted = job(tmp_path)
    model_folders.copy(wanted.model.path, f"{bucket}/base")
    settings = wanted.settings.model_copy(update={"epochs": 2})
    out = f"{bucket}/run/train/checkpoint"
    remote = replace(wanted, model=Model(f"{bucket}/base", "tiny"), settings=settings, out=out)
    reported: list[tuple[int, int]] = []
    killed = model_folders.cache_path("trainings", out) / "an earlier start"
    killed.mkdir(parents=True)
    made = train(remote, TWO_WORKERS, logs, lambda done, all_: reported.append((done, all_)))
    assert made.path == out and made.metrics["step"] == made.metrics["steps"]
    learned, base = tensors(model_folders.local_path(out)), tensors(wanted.model.path)
    assert any(not torch.equal(learned[name], base[name]) for name in base)
    assert not killed.parent.exists(), "nothing of a training is left on the node's disk"
    left = Store(f"{bucket}/run").sizes()
    assert {name.split("/")[1] for name in left} == {"checkpoint", "tensorboard"}, left
    assert not [name for name in left if "scratch" in name], "no scratch is left"
    assert json.loads(Store(made.path).get("lineage.json"))["name"] == wanted.name
    assert "seconds_placing" not in train(remote, TWO_WORKERS, logs).metrics, (
        "the model exists: nothing is placed or trained"
    )
    assert reported[-1][0] <= reported[-1][1] == made.metrics["steps"]

    # The model is used from the bucket: an engine and an encoder copy it to their node.
    target = Model(made.path, wanted.name)
    requests = [Request(f"q{i}#0", f"{i:032x}", [{"role": "user", "content": f"w{i}"}], max_tokens=4) for i in range(3)]
    engine = TargetSettings(engine="tests.ray.test_bucket:Reader", model="none")
    answers = list(generate(requests, target, settings=engine, cluster=ONE, logs=logs))
    size = sum(tensor.numel() for tensor in learned.values())
    assert {answer.completion.text for answer in answers} == {f"{model_folders.local_path(made.path)} {size}"}
    row = pa.table({"row": [0], "text": ["w1 w2"]})
    assert _Encoder(target, None)(row)["vector"][0].as_py()


@pytest.mark.soak
def test_the_one_node_that_may_not_write_the_storage_is_named(tmp_path):
    with server.serving(tmp_path / "server.log", INITIAL_NO_AUTH_ACTION_COUNT="4") as environment:
        users = server.client(environment, "iam")
        server.client(environment).create_bucket(Bucket="bucket")
        key = server.user(users, "writer", ["s3:*"])
        before = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-m", "tests.ray.cluster_check", "s3://bucket/runs"],
            env=before | environment | key | {"RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True, timeout=250,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("2 "), done.stdout
    assert "cannot be used by 1 of 2 nodes:" in done.stdout and "SignatureDoesNotMatch" in done.stdout


@pytest.mark.soak
def test_a_search_keeps_its_own_files_in_the_bucket(ray_session, bucket, tmp_path):
    config = small(tmp_path, search__learning_rate=[1e-4], search__max_concurrent=2)
    trials = [{"name": f"trial_{i}", "seed": i} for i in (1, 2)]
    results = RayExecutor(config, None).search(squares_in_a_trial, trials, f"{bucket}/run/tune")
    assert results[0]["squares"] == [1, 1, 1] and "the loss is NaN" in results[1]["error"]
    assert Store(f"{bucket}/run").sizes("tune")
