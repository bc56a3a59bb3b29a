"""An open model as the instructor: it answers in the cluster, as the target does.  requests -> answers, in any order

No callers, no quota: nobody limits the pace or sends a bill. A wave of requests is all that may be drawn before
answers came home (without a budget in the way, all there are), and goes through one lifetime of the engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lai_ray.config.settings import ClusterSettings, InstructorSettings, TargetSettings
from lai_ray.contracts import Model
from lai_ray.distributed.generation.generate import generate
from lai_ray.records import Answer, Request


def ask(
    requests: Iterable[Request | None], settings: InstructorSettings, cluster: ClusterSettings, logs: str | None
) -> Iterator[Answer]:
    """One answer a request, as they come. A request that failed has `completion.error`, and took nothing (`free`).

    `settings.model` is a folder or hub name. `cluster.instructor_replicas` actors hold one engine each; what else they
    ask for, and what is raised, is as in `generate`. None among the requests ends a wave. Ray must be initialised.
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
    # None with nothing on its way is the end as well: there is nothing to wait for.
    while (first := next(drawn, None)) is not None:
        wave = _wave(first, drawn)
        for answer in generate(wave, model, settings=engine, cluster=replicas, logs=logs, what="instruct"):
            yield answer if answer.completion.error is None else replace(answer, free=True)


def _wave(first: Request, rest: Iterator[Request | None]) -> Iterator[Request]:
    request: Request | None = first
    while request is not None:
        yield request
        request = next(rest, None)
