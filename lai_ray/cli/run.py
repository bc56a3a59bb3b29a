"""Runs a job: checks everything first, then starts the loop as the run's one driver.  Config -> Outcome"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console

from lai_ray.common import plugins
from lai_ray.common.event_log import event_log
from lai_ray.common.progress import Progress
from lai_ray.config import job_file
from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.distributed.jobs.submission import shared_storage
from lai_ray.engines.recorded import files
from lai_ray.errors import ConfigError, DataError, InterruptedRunError, StageError
from lai_ray.instructor.prompts import built_in, templates
from lai_ray.loop import loop
from lai_ray.report import sections
from lai_ray.stages import grid
from lai_ray.stages.job import Job
from lai_ray.stages.select import part, select
from lai_ray.storage import models
from lai_ray.storage.driver import Driver
from lai_ray.storage.identity import identity_of
from lai_ray.storage.keys import key_of, key_of_all
from lai_ray.storage.provenance import provenance
from lai_ray.storage.run import Run, Stopped, upload_logs
from lai_ray.storage.store import Store, is_url

BEFORE_ASKING = ("evaluate", "diagnose", "0/evaluate", "0/diagnose")
"""With --until one of these, a start asks the instructor nothing."""


def check_names(config: Config, until: str | None = None, *, asks: bool = True) -> None:
    """Check that every name in the job exists: plug-ins, splits, models, the key. Raises ConfigError.

    The key is needed only where the instructor is asked: not by `lai check` (asks=False; see `key_problem`), and not
    when `until` stops before.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        shared_storage(config.storage)
    _check_storage(config)
    job = Job.of(config)
    for objective in config.objectives:
        plugins.load("training.objectives", objective)
    for i in {0, config.iterations}:
        for each in select(job, i):
            if each.split == "dev" and next(iter(each), None) is None:
                raise DataError(
                    f"{each.benchmark.name}: [search] compares candidates on dev problems, and there are none. A fifth "
                    "of the training problems is used for it, and these are too few: add some, or a dev split."
                )
    for i in range(config.iterations if config.search is not None else 0):
        grid.pools(job, i)
    _check_prompts(job)
    for name in config.report.sections:
        sections.load(name)
    engine = plugins.load("engines", config.target.engine)
    if hasattr(engine, "call") and not hasattr(engine, "generate"):
        raise ConfigError(
            f"target.engine = {config.target.engine!r} calls a server and runs no model. The target is trained, so it "
            "needs an engine that loads its weights: use vllm."
        )
    models.locate(config.target.model, setting="target.model")
    if job.names_encoder:
        models.locate(config.contrast.encoder, setting="contrast.encoder")
    if config.iterations:
        _check_instructor(config, asked=asks and until not in BEFORE_ASKING)


def key_problem(config: Config) -> str | None:
    """The error that a start on this machine would raise about the instructor or its key; None when there is none."""
    if config.iterations:
        try:
            _check_instructor(config, asked=True)
        except ConfigError as error:
            return str(error)
    return None


def _check_storage(config: Config) -> None:
    """Raises ConfigError for a storage that cannot hold the run. Sends no request."""
    if not is_url(config.storage):
        if os.path.exists(config.storage) and not os.path.isdir(config.storage):
            raise ConfigError(f"storage = {config.storage!r} is a file; name a folder")
        return
    Store(config.storage)
    if config.iterations and config.cluster.train_state_every:
        raise ConfigError(
            f"cluster.train_state_every = {config.cluster.train_state_every} saves a training's state, a part by each "
            f"worker: that needs a disk that all nodes share, and storage is {config.storage!r}. Set it to 0 (a "
            "training whose worker dies restarts from the beginning), or name a shared disk."
        )


