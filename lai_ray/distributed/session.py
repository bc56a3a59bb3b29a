"""Ray, from the first verb that needs it to the end of the run.  Config -> Executor

A run that has nothing left to do never starts Ray. A cluster that is named (`cluster.address`, RAY_ADDRESS) is joined,
else Ray is started here and stopped again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lai_ray
from lai_ray import models, plugins
from lai_ray.config import Config, InstructorSettings, LimitSettings
from lai_ray.contracts import Executor, Model, Neighbours, Trained, TrainJob
from lai_ray.errors import ConfigError, LaiError, StageError
from lai_ray.records import Answer, Request

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
"""Nobody is told what runs here, and nothing draws on the terminal but our own progress."""
CHUNK = 64
"""Items of `map` in one task."""
MAP_CPUS = 0.9
"""Beside light actors a task still fits on each of two logical CPUs."""


class RayExecutor:
    """Every verb on Ray. Ray starts at the first one."""

    def __init__(self, config: Config, logs: str | None) -> None:
        """logs: a folder for what Ray, vLLM and the actors say, or None to leave it with Ray."""
        self._config, self._logs = config, logs
        self._running = contextlib.ExitStack()
        self._started = False
        self._served: dict[str, str] = {}

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        """See `lai_ray.distributed.generate`."""
        drawn = iter(requests)
        first = next(drawn, None)
        if first is None:
            return
        self._start()
        from lai_ray.distributed.generate import generate

        config = self._config
        everything = itertools.chain([first], drawn)
        yield from generate(everything, target, settings=config.target, cluster=config.cluster, logs=self._logs)

    def ask(self, requests: Iterable[Request], settings: InstructorSettings, limits: LimitSettings) -> Iterator[Answer]:
        """See `lai_ray.distributed.instructor`. A "module:serve" server starts at the first call, and runs to the end."""
        drawn = iter(requests)
        first = next(drawn, None)
        if first is None:
            return
        self._start()
        from lai_ray.distributed.instructor import ask

        everything = itertools.chain([first], drawn)
        yield from ask(everything, settings, limits, self._config.cluster, self._address_of(settings.base_url))

    def embed(self, texts: Sequence[str], encoder: Model) -> np.ndarray:
        """See `lai_ray.distributed.neighbours`."""
        self._start()
        from lai_ray.distributed.neighbours import embed

        return embed(texts, encoder, cluster=self._config.cluster, logs=self._logs)

    def nearest(self, queries: np.ndarray, corpus: np.ndarray, k: int) -> Neighbours:
        """See `lai_ray.distributed.neighbours`."""
        self._start()
        from lai_ray.distributed.neighbours import nearest

        return nearest(queries, corpus, k, cluster=self._config.cluster, logs=self._logs)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """`function` of each item, in order, a few chunks ahead of the reader; a few items are done in this process."""
        drawn = iter(items)
        first = list(itertools.islice(drawn, CHUNK + 1))
        if len(first) <= CHUNK:
            yield from map(function, first)
            return
        self._start()
        yield from _mapped(function, itertools.chain(first, drawn))

    def train(self, job: TrainJob) -> Trained:
        """See `lai_ray.distributed.train`."""
        self._start()
        from lai_ray.distributed.train import train

        return train(job, self._config.cluster, self._logs)

    def search(
        self, trial: Callable[[dict[str, Any], Executor], dict[str, Any]], trials: Sequence[dict[str, Any]], folder: str
    ) -> list[dict[str, Any]]:
        """See `lai_ray.distributed.search`."""
        self._start()
        from lai_ray.distributed.search import search

        found: list[dict[str, Any]] = search(trial, trials, folder, config=self._config, logs=self._logs)
        return found

    def close(self) -> None:
        """Stop the servers started here, and Ray if it was started or joined here. May be called twice."""
        self._running.close()
        self._served.clear()
        self._started = False

    def _start(self) -> None:
        if self._started:
            return
        if start(self._config):
            import ray

            self._running.callback(ray.shutdown)
        self._started = True

    def _address_of(self, base_url: str | None) -> str | None:
        """The server to ask: an address as it is, "module:serve" as what its context manager yields."""
        if base_url is None or "://" in base_url or ":" not in base_url:
            return base_url
        if base_url not in self._served:
            serve = plugins.attribute(base_url, what="instructor.base_url")
            self._served[base_url] = self._running.enter_context(serve())
        return self._served[base_url]


def start(config: Config) -> bool:
    """Join or start Ray; False when this process has it already (then it is not ours to stop).

    Raises ConfigError when the named cluster does not answer or refuses us, or one actor of the job can never fit on
    this machine; StageError when Ray cannot be started here.
    """
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
    # Ray gives its workers nice 15: half of the processor, where anything else runs.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if ray.is_initialized():
        return False
    named = config.cluster.address or os.environ.get("RAY_ADDRESS")
    ours = _environment(config)
    try:
        if named is None:
            os.environ |= ours
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="warning")
        else:
            _join(named, ours)
    except LaiError:
        raise
    except Exception as error:
        ray.shutdown()
        raise _could_not(error, named, "cluster.address" if config.cluster.address else "RAY_ADDRESS") from error
    if named is None:
        try:
            fits(config, ray.cluster_resources())
        except ConfigError:
            ray.shutdown()
            raise
    return True


def _join(address: str, environment: dict[str, str]) -> None:
    """ray.init on a running cluster, with its token when there is one. Settings of a submitted job go before ours."""
    import ray

    if "RAY_AUTH_MODE" not in os.environ and (Path.home() / ".ray" / "auth_token").is_file():
        # A cluster without authentication does not look at the token; one with it turns us away without.
        os.environ["RAY_AUTH_MODE"] = "token"
    wanted = {name: value for name, value in environment.items() if os.environ.get(name) != value}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        # A submitted job's runtime environment says where the code is and may set the rest; two settings of one
        # variable are an error in Ray.
        wanted = {name: value for name, value in wanted.items() if name not in os.environ and name != "PYTHONPATH"}
    ray.init(address=address, log_to_driver=False, logging_level="warning", runtime_env={"env_vars": wanted | QUIET})


def _environment(config: Config) -> dict[str, str]:
    """What the workers need to find: this package, the user's own plug-ins beside it, and no hub when all is local."""
    package = str(Path(lai_ray.__file__).parent.parent)
    paths = [package, os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    found = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path))}
    names = [config.target.model] + [e for e in [config.contrast.encoder] if e != "target"]
    with contextlib.suppress(ConfigError):
        if all(models.is_local(models.locate(name, setting="model")) for name in names):
            found |= {"HF_HUB_OFFLINE": "1"}
    return found


