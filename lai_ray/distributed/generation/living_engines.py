"""Engine processes that outlive the generation that started them.  a replica -> an engine that answers with its model

A start of vLLM is mostly imports, so a run keeps its engine processes: the next generation finds them and builds its
engine in one, with the weights as they are on the disk then; one that holds the same model already answers at once.
Weights are never exchanged inside an engine: on a CPU vLLM keeps packed copies that such an exchange does not reach.

A replica of Ray Data holds the CPUs, and only while it generates; the processes ask for nothing of their own and stay
on its node. Before a training their engines are closed. On GPUs an engine lives in its replica and ends with it:
nothing else shows that a GPU's memory is free before Ray gives the GPU away.
"""

from __future__ import annotations

import os
import time
import traceback
import uuid
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
from lai_ray.distributed import causes
from lai_ray.distributed.actors import to_log
from lai_ray.errors import LaiError, StageError
from lai_ray.records import Answer, Request
from lai_ray.storage import model_folders

NAME = "lai-engines"
"""The actor that keeps the processes, one in each run: a search's trials find it by this name."""
PING_SECONDS = 60.0
"""A process that does not answer for so long is replaced."""


def build(target: Model, settings: TargetSettings, gpus: float) -> Engine:
    """An engine in this process, with the model's files copied to this node where they are in an object store.

    Raises StageError with the first error's words where it does not start; a LaiError of the engine unchanged.
    """
    here = replace(target, path=model_folders.local_path(target.path))
    make = plugins.load("engines", settings.engine)
    try:
        engine: Engine = make(here, settings, gpus)
    except LaiError:
        raise
    except Exception as error:
        traceback.print_exc()
        log = causes.own_log()
        why = causes.words_or_log(error, log).rstrip(".")
        where = f" {log[0]} has the traceback." if log else ""
        raise StageError(f"the engine of {target.path} does not start: {why}.{where}") from None
    return engine


class EngineProcess:
    """An actor with at most one engine; called from several threads."""

    def __init__(self, logs: str | None) -> None:
        to_log(logs, "engine")
        self._engine: Engine | None = None
        self._holds: Any = None
        print(f"engine process started: {os.getpid()}", flush=True)

    def ready(self, target: Model, settings: TargetSettings) -> None:
        """Answer with this model from now on."""
        wanted = target, settings
        if self._engine is not None and self._holds == wanted:
            print(f"engine kept: {target.identity}", flush=True)
            return
        self.close()
        self._engine = build(target, settings, 0)
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
    generation: str | None = None
    replica: str | None = None


class EngineProcesses:
    """The actor that keeps a run's engine processes, which end with it."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def take(self, generation: str, replica: str, node: str, threads: int, logs: str | None) -> Any:
        """A process on this node that no other replica has; its own for a replica that restarted."""
        for kept in self._suitable(replica, node):
            if self._alive(kept.process):
                kept.generation, kept.replica = generation, replica
                return kept.process
            self._kept.remove(kept)
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "max_concurrency": threads, "scheduling_strategy": here}
        process = ray.remote(EngineProcess).options(**options).remote(logs)
        self._kept.append(_Kept(process, node, generation, replica))
        return process

    def _suitable(self, replica: str, node: str) -> list[_Kept]:
        there = [kept for kept in self._kept if kept.node == node]
        own = [kept for kept in there if kept.replica == replica]
        return own + [kept for kept in there if kept.generation is None]

    def _alive(self, process: Any) -> bool:
        with suppress(RayError):
            ray.get(process.ping.remote(), timeout=PING_SECONDS)
            return True
        with suppress(RayError):
            ray.kill(process)
        return False

    def give_back(self, generation: str, *, kill: bool) -> None:
        """The generation is over. kill: so are its processes, which may still answer."""
        mine = [kept for kept in self._kept if kept.generation == generation]
        for kept in mine:
            kept.generation = kept.replica = None
            if kill:
                ray.kill(kept.process)
                self._kept.remove(kept)

    def rest(self) -> None:
        """Close the engines that no generation has, so that a training has their memory."""
        for closing in [kept.process.close.remote() for kept in self._kept if kept.generation is None]:
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
def lease(processes: Any) -> Iterator[str]:
    """The name of a new generation, which has its processes until the end. None lasts where it ends with an error."""
    generation, kill = uuid.uuid4().hex, True
    try:
        yield generation
        kill = False
    finally:
        with suppress(RayError):
            ray.get(processes.give_back.remote(generation, kill=kill))


class DistantEngine:
    """The engine of a replica, in a process of its own."""

    def __init__(
        self, processes: Any, generation: str, target: Model, settings: TargetSettings, threads: int, logs: str | None
    ) -> None:
        """Raises what the engine raises for a model it cannot load, and RayActorError when its process dies."""
        context = ray.get_runtime_context()
        replica, node = context.get_actor_id(), context.get_node_id()
        self._process = ray.get(processes.take.remote(generation, replica, node, threads, logs))
        _result(self._process.ready.remote(target, settings))

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
