"""Full-parameter fine-tuning with torch and DeepSpeed, in whatever process group there is.  examples -> a model folder

A step's loss is the sum over its targets (the tokens to learn) divided by their number in the whole step, however many
workers share it. What a target's loss is, the objective decides.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from lai_ray.common import plugins
from lai_ray.common.chat_template import Example
from lai_ray.errors import DataError
from lai_ray.storage.canaries import write as write_canaries
from lai_ray.training import batches, checkpoints, export, mfu, model_card
from lai_ray.training.deepspeed_engine import consolidated, engine_for, load_model, positions
from lai_ray.training.mfu import Meter
from lai_ray.training.proof import Proof
from lai_ray.training.recipe import Recipe, epoch_folder
from lai_ray.training.sequences import Sequences, tokenized

if TYPE_CHECKING:
    from lai_ray.contracts import Objective

COLLECTIVE_TIMEOUT = datetime.timedelta(hours=1)
"""Workers wait this long for one that, say, saves a large checkpoint. Ray Train notices a dead one in a second."""
Report = Callable[[int, dict[str, float]], None]


def train(
    recipe: Recipe,
    examples: Iterable[Example],
    *,
    report: Report,
    lineage: dict[str, Any],
    threads: int = 1,
) -> dict[str, float]:
    """Train, and leave the model at `recipe.out`. Every worker calls this; only rank 0 writes, and calls `report`.

    With `recipe.state_every`, checkpoints of the whole state are kept beside it, and the same call resumes from them.
    With `recipe.epoch_names`, the models after the first epochs are kept too, each whole or not there.
    An example that the model's chat template refuses is left out, and named in the lineage with the reason.
    Raises ConfigError (no such objective), DataError (too many of those, nothing to learn, a loss that is not finite,
    with step and samples) and StageError (the folder cannot be written, the checkpoint is of
    another number of workers). None of them leaves anything at `recipe.out`, and the last whole checkpoint stays.
    Returns the last step's metrics, with totals. threads: of each worker, explicit because torch would take all cores.
    """
    began = time.monotonic()
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    _join()
    objective: Objective = plugins.load("training.objectives", recipe.objective)
    sequences = tokenized(recipe, objective, examples, positions(recipe))
    model = load_model(recipe)
    part = _begun(recipe, model) if dist.get_rank() == 0 else None
    meter = mfu.meter(model, workers=dist.get_world_size(), device=_device(recipe))
    saved = checkpoints.Checkpoints(recipe.out, key_of(recipe, sequences, lineage), part)
    engine = engine_for(recipe, model)
    try:
        proof = Proof(engine, sequences)
        done = saved.load(engine)
        starting = {"seconds_starting": time.monotonic() - began}
        training = _Training(recipe, objective, sequences, engine, meter, saved, lineage, proof)
        metrics = training.run(report, done) | starting
        training.write(part, recipe.out, lineage | {"metrics": metrics})
        if part:
            checkpoints.remove(recipe.out)
    finally:
        engine.destroy()
    return metrics


def key_of(recipe: Recipe, sequences: Sequences, lineage: dict[str, Any]) -> str:
    """Hash of what decides every step of a training, so that the checkpoint of another is never resumed."""
    name = lineage.get("name")
    # The name includes the base model, whose path changes when a run is moved.
    decides_nothing = {"out", "state_every", "epoch_names", "max_failed_fraction"} | ({"model"} if name else set())
    if recipe.objective == "sft":  # Checkpoints of before there were others are still resumed.
        decides_nothing.add("objective")
    settings = {setting: value for setting, value in asdict(recipe).items() if setting not in decides_nothing}
    made = hashlib.sha256(json.dumps([settings, name, sequences.names], sort_keys=True).encode())
    for ids, weights in zip(sequences.ids, sequences.weights, strict=True):
        made.update(ids.tobytes() + b"/" + weights.tobytes() + b"/")
    return made.hexdigest()[:16]


def _begun(recipe: Recipe, model: torch.nn.Module) -> export.Part:
    """Room for the weights, once for each model that is kept, and for two checkpoints less what is there of them: one
    stays until the next is whole.
    """
    weights: int = sum(p.numel() * p.element_size() for p in model.parameters())
    of_states = 2 * (weights + 12 * sum(p.numel() for p in model.parameters())) if recipe.state_every else 0
    of_states = max(of_states - checkpoints.clear_half_written(recipe.out), 0)
    return export.begin(recipe.out, needed=weights * (1 + len(recipe.epoch_names)) + of_states)


@dataclass(frozen=True)
class _Training:
    """What the steps of one training share, on one worker."""

    recipe: Recipe
    objective: Objective
    sequences: Sequences
    engine: Any
    meter: Meter
    saved: checkpoints.Checkpoints
    lineage: dict[str, Any]
    proof: Proof

    def write(self, part: export.Part | None, out: str, lineage: dict[str, Any]) -> None:
        """The whole model folder `out` on rank 0, or an error and none. Every worker calls this."""
        canaries, weights = self.proof.of(self.engine), consolidated(self.engine, self.recipe.zero_stage)
        if part is None:
            return
        lineage = lineage | self.sequences.left_out()
        with export.explained(out):
            export.write(part.path, self.engine.module, weights, base=self.recipe.model, lineage=lineage)
            write_canaries(part.path, canaries)
            model_card.write(str(part.path))
            export.publish(part, out)

    def run(self, report: Report, done: int) -> dict[str, float]:
        """The steps after the first `done`; the last one's metrics. Rank 0 writes and reports each step's."""
        recipe, sequences, part = self.recipe, self.sequences, self.saved.part
        plan = batches.steps(
            sequences.lengths, sequences_per_step=recipe.sequences_per_step, epochs=recipe.epochs, seed=recipe.seed
        )
        lines = (part.path / export.METRICS).open("a", encoding="utf-8", buffering=1) if part else None
        lost = sequences.lost()
        started, metrics = time.monotonic(), {}
        for step, rows in enumerate(plan[done:], done):
            metrics = self._step(rows, step, len(plan))
            if lines:
                lines.write(json.dumps(metrics) + "\n")
                report(step + 1, metrics)
            if epoch := recipe.epoch_to_keep(step + 1, len(plan)):  # Before a state, which is then never without it.
                self._keep(epoch, metrics | lost)
            if recipe.keeps_state(step + 1, len(plan)):
                self.saved.save(self.engine, step + 1)
        if lines:
            lines.close()
        seconds, tokens = time.monotonic() - started, sum(sequences.tokens(rows) for rows in plan[done:])
        length = sequences.tokens(range(len(sequences.ids))) / len(sequences.ids)
        totals = {"seconds": seconds, "tokens": float(tokens)} | self.meter.of(tokens, seconds, length=length)
        resumed = {"resumed_at": float(done)} if done else {}
        return metrics | totals | resumed | lost

    def _keep(self, epoch: int, metrics: dict[str, float]) -> None:
        """Write the model as it is after an epoch. Every worker calls this."""
        recipe, part, made = self.recipe, self.saved.part, None
        out = epoch_folder(recipe.out, epoch)
        if part:
            part.check_mine(recipe.out)
            made = export.begin(out, needed=0)  # Its room was checked at the start.
            shutil.copyfile(part.path / export.METRICS, made.path / export.METRICS)
        self.write(made, out, self.lineage | {"name": recipe.epoch_names[epoch - 1], "metrics": metrics})

    def _step(self, rows: list[int], step: int, steps: int) -> dict[str, float]:
        """One optimizer step over the rows. Raises DataError, before the weights change, for a loss not finite."""
        recipe, sequences, engine = self.recipe, self.sequences, self.engine
        started, rank = time.monotonic(), dist.get_rank()
        passes = batches.micro_batches(
            rows, sequences.lengths, workers=dist.get_world_size(), sequences_per_device=recipe.sequences_per_device
        )
        targets, rate = sequences.targets(rows), recipe.rate(step, steps)
        # Random numbers (of dropout, where a model has it) are a function of the step too.
        torch.manual_seed(random.Random(f"{recipe.seed}/{step}/{rank}").getrandbits(63))
        losses = self._backward(rows, [shares[rank] for shares in passes], targets)
        self._check(losses, rows, step)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        engine.step()
        norm = float(engine.get_global_grad_norm() or 0.0)
        if not math.isfinite(norm):
            raise DataError(f"the gradient is not finite at step {step + 1}; a lower train.learning_rate may help")
        real = sequences.tokens(rows)
        return {
            "step": step + 1,
            "steps": steps,
            "loss": float(losses.sum()) / targets,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": real,
            "padding": 1 - real / batches.padded(passes, sequences.lengths),
            **self.meter.of(real, time.monotonic() - started, length=real / len(rows)),
        }

    def _backward(self, rows: list[int], mine: list[list[int]], targets: int) -> torch.Tensor:
        """Gradients of a step, this worker's shares one by one. Losses of the rows, (rows,) float64, on all workers."""
        index, workers = {row: i for i, row in enumerate(rows)}, dist.get_world_size()
        losses = torch.zeros(len(rows), dtype=torch.float64)
        for i, share in enumerate(mine):
            self.engine.set_gradient_accumulation_boundary(i == len(mine) - 1)
            sums = sequence_losses(self.engine, self.objective, *self.sequences.padded(share))
            # DeepSpeed averages gradients over the workers; the step's loss is a sum over them.
            self.engine.backward(sums.sum() * workers / targets)
            for row, value in zip(share, sums.detach().double().tolist(), strict=False):  # A dummy has no row.
                losses[index[row]] = value
        everywhere = losses.to(self.engine.device)
        dist.all_reduce(everywhere)
        return everywhere.cpu()

    def _check(self, losses: torch.Tensor, rows: list[int], step: int) -> None:
        bad = [self.sequences.names[rows[i]] for i, loss in enumerate(losses.tolist()) if not math.isfinite(loss)]
        if bad:
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise DataError(
                f"the loss is not finite at step {step + 1}, in {', '.join(bad[:5])}{more}. No model was written. "
                f'{self.saved.kept()} A lower train.learning_rate, train.precision = "fp32", or leaving these samples '
                "out may help."
            )