def fits(config: Config, there: dict[str, float]) -> None:
    """Raises ConfigError when one engine actor or one training worker asks for more than this machine has at all."""
    cluster = config.cluster
    for what, needs in (
        ("replica", {"CPU": cluster.cpus_per_replica, "GPU": cluster.gpus_per_replica * config.target.tensor_parallel}),
        ("worker", {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}),
    ):
        for kind, wanted in needs.items():
            if wanted > there.get(kind, 0):
                raise ConfigError(
                    f"cluster.{kind.lower()}s_per_{what} asks for {wanted:g} {kind}; this machine has "
                    f"{there.get(kind, 0):g}. Lower it{' (0 runs on the CPU)' if kind == 'GPU' else ''}, or name a "
                    "cluster in cluster.address."
                )


def _could_not(error: Exception, address: str | None, setting: str) -> LaiError:
    said = (str(error).strip().splitlines() or ["no reason given"])[0]
    if "uthenticat" in type(error).__name__ + str(error):
        return ConfigError(
            f"the Ray cluster at {address or 'this machine'} wants a token, and it was not accepted: {said} "
            "Set RAY_AUTH_MODE=token and put the cluster's token into ~/.ray/auth_token (`ray get-auth-token`), or "
            "RAY_AUTH_MODE=disabled on both sides."
        )
    if address is not None:
        return ConfigError(
            f"no Ray cluster answers at {address!r}, named by {setting}: {said} Start one there (`ray start --head`), "
            "correct the address, or leave it out to run on this machine alone."
        )
    return StageError(f"Ray could not be started on this machine: {type(error).__name__}: {said}")


def _mapped(function: Callable[[Any], Any], items: Iterator[Any]) -> Iterator[Any]:
    import ray

    from lai_ray.distributed.actors import explained

    @ray.remote(num_cpus=MAP_CPUS, scheduling_strategy="DEFAULT", max_retries=3)
    def done(work: Callable[[Any], Any], chunk: list[Any]) -> list[Any]:
        return [work(item) for item in chunk]

    shared, ahead = ray.put(function), int(2 * ray.cluster_resources().get("CPU", 1)) + 1
    flying: deque[Any] = deque()
    while True:
        while len(flying) < ahead and (chunk := list(itertools.islice(items, CHUNK))):
            flying.append(done.remote(shared, chunk))
        if not flying:
            return
        try:
            results = ray.get(flying.popleft())
        except ray.exceptions.RayError as error:
            raise explained(error, "map") from error
        yield from results
