"""Runs a job: checks it, then starts the loop as the run's one driver.  Config -> Outcome"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from rich.console import Console

from lai_ray.cli.check import look
from lai_ray.cli.check.names import BEFORE_ASKING, check_names
from lai_ray.common.event_log import event_log
from lai_ray.common.progress import Progress
from lai_ray.config import job_file
from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.engines.recorded import files
from lai_ray.errors import ConfigError, InterruptedRunError, StageError
from lai_ray.instructor.prompts import built_in
from lai_ray.instructor.provider import probe
from lai_ray.instructor.spending.budget import Budget, caps_of
from lai_ray.instructor.spending.ledger import PAID, PROBE, Spent, spent_in
from lai_ray.instructor.spending.reserve import BudgetReservation
from lai_ray.loop import loop
from lai_ray.report import ending
from lai_ray.stages.job import Job
from lai_ray.stages.select import part
from lai_ray.storage import models
from lai_ray.storage.answers import Answers
from lai_ray.storage.driver import Driver
from lai_ray.storage.identity import identity_of
from lai_ray.storage.keys import key_of, key_of_all
from lai_ray.storage.provenance import provenance
from lai_ray.storage.run import Run, Stopped, upload_logs
from lai_ray.storage.store import Store


@dataclass(frozen=True)
class Outcome:
    """How a start ended."""

    run: Run
    target: Model | None
    stopped_at: str | None


def run_job(
    config: Config, *, until: str | None = None, reuse: Sequence[str] = (), executor: Executor | None = None,
    console: Console | None = None, probing: bool = True,
) -> Outcome:  # fmt: skip
    """Run or resume a job as its one driver. The output of Ray and vLLM goes to the run's logs.

    reuse: folders of other runs, whose answers and checkpoints are used where they apply.  executor: replaces Ray, in
    tests.  probing: ask the instructor's server once before anything else, unless it has answered in this run.
    Raises LaiError; all answers so far are kept.
    """
    check_names(config, until)
    job_file.check_until(config, until)
    where = config.run_folder
    looks = executor is None and not _under_way(config)
    found = look.findings(Job.of(config), fetch=True, until=until) if looks else []
    look.refuse(found)
    sources = reusable(reuse, where)
    driver = Driver(where)
    try:
        run = Run(where, fence=driver.fence, create=True)
        run.until, run.reuse = until, sources
        reached = _reached_before(run, config)
        admitted = _admitted(run, config)
        with _kept_logs(run, kept=executor is None), output_to(run.logs if executor is None else None) as screen:
            run.progress = Progress(
                Console(file=screen, highlight=False) if screen else console,
                quiet=executor is not None and console is None,
            )
            with event_log(run.logs, run.name, run.progress):
                iterations = ending.count(config.iterations, "iteration")
                run.progress.report(f"{where}: {iterations}, seed {config.seed}", style="bold")
                if found_before := ending.found(run):
                    run.progress.report(f"  {found_before}")
                for each in found:
                    run.progress.report(f"  note: {each.text}", style="yellow")
                if executor is None and run.store.local is None:
                    run.progress.report(f"  logs are in {run.logs} on each node, copied to {run.logs_kept} at the end")
                learned = reach(run, config) if probing and executor is None and not reached else {}
                return _looped(run, admitted, executor, learned)
    finally:
        driver.close()


@contextlib.contextmanager
def _kept_logs(run: Run, *, kept: bool) -> Iterator[None]:
    """Copy this node's logs into the run's object store at the end, also after an error."""
    try:
        yield
    finally:
        if kept and run.logs_kept:
            with contextlib.suppress(StageError):  # The logs remain on this node, and the run's own error matters more.
                upload_logs(run.logs, Store(run.logs_kept))


def existing(config: Config) -> Run | None:
    """The job's own run, where it was started before."""
    try:
        return Run.read(config.run_folder)
    except ConfigError:
        return None


def _under_way(config: Config) -> bool:
    """Whether the job's run has asked its instructor, or has done its tests where these are all: then its models have
    been looked at, or have shown that they work.
    """
    run = existing(config)
    if run is None:
        return False
    return bool(run.stores_of("instruct") if config.iterations else run.stage(0, "evaluate").facts())


def reusable(reuse: Sequence[str], where: str) -> list[Run]:
    """The runs named by --reuse. Raises ConfigError for one that does not exist, or is the run itself."""
    for other in reuse:
        if os.path.abspath(other) == os.path.abspath(where):
            raise ConfigError(f"--reuse {other}: this is the run itself, which reuses its own answers; leave it out")
    return [Run.read(other) for other in reuse]


def finished(run: Run, config: Config) -> bool:
    """Whether the last evaluation of this job is complete."""
    return bool(run.stage(config.iterations, "evaluate").facts())


def _reached_before(run: Run, config: Config) -> bool:
    """Whether the instructor has answered in this run, reached as now."""
    earlier, now = run.record().get("config", {}).get("instructor", {}), config.instructor.model_dump()
    same = all(earlier.get(name) == now[name] for name in ("engine", "model", "base_url", "api_key_env"))
    return same and run.instructor_answered


