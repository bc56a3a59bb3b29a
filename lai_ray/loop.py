"""The method on one page: Algorithm 1 of LLMs-as-Instructors (arXiv 2407.00497).

The target answers problems, its mistakes are collected, an instructor writes new problems for them, the target is
fine-tuned on those and evaluated again. The model of `iteration_0/train` is the paper's model of iteration 1.
"""

from __future__ import annotations

from lai_ray.contracts import Executor, Model
from lai_ray.stages.curate import curate
from lai_ray.stages.diagnose import diagnose, nothing_to_learn
from lai_ray.stages.evaluate import Attempts, evaluate
from lai_ray.stages.forgetting import report_changes
from lai_ray.stages.instruct import instruct
from lai_ray.stages.job import Job
from lai_ray.stages.rehearse import rehearse
from lai_ray.stages.search import search
from lai_ray.stages.select import select
from lai_ray.stages.train import train
from lai_ray.storage.run import Run


def loop(run: Run, job: Job, target: Model, executor: Executor) -> Model:
    """n iterations of {evaluate, diagnose, instruct, train}, then a last evaluation; returns the last target.

    Every stage skips what an earlier start completed, so the same call resumes a run.
    """
    attempts: Attempts | None = None
    for i in range(job.config.iterations + 1):
        parts = select(job, i)  # line 4
        before, attempts = attempts, evaluate(run.stage(i, "evaluate"), parts, target, job, executor)  # lines 5, 6
        report_changes(run, before, attempts, parts, job)
        attempts.stage.check_until()
        if i == job.config.iterations:
            break
        target = improve(run, i, attempts, target, job, executor)  # lines 7 to 12
    return target


def improve(run: Run, i: int, attempts: Attempts, target: Model, job: Job, executor: Executor) -> Model:
    """Lines 7 to 12: diagnose, instruct, curate, train; or a search over them. A rehearsal only where the job asks."""
    if job.config.search is not None:
        return search(run, i, attempts, target, job, executor)
    if run.until is None and not run.stage(i, "train").facts():
        executor.expect_training()
    cases = diagnose(run.stage(i, "diagnose"), attempts, i, target, job, executor)
    if not any(cases.counts.values()):
        run.progress.report(nothing_to_learn(run.stage(i, "diagnose")), style="green")
        for skipped in ("instruct", "curate", "rehearse", "train"):
            run.stage(i, skipped).check_until()
        return target
    replies = instruct(run.stage(i, "instruct"), cases, target, job, executor)
    samples = curate(run.stage(i, "curate"), cases, replies, job, executor)
    samples = rehearse(run.stage(i, "rehearse"), samples, target, i, job, executor)
    if not any(samples.counts.values()):  # A rehearsal may leave nothing to study.
        run.stage(i, "train").check_until()
        return target
    return train(run.stage(i, "train"), samples, attempts, target, i, job, executor)
