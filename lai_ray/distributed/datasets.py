"""Ray Data over a fixed pool of actors: how a dataset is set, and its blocks as they come, or an error in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lai_ray.common import current_stage
from lai_ray.distributed.actors import explained, stalled
from lai_ray.errors import StageError

if TYPE_CHECKING:
    import pyarrow as pa


INIT_DEATHS = 5
"""So many actors in a row may die before they are ready: nodes are lost while engines start, too."""


def quiet(dataset: Any, stall_seconds: float) -> Any:
    """The dataset, printing nothing, giving up when nothing moves for so long, raising what its actors raise."""
    dataset.set_name(current_stage.now().replace("/", "."))  # As Ray's dashboard shows it, and calls a file.
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # So that an error of ours arrives as itself.
    context.execution_no_progress_timeout_s = stall_seconds
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    return dataset


def blocks(mapped: Any, what: str, stall_seconds: float, needs: dict[str, Any]) -> Iterator[pa.Table]:
    """The blocks of a dataset mapped over actors, each as soon as it is there, in any order.

    what, needs: the stage and what one actor asks for, for messages. Raises StageError when nothing came for
    `stall_seconds` or a worker failed; a LaiError of a worker as it was raised there.
    """
    from ray.data.exceptions import ExecutionTimeoutError, RayDataUserCodeException
    from ray.exceptions import RayError

    done = 0
    try:
        # No prefetching: it would hold each block back until the next one is there.
        for block in mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            done += block.num_rows
            yield block
    except ExecutionTimeoutError as error:
        raise StageError(stalled(what, done, stall_seconds, needs)) from error
    except (RayError, RayDataUserCodeException) as error:
        raise explained(error, what) from error
