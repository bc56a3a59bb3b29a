"""A training whose storage is an object store: it happens on a node's disk.  job in the store -> model in the store

.<out>.scratch/   job.json  job.examples.jsonl  mark  progress.json     in the store, while it goes on
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
from lai_ray.storage.objects import Objects
from lai_ray.training import tensorboard
from lai_ray.training.recipe import Conversation, read_job, recipe_for, write_job

if TYPE_CHECKING:
    from lai_ray.contracts import TrainJob

EVERY = 2.0
"""Seconds between two looks at how far a training is, and two words about it: each is a request that is paid for."""
MARK, PROGRESS = "mark", "progress.json"


@contextmanager
def scratch(job: TrainJob) -> Iterator[str]:
    """The URL of a folder beside `job.out` with the job file in it, gone at the end.

    Its `mark` is another at each start: a worker of an earlier one, which may live on for a while, sees that it is not
    its own, and stands back.
    """
    parent, _, name = job.out.rstrip("/").rpartition("/")
    url = f"{parent}/.{name}.scratch"
    store = Objects(url)
    store.delete("")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "job.json"
        conversations = (Conversation(e.id, e.messages, e.turns) for e in job.examples)
        write_job(made, recipe_for(job), conversations, job.lineage | {"name": job.name})
        for path in sorted(Path(folder).iterdir()):
            store.put(path.name, path)
    store.put(MARK, uuid.uuid4().hex.encode())
    try:
        yield url
    finally:
        store.delete("")
        _remove_folders(url)


def _remove_folders(url: str) -> None:
    """The empty objects that Ray's file system made for folders; our own client does not see them as files."""
    from pyarrow.fs import FileSystem

    with suppress(OSError):
        files, path = FileSystem.from_uri(url)
        files.delete_dir(path)


def told(url: str, progress: Callable[[int, int], None] | None, seen: int) -> int:
    """Tell how far the training is, by what rank 0 last put into the scratch folder."""
    if progress is None:
        return seen
    time.sleep(EVERY)
    content = None
    with suppress(StageError):  # It is for looking at: the training goes on where nobody can look.
        content = Objects(url).get(PROGRESS)
    if content is None:
        return seen
    at: dict[str, int] = json.loads(content)
    if at["step"] != seen:
        progress(at["step"], at["steps"])
    return at["step"]


class Afar:
    """One worker's end of it: its job on this node's disk, and the way back into the store."""

    def __init__(self, job: str) -> None:
        """job: the URL of the job file."""
        self._store, self._said = Objects(job.rpartition("/")[0]), 0.0
        self._mark = self._store.get(MARK)
        self._url, self._folder, self._job = "", Path(), Path(tempfile.mkdtemp(prefix="lai-job-"))

    def fetched(self) -> Path:
        """The job file on this disk: its base model is here, and its `out` is a folder of this node and this start."""
        for name in ("job.json", "job.examples.jsonl"):
            with (self._job / name).open("wb") as file:
                for start in range(0, size := self._store.sizes()[name][0], model_folders.PIECE):
                    file.write(self._store.piece(name, start, min(start + model_folders.PIECE, size)))
        recipe, lineage, examples = read_job(self._job / "job.json")
        self._url = recipe.out
        self._folder = model_folders.place_for("trainings", self._url) / (self._mark or b"none").decode()
        self._folder.mkdir(parents=True, exist_ok=True)
        for other in self._folder.parent.iterdir():
            if other != self._folder:  # Of a start that was killed. What still lives of it may deliver nothing.
                shutil.rmtree(other, ignore_errors=True)
        here = replace(recipe, model=model_folders.here(recipe.model), out=str(self._folder / "checkpoint"))
        write_job(self._job / "here.json", here, examples, lineage)
        return self._job / "here.json"

    def tell(self, step: int, metrics: dict[str, Any]) -> None:
        """How far it is, now and then and at the end."""
        steps = int(metrics["steps"])
        if step == steps or time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            with suppress(StageError):
                self._store.put(PROGRESS, json.dumps({"step": step, "steps": steps}).encode())

    def deliver(self) -> None:
        """The model and its curves go into the store, the model whole or not at all."""
        beside = Objects(self._url.rpartition("/")[0])
        curves = self._folder / tensorboard.FOLDER
        for path in sorted(curves.iterdir()) if curves.is_dir() else ():
            beside.put(f"{tensorboard.FOLDER}/{path.name}", path)
        model_folders.publish(self._folder / "checkpoint", self._url, mine=self._is_mine)

    def _is_mine(self) -> bool:
        return self._store.get(MARK) == self._mark

    def close(self) -> None:
        """Nothing of it is left on this disk but the model, as a copy of what is in the store."""
        shutil.rmtree(self._job, ignore_errors=True)
        if self._url and os.environ.get("RANK", "0") == "0":
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._url:
            with suppress(OSError):  # Rank 0 may be at work in it, where it is on this node.
                self._folder.rmdir()
            with suppress(OSError):
                self._folder.parent.rmdir()
