"""What a training holds in memory, before it is begun, and what would fit.  Size, Plan -> Estimate, Remedies. Pure.

The arithmetic is what DeepSpeed 0.19 does with the configuration that engine.py asks for, read in its stage_1_and_2.py,
stage3.py and bf16_optimizer.py, and measured on CPUs (docs/results/training.md, Memory). On GPUs it was not measured.
All sizes are bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lai_ray.training.model_size import Size

if TYPE_CHECKING:
    from lai_ray.config.settings import TrainSettings

BUCKET = 200_000_000
"""Elements that are reduced at once, at most: engine.BUCKET, which cannot be imported without torch."""
LIVE = 1_000_000_000
"""Weights that ZeRO 3 keeps gathered at most, and those that it updates at once (DeepSpeed's defaults)."""
PROCESS = 400 << 20
"""A worker on CPUs before its model is there: Python, torch, transformers and DeepSpeed."""
CUDA = 1536 << 20
"""A worker's share of a GPU that no tensor has: CUDA's context, cuBLAS's and NCCL's buffers. Assumed, not measured."""
MOMENTS = ("starting", "a pass", "the step", "saving")
MOST_WORKERS = 128
SHORTEST = 256
"""A max_length below this is not proposed."""


@dataclass(frozen=True)
class Plan:
    """The settings that memory depends on."""

    precision: str
    zero_stage: int
    gradient_checkpointing: bool
    sequences_per_device: int
    max_length: int
    offload: bool
    workers: int
    gpu: bool

    @property
    def width(self) -> int:
        """Bytes of a weight in training."""
        return 2 if self.precision == "bf16" else 4


def plan_of(settings: TrainSettings, *, workers: int, gpu: bool) -> Plan:
    """The plan of a job's [train] and [cluster]."""
    return Plan(
        precision=settings.precision,
        zero_stage=settings.zero_stage,
        gradient_checkpointing=settings.gradient_checkpointing,
        sequences_per_device=settings.sequences_per_device,
        max_length=settings.max_length,
        offload=bool(getattr(settings, "offload", False)),
        workers=workers,
        gpu=gpu,
    )


@dataclass(frozen=True)
class Estimate:
    """What one worker holds, by moment and part; and, where it computes on a GPU, in its host's memory too."""

    moments: dict[str, dict[str, int]]
    host: dict[str, int] = field(default_factory=dict)

    @property
    def worst(self) -> str:
        """The moment that needs most."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def total(self) -> int:
        """At the worst moment."""
        return sum(self.moments[self.worst].values())

    @property
    def host_total(self) -> int:
        return sum(self.host.values())


def estimate(size: Size, plan: Plan) -> Estimate:
    """What each worker needs. Every response is taken to be as long as max_length, and every step to have two passes.

    Monotone: a larger model, more or longer sequences never need less; more workers never need more of each.
    """
    state = _state(size, plan)
    overhead = {"process": CUDA if plan.gpu else PROCESS}
    held = {"weights": state.weights, "optimizer": state.optimizer, "buckets": state.bucket_kept} | overhead
    passing = {"activations": activations(size, plan), "logits": logits(size, plan), "gathered": state.gathered}
    if plan.gpu:  # Two buckets in turn are there from the first gradient on, when all activations still are.
        buckets = state.bucket_kept + 2 * state.bucket + state.sent
        a_pass = {**held, "gradients": state.gradients + state.gradients_new, "buckets": buckets, **passing}
    else:  # Pages count when they are written: buckets fill as activations are freed, and gradients move into them.
        forward = {**held, "gradients": state.gradients, **passing}
        buckets = state.bucket_kept + (state.bucket if plan.zero_stage == 2 else 0)
        reduced = {"gradients": state.gradients + state.gradients_new, "buckets": buckets}
        sent = {"gradients": state.gradients, "buckets": buckets + state.sent}
        gathered = {"gathered": state.gathered}
        a_pass = max(forward, {**held, **reduced, **gathered}, {**held, **sent, **gathered}, key=_sum)
    moments = {
        "starting": {"weights": state.weights + state.whole, "optimizer": state.master} | overhead,
        "a pass": a_pass,
        "the step": {**held, "gradients": state.gradients_step, "temporaries": state.temporaries},
    }
    copies = {"copy to save": _saved(size, plan)}
    if not plan.gpu:
        moments["saving"] = {**held, "gradients": state.gradients_kept, **copies}
        return Estimate(moments)
    loading = {"whole model": size.parameters * plan.width}
    working = {"optimizer": state.host_optimizer, "gradients": state.host_gradients}
    process = {"process": PROCESS}
    host = max(loading | process, working | copies | process, key=_sum)
    return Estimate(moments, host)


def activations(size: Size, plan: Plan) -> int:
    """What one forward pass keeps for the way back.

    A layer keeps, per token: two norms (their input in fp32, its normalised copy and the output), queries, keys,
    values, attention's output and its copy for the last matrix, and the MLP's inner tensors. Attention's scores are
    never there whole. With checkpointing every layer keeps its input, and one layer at a time the rest.
    """
    tokens, b = plan.sequences_per_device * plan.max_length, plan.width
    norms = 2 * (4 + 2 * b) * size.hidden
    attention = b * (3 * size.queries + 2 * size.keys) + 4 * size.heads
    layer = norms + attention + b * size.inner_copies * size.inner
    if plan.gradient_checkpointing:
        return tokens * (size.layers * b * size.hidden + layer)
    return tokens * size.layers * layer


def logits(size: Size, plan: Plan) -> int:
    """The model's, and in fp32 those of the target positions (here all) and their log-softmax; or the gradients."""
    return plan.sequences_per_device * plan.max_length * size.vocabulary * max(plan.width + 8, 12)


def _sum(parts: dict[str, int]) -> int:
    return sum(parts.values())


@dataclass(frozen=True)
class _State:
    """What ZeRO makes of weights, gradients and optimizer, on the device of one worker and on its host."""

    weights: int
    whole: int
    """Weights that are there once more for a while when training starts."""
    master: int
    """fp32 weights."""
    optimizer: int
    """fp32 weights and Adam's two moments."""
    gradients: int
    """Summed up over the passes."""
    gradients_new: int
    """Of this pass, before they are added."""
    gradients_step: int
    gradients_kept: int
    """After the step."""
    gathered: int
    bucket: int
    """Gradients on their way to other workers, while a pass goes on."""
    sent: int
    """The copy of them that is sent."""
    bucket_kept: int
    """What of this is held all the time."""
    temporaries: int
    host_optimizer: int
    host_gradients: int


def _state(size: Size, plan: Plan) -> _State:
    n, b, stage = size.parameters, plan.width, plan.zero_stage
    mine = -(-n // plan.workers)
    at_once = min(mine, LIVE) if stage == 3 else mine
    # AdamW on GPUs goes over all tensors at once and keeps one copy, on CPUs two; the fused one of offloading none.
    temporaries = 0 if plan.offload else at_once * (4 if plan.gpu else 8)
    gradients = _gradients(n, mine, plan)
    bucket = min(BUCKET, n) * (4 if stage == 1 else b)
    sent, kept = bucket, 0
    if stage == 3:  # One bucket for good; what is sent is laid out anew by worker, and gloo copies that.
        bucket, sent, kept = 0, 2 * bucket, bucket
    if plan.precision == "bf16" and stage == 1 and not plan.offload:
        bucket, sent = 0, n * b  # Its sums are reduced whole, in bf16.
    # To offload, the new weights pass through a buffer on the host, and gradients through one on the device.
    states = (12 + (b if plan.offload else 0)) * mine
    on_host = plan.offload and plan.gpu
    if plan.offload and stage < 3:
        kept += b * size.vocabulary * size.hidden
    return _State(
        weights=(mine if stage == 3 else n) * b,
        # Where a GPU has no room for a second copy, stages 1 and 2 make theirs on the host.
        whole=n * b if stage == 3 or not plan.gpu else 0,
        master=0 if on_host else 4 * mine,
        optimizer=0 if on_host else states,
        gradients=gradients.summed,
        gradients_new=gradients.new,
        gradients_step=gradients.step,
        gradients_kept=gradients.kept,
        gathered=min(n, LIVE) * b if stage == 3 else 0,
        bucket=bucket,
        sent=sent if plan.workers > 1 else 0,
        bucket_kept=kept,
        temporaries=temporaries,
        host_optimizer=states if on_host else 0,
        host_gradients=(8 if stage == 3 or b == 4 else 4) * mine if on_host else 0,
    )


@dataclass(frozen=True)
class _Gradients:
    summed: int
    new: int
    step: int
    kept: int = 0


def _gradients(n: int, mine: int, plan: Plan) -> _Gradients:
    """n: parameters. mine: those that this worker updates. Sums over passes are in fp32 in every stage."""
    stage, b = plan.zero_stage, plan.width
    # With offloading on CPUs the gradients of the step are a buffer for good, beside the others.
    pinned = 4 * mine if plan.offload and not plan.gpu else 0
    if stage == 3:
        sums = 0 if plan.offload and plan.gpu else 4 * mine
        copied = 0 if plan.offload else 4 * min(mine, LIVE)
        # The sums are one buffer for good, and a step copies them.
        return _Gradients(summed=sums + pinned, new=0, step=sums + pinned + copied, kept=sums + pinned)
    if plan.precision == "bf16":
        if stage == 1 and not plan.offload:
            # DeepSpeed's BF16_Optimizer: fp32 sums of the whole model on every worker, bf16 gradients beside them.
            return _Gradients(summed=(4 + b) * n, new=0, step=(4 + b) * n, kept=(4 + b) * n)
        whole = 4 * n if stage == 1 else 0
        return _Gradients(summed=4 * mine + whole + pinned, new=0, step=4 * mine + pinned, kept=pinned)
    if plan.offload:
        whole = 4 * n if stage == 1 else 0
        sums = 0 if plan.gpu else 4 * mine
        return _Gradients(summed=whole + sums + pinned, new=0, step=sums + pinned, kept=pinned)
    return _Gradients(summed=4 * (n if stage == 1 else mine), new=4 * mine, step=4 * mine)


def _saved(size: Size, plan: Plan) -> int:
    """What the first worker holds to write the model: whole weights where they lie in parts, and their type on disk."""
    parts = plan.zero_stage == 3
    gathered = size.parameters * plan.width if parts or plan.gpu else 0
    # Weights that are windows of one flat buffer are copied to be written, as those of another type are.
    copied = size.parameters * size.width_on_disk if plan.width != size.width_on_disk or not parts else 0
    return gathered + copied


@dataclass(frozen=True)
class Room:
    """The memory there is."""

    bytes: int
    """Of one GPU, as far as a worker may use it; or of the machine whose CPUs train."""
    shared: bool
    """Whether all workers are in it."""
    host: int | None = None
    """Of the machine that the GPUs are in; None when it is not known."""

    def of_worker(self, workers: int) -> int:
        """What each of so many workers may hold."""
        return self.bytes // workers if self.shared else self.bytes


def fits(size: Size, plan: Plan, room: Room) -> bool:
    """Whether every worker has room, and its host where that is known (all workers being in it)."""
    need = estimate(size, plan)
    there = need.total <= room.of_worker(plan.workers)
    return there and (room.host is None or need.host_total * plan.workers <= room.host)


@dataclass(frozen=True)
class Remedy:
    """Changes to a job, by setting, with which it fits, and what a worker then needs."""

    changes: dict[str, str]
    plan: Plan
    total: int


def remedies(size: Size, plan: Plan, room: Room, *, may_offload: bool, most: int = 3) -> list[Remedy]:
    """Changes with which the training fits, the cheapest first; none that holds another one's changes and more.

    Cheapest first is: gradient checkpointing, fewer sequences at a time, a higher ZeRO stage, offloading, other numbers
    of workers (the least change), shorter sequences. A later one is tried when no combination of the earlier will do.
    """
    found: list[Remedy] = []
    for changed in _changed(plan, room, may_offload=may_offload):
        changes = _named(plan, changed)
        if any(set(other.changes) <= set(changes) for other in found) or not fits(size, changed, room):
            continue
        found.append(Remedy(changes, changed, estimate(size, changed).total))
        if len(found) == most:
            break
    return found


def _changed(plan: Plan, room: Room, *, may_offload: bool) -> Iterator[Plan]:
    """Every combination, the dearest change moving slowest."""
    lengths = [length for length in _halves(plan.max_length) if length == plan.max_length or length >= SHORTEST]
    options = itertools.product(
        lengths,
        _workers(plan.workers, room),
        [plan.offload, True] if may_offload and plan.gpu and not plan.offload else [plan.offload],
        range(plan.zero_stage, 4),
        _halves(plan.sequences_per_device),
        [plan.gradient_checkpointing] if plan.gradient_checkpointing else [False, True],
    )
    for length, workers, offload, stage, sequences, checkpointing in options:
        yield replace(
            plan, max_length=length, workers=workers, offload=offload, zero_stage=stage,
            sequences_per_device=sequences, gradient_checkpointing=checkpointing,
        )  # fmt: skip


def _halves(count: int) -> list[int]:
    """Itself, its half, … 1."""
    return [count >> i for i in range(count.bit_length())]


def _workers(workers: int, room: Room) -> list[int]:
    """More of them where each brings its own memory, by eights above 16; fewer where they share one."""
    if room.shared:
        return list(range(workers, 0, -1))
    return [workers, *(n for n in range(workers + 1, MOST_WORKERS + 1) if n <= 16 or n % 8 == 0)]


def _named(plan: Plan, changed: Plan) -> dict[str, str]:
    """The settings that differ, as a job file has them."""
    names = {
        "gradient_checkpointing": "train.gradient_checkpointing",
        "sequences_per_device": "train.sequences_per_device",
        "zero_stage": "train.zero_stage",
        "offload": "train.offload",
        "workers": "cluster.train_workers",
        "max_length": "train.max_length",
    }
    differing = [name for name in names if getattr(plan, name) != getattr(changed, name)]
    return {names[name]: str(getattr(changed, name)).lower() for name in differing}
