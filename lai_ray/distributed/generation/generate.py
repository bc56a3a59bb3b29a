"""Ray Data over a fixed pool of engine actors.  requests -> answers, in any order

Requests go into the object store in small blocks as they are drawn (Ray spills what does not fit). The dataset has one
row for each block, its number; each block of answers is yielded at once, so that it can be stored. A replica runs
several blocks at a time, which keeps its engine full to the end of each. A replica that dies is restarted and its
blocks are run again, until the request that crashes it is found (`crash_isolation`).

Why not ray.data.llm: see docs/diary.md (measured by `make bench ONLY=ray_data_llm`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lai_ray.config.settings import ClusterSettings, TargetSettings
from lai_ray.contracts import Engine, Model
from lai_ray.distributed import causes
from lai_ray.distributed.actors import to_log
from lai_ray.distributed.datasets import blocks, quiet
from lai_ray.distributed.generation import living_engines
from lai_ray.distributed.generation.crash_isolation import CrashIsolation, Piece, Plan
from lai_ray.errors import LaiError, StageError
from lai_ray.records import Answer, Completion, Request

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 128
"""Requests in a block: what is run again when a replica dies, and how many answers arrive together."""
BLOCKS_ON_GPU, BLOCKS_ON_CPU = 16, 6
"""Blocks that one replica runs at once; on a CPU three times the sequences that its engine decodes together.
A block is finished with its longest answer, so with twice as many the engine is not always full."""


def generate(
    requests: Iterable[Request], target: Model, *, settings: TargetSettings, cluster: ClusterSettings, logs: str | None,
    what: str = "generate", processes: Any = None,
) -> Iterator[Answer]:  # fmt: skip
    """One answer a request, as they come; a request that failed has `completion.error`.

    `cluster.target_replicas` actors of `cpus_per_replica` CPUs and `gpus_per_replica * tensor_parallel` GPUs each hold
    one engine, on CPUs in a process that `processes` keeps (`living_engines.keeper`), else in their own. `what` names
    the work in errors. Ray must be initialised. All requests are drawn before the first answer is yielded; without
    requests no replica starts. A request that crashes the engine, run alone, counts as failed.

    Raises StageError when engines keep dying without an answer, too many requests crash one, or nothing finishes for
    `cluster.stall_seconds`, as when the actors cannot be placed; a LaiError of an engine is raised unchanged.
    """
    refs, sizes = [], []
    for block in _blocks(requests, cluster.target_replicas):
        refs.append(ray.put(block))
        sizes.append(len(block))
    if not refs:
        return
    needs = {"num_cpus": cluster.cpus_per_replica, "num_gpus": cluster.gpus_per_replica * settings.tensor_parallel}
    # Pinned to the driver's node. Ray may restart it when another node fails during its creation; it then starts with
    # empty state, which is safe.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    isolation = ray.remote(**lasting)(CrashIsolation).remote(refs, sizes, cluster.target_replicas)
    processes = None if needs["num_gpus"] else processes
    with living_engines.lease(processes) if processes else nullcontext() as generation:
        engine = _EngineOf(target, settings, needs["num_gpus"], logs, processes, generation, _at_once(cluster))
        answered = _dataset(len(refs), cluster.stall_seconds).map_batches(
            _Replica,
            fn_constructor_kwargs={"engine": engine, "logs": logs, "isolation": isolation},
            compute=_pool(cluster),
            batch_size=1,
            batch_format="pyarrow",
            **needs,
        )
        for finished in blocks(answered, what, cluster.stall_seconds, needs, logs):
            yield from _answers(finished)


def _at_once(cluster: ClusterSettings) -> int:
    """Blocks that one replica runs at once."""
    return BLOCKS_ON_GPU if cluster.gpus_per_replica else BLOCKS_ON_CPU


def _pool(cluster: ClusterSettings) -> Any:
    from ray.data import ActorPoolStrategy

    at_once = _at_once(cluster)
    return ActorPoolStrategy(
        size=cluster.target_replicas,
        # As many as it runs and none queued: a replica that is ready first must not take the others' share.
        max_tasks_in_flight_per_actor=at_once,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=True,
    )


def _dataset(count: int, stall_seconds: float) -> Any:
    """The numbers of the blocks, one in each row and in each of Ray's blocks."""
    from ray.data import from_items

    return quiet(from_items([{"block": i} for i in range(count)], override_num_blocks=count), stall_seconds)


