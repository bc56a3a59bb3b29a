"""Checks that everything a job names exists, before it starts.  Config -> None, or ConfigError"""

from __future__ import annotations

import os
import re

from lai_ray.common import plugins
from lai_ray.config.config import Config
from lai_ray.distributed.jobs.submission import shared_storage
from lai_ray.errors import ConfigError, DataError
from lai_ray.instructor.prompts import templates
from lai_ray.report import sections
from lai_ray.stages import grid
from lai_ray.stages.job import Job
from lai_ray.stages.select import part, select
from lai_ray.storage import models
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
                    f"{each.benchmark.name}: {'[search]' if config.search else 'train.early_stopping'} compares on dev "
                    "problems, and there are none. A fifth of the training problems is used for it, and these are too "
                    "few: add some, or a dev split."
                )
    for i in range(config.iterations if config.search is not None else 0):
        grid.pools(job, i)
    _check_prompts(job)
    _check_subjects(job)
    if config.curate.check_keys and (code := [n for n in config.evaluate.learn_from if job.benchmark(n).runs_code]):
        raise ConfigError(
            f"curate.check_keys = true compares answers, and those to {', '.join(code)} are programs, which cannot be "
            "compared. Set it to false; curate.solve_again = true checks programs by their tests."
        )
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
    for name in config.evaluate.learn_from if config.iterations else ():
        job.contents(name)
    if job.asks_instructor:
        _check_instructor(config, asked=asks and until not in BEFORE_ASKING)


def key_problem(config: Config) -> str | None:
    """The error that a start on this machine would raise about the instructor or its key; None when there is none."""
    if Job.of(config).asks_instructor:
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
    if config.iterations and config.train.early_stopping:
        raise ConfigError(
            "train.early_stopping keeps the model of every epoch until one is chosen: that needs a disk that all nodes "
            f"share, and storage is {config.storage!r}. Set it to false, or name a shared disk."
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


def _check_subjects(job: Job) -> None:
    """Raises ConfigError where neighbours are to be of the same subject, and the training problems have none."""
    config = job.config
    if config.contrast.within != "subject" or config.target.attempts:
        return
    for name in config.evaluate.learn_from:
        asks = any(job.strategy(i, name).uses_neighbours for i in range(config.iterations))
        first = next(iter(part(job, name, "train")), None) if asks else None
        if first is not None and "subject" not in first.extra:
            raise ConfigError(
                f'contrast.within = "subject": the problems of {name} have no subject; set it to "dataset"'
            )


def _check_prompts(job: Job) -> None:
    """Check the job's own prompts. Their folder may also hold prompts of other datasets, for other jobs."""
    config = job.config
    learned = [job.benchmark(name).name for name in config.evaluate.learn_from]
    datasets = {*plugins.available("benchmarks"), *(own.name for own in config.benchmark), *learned}
    settings = config.instructor
    templates.check(settings.prompts, datasets, show_reference=settings.show_reference, explain=settings.explain)
