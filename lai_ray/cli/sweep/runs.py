"""Makes the missing runs of a sweep, each as a `lai run` process.  Sweep -> runs

What several runs need is computed once, in waves: one run of each group with the same first evaluation, one of each
group with the same first pool of replies, then all; of runs that differ only in `iterations`, the longest first. Every
run reuses all others.
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
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from lai_ray.cli.run import existing
from lai_ray.cli.sweep.file import Member, Sweep
from lai_ray.common import plugins, screen
from lai_ray.config.config import Config
from lai_ray.errors import ConfigError, InterruptedRunError
from lai_ray.stages.grid import pools
from lai_ray.stages.job import Job
from lai_ray.storage import model_folders
from lai_ray.storage.driver import Driver
from lai_ray.storage.identity import MAY_CHANGE
from lai_ray.storage.keys import key_of
from lai_ray.storage.store import Store, is_url

POLL = 0.2
PR_SET_PDEATHSIG = 1
MAX_ERROR = 1000
"""Characters of a failed run's error."""
ASKS = ("target", "evaluate", "data", "benchmark", "sandbox", "seed")
"""Settings on which the first evaluation depends."""
AFTER_REPLIES = ("name", "storage", "train", "curate", "iterations", "limits", "cluster", "report")
"""Settings without influence on the first pool of replies, except on its size."""


@dataclass(frozen=True)
class Task:
    """One `lai run`, to its end or until a stage."""

    member: Member
    until: str | None = None
    substitutes: tuple[Member, ...] = ()
    """Members that can do the same when this one fails."""

    @property
    def title(self) -> str:
        """As printed."""
        return f"{self.member.name}, until {self.until}" if self.until else self.member.name


@dataclass
class Results:
    """Results of one start of a sweep."""

    failed: dict[str, str] = field(default_factory=dict)
    """Errors by member."""
    done_before: list[str] = field(default_factory=list)


def run(sweep: Sweep, console: Console) -> Results:
    """Make all missing runs. A failed run is reported, and the others continue.

    Raises InterruptedRunError on Ctrl-C, SIGTERM or a lost terminal, after stopping all runs; StageError when the sweep
    is running elsewhere; ConfigError when runs would share GPUs.
    """
    _check_gpus(sweep)
    with contextlib.closing(Driver(_folder(sweep))), _signals_as_ctrl_c():
        todo = [member for member in sweep.members if not finished(member)]
        results = Results(done_before=[member.name for member in sweep.members if member not in todo])
        done = f"{len(sweep.members)} runs, {len(results.done_before)} done before"
        screen.show(console, f"{sweep.storage}: {done}", wrap=True)
        for wave in waves(todo, sweep.at_once):
            # First evaluations of two seeds have problems in common, so they run one after another.
            first = bool(wave) and wave[0].until == "0/evaluate"
            _wave(sweep, wave, results, console, at_once=1 if first else sweep.at_once)
        return results


def finished(member: Member) -> bool:
    """Whether its run is complete, with these settings."""
    run = existing(member.config)
    if run is None or not run.stage(member.config.iterations, "evaluate").facts():
        return False
    wanted, known = member.config.model_dump(mode="json"), run.record().get("config", {})
    return all(known.get(key) == value for key, value in wanted.items() if key not in MAY_CHANGE or key == "iterations")


def waves(members: list[Member], at_once: int) -> Iterator[list[Task]]:
    """Tasks in order, each wave after the one before: first evaluations, first pools of replies, whole runs."""
    # First evaluations of two seeds have problems in common, so they must not run concurrently.
    concurrent = at_once > 1 and len(members) > 1
    heads = [group for group in sharing(members, first_evaluation) if len(group) > 1 or concurrent]
    yield [Task(group[0], "0/evaluate", tuple(group[1:])) for group in heads]
    pools = [group for group in sharing(members, first_pool) if len(group) > 1]
    for search, until in ((False, "0/instruct"), (True, "0/search")):
        searching = [group for group in pools if (group[0].config.search is not None) == search]
        yield [Task(group[0], until, tuple(group[1:])) for group in searching]
    # A run of two iterations is the beginning of one of three: the longest goes first, and the others reuse it.
    longest = {max(group, key=lambda m: m.config.iterations).name for group in sharing(members, beginning)}
    yield [Task(member) for member in members if member.name in longest]
    yield [Task(member) for member in members if member.name not in longest]


