"""An open model as the instructor, on engines in the cluster.  requests -> answers, in any order

There are no callers and no rate limit. A wave is all the requests that may be drawn before the first answer (without a
budget limit, all there are), and runs in one lifetime of the engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from lai_ray.config.settings import ClusterSettings, InstructorSettings, TargetSettings
from lai_ray.contracts import Model
from lai_ray.distributed.generation.generate import generate
from lai_ray.records import Answer, Request


def ask(
    requests: Iterable[Request | None], settings: InstructorSettings, cluster: ClusterSettings, logs: str | None,
    processes: Any = None,
) -> Iterator[Answer]:  # fmt: skip
    """One answer a request, as they come. A request that failed has `completion.error` and is `free`.

    `settings.model` is a folder or hub name. `cluster.instructor_replicas` actors hold one engine each; their resources
    and errors are those of `generate`. None among the requests ends a wave. Ray must be initialised.
    """
    drawn, model = iter(requests), Model(settings.model, settings.model)
    engine = TargetSettings(
        engine=settings.engine,
        model=settings.model,
        max_new_tokens=settings.max_tokens,
        max_model_len=settings.max_model_len,
        tensor_parallel=settings.tensor_parallel,
        dtype=settings.dtype,
    )
    replicas = cluster.model_copy(update={"target_replicas": cluster.instructor_replicas})
    # A None at the start of a wave is the end: no call is in flight that could free a request.
    while (first := next(drawn, None)) is not None:
        wave = _wave(first, drawn)
        for answer in generate(
            wave, model, settings=engine, cluster=replicas, logs=logs, what="instruct", processes=processes
        ):
            yield answer if answer.completion.error is None else replace(answer, free=True)


def _wave(first: Request, rest: Iterator[Request | None]) -> Iterator[Request]:
    request: Request | None = first
    while request is not None:
        yield request
        request = next(rest, None)
