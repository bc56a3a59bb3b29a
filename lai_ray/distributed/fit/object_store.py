"""Trains on local disk and uploads the model, for runs stored in an object store.  job in the store -> model there

.<out>.scratch/   job.json  job.examples.jsonl  mark  progress.json     in the store, during the training
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lai_ray.errors import StageError
from lai_ray.storage import model_folders
from lai_ray.storage.store import Store
from lai_ray.training import tensorboard
from lai_ray.training.recipe import read_job, recipe_for, write_job

if TYPE_CHECKING:
    from lai_ray.contracts import TrainJob

EVERY = 2.0
"""Seconds between two reads, and two writes, of the progress: each is a request that is paid for."""
MARK, PROGRESS = "mark", "progress.json"


@contextmanager
def scratch(job: TrainJob) -> Iterator[str]:
    """The URL of a folder beside `job.out` that holds the job file, removed at the end.

    Each start writes a new `mark`. A worker of an earlier start, which may still be alive, sees the change and uploads
    nothing.
    """
    parent, _, name = job.out.rstrip("/").rpartition("/")
    url = f"{parent}/.{name}.scratch"
    store = Store(url)
    store.delete("")
    with tempfile.TemporaryDirectory() as folder:
        write_job(Path(folder) / "job.json", recipe_for(job), job.examples, job.lineage | {"name": job.name})
        for path in sorted(Path(folder).iterdir()):
            store.put(path.name, path)
    store.put(MARK, uuid.uuid4().hex.encode())
    try:
        yield url
    finally:
        store.delete("")
        _remove_folders(url)


def _remove_folders(url: str) -> None:
    """Remove the empty objects that Ray's file system made for folders; our own client does not list them as files."""
    from pyarrow.fs import FileSystem

    with suppress(OSError):
        files, path = FileSystem.from_uri(url)
        files.delete_dir(path)


def report_progress(url: str, progress: Callable[[int, int], None], seen: int) -> int:
    """Report the step that rank 0 last wrote into the scratch folder, unless it is `seen`. Returns it."""
    time.sleep(EVERY)
    content = None
    with suppress(StageError):  # Only the display depends on it: the training does not stop when it cannot be read.
        content = Store(url).get(PROGRESS)
    if content is None:
        return seen
    metrics: dict[str, int] = json.loads(content)
    if metrics["step"] != seen:
        progress(metrics["step"], metrics["steps"])
    return metrics["step"]


class ObjectStoreTraining:
    """One worker's part: fetches its job to this node's disk, and uploads the model."""

    def __init__(self, job: str) -> None:
        """job: the URL of the job file."""
        self._store, self._reported = Store(job.rpartition("/")[0]), 0.0
        self._mark = self._store.get(MARK)
        self._url, self._folder, self._job = "", Path(), Path(tempfile.mkdtemp(prefix="lai-job-"))

    def fetch(self) -> Path:
        """The job file on this disk, with the base model here and an `out` folder of this node and this start."""
        for name in ("job.json", "job.examples.jsonl"):
            with (self._job / name).open("wb") as file:
                for start in range(0, size := self._store.sizes()[name][0], model_folders.PIECE):
                    file.write(self._store.piece(name, start, min(start + model_folders.PIECE, size)))
        recipe, lineage, examples = read_job(self._job / "job.json")
        self._url = recipe.out
        self._folder = model_folders.cache_path("trainings", self._url) / (self._mark or b"none").decode()
        self._folder.mkdir(parents=True, exist_ok=True)
        for other in self._folder.parent.iterdir():
            if other != self._folder:  # Of a start that was killed. A worker of it that still lives uploads nothing.
                shutil.rmtree(other, ignore_errors=True)
        here = replace(recipe, model=model_folders.local_path(recipe.model), out=str(self._folder / "checkpoint"))
        write_job(self._job / "here.json", here, examples, lineage)
        return self._job / "here.json"

    def report(self, step: int, metrics: dict[str, Any]) -> None:
        """Write the progress, at most every EVERY seconds and at the last step."""
        steps = int(metrics["steps"])
        if step == steps or time.monotonic() - self._reported > EVERY:
            self._reported = time.monotonic()
            with suppress(StageError):
                self._store.put(PROGRESS, json.dumps({"step": step, "steps": steps}).encode())

    def upload(self) -> None:
        """Put the model and its TensorBoard files into the store, the model whole or not at all."""
        beside = Store(self._url.rpartition("/")[0])
        curves = self._folder / tensorboard.FOLDER
        for path in sorted(curves.iterdir()) if curves.is_dir() else ():
            beside.put(f"{tensorboard.FOLDER}/{path.name}", path)
        model_folders.publish(self._folder / "checkpoint", self._url, mine=self._is_mine)

    def _is_mine(self) -> bool:
        return self._store.get(MARK) == self._mark

    def close(self) -> None:
        """Remove everything from this disk but the model, which stays in the cache as a copy of the uploaded one."""
        shutil.rmtree(self._job, ignore_errors=True)
        if self._url and os.environ.get("RANK", "0") == "0":
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._url:
            with suppress(OSError):  # Rank 0 may still use it, if it is on this node.
                self._folder.rmdir()
            with suppress(OSError):
                self._folder.parent.rmdir()
