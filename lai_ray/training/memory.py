"""Memory of a training, by the formulas of its ZeRO stage, and what would make it fit.  Size, settings -> bytes. Pure.

ZeRO (arXiv 1910.02054) as DeepSpeed 0.19 implements it with the configuration in `deepspeed_engine`; measured on CPUs
(docs/results/training.md, Memory), not on GPUs. All sizes are bytes of one worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lai_ray.training.model_size import Size

if TYPE_CHECKING:
    from lai_ray.config.settings import TrainSettings

BUCKET = 200_000_000
"""Elements that are reduced at once, at most: deepspeed_engine.BUCKET, which cannot be imported without torch."""
LIVE = 1_000_000_000
"""Weights that ZeRO 3 keeps gathered at most, and those that it updates at once (DeepSpeed's defaults)."""
PROCESS = 400 << 20
"""A worker on CPUs before its model is loaded: Python, torch, transformers and DeepSpeed."""
CUDA = 1536 << 20
"""What no tensor holds of a worker's GPU: CUDA's context, cuBLAS's and NCCL's buffers. Assumed, not measured."""
MOST_WORKERS = 128
SHORTEST = 256
"""A max_length below this is not proposed."""


@dataclass(frozen=True)
class Plan:
    """The settings that memory depends on."""

    train: TrainSettings
    workers: int
    gpu: bool

    def with_(self, changes: dict[str, Any]) -> Plan:
        """The same with other values of some settings, by their dotted names."""
        train = {name.removeprefix("train."): value for name, value in changes.items() if name.startswith("train.")}
        workers = changes.get("cluster.train_workers", self.workers)
        return replace(self, train=self.train.model_copy(update=train), workers=workers)


@dataclass(frozen=True)
class Estimate:
    """What one worker holds, by moment and part; and, where it computes on a GPU, in its host's memory too."""

    moments: dict[str, dict[str, int]]
    host: int = 0

    @property
    def worst(self) -> str:
        """The moment that needs most."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def total(self) -> int:
        """At the worst moment."""
        return sum(self.moments[self.worst].values())


def estimate(size: Size, plan: Plan) -> Estimate:
    """What each worker needs. Every response counts as long as max_length, and every step as two passes.

    Monotone: a larger model, more or longer sequences never need less; more workers never need more of each.
    """
    train, gpu, n = plan.train, plan.gpu, size.parameters
    stage, width, offload = train.zero_stage, _width(train), train.offload and gpu
    mine = -(-n // plan.workers)
    updated = min(mine, LIVE) if stage == 3 else mine
    kept, buckets = _buckets(n, plan)
    sums = _gradients(n, mine, plan)
    held = {
        "process": CUDA if gpu else PROCESS,
        "weights": width * (mine if stage == 3 else n),
        "optimizer": 0 if offload else 12 * mine,  # fp32 weights and Adam's two moments.
        "buckets": kept,
    }
    working = {"activations": activations(size, train), "logits": logits(size, train)}
    gathered = {"gathered": min(n, LIVE) * width if stage == 3 else 0}
    fresh = 4 * mine if stage < 3 and width == 4 and not offload else 0  # Gradients of a pass, before they are added.
    if gpu:  # Buckets are there from the first gradient on, when all activations still are.
        a_pass = {"gradients": sums + fresh, "buckets": kept + buckets} | gathered | working
    else:  # Pages count when they are written: buckets fill as activations are freed, and gradients move into them.
        reducing = {"gradients": sums, "buckets": kept + max(buckets, fresh)} | gathered
        a_pass = max({"gradients": sums} | gathered | working, reducing, key=lambda parts: sum(parts.values()))
    # ZeRO 3 copies its sums. AdamW on GPUs goes over all tensors at once and keeps one copy, on CPUs two.
    step = 0 if offload else max(4 * mine, sums if stage > 1 or width == 2 else 0) + (4 * updated if stage == 3 else 0)
    moments = {
        # Each worker loads the whole model; for stages 1 and 2 on a GPU in its host's memory.
        "starting": {
            "process": held["process"],
            "weights": held["weights"] + (n * width if stage == 3 or not gpu else 0),
            "optimizer": held["optimizer"] // 3,
        },
        "a pass": held | a_pass,
        "the step": held | {"gradients": step, "temporaries": 0 if offload else updated * (4 if gpu else 8)},
    }
    if not gpu:
        moments["saving"] = held | {"gradients": sums if stage == 3 else 0, "copy to save": n * width}
    return Estimate(moments, PROCESS + max(n * width, (20 + width) * mine if offload else 0) if gpu else 0)


def _width(train: TrainSettings) -> int:
    """Bytes of a weight in training."""
    return 2 if train.precision == "bf16" else 4


def _gradients(n: int, mine: int, plan: Plan) -> int:
    """Sums over passes, in fp32: of the whole model in stage 1, else of this worker's part. mine: its parameters."""
    stage, width = plan.train.zero_stage, _width(plan.train)
    if plan.train.offload and plan.gpu:
        return (4 * n if stage == 1 else 0) + (4 * mine if width == 2 and stage < 3 else 0)
    if stage == 1:  # In bf16 (DeepSpeed's BF16_Optimizer) the bf16 gradients stay beside them.
        return (6 if width == 2 else 4) * n
    return 4 * mine


def _buckets(n: int, plan: Plan) -> tuple[int, int]:
    """Gradients on their way to other workers, with the copies that are sent: held all the time, and during a pass."""
    stage, width, sends = plan.train.zero_stage, _width(plan.train), plan.workers > 1
    if stage == 1 and width == 2 and not plan.train.offload:
        return 0, n * width * sends  # Reduced whole, in bf16.
    bucket = min(BUCKET, n) * (4 if stage == 1 else width)
    if stage == 3:  # What is sent is regrouped by worker, and gloo copies that.
        return bucket, 2 * bucket * sends
    return 0, bucket * ((2 if plan.gpu else stage - 1) + sends)  # On GPUs two in turn; stage 1 on CPUs needs none.


def activations(size: Size, train: TrainSettings) -> int:
    """What one forward pass keeps for the backward pass.

    A layer keeps, per token: two norms (their input in fp32, its normalised copy and the output), queries, keys,
    values, attention's output and its copy for the last matrix, and the gated MLP's four inner tensors. Attention's
    scores never exist whole. With checkpointing every layer keeps its input, and one layer at a time the rest.
    """
    tokens, width = train.sequences_per_device * train.max_length, _width(train)
    layer = 2 * (4 + 2 * width) * size.hidden + 5 * width * size.hidden + 4 * width * size.inner
    if train.gradient_checkpointing:
        return tokens * (size.layers * width * size.hidden + layer)
    return tokens * size.layers * layer


def logits(size: Size, train: TrainSettings) -> int:
    """The model's, and in fp32 those of the targets (here all tokens) and their log-softmax; or the gradients."""
    return train.sequences_per_device * train.max_length * size.vocabulary * max(_width(train) + 8, 12)


@dataclass(frozen=True)
class Room:
    """The memory there is."""

    bytes: int
    """Of one GPU, as far as a worker may use it; or of the machine whose CPUs train."""
    shared: bool
    """Whether all workers are in it."""
    host: int | None = None
    """Of the machine that holds the GPUs; None when it is not known."""

    def of_worker(self, workers: int) -> int:
        """What each of so many workers may hold."""
        return self.bytes // workers if self.shared else self.bytes


def fits(size: Size, plan: Plan, room: Room) -> bool:
    """Whether every worker has room, and its host where that is known (all workers being in it)."""
    return _used(size, plan, room) <= 1


def _used(size: Size, plan: Plan, room: Room) -> float:
    """What is needed as a share of what there is: 1 is full."""
    need = estimate(size, plan)
    return max(need.total / max(1, room.of_worker(plan.workers)), need.host * plan.workers / (room.host or math.inf))


def remedies(size: Size, plan: Plan, room: Room, *, most: int = 3) -> list[dict[str, Any]]:
    """Changes with which the training fits, by setting: the cheapest that do alone, or if none does, several together.

    Cheapest first is: gradient checkpointing, fewer sequences at a time, a higher ZeRO stage, offloading, other numbers
    of workers, shorter sequences; of each the least change. Together, a later one is added when the earlier ones, as
    far as they go, do not suffice.
    """
    options = _options(plan, room)
    alone = (
        ({name: value} for value in values if fits(size, plan.with_({name: value}), room)) for name, values in options
    )
    if fitting := [changes for each in alone if (changes := next(each, None))]:
        return fitting[:most]
    together: dict[str, Any] = {}
    used = _used(size, plan, room)
    for name, values in options:
        for value in values:
            changes = together | {name: value}
            if (now := _used(size, plan.with_(changes), room)) < used:  # ZeRO 3 on one worker needs more, say.
                together, used = changes, now
            if used <= 1:
                return [_needed(size, plan, room, together)]
    return []


def _needed(size: Size, plan: Plan, room: Room, changes: dict[str, Any]) -> dict[str, Any]:
    """Without those that it fits without, the dearest first."""
    for name in reversed(list(changes)):
        fewer = {other: value for other, value in changes.items() if other != name}
        changes = fewer if fits(size, plan.with_(fewer), room) else changes
    return changes


def _options(plan: Plan, room: Room) -> list[tuple[str, Iterable[Any]]]:
    """Values of each setting, the least change first. More workers where each brings its own memory, else fewer."""
    train, workers = plan.train, plan.workers
    more = [n for n in range(workers + 1, MOST_WORKERS + 1) if n <= 16 or n % 8 == 0]
    return [
        ("train.gradient_checkpointing", [] if train.gradient_checkpointing else [True]),
        ("train.sequences_per_device", _halves(train.sequences_per_device)),
        ("train.zero_stage", range(train.zero_stage + 1, 4)),
        ("train.offload", [True] if plan.gpu and not train.offload else []),
        ("cluster.train_workers", range(workers - 1, 0, -1) if room.shared else more),
        ("train.max_length", [length for length in _halves(train.max_length) if length >= SHORTEST]),
    ]


def _halves(count: int) -> list[int]:
    return [count >> i for i in range(1, count.bit_length())]
