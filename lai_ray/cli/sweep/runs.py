"""`lai sweep`: whole runs over any settings, each a `lai run` of its own.  sweep file -> runs, sweep.csv

What several runs need is asked once, before them: first one run of each kind of first evaluation, then one of each pool
of replies, then all, the longest of those that begin alike first; every run takes over from all others what applies to
it. A second start does what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from lai_ray.cli.sweep.file import Member, Sweep
from lai_ray.common import plugins
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError, InterruptedRunError
from lai_ray.stages.grid import pools
from lai_ray.storage import model_folders
from lai_ray.storage.driver import Driver
from lai_ray.storage.identity import MAY_CHANGE
from lai_ray.storage.objects import is_url
from lai_ray.storage.run import Run
from lai_ray.storage.store import Store, key_of

POLL = 0.2
PR_SET_PDEATHSIG = 1
LONGEST_WORDS = 1000
ASKS = ("target", "evaluate", "data", "benchmark", "sandbox", "seed")
"""Settings on which the first evaluation depends."""
AFTER_REPLIES = ("name", "storage", "train", "curate", "iterations", "limits", "cluster", "report")
"""Settings on which the first pool of replies does not depend, but for the number of samples."""


@dataclass(frozen=True)
class Task:
    """One `lai run`, to its end or to a stage."""

    member: Member
    until: str | None = None
    instead: tuple[Member, ...] = ()
    """Who may do it when that one fails."""

    @property
    def title(self) -> str:
        """For a person."""
        return f"{self.member.name}, until {self.until}" if self.until else self.member.name


@dataclass
class Ended:
    """How the runs of this start ended."""

    failed: dict[str, str] = field(default_factory=dict)
    """By member: the last thing it said."""
    done_before: list[str] = field(default_factory=list)


def run(sweep: Sweep, console: Console) -> Ended:
    """Everything that is missing. A run that fails is reported, and the others go on.

    Raises InterruptedRunError when it is told to stop (Ctrl-C, SIGTERM, a lost terminal), once all runs have stopped;
    StageError when this sweep is under way elsewhere; ConfigError when runs would share GPUs.
    """
    _check_places(sweep)
    driver = Driver(_own(sweep))
    try:
        with _told_to_stop():
            return _run(sweep, console)
    finally:
        driver.close()


def _run(sweep: Sweep, console: Console) -> Ended:
    ended = Ended()
    todo = [member for member in sweep.members if not finished(member)]
    ended.done_before = [member.name for member in sweep.members if member not in todo]
    console.print(f"{sweep.storage}: {len(sweep.members)} runs, {len(ended.done_before)} done before", markup=False)
    for wave in waves(todo, sweep.at_once):
        # First evaluations one after another: those of two seeds have problems in common.
        first = bool(wave) and wave[0].until == "0/evaluate"
        _wave(sweep, wave, ended, console, at_once=1 if first else sweep.at_once)
    return ended


def place(member: Member) -> str:
    """A run's folder."""
    return f"{member.config.storage}/{member.name}"


def begun(member: Member) -> Run | None:
    """Its run, where it was started before."""
    try:
        return Run.read(place(member))
    except ConfigError:
        return None


def finished(member: Member) -> bool:
    """Whether its run stands whole, and with these settings."""
    there = begun(member)
    if there is None or not there.stage(member.config.iterations, "evaluate").facts():
        return False
    wanted, known = member.config.model_dump(mode="json"), there.record().get("config", {})
    return all(known.get(key) == value for key, value in wanted.items() if key not in MAY_CHANGE or key == "iterations")


def waves(members: list[Member], at_once: int) -> Iterator[list[Task]]:
    """What must be done before what: first evaluations, first pools of replies, everything."""
    # Two seeds' first evaluations have problems in common: none may be asked beside another.
    beside = at_once > 1 and len(members) > 1
    heads = [group for group in sharing(members, first_evaluation) if len(group) > 1 or beside]
    yield [Task(group[0], "0/evaluate", tuple(group[1:])) for group in heads]
    pools = [group for group in sharing(members, first_pool) if len(group) > 1]
    for search, until in ((False, "0/instruct"), (True, "0/search")):
        asked = [group for group in pools if (group[0].config.search is not None) == search]
        yield [Task(group[0], until, tuple(group[1:])) for group in asked]
    # A run of two iterations is the beginning of one of three: the longest goes first, and the others take it over.
    longest = {max(group, key=lambda m: m.config.iterations).name for group in sharing(members, beginning)}
    yield [Task(member) for member in members if member.name in longest]
    yield [Task(member) for member in members if member.name not in longest]