def reach(run: Run, config: Config) -> dict[str, str]:
    """Ask the instructor's server one small request, counted and paid as all others, where a run goes on to ask it.

    Returns the names under which it takes parameters that it refuses. Raises ConfigError where it cannot be asked.
    """
    settings, asks = config.instructor, Job.of(config).asks_instructor
    if not asks or finished(run, config) or run.until in BEFORE_ASKING or not probe.askable(settings):
        return {}
    request = probe.request_of(settings)
    with Answers(run.store.inside(f"{PROBE}/{PAID[0]}")) as answers:
        if request.key in answers or request.key in answers.final:
            return {}
        spent = sum(spent_in(run, settings.max_tokens).values(), start=Spent())
        budget = Budget(caps_of(config.limits.model_dump(), settings.model_dump()), spent.at_most)
        reservation = BudgetReservation(budget, answers, 1)
        for _ in reservation.draw([request]):  # None where the budget does not allow it.
            probed = probe.probe(settings)
            reservation.settle(probed.answer)
            for each in probed.findings:
                if not each.refuses:
                    run.progress.report(f"  {each.text}")
            probe.refuse(probed.findings)
            return probed.parameters
    return {}


def _looped(run: Run, admitted: Admission, executor: Executor | None, learned: dict[str, str]) -> Outcome:
    if executor is None:
        from lai_ray.distributed.executor import RayExecutor

        executor = RayExecutor(admitted.job.config, run.logs, run.progress, keep_in=run.logs_kept, learned=learned)
    try:
        return Outcome(run, loop(run, admitted.job, admitted.target, executor), None)
    except Stopped as stopped:
        return Outcome(run, None, str(stopped))
    except KeyboardInterrupt:
        raise InterruptedRunError("stopped; all answers so far are kept, and the same command resumes") from None
    finally:
        executor.close()


@dataclass(frozen=True)
class Admission:
    """A job with its models located, the target it starts from, and what makes a run of it itself."""

    job: Job
    target: Model
    identity: dict[str, Any]


def admission(config: Config, known: dict[str, Any]) -> Admission:
    """Resolve a job and hash its models and data. known: hashes of files computed before; new ones are added to it."""
    target = _first_target(config, known)
    job = replace(Job.of(config), target=target).located(known)
    wording = built_in.content_hash(
        config.strategies, explain=config.instructor.explain, show_answers=config.contrast.show_answers
    )
    hashes = {"target": target.identity, "prompts": wording}
    if config.contrast.encoder == "target":
        hashes["encoder"] = "target"
    elif job.encoder is not None:
        hashes["encoder"] = job.encoder.identity
    if config.iterations and config.instructor.in_cluster:
        hashes["instructor"] = job.instructor.identity if job.instructor else "target"
    for name in config.evaluate.learn_from:
        if not config.target.attempts:
            training = part(job, name, "train", config.evaluate.max_train_problems)
            hashes[f"data.{name}"] = key_of_all((p.id, p.question, p.answer) for p in training)
        hashes |= {f"files.{job.strategies[s].name}.{name}": content for s, content in job.contents(name).items()}
    return Admission(job, target, identity_of(config, **hashes))


def _first_target(config: Config, known: dict[str, Any]) -> Model:
    """The model that the job starts from. With recorded answers it is identified by these: it need not exist yet."""
    if not config.target.attempts:
        return models.resolve(config.target.model, setting="target.model", known=known)
    path = models.locate(config.target.model, setting="target.model")
    named = sorted(config.target.attempts.items())
    hashes = [models.files_hash(f"attempts.{name}", files(name, paths), known) for name, paths in named]
    return Model(path, f"{config.target.model} as it answered in {key_of([name for name, _ in named], hashes)}")


def _admitted(run: Run, config: Config) -> Admission:
    """The resolved job, once the run has admitted this start. Writes run.json and provenance.json."""
    known: dict[str, Any] = dict(run.record().get("folders", {}))
    admitted = admission(config, known)
    run.admit(config, admitted.identity)
    content = admitted.identity["content"]
    run.add_to_record(folders=known, **{name: content.get(name, "") for name in ("encoder", "instructor")})
    run.store.put_json("provenance.json", [*(run.store.get_json("provenance.json") or []), provenance()])
    return admitted


@contextlib.contextmanager
def output_to(logs: str | None) -> Iterator[TextIO | None]:
    """Redirect stdout and stderr, of child processes too, to logs/driver.log; yields the real terminal."""
    if logs is None:
        yield None
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log = os.open(os.path.join(logs, "driver.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    encoding = sys.stdout.encoding or "utf-8"
    screen = os.fdopen(os.dup(saved[0]), "w", buffering=1, encoding=encoding, errors="replace")
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        yield screen
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for fd in (*saved, log):
            os.close(fd)
        screen.close()


def small(config: Config) -> Config:
    """The same job on 20 problems, one iteration, as `lai try` runs it."""
    table = config.dumped()
    table |= {"name": f"{config.name}-try", "iterations": min(config.iterations, 1), "search": None}
    table["evaluate"] |= {"max_train_problems": 20, "max_test_problems": 20}
    table["curate"]["samples_per_dataset"] = 20
    table["train"]["early_stopping"] = False  # Whole dev splits would be answered after every epoch.
    if not table["iterations"]:
        raise ConfigError("iterations = 0: this job has only tests, and nothing to try; use `lai evaluate`")
    return Config.model_validate(table)


def only_tests(config: Config) -> Config:
    """The same job with only its tests, as `lai evaluate` runs it. Raises ConfigError where it has none."""
    if not config.evaluate.report_on:
        raise ConfigError("evaluate.report_on names no benchmark: name those whose tests the target is to answer")
    table = config.dumped() | {"name": f"{config.name}-tests", "iterations": 0, "search": None}
    if config.target.attempts:
        table["target"] |= {"engine": "vllm", "attempts": {}}  # The files have no answers to tests.
    return Config.model_validate(table)
