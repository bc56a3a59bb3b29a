"""The executor on Ray, which starts at the first verb that needs it.  Config -> Executor

A run with nothing left to do never starts Ray. It joins the cluster that `cluster.address` or RAY_ADDRESS names, or
else starts Ray on this machine and stops it at the end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from lai_ray.common import current_stage, plugins
from lai_ray.common.progress import Progress
from lai_ray.config.config import Config
from lai_ray.config.settings import InstructorSettings, LimitSettings
from lai_ray.contracts import Again, Executor, Model, Neighbours, Trained, TrainJob
from lai_ray.distributed.cluster.resources import MAP_CPUS
from lai_ray.distributed.connect import start
from lai_ray.errors import StageError
from lai_ray.records import Answer, Request

CHUNK = 64
"""Items of `map` in one task."""
Item = TypeVar("Item")


class RayExecutor:
    """Every verb on Ray."""

    def __init__(
        self,
        config: Config,
        logs: str | None,
        progress: Progress | None = None,
        *,
        keep_in: str | None = None,
        learned: dict[str, str] | None = None,
    ) -> None:
        """logs: a folder for the output of Ray, vLLM and the actors; None leaves it in Ray's own logs.

        progress: the stages' progress, exported as Ray metrics and watched for stalls; None for neither.
        keep_in: a folder in an object store that gets the logs of all other nodes at the end.
        learned: the names under which the instructor's server takes parameters that it refuses, as far as known.
        """
        self._config, self._logs, self._progress = config, logs, progress
        self._running = contextlib.ExitStack()
        self._keep_in = keep_in
        self._started = False
        self._served: dict[str, str] = {}
        self._learned = {} if learned is None else learned  # What it refuses later is added.
        self._engines: Any = None
        self._early: Any = None
        self._here = False

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        """See `lai_ray.distributed.generation.generate`."""
        if (drawn := self._started_for(requests)) is None:
            return
        from lai_ray.distributed.generation.generate import generate

        config = self._config
        yield from generate(
            drawn, target, settings=config.target, cluster=config.cluster, logs=self._logs, processes=self._processes()
        )

    def ask(
        self,
        requests: Iterable[Request | None],
        settings: InstructorSettings,
        limits: LimitSettings,
        again: Again | None = None,
    ) -> Iterator[Answer]:
        """See `lai_ray.distributed.calls.ask`; `open_model` for a model that runs in the cluster.

        A server that `settings.base_url` names as "module:serve" starts at the first call.
        """
        self._start()  # First: a request counts as sent when it is drawn, and nothing is if Ray cannot start.
        cluster, logs = self._config.cluster, self._logs
        if settings.in_cluster:
            from lai_ray.distributed.calls import open_model

            yield from open_model.ask(requests, settings, cluster, logs, self._processes())
            return
        from lai_ray.distributed.calls.ask import ask

        address = self._address_of(settings.base_url)
        report = self._progress.report if self._progress else None
        yield from ask(
            requests, settings, limits, cluster, address, logs, again=again, report=report, learned=self._learned
        )

    def embed(self, texts: Sequence[str], encoder: Model) -> np.ndarray:
        """See `lai_ray.distributed.neighbours.embed`."""
        self._start()
        from lai_ray.distributed.neighbours.embed import embed

        return embed(texts, encoder, cluster=self._config.cluster, logs=self._logs)

    def nearest(self, queries: np.ndarray, corpus: np.ndarray, k: int) -> Neighbours:
        """See `lai_ray.distributed.neighbours.nearest`."""
        self._start()
        from lai_ray.distributed.neighbours.nearest import nearest

        return nearest(queries, corpus, k, cluster=self._config.cluster, logs=self._logs)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """`function` of each item, in order, a few chunks ahead of the reader; up to CHUNK items in this process."""
        rest = iter(items)
        first = list(itertools.islice(rest, CHUNK + 1))
        if len(first) <= CHUNK:
            yield from map(function, first)
            return
        self._start()
        yield from _mapped(function, itertools.chain(first, rest), self._config.cluster.stall_seconds)

    def expect_training(self) -> None:
        """Start the workers of the next training now, on a Ray that this process has started, and without GPUs."""
        if self._here and not self._config.cluster.gpus_per_worker and self._early is None:
            from lai_ray.distributed.fit.train import EarlyStart

            self._early = EarlyStart(self._config.cluster)

    def train(self, job: TrainJob, progress: Callable[[int, int], None] | None = None) -> Trained:
        """See `lai_ray.distributed.fit.train`."""
        self._start()
        from lai_ray.distributed.fit.train import train

        if processes := self._processes():
            processes.rest.remote()
        early, self._early = self._early, None
        try:
            return train(job, self._config.cluster, self._logs, progress, early)
        finally:
            if early:
                early.end()

    def search(
        self,
        trial: Callable[[dict[str, Any], Executor], dict[str, Any]],
        trials: Sequence[dict[str, Any]],
        folder: str,
        on_result: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """See `lai_ray.distributed.search`."""
        self._start()
        from lai_ray.distributed.search import search

        self._processes()  # Owned by this process, so that they outlast the trials.
        return search(
            trial, trials, folder, config=self._config, logs=self._logs, make_executor=RayExecutor, on_result=on_result
        )

    def close(self) -> None:
        """Stop the servers that this executor started, and Ray if it started or joined it. May be called twice."""
        if self._early:
            self._early.end()
        self._running.close()
        self._served.clear()
        self._started, self._here, self._engines, self._early = False, False, None, None

    def _started_for(self, items: Iterable[Item]) -> Iterator[Item] | None:
        """The items, with Ray started; None when there are none."""
        rest = iter(items)
        for first in rest:
            self._start()
            return itertools.chain([first], rest)
        return None

    def _start(self) -> None:
        if self._started:
            return
        if start(self._config):
            import ray

            self._here = not (self._config.cluster.address or os.environ.get("RAY_ADDRESS", "local") != "local")
            self._running.callback(ray.shutdown)
        if self._logs is not None and self._keep_in is not None:
            from lai_ray.distributed.cluster.nodes import keep_logs

            self._running.callback(keep_logs, self._logs, self._keep_in)
        if self._progress is not None:
            from lai_ray.distributed.cluster.metrics import Exporter
            from lai_ray.distributed.cluster.watchdog import Watchdog

            self._running.callback(Exporter(self._config.name, self._progress).close)
            self._running.callback(Watchdog(self._progress).close)
        self._started = True

    def _processes(self) -> Any:
        """What keeps this run's engine processes; None on GPUs and without cluster.keep_engines. Ray has started."""
        cluster = self._config.cluster
        if cluster.keep_engines and not cluster.gpus_per_replica and self._engines is None:
            from lai_ray.distributed.generation.living_engines import keeper

            self._engines = keeper()
        return self._engines

    def _address_of(self, base_url: str | None) -> str | None:
        """The server's address: "module:serve" is a context manager that starts one and yields its address."""
        if base_url is None or "://" in base_url or ":" not in base_url:
            return base_url
        if base_url not in self._served:
            serve = plugins.attribute(base_url, what="instructor.base_url")
            self._served[base_url] = self._running.enter_context(serve())
        return self._served[base_url]


