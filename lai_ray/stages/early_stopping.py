"""Keeps the epoch whose model scores best on the dev splits.  a training's epochs -> the chosen model

train/checkpoint/        the last epoch's model, then the chosen one
train/epochs/epoch_1/    checkpoint/, until one is chosen   evaluate/, its answers to the dev problems

The choice is a function of recorded answers, so a resumed run repeats it without a training or a request. Every epoch's
model has a name of its own, the hash of the training's name and the epoch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from lai_ray.contracts import Executor, Model, TrainJob
from lai_ray.errors import StageError
from lai_ray.stages.evaluate import Attempts, answered, evaluate, key_for
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part, part
from lai_ray.storage import model_folders
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Stage
from lai_ray.training import model_card
from lai_ray.training.recipe import epoch_folder

CHECKPOINT = "checkpoint"
Scores = Mapping[str, Mapping[str, Any]]
"""As in scores.json: {"gsm8k.dev": {"right", "n", …}, …}."""


def model_names(training: str, job: Job) -> list[str]:
    """The names of the models that a training may leave: its own, or with early stopping one for each epoch."""
    settings = job.config.train
    if not settings.early_stopping:
        return [training]
    return [key_of(training, epoch) for epoch in range(1, settings.epochs + 1)]


def mean_score(scores: Scores) -> Fraction:
    """The mean share of right answers over the parts, exactly: equal scores are equal."""
    return sum((Fraction(each["right"], each["n"]) for each in scores.values()), Fraction()) / len(scores)


def best(scores: Sequence[Scores]) -> int:
    """The epoch, from 1, with the best mean score, the earliest of equals. scores: by epoch."""
    return max(range(1, len(scores) + 1), key=lambda epoch: (mean_score(scores[epoch - 1]), -epoch))


@dataclass(frozen=True)
class Epochs:
    """The epochs of one training, counted from 1."""

    stage: Stage
    """Of the training."""
    training: TrainJob
    """Its name is the hash of all that decides it."""
    job: Job
    executor: Executor

    @cached_property
    def names(self) -> list[str]:
        """The name of each epoch's model."""
        return model_names(self.training.name, self.job)

    @cached_property
    def parts(self) -> list[Part]:
        """The dev splits."""
        return [part(self.job, name, "dev") for name in self.job.config.evaluate.learn_from]

    def key(self) -> str:
        """Hash of what decides the choice: the training, the dev problems, how they are asked and graded."""
        name = self.training.name
        return key_of(name, key_for(self.parts, Model("", name), self.job))

    def choose(self, before: Attempts, train: Callable[[TrainJob], object]) -> dict[str, Any]:
        """Train, unless all answers are known, and put the best epoch's model at `train/checkpoint`; its lineage.

        before: the iteration's evaluation, for the report. Raises StageError when the training left no model of an
        epoch.
        """
        numbers = range(1, len(self.names) + 1)
        if not all(self._made(epoch) or self._answered(epoch) for epoch in numbers):
            self._train(train)
        scores = [self._scores(epoch) for epoch in numbers]
        if not self._in_place(chosen := best(scores)):
            # Its answers were known without its weights, which the next iteration needs.
            self._train(train)
            self._in_place(chosen)
        names = [each.name for each in self.parts]
        by_part = [_counts(each, names) for each in (before.scores(), *scores)]
        self.stage.progress.report(_summary(chosen, *by_part))
        return self._noted({"epoch": chosen, "of": len(scores), "before": by_part[0], "dev": by_part[1:]})

    def remove_others(self) -> None:
        """Remove the weights of all epochs but the chosen one."""
        for epoch in range(1, len(self.names)):
            folder = Path(self._path(epoch))
            if folder.exists() or any(folder.parent.glob(f".{CHECKPOINT}.*")):
                self.stage.run.check_fence()
                model_folders.remove(str(folder))
                for half in folder.parent.glob(f".{CHECKPOINT}.*"):
                    shutil.rmtree(half, ignore_errors=True)

    def _path(self, epoch: int) -> str:
        out = self.training.out
        return out if epoch == len(self.names) else epoch_folder(out, epoch)

    def _model(self, epoch: int) -> Model:
        return Model(self._path(epoch), self.names[epoch - 1])

    def _made(self, epoch: int) -> bool:
        """Whether the epoch's model is where the training writes it."""
        model = self._model(epoch)
        return (model_folders.lineage_of(model.path) or {}).get("name") == model.identity

    def _evaluation(self, epoch: int) -> Stage:
        return Stage(self.stage.run, f"{self.stage.folder}/epochs/epoch_{epoch}/evaluate")

    def _answered(self, epoch: int) -> bool:
        return answered(self._evaluation(epoch), self.parts, self._model(epoch), self.job)

    def _scores(self, epoch: int) -> Scores:
        return evaluate(self._evaluation(epoch), self.parts, self._model(epoch), self.job, self.executor).scores()

    def _train(self, train: Callable[[TrainJob], object]) -> None:
        *others, last = self.names
        self.stage.run.check_fence()
        model_folders.remove(self.training.out)  # The last epoch's model alone would count as the whole training.
        lineage = self.training.lineage | {"name": last}
        train(replace(self.training, name=last, epoch_names=others, lineage=lineage))
        for epoch in range(1, len(self.names) + 1):
            if not self._made(epoch):
                raise StageError(
                    f"{self._path(epoch)}: the training finished, but the model of epoch {epoch} is not here. Do all "
                    "nodes see this folder? The same command trains it again."
                )

    def _in_place(self, epoch: int) -> bool:
        """Whether the epoch's model is at `train/checkpoint`, copied there where this or a reused run has it."""
        name = self.names[epoch - 1]
        there = self.stage.store.get_json(f"{CHECKPOINT}/lineage.json") or {}
        return there.get("name") == name or self.stage.take_over(name, CHECKPOINT)

    def _noted(self, choice: dict[str, Any]) -> dict[str, Any]:
        """The lineage of the chosen model with the choice in it, written beside the weights, with a card."""
        file = f"{CHECKPOINT}/lineage.json"
        lineage: dict[str, Any] = self.stage.store.get_json(file) | {"early_stopping": choice}
        self.stage.store.put_json(file, lineage)
        model_card.write(self.training.out, choice["dev"][choice["epoch"] - 1])
        return lineage


def _counts(scores: Scores, parts: Sequence[str]) -> dict[str, dict[str, int]]:
    return {name: {"right": scores[name]["right"], "n": scores[name]["n"]} for name in parts}


def _summary(chosen: int, before: Scores, *after: Scores) -> str:
    first, *others = (f"{100 * float(mean_score(scores)):.1f}%" for scores in (before, *after))
    by_epoch = ", ".join(others)
    return f"  on dev {first} before the training and by epoch {by_epoch}: epoch {chosen} of {len(after)} is kept"
