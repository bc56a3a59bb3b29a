"""A run's folder: its stages, their files and markers, and the record of what the run is.

runs/<name>/
  run.json  provenance.json  report.md  driver/
  iteration_0/  evaluate/  diagnose/  instruct/  curate/  rehearse/  train/     one folder a stage
  logs/
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lai_ray import __version__
from lai_ray.common import current_stage
from lai_ray.common.progress import Progress
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError
from lai_ray.storage import model_folders
from lai_ray.storage.answers import Answers
from lai_ray.storage.driver import Fence
from lai_ray.storage.identity import differences, identity_of
from lai_ray.storage.keys import encode
from lai_ray.storage.store import Store, View, is_url

T = TypeVar("T")

STAGES = ("evaluate", "diagnose", "instruct", "curate", "rehearse", "train", "search")
_REPLIES = re.compile(r"/(?:instruct|rehearse)/(?:judge_)?answers/(?:inherited/)?\d+\.jsonl$")
ASKED_AGAIN = ("evaluate", "instruct", "rehearse")
"""Stages of which a run has several that may make the same requests."""


class Stopped(Exception):
    """The stage given by --until is done."""


class Stage:
    """One stage's folder: its files, its marker, its clock."""

    def __init__(self, run: Run, folder: str) -> None:
        self.run, self.folder = run, folder
        self.name = folder.rpartition("/")[2]
        self.store = run.store.inside(folder)
        self.progress = run.progress
        self._started = time.monotonic()

    def done(self, key: str) -> bool:
        """Whether this stage was completed with exactly this key."""
        self.progress.enter(self.folder)
        self.run.prepare(self, key)
        marker = self.store.get_json("done.json")
        self._started = time.monotonic()
        done = bool(marker and marker["key"] == key)
        if not done:
            current_stage.begin(f"{self.run.name}/{self.folder}")
        return done

    def facts(self) -> dict[str, Any]:
        """The facts in the marker of a completed stage; empty while it is not."""
        facts: dict[str, Any] = (self.store.get_json("done.json") or {}).get("facts", {})
        return facts

    def finish(self, key: str, **facts: Any) -> None:
        """Write the marker, last of all."""
        seconds = round(time.monotonic() - self._started, 2)
        self.store.put_json("done.json", {"key": key, "version": __version__, "facts": {**facts, "seconds": seconds}})
        self.progress.finished(self.folder, seconds, facts)

    def check_until(self) -> None:
        """Raises Stopped, which ends the run, when --until names this stage."""
        if self.run.until in (self.name, self.folder, self.folder.replace("iteration_", "")):
            raise Stopped(self.folder)

    def answers(self, *, folder: str = "answers", rows: int = 500, also: Sequence[str] = ()) -> Answers:
        """The answers of this stage and of stages of this name in the same run; with --reuse, in other runs too.

        A target that stays, or was a trial, has answered before, and pools of a search may make the same requests.
        rows: at most so many answers can be lost by a kill; fewer where fewer arrive in two seconds.
        also: further folders to read from, as "evaluate/answers".
        """
        mine, folders = self.store.inside(folder), [f"{self.name}/{folder}", *also]
        before = [s for name in folders for s in self.run.stores_of(name) if s.where != mine.where]
        others = [store for run in self.run.reuse for name in folders for store in run.stores_of(name)]
        return Answers(mine, rows=rows, others=[*(before if self.name in ASKED_AGAIN else []), *others])

    def take_over(self, name: str, folder: str) -> bool:
        """Copy the model with this name in its lineage.json to `folder`, from a folder called so; False for none.

        It may be in this run, where an earlier start of a trial made it, or in a run that is reused.
        """
        for store in [store for run in (self.run, *self.run.reuse) for store in run.stores_of(folder)]:
            lineage = store.get_json("lineage.json")
            if lineage and lineage.get("name") == name:
                self.run.copy_model(store, self.path(folder))
                return True
        return False

    def write(self, name: str, records: Iterable[Any], kind: type[T]) -> View[T]:
        """Stream records into a JSONL file and return the view of it."""
        self.store.put_lines(name, (encode(record) for record in records))
        return View(self.store, name, kind)

    def view(self, name: str, kind: type[T]) -> View[T]:
        """The records of a file written before."""
        return View(self.store, name, kind)

    def path(self, name: str) -> str:
        """The path of a folder of this stage, or its URL, of which `model_folders.local_path` makes a path."""
        return str(self.store.local / name) if self.store.local else f"{self.store.where}/{name}"


