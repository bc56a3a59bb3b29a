"""Ten swaps of weights in one living engine process: the texts of a fresh engine, and no more memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from lai_ray.benchmarks.word_problems import WordProblems
from lai_ray.config.settings import ClusterSettings, TargetSettings
from lai_ray.contracts import Model
from lai_ray.distributed.generation.generate import generate
from lai_ray.distributed.generation.living_engines import keeper
from lai_ray.records import Request
from lai_ray.world import STUDENT

PROMPTS, SWAPS = 2_000, 10
GROWTH = 1.05
ONE = ClusterSettings(target_replicas=1, gpus_per_replica=0, cpus_per_replica=1, stall_seconds=300)


def variant(folder: Path, seed: int, *, tied: bool) -> Model:
    """The student with other weights; untied: with an output matrix of its own."""
    shutil.copytree(STUDENT, folder)
    weights = load_file(folder / "model.safetensors")
    embedding = next(name for name in weights if "embed_tokens" in name)
    generator = torch.Generator().manual_seed(seed)
    for name, value in weights.items():
        weights[name] = value + 0.02 * value.std() * torch.randn(value.shape, generator=generator)
    if not tied:
        weights["lm_head.weight"] = weights[embedding].clone()
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(
            config.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false')
        )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Model(str(folder), f"variant {seed}")


def texts(model: Model, processes: object, logs: str) -> list[str]:
    settings = TargetSettings(engine="vllm", model=str(STUDENT), max_model_len=256)
    world = WordProblems()
    problems = [world.problem(row, "train", i) for i, row in enumerate(world.records("train", PROMPTS))]
    asked = [Request(f"q{i}#0", f"{i}", world.prompt(problem), max_tokens=32) for i, problem in enumerate(problems)]
    found = generate(iter(asked), model, settings=settings, cluster=ONE, logs=logs, processes=processes)
    by_key = {answer.key: answer.completion.text for answer in found}
    return [by_key[request.key] for request in asked]


@pytest.mark.soak
def test_a_process_gives_a_fresh_engines_texts_after_each_of_ten_swaps_in_the_same_memory(ray_session, tmp_path):
    models = [variant(tmp_path / f"{seed}", seed, tied=seed % 2 == 1) for seed in range(1, 5)]
    fresh = [texts(model, keeper(uuid4().hex), str(tmp_path / f"fresh{i}")) for i, model in enumerate(models)]
    assert len({tuple(each) for each in fresh}) == len(models), "the models answer alike, so this shows nothing"
    processes, logs, memory = keeper(uuid4().hex), tmp_path / "logs", []
    for swap in range(SWAPS + 1):
        which = swap % len(models)
        found = texts(models[which], processes, str(logs))
        differ = sum(a != b for a, b in zip(found, fresh[which], strict=True))
        (log,) = logs.glob("engine-*.log")
        memory.append(psutil.Process(int(log.stem.rpartition("-")[2])).memory_info().rss / 2**20)
        print(f"swap {swap}: {differ} of {PROMPTS} differ, {memory[-1]:.0f} MiB")
        assert not differ
    once_each = memory[len(models) - 1]
    assert memory[-1] <= GROWTH * once_each, memory
    ray.get(processes.rest.remote())
