"""Engine processes that outlive the generation that started them.  a replica -> an engine that answers with its model

A start of vLLM is mostly imports, so a run keeps its engine processes: the next generation finds them and builds its
engine in one, with the weights as they are on the disk then; one that holds the same model already answers at once.
Weights are never exchanged inside an engine: on a CPU vLLM keeps packed copies that such an exchange does not reach.

A replica of Ray Data holds the CPUs and GPUs, and only while it generates; the processes ask for nothing of their own
and stay on its node. An engine on a GPU is closed with the generation, one on a CPU before a training.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lai_ray.common import plugins
from lai_ray.config.settings import TargetSettings
from lai_ray.contracts import Engine, Model
from lai_ray.distributed.actors import to_log
from lai_ray.records import Answer, Request
from lai_ray.storage import model_folders

NAME = "lai-engines"
"""The actor that keeps the processes, one in each run: a search's trials find it by this name."""
PING_SECONDS = 60.0
"""A process that does not answer for so long is replaced."""


def build(target: Model, settings: TargetSettings, gpus: float) -> Engine:
    """An engine in this process, with the model's files copied to this node where they are in an object store."""
    here = replace(target, path=model_folders.local_path(target.path))
    engine: Engine = plugins.load("engines", settings.engine)(here, settings, gpus)
    return engine


class EngineProcess:
    """An actor with at most one engine; called from several threads."""

    def __init__(self, logs: str | None, devices: str | None) -> None:
        """devices: CUDA_VISIBLE_DEVICES of the replica it serves; Ray shows none to an actor that asks for none."""
        to_log(logs, "engine")
        if devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
        self._engine: Engine | None = None
        self._holds: Any = None
        print(f"engine process started: {os.getpid()}", flush=True)

    def ready(self, target: Model, settings: TargetSettings, gpus: float) -> None:
        """Answer with this model from now on."""
        wanted = target, settings, gpus
        if self._engine is not None and self._holds == wanted:
            print(f"engine kept: {target.identity}", flush=True)
            return
        self.close()
        self._engine = build(target, settings, gpus)
        self._holds = wanted

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """The engine's."""
        assert self._engine is not None
        return self._engine.generate(requests)

    def close(self) -> None:
        """Free the engine's memory. The process stays."""
        engine, self._engine, self._holds = self._engine, None, None
        if engine is not None and hasattr(engine, "close"):
            engine.close()

    def ping(self) -> int:
        """Its process id."""
        return os.getpid()


@dataclass
class _Kept:
    """An engine process, where it is, and which replica of which generation has it now."""

    process: Any
    node: str
    devices: str | None
    generation: str | None = None
    replica: str | None = None


class EngineProcesses:
    """The actor that keeps a run's engine processes, which end with it."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def take(
        self, generation: str, replica: str, node: str, devices: str | None, threads: int, logs: str | None
    ) -> Any:
        """A process on this node with these devices that no other replica has; its own for a replica that restarted."""
        for kept in self._suitable(replica, node, devices):
            if self._alive(kept.process):
                kept.generation, kept.replica = generation, replica
                return kept.process
            self._kept.remove(kept)
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "max_concurrency": threads, "scheduling_strategy": here}
        process = ray.remote(EngineProcess).options(**options).remote(logs, devices)
        self._kept.append(_Kept(process, node, devices, generation, replica))
        return process

    def _suitable(self, replica: str, node: str, devices: str | None) -> list[_Kept]:
        there = [kept for kept in self._kept if (kept.node, kept.devices) == (node, devices)]
        own = [kept for kept in there if kept.replica == replica]
        return own + [kept for kept in there if kept.generation is None]

    def _alive(self, process: Any) -> bool:
        with suppress(RayError):
            ray.get(process.ping.remote(), timeout=PING_SECONDS)
            return True
        with suppress(RayError):
            ray.kill(process)
        return False

    def give_back(self, generation: str, *, close: bool, kill: bool) -> None:
        """The generation is over. close: so are its engines. kill: so are their processes, which may still answer."""
        mine = [kept for kept in self._kept if kept.generation == generation]
        for kept in mine:
            kept.generation = kept.replica = None
            if kill:
                ray.kill(kept.process)
                self._kept.remove(kept)
        if close and not kill:
            self._close(mine)

    def rest(self) -> None:
        """Close the engines that no generation has, so that a training has their memory."""
        self._close([kept for kept in self._kept if kept.generation is None])

    def _close(self, some: list[_Kept]) -> None:
        for closing in [kept.process.close.remote() for kept in some]:
            with suppress(RayError):  # One that died has nothing left to free.
                ray.get(closing)


def keeper(name: str = NAME) -> Any:
    """The actor that keeps this run's engine processes; started if there is none. It ends with the process that did."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    while True:
        found = ray.remote(EngineProcesses).options(name=name, get_if_exists=True, **options).remote()
        with suppress(RayActorError):  # One that is ending keeps its name for a moment.
            ray.get(found.__ray_ready__.remote())
            return found
        time.sleep(0.1)


@contextmanager
def lease(processes: Any, *, close: bool) -> Iterator[str]:
    """The name of a new generation, which has its processes until the end. None lasts where it ends with an error."""
    generation = f"{os.getpid()}-{next(_COUNT)}"
    kill = True
    try:
        yield generation
        kill = False
    finally:
        with suppress(RayError):
            ray.get(processes.give_back.remote(generation, close=close, kill=kill))


_COUNT = itertools.count()


class DistantEngine:
    """The engine of a replica, in a process of its own."""

    def __init__(
        self, processes: Any, generation: str, target: Model, settings: TargetSettings, gpus: float, threads: int,
        logs: str | None,
    ) -> None:  # fmt: skip
        """Raises what the engine raises for a model it cannot load, and RayActorError when its process dies."""
        context = ray.get_runtime_context()
        devices = os.environ.get("CUDA_VISIBLE_DEVICES") if gpus else None
        replica, node = context.get_actor_id(), context.get_node_id()
        self._process = ray.get(processes.take.remote(generation, replica, node, devices, threads, logs))
        _result(self._process.ready.remote(target, settings, gpus))

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """The engine's answers, and its errors."""
        answers: list[Answer] = _result(self._process.generate.remote(requests))
        return answers

    def kill(self) -> None:
        """End its process."""
        with suppress(RayError):
            ray.kill(self._process)


def _result(reference: Any) -> Any:
    """The result of a call; an error as it was raised there."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from error
