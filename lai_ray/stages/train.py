"""Fine-tunes the target.  samples, target -> the next target"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from lai_ray.common.chat_template import Example
from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model, TrainJob
from lai_ray.stages.curate import Samples
from lai_ray.stages.job import Job
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Stage
from lai_ray.training import checkpoints


def examples_from(samples: Samples, job: Job) -> list[Example]:
    """At most curate.samples_per_dataset samples of each dataset, with their own prompts or those of evaluation."""
    examples, taken = [], Counter[str]()
    for sample in samples.view:
        name = sample.problem.benchmark
        taken[name] += 1
        if taken[name] <= job.config.curate.most(name):
            messages = sample.messages or job.benchmark(name).prompt(sample.problem)
            examples.append(Example(sample.id, messages, [(turn.text, turn.weight) for turn in sample.turns]))
    return examples


def training_key(
    samples: Samples, target: Model, iteration: int, job: Job, seed: int | None = None
) -> tuple[str, dict[str, Any]]:
    """Hash of what decides a training, which is the new model's name, and its lineage in plain values."""
    config = job.config
    settings, rate = config.train, config.learning_rate(iteration)
    seed = config.seed if seed is None else seed
    examples = examples_from(samples, job)
    content = content_of(examples)
    key = name_of(target, content, iteration, config, seed)
    lineage = {
        "name": key,
        "base": target.identity,
        "iteration": iteration + 1,
        "learning_rate": rate,
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
        "samples": {"count": len(examples), "hash": content},
    }
    return key, lineage


def content_of(examples: Iterable[Example]) -> str:
    """Hash of the training examples."""
    return key_of([(e.messages, e.turns) for e in examples])


def name_of(target: Model, content: str, iteration: int, config: Config, seed: int) -> str:
    """The name of the model that a training makes, known in advance."""
    return key_of(target.identity, config.train.identity(), config.learning_rate(iteration), seed, content)


def _made_before(stage: Stage, key: str) -> dict[str, float] | None:
    """The metrics of this training where its model exists, in this run or one that is reused; else None."""
    lineage, reused = stage.store.get_json("checkpoint/lineage.json"), False
    if not (lineage and lineage.get("name") == key):
        if not (reused := stage.take_over(key, "checkpoint")):
            return None
        lineage = stage.store.get_json("checkpoint/lineage.json")
    stage.progress.report("  the checkpoint was " + ("reused from another run" if reused else "made before"))
    metrics: dict[str, float] = lineage.get("metrics", {})
    return metrics


def train(
    stage: Stage, samples: Samples, target: Model, iteration: int, job: Job, executor: Executor,
    seed: int | None = None,
) -> Model:  # fmt: skip
    """Full-parameter fine-tuning from the previous weights; the new target's identity is its lineage's hash."""
    key, lineage = training_key(samples, target, iteration, job, seed)
    settings, rate = job.config.train, lineage["learning_rate"]
    if not stage.done(key):
        examples = examples_from(samples, job)
        training = TrainJob(key, target, examples, settings, rate, lineage["seed"], stage.path("checkpoint"), lineage)
        metrics = _made_before(stage, key)
        if metrics is None:
            stage.progress.report(f"  {len(examples)} samples, learning rate {rate:g}, {settings.epochs} epochs")
            with stage.progress.track(f"{stage.folder}: steps", None) as tracker:
                metrics = executor.train(training, tracker.at).metrics
        if stage.store.local:
            checkpoints.remove(training.out)  # Left by a training that died after writing its model.
        stage.store.put_json("lineage.json", lineage)
        stage.finish(key, samples=len(examples), **metrics)
    stage.check_until()
    return Model(path=stage.path("checkpoint"), identity=key)