class Run:
    """One run's folder. Any process may read it; one driver at a time writes."""

    def __init__(
        self,
        where: str,
        *,
        fence: Callable[[], None] | None = None,
        create: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.store = Store(where, fence=fence, create=create)
        self.name = where.rstrip("/").rpartition("/")[2]
        self.progress = progress or Progress(quiet=True)
        self.until: str | None = None
        self.start = fence.number if isinstance(fence, Fence) else 0
        """Which start of this run writes here, counted from 1; 0 for a reader."""
        self.reuse: Sequence[Run] = ()
        """Runs whose answers and checkpoints are used wherever they apply. They are only read."""
        self.dry = False
        """Whether only what later stages read is made, as `lai check` does (`lai_ray.cli.check.dry_run`)."""

    @classmethod
    def read(cls, where: str) -> Run:
        """A run, for reading. Raises ConfigError when there is none."""
        if is_url(where):
            run = cls(where)
            if not run.store.exists("run.json"):
                run.store.names("driver")  # Raises where there is no such bucket; asking for a file does not.
                raise ConfigError(f"{where}: no run here (no run.json). List the bucket with your provider's own tool.")
            return run
        path = Path(where)
        if not (path / "run.json").is_file():
            below, beside = (sorted(p.parent.name for p in folder.glob("*/run.json")) for folder in (path, path.parent))
            near = f"Runs below it: {', '.join(below)}" if below else f"Runs beside it: {', '.join(beside) or 'none'}"
            raise ConfigError(f"{where}: no run here (no run.json). {near}.")
        return cls(where)

    @classmethod
    def all_in(cls, where: str) -> list[Run]:
        """The run in a folder, or all runs in the folders below it, as of a sweep, by name; none for neither."""
        if is_url(where):
            names = [name for name in Store(where).names() if name.rpartition("/")[2] == "run.json"]
        else:
            patterns = ("run.json", "*/run.json")
            names = [str(path.relative_to(where)) for glob in patterns for path in Path(where).glob(glob)]
        folders = sorted(name.rpartition("/")[0] for name in names if name.count("/") <= 1)
        folders = [""] if "" in folders else folders
        return [cls(f"{where.rstrip('/')}/{folder}".rstrip("/")) for folder in folders]

    def prepare(self, stage: Stage, key: str) -> None:
        """Called before a stage looks for its marker. A dry run brings a complete stage of another run here."""

    def copy_model(self, source: Store, target: str) -> None:
        """Copy a model's folder to this run."""
        model_folders.copy(source.where, target)

    def check_fence(self) -> None:
        """Raises StageError when a newer driver writes here; to be called before writing without the store."""
        if self.store.fence is not None:
            self.store.fence()

    def stage(self, iteration: int, name: str) -> Stage:
        """The folder of one stage of one iteration."""
        return Stage(self, f"iteration_{iteration}/{name}")

    @property
    def logs(self) -> str:
        """A folder on this disk for the logs of Ray and vLLM: the run's, or one in this node's cache.

        Actors on other nodes write to the same path there.
        """
        local = self.store.local
        folder = local / "logs" if local else model_folders.cache_path("logs", self.store.where)
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    @property
    def logs_kept(self) -> str | None:
        """The URL that they are uploaded to at the end, a folder for each start; None on a disk, where they stay."""
        return None if self.store.local else f"{self.store.where}/logs/start_{self.start:04d}"

    def stores_of(self, ending: str) -> list[Store]:
        """Every folder of this run with this ending ("evaluate/answers"), the trials of a search included."""
        folders = {name[: at + len(ending) + 1] for name in self.store.names() if (at := name.find(f"/{ending}/")) >= 0}
        return [self.store.inside(folder) for folder in sorted(folders)]

    def record(self) -> dict[str, Any]:
        """run.json: identity, settings, data and model hashes; empty before the first start."""
        record: dict[str, Any] = self.store.get_json("run.json") or {}
        return record

    def check_same(self, config: Config, identity: dict[str, Any]) -> None:
        """Raises ConfigError, with the differences, when a start with these settings would make this another run.

        A run in which nothing has succeeded yet may become any other.
        """
        if not self.holds_anything():
            return
        changed = differences(self._identity(), identity, asked=self.instructor_answered)
        if changed:
            raise ConfigError(
                f"{self.store.where} holds another run:\n"
                + "".join(f"  {line}\n" for line in changed)
                + "Only [limits], [cluster], [report], how the instructor is reached, its prices (before its first "
                "reply all of [instructor]), more iterations, a longer evaluate.report_on, search.max_concurrent and "
                "search.keep_weights may change. "
                "Give this job another name (and --reuse, to take over the answers and checkpoints that still apply), "
                "or put the settings back."
            )
        self._only_grown(self.record().get("config", {}), config)

    def holds_anything(self) -> bool:
        """Whether any stage has kept something: an answer, a call that may be paid, a result. A first, small request to
        the instructor's server (`instructor.provider.probe`) is none of these.
        """
        return any(name.startswith("iteration_") for name in self.store.names())

    def _identity(self) -> dict[str, Any]:
        """The identity at the first start; settings that did not exist then have today's default."""
        record = self.record()
        if not record.get("identity"):
            return {}
        try:
            earlier = Config.model_validate(record["config"])
        except ValueError:  # A setting that no longer exists: compare with the record.
            return dict(record["identity"])
        return identity_of(earlier, **record["identity"]["content"])

    def admit(self, config: Config, identity: dict[str, Any]) -> None:
        """Record what this run is. Raises ConfigError for a start that would make it another."""
        self.check_same(config, identity)
        record = self.record()
        table = config.model_dump(mode="json")
        address = {"address_in_keys": self.address_in_keys(table["instructor"]["base_url"])}
        self.store.put_json("run.json", {**record, "identity": identity, "config": table, **address})

    def address_in_keys(self, address: str | None) -> str | None:
        """The instructor's address as the keys of stages have it: that of the first start, which later ones may change.

        address: that of a first start.
        """
        record = self.record()
        earlier = record.get("config", {}).get("instructor", {"base_url": address}).get("base_url")
        known: str | None = record.get("address_in_keys", earlier)
        return known

    @property
    def instructor_answered(self) -> bool:
        """Whether it holds any reply of the instructor, its own or another run's."""
        return any(_REPLIES.search(name) for name in self.store.names())

    def _only_grown(self, earlier: dict[str, Any], config: Config) -> None:
        if earlier.get("iterations", 0) > config.iterations:
            raise ConfigError(
                f"{self.store.where} was started with iterations = {earlier['iterations']}; it may be raised, not "
                f"lowered to {config.iterations}"
            )
        gone = set(earlier.get("evaluate", {}).get("report_on", [])) - set(config.evaluate.report_on)
        if gone:
            raise ConfigError(f"{self.store.where} also reports on {', '.join(sorted(gone))}; report_on may only grow")

    def add_to_record(self, **facts: Any) -> None:
        """Add facts to run.json."""
        self.store.put_json("run.json", {**self.record(), **facts})


def upload_logs(folder: str, target: Store) -> None:
    """Copy the log files of a folder on this disk into an object store."""
    for path in sorted(path for path in Path(folder).glob("*") if path.suffix in (".log", ".jsonl")):
        target.put(path.name, path)