def without_job(address: str | None) -> RayExecutor:
    """An executor for commands without a job: `map`, on a cluster or on this machine."""
    cluster = {"address": address, "gpus_per_replica": 0, "gpus_per_worker": 0}
    nothing = {"name": "none", "target": {"model": "none"}, "instructor": {"model": "none"}, "cluster": cluster}
    return RayExecutor(Config.model_validate({**nothing, "evaluate": {"learn_from": ["none"]}}), None)


def _mapped(function: Callable[[Any], Any], items: Iterator[Any], stall: float) -> Iterator[Any]:
    import ray

    from lai_ray.distributed.actors import explained, stalled

    def work(function: Callable[[Any], Any], chunk: list[Any]) -> list[Any]:
        return [function(item) for item in chunk]

    task = ray.remote(num_cpus=MAP_CPUS, scheduling_strategy="DEFAULT", max_retries=3)(work)
    shared, ahead = ray.put(function), int(2 * ray.cluster_resources().get("CPU", 1)) + 1
    in_flight: deque[Any] = deque()
    done = 0
    while True:
        while len(in_flight) < ahead and (chunk := list(itertools.islice(items, CHUNK))):
            in_flight.append(task.options(name=current_stage.now()).remote(shared, chunk))
        if not in_flight:
            return
        try:
            results = ray.get(in_flight.popleft(), timeout=stall)
        except ray.exceptions.GetTimeoutError as error:
            raise StageError(stalled("map", done, stall, {"num_cpus": MAP_CPUS})) from error
        except ray.exceptions.RayError as error:
            raise explained(error, "map") from error
        done += len(results)
        yield from results
