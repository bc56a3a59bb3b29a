"""Fine-tunes the target.  samples, target -> the next target"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lai_ray.common.chat_template import Example
from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model, TrainJob
from lai_ray.grading.answer_part import without_thoughts
from lai_ray.instructor.parsing.derived import DERIVED
from lai_ray.records import Sample
from lai_ray.stages.curate import Samples
from lai_ray.stages.early_stopping import Epochs
from lai_ray.stages.evaluate import Attempts
from lai_ray.stages.job import Job
from lai_ray.stages.rehearse import stage_studied
from lai_ray.stages.replay import replay
from lai_ray.storage.keys import key_of, key_of_all
from lai_ray.storage.run import Stage
from lai_ray.storage.store import Store, View
from lai_ray.training import checkpoints


@dataclass(frozen=True)
class TrainingSet:
    """The examples of one training: new samples, and what is replayed beside them."""

    examples: list[Example]
    samples: int
    """How many of the examples are samples."""
    replay: dict[str, Any] | None = None
    """What is replayed, for the lineage; None where nothing is."""
    derived: int = 0
    """Samples whose final line is their own result: graded against themselves, they are always right."""

    @property
    def content(self) -> str:
        """Hash of the examples."""
        return key_of_all((e.messages, e.turns) for e in self.examples)

    def summary(self) -> str:
        """For the progress line."""
        if self.replay is None:
            return f"{self.samples} samples"
        return f"{self.samples} samples and {self.replay['count']} of the target's {self.replay['of']} right answers"


def training_set(samples: Samples, attempts: Attempts, iteration: int, job: Job) -> TrainingSet:
    """The samples that train.data asks for, with their own prompts or those of evaluation, and the replay.

    Of each iteration and dataset at most curate.samples_per_dataset. attempts: the iteration's evaluation.
    """
    examples, derived = [], 0
    for view in (*_earlier(samples, iteration, job), samples.view):
        taken = Counter[str]()
        for sample in view:
            name = sample.problem.benchmark
            taken[name] += 1
            if taken[name] <= job.config.curate.most(name):
                messages = sample.messages or job.benchmark(name).prompt(sample.problem)
                derived += DERIVED in sample.problem.extra
                examples.append(Example(sample.id, messages, [(turn.text, turn.weight) for turn in sample.turns]))
    replayed = replay(attempts, iteration, job)
    learned = [*examples, *(replayed.examples if replayed else ())]
    if job.config.train.thoughts == "cut":
        learned = list(map(_answer_alone, learned))
    return TrainingSet(learned, len(examples), replayed.facts if replayed else None, derived)


def _answer_alone(example: Example) -> Example:
    """An example of one turn without its thoughts; one that is nothing but thoughts, or of several turns, as it is."""
    if len(example.turns) != 1:
        return example
    [(text, weight)] = example.turns
    answer = without_thoughts(text)
    return example if answer is None or answer == text else example._replace(turns=[(answer.strip(), weight)])


def _earlier(samples: Samples, iteration: int, job: Job) -> list[View[Sample]]:
    """The samples of earlier iterations of the run, where train.data is "cumulative"."""
    if job.config.train.data == "iteration":
        return []
    root = samples.view.store.where.rpartition(f"/iteration_{iteration}/")[0]
    stores = (Store(f"{root}/iteration_{i}/{stage_studied(job.config)}") for i in range(iteration))
    return [View(store, "samples.jsonl", Sample) for store in stores if store.exists("samples.jsonl")]


def training_key(
    learned: TrainingSet, base: Model, iteration: int, job: Job, seed: int | None = None
) -> tuple[str, dict[str, Any]]:
    """Hash of what decides a training, which is the new model's name, and its lineage in plain values."""
    config, content = job.config, learned.content
    seed = config.seed if seed is None else seed
    key = name_of(base, content, iteration, config, seed)
    derived = {DERIVED: learned.derived} if learned.derived else {}
    lineage = {
        "name": key,
        "base": base.identity,
        "iteration": iteration + 1,
        "learning_rate": config.learning_rate(iteration),
        "seed": seed,
        "settings": config.train.model_dump(mode="json"),
        "samples": {"count": learned.samples, "hash": content} | derived,
    }
    return key, lineage if learned.replay is None else lineage | {"replay": learned.replay}


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
    stage: Stage, samples: Samples, attempts: Attempts, target: Model, iteration: int, job: Job, executor: Executor,
    seed: int | None = None,
) -> Model:  # fmt: skip
    """Full-parameter fine-tuning; the new target's identity is its lineage's hash.

    attempts: the iteration's evaluation, of which train.replay takes right answers.
    """
    learned, base = training_set(samples, attempts, iteration, job), job.base(target)
    key, lineage = training_key(learned, base, iteration, job, seed)
    lineage["names"] = _names(stage, base, iteration, job)
    training = TrainJob(
        key, base, learned.examples, job.config.train, lineage["learning_rate"], lineage["seed"],
        stage.path("checkpoint"), lineage, max_failed_fraction=job.config.limits.max_failed_fraction,
    )  # fmt: skip
    if job.config.train.early_stopping:
        return _best_epoch(stage, learned, attempts, Epochs(stage, training, job, executor))
    if not stage.done(key):
        metrics = _made_before(stage, key)
        if metrics is None:
            metrics = _fit(stage, learned, training, executor)
        _finish(stage, key, learned, training.out, lineage, metrics)
    stage.check_until()
    return Model(path=stage.path("checkpoint"), identity=key)


