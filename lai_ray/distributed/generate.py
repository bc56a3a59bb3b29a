"""The target's answers: Ray Data over a fixed pool of engine actors.  requests -> answers, in any order

The only module that meets Ray Data. The requests go into the object store in small blocks as they are drawn (Ray spills
what does not fit), and each block that comes back is handed on at once, so that it can be stored. A replica works on
several blocks at a time, which keeps its engine full to the end of each. A replica that dies is started again and
its blocks are redone.

Why not ray.data.llm: see docs/diary.md (measured by tests/perf/generate_two_ways.py).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import ray

from lai_ray import plugins
from lai_ray.config import ClusterSettings, TargetSettings
from lai_ray.contracts import Engine, Model
from lai_ray.distributed.actors import explained, stalled, to_log
from lai_ray.errors import StageError
from lai_ray.records import Answer, Completion, Request

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 128
"""Requests in a block: what is redone when a replica dies, and how many answers come home together."""
BLOCKS_ON_GPU, BLOCKS_ON_CPU = 16, 4
"""Blocks that one replica works on at once: about twice the sequences that its engine decodes together."""
RETRIES = 3
"""How often a block is tried again after its replica died, before it is taken for the cause."""


def generate(
    requests: Iterable[Request], target: Model, *, settings: TargetSettings, cluster: ClusterSettings, logs: str | None
) -> Iterator[Answer]:
    """One answer a request, as they come; a request that failed has `completion.error`. No requests start no replica.

    `cluster.target_replicas` actors of `cpus_per_replica` CPUs and `gpus_per_replica * tensor_parallel` GPUs each hold
    one engine. Ray must be initialised. All requests are drawn before the first answer is given.

    Raises StageError when a replica fails or keeps dying, or nothing moves for `cluster.stall_seconds` (say so when
    the actors cannot be placed); errors that an engine raises in our own words come through as they are.
    """
    needs = {"num_cpus": cluster.cpus_per_replica, "num_gpus": cluster.gpus_per_replica * settings.tensor_parallel}
    dataset = _dataset(_blocks(requests, cluster.target_replicas), cluster.stall_seconds)
    if dataset is None:
        return
    answered = dataset.map_batches(
        _Replica,
        fn_constructor_kwargs={"target": target, "settings": settings, "gpus": needs["num_gpus"], "logs": logs},
        compute=_pool(cluster),
        batch_size=None,  # A block is a batch: nothing is cut up or put together again, which would need CPUs.
        batch_format="pyarrow",
        ray_remote_args_fn=_retries,
        **needs,
    )
    yield from _handed_on(answered, cluster, needs)


def _handed_on(answered: Any, cluster: ClusterSettings, needs: dict[str, Any]) -> Iterator[Answer]:
    """The answers of a running dataset, with its errors in words for a person."""
    from ray.data.exceptions import ExecutionTimeoutError, RayDataUserCodeException
    from ray.exceptions import RayError

    done = 0
    try:
        # No prefetching: it would hold each block back until the next one is there.
        for block in answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            done += block.num_rows
            yield from _answers(block)
    except ExecutionTimeoutError as error:
        raise StageError(stalled("generate", done, cluster.stall_seconds, needs)) from error
    except (RayError, RayDataUserCodeException) as error:
        raise explained(error, "generate") from error


def _retries() -> dict[str, Any]:
    # Ray warns that this argument goes in 2.64, and has no other yet for how often a task of a pool is tried again.
    return {"max_task_retries": RETRIES}


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


def _dataset(blocks: Iterator[pa.Table], stall_seconds: float) -> Any:
    """The blocks as a Dataset, each put into the object store as it is drawn; None when there are none.

    Ray's own `from_blocks` wants all of them in memory, and `from_arrow_refs` runs a task of one CPU for each.
    """
    from ray.data._internal.logical.interfaces import LogicalPlan
    from ray.data._internal.logical.operators import FromBlocks
    from ray.data._internal.stats import DatasetStats
    from ray.data.block import BlockMetadataWithSchema
    from ray.data.dataset import MaterializedDataset

    refs, described = [], []
    for block in blocks:
        refs.append(ray.put(block))
        described.append(BlockMetadataWithSchema.from_block(block))
    if not refs:
        return None
    context = _context(stall_seconds)
    plan = LogicalPlan(FromBlocks(refs, described), context)
    return MaterializedDataset(plan, context, DatasetStats(metadata={"FromBlocks": described}, parent=None))


def _context(stall_seconds: float) -> Any:
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # So that an error of ours arrives as itself.
    context.execution_no_progress_timeout_s = stall_seconds
    return context


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

    def __init__(self, target: Model, settings: TargetSettings, gpus: float, logs: str | None) -> None:
        import gc

        to_log(logs, "engine")
        self._engine: Engine | None = None
        self._failed: Exception | None = None
        try:
            self._engine = plugins.load("engines", settings.engine)(target, settings, gpus)
        except Exception as error:
            # Raised at the first block instead: from a constructor Ray would start it anew three times over.
            self._failed = error
        # What is here now stays: no collection need look at it again.
        gc.collect()
        gc.freeze()

    def __call__(self, block: pa.Table) -> pa.Table:
        if self._engine is None:
            assert self._failed is not None
            raise self._failed
        return _table(self._engine.generate(_requests(block)))
