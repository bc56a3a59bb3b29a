"""The executor of a dry run: counts what would be asked, and answers with nothing.  requests -> counts"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from lai_ray.config.config import Config
from lai_ray.config.rehearsal import SWITCHES
from lai_ray.contracts import Again, Model, Neighbours, Trained, TrainJob
from lai_ray.distributed.neighbours import topk
from lai_ray.records import Answer, Completion, Request
from lai_ray.stages.curation.sample_filter import SampleGrader
from lai_ray.stages.evaluate import Grader
from lai_ray.stages.trial import Trial
from lai_ray.storage.keys import key_of
from lai_ray.storage.run import Run
from lai_ray.storage.store import Store
from lai_ray.training.recipe import epoch_folder

Whom = Literal["target", "instructor"]
KEPT = 50
"""Missing requests of a stage that are kept, to show the first difference."""


class NotKnown(Exception):
    """What follows depends on what a dry run does not do."""


@dataclass
class Missing:
    """Requests of one stage to which there is no answer."""

    by_dataset: Counter[str] = field(default_factory=Counter)
    by_part: Counter[str] = field(default_factory=Counter)
    """By dataset and split of the problem: "gsm8k/train"."""
    begun: Counter[str] = field(default_factory=Counter)
    """Of them, by dataset, the dialogues that begin."""
    first: list[Request] = field(default_factory=list)


class DryExecutor:
    """Counts what it is asked. `unknown` names the stage in which an answer was missing that decides what follows."""

    def __init__(self, run: Run, config: Config) -> None:
        self.run, self.unknown, self._curate = run, "", config.curate
        self.missing: dict[tuple[str, Whom], Missing] = {}
        self.guessed: dict[str, str] = {}
        """By folder of a stage whose requests are not known, the reason."""
        self.trained: dict[str, dict[str, Any]] = {}
        """By folder, the lineage of each model that would be trained."""
        self._begun: set[tuple[str, str]] = set()
        self._dialogues: set[tuple[str, str]] = set()

    def count(self, folder: str, whom: Whom, request: Request, *, begins: bool = False) -> None:
        """Count a request without an answer."""
        missing = self.missing.setdefault((folder, whom), Missing())
        dataset, split, *_ = request.id.split("/")
        missing.by_dataset[dataset] += 1
        missing.by_part[f"{dataset}/{split}"] += 1
        missing.begun[dataset] += begins
        if len(missing.first) < KEPT:
            missing.first.append(request)

    def training_problems(self, folder: str) -> dict[str, int]:
        """How many training problems of each dataset the target has not answered in an evaluation."""
        missing = self.missing.get((folder, "target"), Missing()).by_part
        return {part.removesuffix("/train"): n for part, n in missing.items() if part.endswith("/train")}

    def missing_text(self, folder: str) -> str:
        """What is missing in a stage, in words."""
        there = {whom: missing.by_dataset.total() for (where, whom), missing in self.missing.items() if where == folder}
        parts = {"target": "answers of the target", "instructor": "replies of the instructor"}
        listed = [f"{count:,} {parts[whom]}" for whom, count in there.items()]
        return f"{' and '.join(listed)} are to come, on which the rest depends"

    def _not_known(self) -> None:
        folder = self.run.progress.folder
        if folder.endswith("/rehearse") and not any(getattr(self._curate, name) for name in SWITCHES):
            return  # It only reports: the same samples are studied.
        self.unknown = self.unknown or folder
        if "/search/" not in folder:  # All pools and trials of a search are counted.
            self.run.until = folder

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        """Count them; empty answers."""
        for request in requests:
            self.count(self.run.progress.folder, "target", request)
            self._not_known()
            yield Answer(request.id, request.key, Completion("", "stop"))

    def ask(self, requests: Iterable[Request | None], settings: Any, limits: Any, again: Again) -> Iterator[Answer]:
        """Count those of the first round in which a reply is missing, and of its later turns; empty replies."""
        folder, fresh = self.run.progress.folder, set[tuple[str, str]]()
        for request in (one for one in requests if one is not None):
            stage = folder, request.id.partition("/")[0]
            dialogue, turn = _dialogue(request.id)
            if stage not in self._begun or (folder, dialogue) in self._dialogues:
                fresh.add(stage)
                self._dialogues.add((folder, dialogue))
                self.count(folder, "instructor", request, begins=turn == "0")
            self._not_known()
            yield Answer(request.id, request.key, Completion("", "stop"))
        self._begun |= fresh

    def embed(self, texts: Sequence[str], encoder: Model) -> np.ndarray:
        """Zeros, as nothing is embedded here; which neighbours a mistake has is then not known."""
        instruct = f"{self.run.progress.folder.removesuffix('diagnose')}instruct"
        self.guessed[instruct] = f"{len(texts):,} texts are not embedded yet, so the neighbours are not known"
        return np.zeros((len(texts), self._width(encoder)), np.float32)

    def _width(self, encoder: Model) -> int:
        stores = (Store(run.store.where).inside("embeddings") for run in self.run.reuse)
        for store in stores:
            for name in store.names(key_of(encoder.identity))[:1]:
                with np.load(io.BytesIO(store.get(name) or b"")) as arrays:
                    return int(arrays["vectors"].shape[1])
        return 1

    def nearest(self, queries: np.ndarray, corpus: np.ndarray, k: int) -> Neighbours:
        """Exact, as over shards."""
        queries, corpus = topk.checked(queries, corpus, k)

        def search(some: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
            squares = np.square(corpus).sum(axis=1) - 2 * some @ corpus.T + np.square(some).sum(axis=1, keepdims=True)
            rows = np.argsort(squares, axis=1, kind="stable")[:, :width]
            return np.take_along_axis(squares, rows, axis=1), rows

        return topk.merge([topk.nearest_in(queries, corpus, k, search)], min(k, len(corpus)))

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """In this process. Raises NotKnown where that runs programs written by a model."""
        if isinstance(function, Grader | SampleGrader) and function.benchmark.runs_code:
            raise NotKnown("programs are graded by `lai run` alone, so what follows is not known")
        return map(function, items)

    def expect_training(self) -> None:
        """Nothing: nothing is trained."""

    def train(self, job: TrainJob, progress: Any = None) -> Trained:
        """The lineages of the models that it would make."""
        self.trained[self.run.progress.folder] = job.lineage
        for epoch, name in enumerate(job.epoch_names, 1):
            Store(epoch_folder(job.out, epoch)).put_json("lineage.json", job.lineage | {"name": name})
        Store(job.out).put_json("lineage.json", job.lineage)
        return Trained(job.out, {})

    def search(
        self, trial: Callable[..., Any], trials: Sequence[dict[str, Any]], folder: str, on_result: Any = None
    ) -> list[dict[str, Any]]:
        """The trials, as far as their answers are recorded. Raises NotKnown where one is missing."""
        assert isinstance(trial, Trial)
        given = {one.name: getattr(trial, one.name) for one in fields(trial)}
        results = [_DryTrial(**given, dry=self.run)(settings, self) for settings in trials]
        if self.unknown:
            raise NotKnown(self.missing_text(self.unknown))
        return results

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class _DryTrial(Trial):
    dry: Run | None = None

    def opened(self) -> Run:
        assert self.dry is not None
        return self.dry


def _dialogue(request_id: str) -> tuple[str, str]:
    """The dialogue of a request, and its turn: "case@turn.draw"."""
    case, at, rest = request_id.rpartition("@")
    turn, _, draw = rest.partition(".")
    return (f"{case}@{draw}", turn) if at else (request_id, "0")