def sequence_losses(engine: Any, objective: Objective, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum of the targets' losses of each sequence, (rows,) float32. ids and weights: (rows, length)."""
    ids, weights = ids.to(engine.device), weights.to(engine.device)
    learned = weights[:, 1:] != 0
    with _vocabulary_at(engine.module, learned):
        logits = engine(input_ids=ids, use_cache=False).logits
    chosen = logits[:, :-1][learned] if logits.shape[:2] == ids.shape else logits[0]
    losses = objective.losses(chosen.float(), ids[:, 1:][learned], weights[:, 1:][learned])
    rows = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(learned)[learned]
    return torch.zeros(len(ids), device=ids.device).index_add(0, rows, losses)


@contextmanager
def _vocabulary_at(model: Any, learned: torch.Tensor) -> Iterator[None]:
    """Inside, a forward pass computes logits (1, targets, vocabulary) at the positions before a target, and no others.

    learned: (rows, length - 1) bool. With a vocabulary of 128k, logits of prompts and pads would be most of the memory,
    and of a small model most of the work. A model transforms each position's logits alone, so these are right. A model
    without a head of its own, or a batch without targets, has all its logits: (rows, length, vocabulary).
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None or not learned.any():
        yield
        return
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][:, :-1][learned].unsqueeze(0), *given[1:]))
    try:
        yield
    finally:
        hook.remove()


def _device(recipe: Recipe) -> str | None:
    """The GPU's name, where its bf16 peak is what the training could reach."""
    return torch.cuda.get_device_name() if recipe.precision == "bf16" and torch.cuda.is_available() else None


def _join() -> None:
    """The process group that exists, one by torchrun's environment (Ray Train's workers have it too), or one alone.

    It is kept while the process lives: DeepSpeed holds on to the first group it sees.
    """
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
