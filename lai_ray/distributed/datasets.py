"""Ray Data over a fixed pool of actors.  datasets -> blocks, or an error message"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lai_ray.common import current_stage
from lai_ray.distributed.actors import explained, stalled
from lai_ray.errors import StageError

if TYPE_CHECKING:
    import pyarrow as pa


INIT_DEATHS = 5
"""Actors in a row that may die before they are ready: nodes may be lost while engines start."""


def quiet(dataset: Any, stall_seconds: float) -> Any:
    """The dataset, set to print nothing, to fail after a stall, and to raise what its actors raise."""
    dataset.set_name(current_stage.now().replace("/", "."))  # On Ray's dashboard, and in a file name.
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # A LaiError is raised unchanged.
    context.execution_no_progress_timeout_s = stall_seconds
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    return dataset


def blocks(
    mapped: Any, what: str, stall_seconds: float, needs: dict[str, Any], logs: str | None = None
) -> Iterator[pa.Table]:
    """The blocks of a dataset mapped over actors, each as soon as it is finished, in any order.

    what, needs, logs: the stage, the resources of one actor and the folder of its output, for messages. Raises
    StageError when no block finishes for `stall_seconds` or a worker fails; a LaiError of a worker is raised unchanged.
    """
    from ray.data.exceptions import ExecutionTimeoutError, RayDataUserCodeException
    from ray.exceptions import RayError

    done = 0
    try:
        # No prefetching: it would hold each block back until the next one is finished.
        for block in mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            done += block.num_rows
            yield block
    except ExecutionTimeoutError as error:
        raise StageError(stalled(what, done, stall_seconds, needs)) from error
    except (RayError, RayDataUserCodeException) as error:
        raise explained(error, what, logs) from error
