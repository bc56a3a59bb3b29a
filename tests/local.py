"""An executor in this process, for tests of the loop: a pretend target with a skill, the tutor's own rules, numpy."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lai_ray.config import config, job_file
from lai_ray.contracts import Model, Neighbours, Trained, TrainJob
from lai_ray.records import Answer, Completion, Request
from lai_ray.storage import model_folders
from lai_ray.storage.store import is_url
from lai_ray.training.recipe import epoch_folder
from lai_ray.world import rules
from lai_ray.world import word_kinds as kinds


class Crash(BaseException):
    """The process dies here, as far as the loop can tell."""


def pretend_model(folder: Path, skill: int = 0) -> None:
    """A folder that looks like a model's; its skill is the percentage of problems that it answers rightly."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    (folder / "skill.json").write_text(str(skill))


def trained(folder: Path, skill: int, lineage: dict[str, Any]) -> None:
    """The same, as a training leaves it."""
    pretend_model(folder, skill=skill)
    (folder / "lineage.json").write_text(json.dumps(lineage))


def job(storage: Path, **changes: Any) -> config.Config:
    """A small job on the built-in world; changes as section__key=value."""
    model = storage / "model"
    if not model.is_dir():
        pretend_model(model, skill=40)
    table: dict[str, Any] = {
        "name": "small",
        "iterations": 1,
        "storage": str(storage),
        "target": {"model": str(model), "engine": "tests.local:LocalExecutor", "max_new_tokens": 64},
        "evaluate": {
            "learn_from": ["word_problems"], "report_on": ["word_problems"],
            "max_train_problems": 60, "max_test_problems": 40,
        },
        "schedule": {"strategy": "lec"},
        "contrast": {"encoder": "target"},
        "instructor": {"model": "rules"},
        "curate": {"samples_per_dataset": 30},
    }  # fmt: skip
    for key, value in changes.items():
        *sections, last = key.split("__")
        inner = table
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return job_file.parse(table)


class LocalExecutor:
    """Counts what it is asked, and can die after so many answers."""

    def __init__(
        self, *, die_after: dict[str, int] | None = None, reply: Callable[[Request], str] | None = None,
        epoch_skills: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.asked: Counter[str] = Counter()
        self.expected = 0
        """Trainings announced, which is no work yet."""
        self.requests: dict[str, list[Request]] = {"generate": [], "ask": []}
        self.die_after = dict(die_after or {})
        self.reply = reply or (lambda request: rules.reply(request.messages, request.seed))
        self.jobs: list[TrainJob] = []
        self.epoch_skills = list(epoch_skills)
        """Of the models after each epoch of a training; none: the last epoch's is 20 above the base's."""

    def _count(self, verb: str) -> None:
        if verb in self.die_after:
            if self.die_after[verb] == 0:
                raise Crash(verb)
            self.die_after[verb] -= 1
        self.asked[verb] += 1

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        skill = int((Path(model_folders.local_path(target.path)) / "skill.json").read_text())
        for request in requests:
            self._count("generate")
            self.requests["generate"].append(request)
            yield Answer(request.id, request.key, _response(request.messages[-1]["content"], skill))

    def ask(self, requests: Iterable[Request | None], settings: Any, limits: Any, again: Any) -> Iterator[Answer]:
        for request in requests:
            assert request is not None, "one call at a time: nothing is out when the next is drawn"
            self._count("ask")
            self.requests["ask"].append(request)
            yield Answer(request.id, request.key, Completion(self.reply(request), "stop", 10, 20))

    def embed(self, texts: Sequence[str], encoder: Model) -> np.ndarray:
        self._count("embed")
        vectors = np.zeros((len(texts), 32), np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, zlib.crc32(word.encode()) % 32] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def nearest(self, queries: np.ndarray, corpus: np.ndarray, k: int) -> Neighbours:
        self._count("nearest")
        distances = ((queries[:, None] - corpus[None]) ** 2).sum(-1)
        ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return Neighbours(ids, np.take_along_axis(distances, ids, 1))

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return map(function, items)

    def expect_training(self) -> None:
        self.expected += 1

    def train(self, job: TrainJob, progress: Any = None) -> Trained:
        self._count("train")
        self.jobs.append(job)
        skill = int((Path(model_folders.local_path(job.model.path)) / "skill.json").read_text())
        out = model_folders.cache_path("trainings", job.out) if is_url(job.out) else Path(job.out)
        skills = self.epoch_skills or [min(skill + 20, 100)]
        for epoch, name in enumerate(job.epoch_names, 1):
            trained(Path(epoch_folder(job.out, epoch)), skills[epoch - 1], job.lineage | {"name": name})
        trained(out, skills[-1], job.lineage)
        if is_url(job.out):
            model_folders.publish(out, job.out)
        return Trained(job.out, {"loss": 1.0})

    def search(
        self,
        trial: Callable[..., dict[str, Any]],
        trials: Sequence[dict[str, Any]],
        folder: str,
        on_result: Callable[..., None] | None = None,
    ) -> list[dict[str, Any]]:
        results = []
        for settings in trials:
            try:
                results.append(trial(settings, self))
            except Exception as error:
                results.append({"error": str(error)})
            if on_result:
                on_result(settings, results[-1])
        return results

    def close(self) -> None:
        pass


def _response(question: str, skill: int) -> Completion:
    item = kinds.recognise(question)
    right = zlib.crc32(question.encode()) % 100 < skill
    if item is None:
        return Completion("I do not know.", "stop", 5, 5)
    answer = kinds.solve(item.kind, item.numbers)[-1].result + (0 if right else 1)
    return Completion(f"#### {answer}", "stop", 5, 5)