def sharing(members: list[Member], key: Callable[[Config], str | None]) -> list[list[Member]]:
    """Members of one key together, first the one that wants most samples: the others' requests are among its own."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        if (found := key(member.config)) is not None:
            groups.setdefault(found, []).append(member)
    return [sorted(group, key=lambda member: -_samples(member.config)) for group in groups.values()]


def _samples(config: Config) -> int:
    return sum(config.curate.most(dataset) for dataset in config.evaluate.learn_from)


def first_evaluation(config: Config) -> str | None:
    """Equal for jobs whose first evaluation asks the same."""
    table = config.model_dump(mode="json")
    return key_of({name: table[name] for name in ASKS}, config.dev_wanted)


def first_pool(config: Config) -> str | None:
    """Equal for jobs whose first replies are the same but for their number; of a search, those of its pools."""
    if not config.iterations:
        return None
    table = config.model_dump(mode="json", exclude=set(AFTER_REPLIES))
    table["schedule"] = [config.schedule.name(0, name) for name in config.evaluate.learn_from]
    table["search"] = sorted(pools(config, 0)) if config.search is not None else None
    asking = table["schedule"] if config.search is None else config.strategies
    if not any(plugins.load("strategies", name).uses_neighbours for name in asking):
        table.pop("contrast")
    if config.instructor.reuse_across_seeds:
        table.pop("seed")
    return key_of(table, config.curate.solve_again)


def beginning(config: Config) -> str:
    """Equal for jobs of which the shorter is the beginning of the longer."""
    return key_of(
        config.model_dump(mode="json", exclude={"name", "storage", "iterations", "limits", "cluster", "report"})
    )


def command(sweep: Sweep, task: Task) -> list[str]:
    """The `lai run` of a task, which anybody may start by hand."""
    # Those of an earlier state of the file, too: what they paid for may apply.
    there = {name.partition("/")[0] for name in Store(sweep.storage).names() if name.endswith("/run.json")}
    others = [f"{sweep.storage}/{name}" for name in sorted(there - {task.member.name})]
    until = ["--until", task.until] if task.until else []
    reuse = [part for where in others for part in ("--reuse", where)]
    return [sys.executable, "-m", "lai_ray", "run", sweep.job, *sweep.given, *task.member.overrides(), *until, *reuse]


def _wave(sweep: Sweep, tasks: list[Task], ended: Ended, console: Console, at_once: int) -> None:
    """These tasks, `at_once` of them side by side. One whose run has failed before is left out."""
    waiting = deque(task for task in tasks if task.member.name not in ended.failed)
    going: Going = {}
    total, started = len(waiting), 0
    try:
        while waiting or going:
            while waiting and len(going) < at_once:
                task, started = waiting.popleft(), started + 1
                log = Log(_logs(sweep) / f"{task.member.name}.log")
                going[_begin(command(sweep, task), log.path)] = task, log, time.monotonic()
                console.print(f"  {task.title}: started ({started} of {total})", markup=False)
            time.sleep(POLL)
            for process in [each for each in going if each.poll() is not None]:
                task, log, since = going.pop(process)
                said = _said(process.returncode, log)
                if said:
                    ended.failed[task.member.name] = said
                    if rest := [other for other in task.instead if other.name not in ended.failed]:
                        waiting.append(Task(rest[0], task.until, tuple(rest[1:])))
                        total += 1
                words = f"failed: {said}" if said else f"done in {time.monotonic() - since:.0f} s"
                console.print(f"  {task.title}: {words}", style="red" if said else "green", markup=False)
    except BaseException as error:
        _stop(going)
        if not isinstance(error, KeyboardInterrupt):
            raise
        raise InterruptedRunError("stopped; what was done is kept, and the same command goes on from there") from None


def _begin(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        # A group of its own: Ctrl-C is passed on by us, once, and not by the terminal as well.
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_ends_with_us()
        )


def _ends_with_us() -> Callable[[], None] | None:
    """For the new process: when the sweep is killed, the run is asked to end as by Ctrl-C. It would go on paying."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux alone has it.
    return None if prctl is None else lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGINT))


def _stop(going: Going) -> None:
    """Every run is asked to end as by Ctrl-C, and waited for; at a second Ctrl-C it is told to."""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for process in going:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
        with contextlib.suppress(KeyboardInterrupt):
            for process in going:
                process.wait()
            return


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """SIGTERM and the terminal's end are as Ctrl-C: runs have sessions of their own and would go on paying."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _own(sweep: Sweep) -> str:
    """The sweep's own folder beside its runs, whose names begin otherwise."""
    return f"{sweep.storage}/_sweep"


def _logs(sweep: Sweep) -> Path:
    """Where its runs' output goes: beside them, or into this machine's cache where they are in an object store."""
    return model_folders.place_for("logs", _own(sweep)) if is_url(sweep.storage) else Path(_own(sweep)) / "logs"


def _check_places(sweep: Sweep) -> None:
    """Each run without a cluster to join starts a Ray of its own, which takes all GPUs for its own."""
    for member in sweep.members:
        cluster = member.config.cluster
        alone = not (cluster.address or os.environ.get("RAY_ADDRESS"))
        if sweep.at_once > 1 and alone and (cluster.gpus_per_replica or cluster.gpus_per_worker):
            raise ConfigError(
                f"at_once = {sweep.at_once} with GPUs and no cluster to join: every run would take the same ones. "
                'Start Ray (`ray start --head`) and set cluster.address = "auto", or at_once = 1'
            )


class Log:
    """Where a run's output goes, and from where on it is this start's."""

    def __init__(self, path: Path) -> None:
        self.path, self._before = path, path.stat().st_size if path.exists() else 0

    def of_this_start(self) -> str:
        """What was said since."""
        return self.path.read_bytes()[self._before :].decode("utf-8", errors="replace").strip()


Going = dict["subprocess.Popen[bytes]", tuple[Task, Log, float]]


def _said(code: int, log: Log) -> str:
    """What a failed run said last, from its error on; empty for one that did not fail."""
    if code == 0:
        return ""
    text = "\n" + log.of_this_start()
    last = text.rpartition("\nerror: ")[2] if "\nerror: " in text else (text.split("\n")[-1] or "nothing")
    killed = f"killed by signal {-code}; it said last: " if code < 0 else ""
    return f"{killed}{last[:LONGEST_WORDS]} ({log.path})"