def _check_instructor(config: Config, *, asked: bool) -> None:
    """A model that runs in the cluster is part of the run's identity, so it must exist even before it is asked."""
    settings, engine = config.instructor, plugins.load("engines", config.instructor.engine)
    if not (settings.in_cluster or hasattr(engine, "call")):
        raise ConfigError(
            f"instructor.engine = {settings.engine!r} cannot serve an instructor. Use openai (a server), or vllm (a "
            "model in the cluster)."
        )
    url = settings.base_url
    if url is not None and "://" not in url:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", url):
            raise ConfigError(
                f"instructor.base_url = {url!r} is not a URL: start it with http:// or https://, as in "
                "http://127.0.0.1:8000/v1 (or name a context manager that starts a server: my_pkg.my_file:serve)"
            )
        plugins.attribute(url, what="instructor.base_url")
    if settings.in_cluster:
        if settings.model == "target":
            settings = settings.model_copy(update={"model": config.target.model})
        models.locate(settings.model, setting="instructor.model")
    if asked or settings.in_cluster:
        engine.check(settings)


def _check_prompts(job: Job) -> None:
    """Check the job's own prompts. Their folder may also hold prompts of other datasets, for other jobs."""
    config = job.config
    learned = [job.benchmark(name).name for name in config.evaluate.learn_from]
    datasets = {*plugins.available("benchmarks"), *(own.name for own in config.benchmark), *learned}
    settings = config.instructor
    templates.check(settings.prompts, datasets, show_reference=settings.show_reference, explain=settings.explain)


@dataclass(frozen=True)
class Outcome:
    """How a start ended."""

    run: Run
    target: Model | None
    stopped_at: str | None


def run_job(
    config: Config, *, until: str | None = None, reuse: Sequence[str] = (), executor: Executor | None = None,
    console: Console | None = None,
) -> Outcome:  # fmt: skip
    """Run or resume a job as its one driver. The output of Ray and vLLM goes to the run's logs.

    reuse: folders of other runs, whose answers and checkpoints are used where they apply.  executor: replaces Ray, in
    tests.  Raises LaiError; all answers so far are kept.
    """
    check_names(config, until)
    job_file.check_until(config, until)
    where = config.run_folder
    sources = reusable(reuse, where)
    driver = Driver(where)
    try:
        run = Run(where, fence=driver.fence, create=True)
        run.until, run.reuse = until, sources
        admitted = _admitted(run, config)
        with _kept_logs(run, kept=executor is None), output_to(run.logs if executor is None else None) as screen:
            run.progress = Progress(
                Console(file=screen, highlight=False) if screen else console,
                quiet=executor is not None and console is None,
            )
            with event_log(run.logs, run.name, run.progress):
                run.progress.report(f"{where}: {config.iterations} iterations, seed {config.seed}", style="bold")
                if executor is None and run.store.local is None:
                    run.progress.report(f"  logs are in {run.logs} on each node, copied to {run.logs_kept} at the end")
                return _looped(run, admitted, executor)
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


def reusable(reuse: Sequence[str], where: str) -> list[Run]:
    """The runs named by --reuse. Raises ConfigError for one that does not exist, or is the run itself."""
    for other in reuse:
        if os.path.abspath(other) == os.path.abspath(where):
            raise ConfigError(f"--reuse {other}: this is the run itself, which reuses its own answers; leave it out")
    return [Run.read(other) for other in reuse]


def _looped(run: Run, admitted: Admission, executor: Executor | None) -> Outcome:
    if executor is None:
        from lai_ray.distributed.executor import RayExecutor

        executor = RayExecutor(admitted.job.config, run.logs, run.progress, keep_in=run.logs_kept)
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
    target, job = _first_target(config, known), Job.of(config).located(known)
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
    screen = os.fdopen(os.dup(saved[0]), "w", buffering=1, encoding="utf-8", errors="replace")
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
    if not table["iterations"]:
        raise ConfigError("iterations = 0: this job has only tests, and nothing to try; use `lai evaluate`")
    return Config.model_validate(table)


def only_tests(config: Config) -> Config:
    """The same job with only its tests, as `lai evaluate` runs it."""
    table = config.dumped() | {"name": f"{config.name}-tests", "iterations": 0, "search": None}
    if config.target.attempts:
        table["target"] |= {"engine": "vllm", "attempts": {}}  # The files have no answers to tests.
    return Config.model_validate(table)