def sharing(members: list[Member], key: Callable[[Config], str | None]) -> list[list[Member]]:
    """Members grouped by key, first the one with most samples: the others' requests are among its own."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        if (shared := key(member.config)) is not None:
            groups.setdefault(shared, []).append(member)
    return [sorted(group, key=lambda member: -_samples(member.config)) for group in groups.values()]


def _samples(config: Config) -> int:
    return sum(config.curate.most(dataset) for dataset in config.evaluate.learn_from)


def first_evaluation(config: Config) -> str | None:
    """Equal for jobs with the same first evaluation."""
    table = config.model_dump(mode="json")
    return key_of({name: table[name] for name in ASKS}, config.dev_wanted)


def first_pool(config: Config) -> str | None:
    """Equal for jobs whose first pool of replies (or pools, in a search) differs at most in size."""
    if not config.iterations:
        return None
    table = config.model_dump(mode="json", exclude=set(AFTER_REPLIES))
    table["schedule"] = [config.schedule.name(0, name) for name in config.evaluate.learn_from]
    table["search"] = sorted(pools(Job.of(config), 0)) if config.search is not None else None
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
    """The `lai run` of a task, as it can be typed."""
    # Runs of an earlier state of the file too: their answers may apply.
    existing_runs = {name.partition("/")[0] for name in Store(sweep.storage).names() if name.endswith("/run.json")}
    others = [f"{sweep.storage}/{name}" for name in sorted(existing_runs - {task.member.name})]
    until = ["--until", task.until] if task.until else []
    reuse = [part for where in others for part in ("--reuse", where)]
    overrides = [*sweep.overrides, *task.member.overrides()]
    return [sys.executable, "-m", "lai_ray", "run", sweep.job, *overrides, *until, *reuse]


def _wave(sweep: Sweep, tasks: list[Task], results: Results, console: Console, at_once: int) -> None:
    """Run these tasks, `at_once` of them concurrently. A task whose member has failed before is skipped."""
    waiting = deque(task for task in tasks if task.member.name not in results.failed)
    running: dict[subprocess.Popen[bytes], tuple[Task, Path, int, float]] = {}
    total, started = len(waiting), 0
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                task, started = waiting.popleft(), started + 1
                log = _logs(sweep) / f"{task.member.name}.log"
                size = log.stat().st_size if log.exists() else 0
                running[_start(command(sweep, task), log)] = task, log, size, time.monotonic()
                screen.show(console, f"  {task.title}: started ({started} of {total})", wrap=True)
            time.sleep(POLL)
            for process in [each for each in running if each.poll() is not None]:
                task, log, size, since = running.pop(process)
                if error := _error(process.returncode, log, size):
                    results.failed[task.member.name] = error
                    if rest := [other for other in task.substitutes if other.name not in results.failed]:
                        waiting.append(Task(rest[0], task.until, tuple(rest[1:])))
                        total += 1
                result = f"failed: {error}" if error else f"done in {time.monotonic() - since:.0f} s"
                screen.show(console, f"  {task.title}: {result}", "red" if error else "green", wrap=True)
    except KeyboardInterrupt:
        raise InterruptedRunError("stopped; finished work is kept, and the same command resumes") from None
    finally:
        _stop(running)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        # A process group of its own, so that only `_stop` forwards Ctrl-C, and the terminal does not as well.
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_end_with_parent()
        )


def _end_with_parent() -> Callable[[], None] | None:
    """For the new process: SIGINT when the sweep dies, since the run would continue to pay for calls."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Only on Linux.
    return None if prctl is None else lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGINT))


def _stop(running: Collection[subprocess.Popen[bytes]]) -> None:
    """Send SIGINT to every run and wait for it; SIGTERM at a second Ctrl-C, SIGKILL at a third."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        with contextlib.suppress(KeyboardInterrupt):
            for process in running:
                process.wait()
            return


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C: runs have their own sessions and would continue to pay for calls."""

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


def _folder(sweep: Sweep) -> str:
    """The sweep's own folder, beside its runs: no run's name starts with "_"."""
    return f"{sweep.storage}/_sweep"


def _logs(sweep: Sweep) -> Path:
    """The folder of its runs' output: beside them, or in this machine's cache when they are in an object store."""
    return model_folders.cache_path("logs", _folder(sweep)) if is_url(sweep.storage) else Path(_folder(sweep)) / "logs"


def _check_gpus(sweep: Sweep) -> None:
    """Raises ConfigError for concurrent runs that would each start their own Ray, on the same GPUs."""
    for member in sweep.members:
        cluster = member.config.cluster
        own_ray = not (cluster.address or os.environ.get("RAY_ADDRESS"))
        if sweep.at_once > 1 and own_ray and (cluster.gpus_per_replica or cluster.gpus_per_worker):
            raise ConfigError(
                f"at_once = {sweep.at_once} with GPUs and no cluster to join: all runs would use the same GPUs. "
                'Start Ray (`ray start --head`) and set cluster.address = "auto", or at_once = 1'
            )


def _error(code: int, log: Path, start: int) -> str:
    """The end of a failed run's output, from its error on; empty when it did not fail. start: bytes before this run."""
    if code == 0:
        return ""
    text = "\n" + log.read_bytes()[start:].decode("utf-8", errors="replace").strip()
    last = text.rpartition("\nerror: ")[2] if "\nerror: " in text else (text.split("\n")[-1] or "no output")
    killed = f"killed by signal {-code}; its last output: " if code < 0 else ""
    return f"{killed}{last[:MAX_ERROR]} ({log})"