def _names(stage: Stage, base: Model, iteration: int, job: Job) -> dict[str, str]:
    """What a person calls the model and its base, for the model's card."""
    first, run = job.config.target.model, stage.run.name
    named = PurePath(first).name if first.startswith(("/", ".", "~")) else first
    untouched = job.target is not None and base.identity == job.target.identity
    return {
        "model": f"{run}, iteration {iteration + 1}",
        "base": named if untouched else f"{run}, iteration {iteration}",
    }


def _best_epoch(stage: Stage, learned: TrainingSet, attempts: Attempts, epochs: Epochs) -> Model:
    """The same, of the epoch with the best dev score."""
    if not stage.done(key := epochs.key()):
        lineage = epochs.choose(attempts, lambda training: _fit(stage, learned, training, epochs.executor))
        facts = {name: lineage["early_stopping"][name] for name in ("epoch", "dev")}
        _finish(stage, key, learned, epochs.training.out, lineage, lineage.get("metrics", {}), **facts)
    epochs.remove_others()
    stage.check_until()
    return Model(path=stage.path("checkpoint"), identity=epochs.names[stage.facts()["epoch"] - 1])


def _fit(stage: Stage, learned: TrainingSet, training: TrainJob, executor: Executor) -> dict[str, float]:
    """Train; returns the metrics."""
    rate, epochs = training.learning_rate, training.settings.epochs
    stage.progress.report(f"  {learned.summary()}, learning rate {rate:g}, {epochs} epochs")
    with stage.progress.track(f"{stage.folder}: steps", None) as tracker:
        metrics = executor.train(training, tracker.at).metrics
    if refused := metrics.get("refused"):
        why = "the model's chat template refuses or rewrites them (left_out in the checkpoint's lineage.json)"
        stage.progress.report(f"  {refused:.0f} examples were left out: {why}", style="yellow")
    return metrics


def _finish(
    stage: Stage, key: str, learned: TrainingSet, out: str, lineage: dict[str, Any], metrics: dict[str, float],
    **facts: Any,
) -> None:  # fmt: skip
    if stage.store.local:
        checkpoints.remove(out)  # Left by a training that died after writing its model.
    stage.store.put_json("lineage.json", lineage)
    replayed = {"replayed": learned.replay["count"]} if learned.replay else {}
    stage.finish(key, samples=learned.samples, **replayed, **facts, **metrics)
