"""The method, on one screen: Algorithm 1 of LLMs-as-Instructors (arXiv 2407.00497).

The target sits a test, its mistakes are found, an instructor writes new problems for them, the target studies, and
sits the test again. What `iteration_0/train` makes is the model that the paper calls iteration 1.
"""

from __future__ import annotations

from lai_ray.config.config import Config
from lai_ray.contracts import Executor, Model
from lai_ray.stages.curate import curate
from lai_ray.stages.diagnose import diagnose, encoder_for, improve_settings, nothing_to_learn
from lai_ray.stages.evaluate import Attempts, evaluate
from lai_ray.stages.instruct import instruct, instructor_for
from lai_ray.stages.search import search
from lai_ray.stages.select import select
from lai_ray.stages.train import train
from lai_ray.storage.run import Run


def loop(run: Run, config: Config, target: Model, executor: Executor) -> Model:
    """n iterations of {answer, find mistakes, instruct, learn}, then one last test; returns the last target.

    Every stage finds what an earlier start completed, so the same call resumes and a finished run asks for nothing.
    """
    for i in range(config.iterations + 1):
        problems = select(config, i)  # line 4
        attempts = evaluate(
            run.stage(i, "evaluate"), problems, target, config, executor
        )  # lines 5, 6: one engine lifetime
        if i == config.iterations:
            break
        target = improve(run, i, attempts, target, config, executor)  # lines 7 to 12
    return target


def improve(run: Run, i: int, attempts: Attempts, target: Model, config: Config, executor: Executor) -> Model:
    """One iteration's learning: diagnose, instruct, curate, train; or a search over them."""
    if config.search is not None:
        return search(run, i, attempts, target, config, executor)
    settings = improve_settings(config, i, encoder=encoder_for(config, target, run.record()))
    cases = diagnose(run.stage(i, "diagnose"), attempts, i, config, settings, executor)
    if not any(cases.counts.values()):
        run.progress.say(nothing_to_learn(run.stage(i, "diagnose")), style="green")
        for skipped in ("instruct", "curate", "train"):
            run.stage(i, skipped).reached()
        return target
    instructor = instructor_for(config, target, run.record())
    replies = instruct(run.stage(i, "instruct"), cases, settings, config, executor, instructor)
    samples = curate(run.stage(i, "curate"), cases, replies, settings, config, executor)
    return train(run.stage(i, "train"), samples, target, i, config, executor)
