"""The target's answers: Ray Data over a fixed pool of engine actors.  requests -> answers, in any order

The requests go into the object store in small blocks as they are drawn (Ray spills
what does not fit); the dataset has a row for each block, its number, and each block of answers is handed on at once, so
that it can be stored. A replica works on several blocks at a time, which keeps its engine full to the end of each. A
replica that dies is started again and its blocks are redone, until the request that kills it is found (`inquest`).

Why not ray.data.llm: see docs/diary.md (measured by `make bench ONLY=ray_data_llm`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lai_ray.common import plugins
from lai_ray.config.settings import ClusterSettings, TargetSettings
from lai_ray.contracts import Engine, Model
from lai_ray.distributed.actors import to_log
from lai_ray.distributed.datasets import blocks, quiet
from lai_ray.distributed.generation.crash_isolation import Inquest, Piece, Plan
from lai_ray.errors import LaiError, StageError
from lai_ray.records import Answer, Completion, Request
from lai_ray.storage import model_folders

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 128
"""Requests in a block: what is redone when a replica dies, and how many answers come home together."""
BLOCKS_ON_GPU, BLOCKS_ON_CPU = 16, 6
"""Blocks that one replica works on at once; on a CPU three times the sequences that its engine decodes together.
A block goes home when its longest answer is there, so with twice as many the engine is not always full."""


def generate(
    requests: Iterable[Request], target: Model, *, settings: TargetSettings, cluster: ClusterSettings, logs: str | None,
    what: str = "generate",
) -> Iterator[Answer]:  # fmt: skip
    """One answer a request, as they come; a request that failed has `completion.error`. No requests start no replica.

    `cluster.target_replicas` actors of `cpus_per_replica` CPUs and `gpus_per_replica * tensor_parallel` GPUs each hold
    one engine. `what` is the name of the work in errors. Ray must be initialised. All requests are drawn before the
    first answer is given. A request on which the engine dies, alone and after it died on it in company, is one that
    failed.

    Raises StageError when engines keep dying with nothing answered, too many requests kill one, or nothing moves for
    `cluster.stall_seconds` (say so when the actors cannot be placed); errors that an engine raises in our own words
    come through as they are.
    """
    refs, sizes = [], []
    for block in _blocks(requests, cluster.target_replicas):
        refs.append(ray.put(block))
        sizes.append(block.num_rows)
    if not refs:
        return
    needs = {"num_cpus": cluster.cpus_per_replica, "num_gpus": cluster.gpus_per_replica * settings.tensor_parallel}
    # On this node: if that goes, so does the driver. Ray makes it by way of any node, though, and takes it for dead
    # when that one is lost meanwhile; started anew it has forgotten what it knew, and learns it again.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    inquest = ray.remote(**lasting)(Inquest)
    desk = inquest.remote(refs, sizes, cluster.target_replicas)
    answered = _dataset(len(refs), cluster.stall_seconds).map_batches(
        _Replica,
        fn_constructor_kwargs={
            "target": target,
            "settings": settings,
            "gpus": needs["num_gpus"],
            "logs": logs,
            "inquest": desk,
        },
        compute=_pool(cluster),
        batch_size=1,
        batch_format="pyarrow",
        **needs,
    )
    for block in blocks(answered, what, cluster.stall_seconds, needs):
        yield from _answers(block)


def _pool(cluster: ClusterSettings) -> Any:
    from ray.data import ActorPoolStrategy

    at_once = BLOCKS_ON_GPU if cluster.gpus_per_replica else BLOCKS_ON_CPU
    return ActorPoolStrategy(
        size=cluster.target_replicas,
        # As many as it works on and none in waiting: a replica that is ready first must not take the others' share.
        max_tasks_in_flight_per_actor=at_once,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=True,
    )


def _dataset(count: int, stall_seconds: float) -> Any:
    """The numbers of the blocks, each a block of its own."""
    from ray.data import from_items

    return quiet(from_items([{"block": i} for i in range(count)], override_num_blocks=count), stall_seconds)


def _blocks(requests: Iterable[Request], replicas: int) -> Iterator[pa.Table]:
    """Tables of ROWS requests; the last few are cut evenly, so that all replicas have work to the end."""
    drawn = iter(requests)
    while round_ := list(itertools.islice(drawn, ROWS * replicas)):
        size = -(-len(round_) // replicas)
        for i in range(0, len(round_), size):
            yield _asked(round_[i : i + size])


def _asked(rows: list[Request]) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "id": pa.array([r.id for r in rows], pa.string()),
            "key": pa.array([r.key for r in rows], pa.string()),
            "messages": pa.array([json.dumps(r.messages, ensure_ascii=False) for r in rows], pa.string()),
            "max_tokens": pa.array([r.max_tokens for r in rows], pa.int64()),
            "temperature": pa.array([r.temperature for r in rows], pa.float64()),
            # As text: it may have more than 63 bits.
            "seed": pa.array([None if r.seed is None else str(r.seed) for r in rows], pa.string()),
        }
    )


def _requests(block: pa.Table) -> list[Request]:
    return [
        Request(
            id=row["id"],
            key=row["key"],
            messages=json.loads(row["messages"]),
            max_tokens=row["max_tokens"],
            temperature=row["temperature"],
            seed=None if row["seed"] is None else int(row["seed"]),
        )
        for row in block.to_pylist()
    ]


def _table(answers: list[Answer]) -> pa.Table:
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


class _Replica:
    """One engine in one actor; called from several threads."""

    def __init__(self, target: Model, settings: TargetSettings, gpus: float, logs: str | None, inquest: Any) -> None:
        import gc

        to_log(logs, "engine")
        self._inquest, self._room = inquest, _Room()
        self._engine: Engine | None = None
        self._failed: Exception | None = None
        ray.get(inquest.started.remote())
        try:
            here = replace(target, path=model_folders.here(target.path))
            self._engine = plugins.load("engines", settings.engine)(here, settings, gpus)
        except Exception as error:
            # Raised at the first block instead: from a constructor Ray would start it anew three times over.
            self._failed = error
        # What is here now stays: no collection need look at it again.
        gc.collect()
        gc.freeze()

    def __call__(self, numbers: pa.Table) -> pa.Table:
        if self._engine is None:
            assert self._failed is not None
            raise self._failed
        [number] = numbers["block"].to_pylist()
        plan: Plan = ray.get(self._inquest.plan.remote(number))
        if plan.give_up:
            raise StageError(plan.give_up)
        requests = _requests(ray.get(plan.block))
        if plan.alone:
            print(f"block {number} killed an engine: again, alone, in {len(plan.pieces)} pieces", flush=True)
        with self._room.alone() if plan.alone else self._room.together():
            answers = [answer for piece in plan.pieces for answer in self._piece(number, piece, requests)]
        for row, why in plan.killers.items():
            request = requests[row]
            answers.append(Answer(request.id, request.key, Completion("", "error", error=why)))
        return _table(answers)

    def _piece(self, number: int, piece: Piece, requests: list[Request]) -> list[Answer]:
        """The answers to these rows of a block. An engine that breaks takes this process with it, as a crash would."""
        assert self._engine is not None
        start, stop = piece
        ray.get(self._inquest.open.remote(number, piece, requests[start].id))
        try:
            answers = self._engine.generate(requests[start:stop])
        except LaiError:
            raise
        except Exception as error:
            traceback.print_exc()
            ray.get(self._inquest.broke.remote(f"{type(error).__name__}: {error}"))
            os._exit(1)
        ray.get(self._inquest.close.remote(number))
        return answers


class _Room:
    """Many at work together, or one alone, who goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._here = self._waiting = 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._here >= 0 and not self._waiting)
            self._here += 1
        try:
            yield
        finally:
            with self._changed:
                self._here -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._here == 0)
            self._waiting -= 1
            self._here = -1
        try:
            yield
        finally:
            with self._changed:
                self._here = 0
                self._changed.notify_all()