def _blocks(requests: Iterable[Request], replicas: int) -> Iterator[list[Request]]:
    """Lists of ROWS requests; the last few are divided evenly, so that all replicas have work to the end."""
    drawn = iter(requests)
    while round_ := list(itertools.islice(drawn, ROWS * replicas)):
        size = -(-len(round_) // replicas)
        for i in range(0, len(round_), size):
            yield round_[i : i + size]


def _answer_table(answers: list[Answer]) -> pa.Table:
    import pyarrow as pa

    strings = {"id": [a.id for a in answers], "key": [a.key for a in answers]}
    strings |= {name: [getattr(a.completion, name) for a in answers] for name in ("text", "finish_reason", "error")}
    counts = ("prompt_tokens", "completion_tokens")
    return pa.table(
        {name: pa.array(values, pa.string()) for name, values in strings.items()}
        | {name: pa.array([getattr(a.completion, name) for a in answers], pa.int64()) for name in counts}
    )


def _answers(block: pa.Table) -> Iterator[Answer]:
    for row in block.to_pylist():
        yield Answer(row.pop("id"), row.pop("key"), Completion(**row))


@dataclass(frozen=True)
class _EngineOf:
    """Makes the engine of a replica, in the replica."""

    target: Model
    settings: TargetSettings
    gpus: float
    logs: str | None
    processes: Any
    generation: str | None
    threads: int

    def __call__(self) -> Any:
        """An Engine."""
        if self.generation is None:
            return living_engines.build(self.target, self.settings, self.gpus)
        return living_engines.DistantEngine(
            self.processes, self.generation, self.target, self.settings, self.threads + 2, self.logs
        )


class _Replica:
    """One engine in one actor; called from several threads."""

    def __init__(self, engine: _EngineOf, logs: str | None, isolation: Any) -> None:
        import gc

        to_log(logs, "engine" if engine.generation is None else "replica")
        self._isolation, self._lock = isolation, _SharedLock()
        self._engine: Engine | None = None
        self._failed: Exception | None = None
        ray.get(isolation.started.remote())
        try:
            self._engine = engine()
        except RayActorError:
            os._exit(1)  # Its process died as it started: as if this one had.
        except Exception as error:
            # Raised at the first block instead: Ray would run a constructor that raises three more times.
            self._failed = error
        # These objects live as long as the process: exclude them from garbage collection.
        gc.collect()
        gc.freeze()

    def __call__(self, numbers: pa.Table) -> pa.Table:
        if self._engine is None:
            assert self._failed is not None
            raise self._failed
        [number] = numbers["block"].to_pylist()
        plan: Plan = ray.get(self._isolation.plan.remote(number))
        if plan.failure:
            raise StageError(plan.failure)
        requests: list[Request] = ray.get(plan.block)
        if plan.alone:
            print(f"block {number} crashed an engine: run again alone, in {len(plan.pieces)} pieces", flush=True)
        with self._lock.exclusive() if plan.alone else self._lock.shared():
            answers = [answer for piece in plan.pieces for answer in self._piece(number, piece, requests)]
        for row, error in plan.crashing.items():
            answers.append(Answer(requests[row].id, requests[row].key, Completion("", "error", error=error)))
        return _answer_table(answers)

    def _piece(self, number: int, piece: Piece, requests: list[Request]) -> list[Answer]:
        """The answers to these rows of a block. An engine that raises ends this process, as a crash does."""
        assert self._engine is not None
        start, stop = piece
        ray.get(self._isolation.begin.remote(number, piece, requests[start].id))
        try:
            answers = self._engine.generate(requests[start:stop])
        except LaiError:
            raise
        except RayActorError:
            os._exit(1)  # Its process died: as if this one had.
        except Exception as error:
            traceback.print_exc()
            ray.get(self._isolation.failed.remote(causes.words_or_log(error, causes.own_log())))
            if isinstance(self._engine, living_engines.DistantEngine):
                self._engine.kill()
            os._exit(1)
        ray.get(self._isolation.finish.remote(number))
        return answers


class _SharedLock:
    """Held by many together or by one alone, who has precedence."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders = self._waiting = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._holders >= 0 and not self._waiting)
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._holders == 0)
            self._waiting -= 1
            self._holders = -1
        try:
            yield
        finally:
            with self._changed:
                self._holders = 0
                self._changed.notify_all()
