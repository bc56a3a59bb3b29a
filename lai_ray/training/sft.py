"""Full-parameter fine-tuning: a plain torch + DeepSpeed loop.  examples -> a model folder

It knows nothing of Ray: it trains in whatever process group it finds, and tells the world by `report(step, metrics)`.
    python -m lai_ray.training.sft JOB.json                       one worker
    torchrun --nproc-per-node 2 -m lai_ray.training.sft JOB.json  two of them
A step's loss is the sum over its (weighted) target tokens divided by their number in the whole step, however many
workers share it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import random
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from lai_ray.common import chat_template
from lai_ray.errors import DataError
from lai_ray.training import batches, checkpoints, export, mfu, model_card
from lai_ray.training.deepspeed_engine import consolidated, engine_for, load_model
from lai_ray.training.mfu import Meter
from lai_ray.training.recipe import Conversation, Recipe, read_job

PATIENCE = datetime.timedelta(hours=1)
"""That workers wait for one of them, at a save of a large state say. Ray Train notices a dead one in a second."""
Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Data:
    """Every sequence, tokenized, in the order given. The same on every worker, so counts need no asking around."""

    names: list[str]
    ids: list[array[int]]
    weights: list[array[float]]
    dropped: int
    """Examples whose prompt left no room to learn anything."""
    truncated: int
    """Examples whose response was cut."""

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    def tokens(self, rows: Iterable[int]) -> int:
        """How many tokens these rows have."""
        return sum(len(self.ids[row]) for row in rows)

    def targets(self, rows: Iterable[int]) -> int:
        """How many tokens of these rows are learned."""
        return sum(sum(weight > 0 for weight in self.weights[row]) for row in rows)


def train(
    recipe: Recipe,
    examples: Iterable[Conversation],
    *,
    report: Report,
    lineage: dict[str, Any],
    threads: int = 1,
) -> dict[str, float]:
    """Train, and leave the model at `recipe.out`. Every worker calls this; rank 0 writes, and is the one to `report`.

    With `recipe.state_every` the state of the middle is kept beside it, and the same call goes on from there.
    Raises DataError (nothing to learn, a sequence longer than the model's positions, a loss that is no number, with the
    step and the samples) and StageError (the folder cannot be written, the state is another number of workers').
    Neither leaves anything at `recipe.out`, and the last whole state stays.
    Returns the last step's metrics, with totals. threads: of each worker, explicit because torch would take all cores.
    """
    began = time.monotonic()
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    _join()
    data = tokenized(recipe, examples)
    model = load_model(recipe, longest=max(data.lengths))
    part = _begun(recipe, model) if dist.get_rank() == 0 else None
    meter = mfu.meter(model, workers=dist.get_world_size(), device=_device(recipe))
    states = checkpoints.States(recipe.out, key_of(recipe, data, lineage), part)
    engine = engine_for(recipe, model)
    try:
        done = states.load(engine)
        starting = {"seconds_starting": time.monotonic() - began}
        metrics = _loop(recipe, data, engine, meter, states, report, done) | starting
        weights = consolidated(engine, recipe.zero_stage)
        if part:
            with export.explained(recipe.out):
                export.write(part.path, model, weights, base=recipe.model, lineage=lineage | {"metrics": metrics})
                model_card.write(str(part.path))
                export.publish(part, recipe.out)
            checkpoints.remove(recipe.out)
    finally:
        engine.destroy()
    return metrics


def key_of(recipe: Recipe, data: Data, lineage: dict[str, Any]) -> str:
    """Hash of what decides every step of a training, so that no state of another is ever gone on from."""
    name = lineage.get("name")
    # A name stands for the base model too, wherever that lies after a run was moved.
    decides_nothing = {"out", "state_every"} | ({"model"} if name else set())
    settings = {setting: value for setting, value in asdict(recipe).items() if setting not in decides_nothing}
    made = hashlib.sha256(json.dumps([settings, name, data.names], sort_keys=True).encode())
    for ids, weights in zip(data.ids, data.weights, strict=True):
        made.update(ids.tobytes() + b"/" + weights.tobytes() + b"/")
    return made.hexdigest()[:16]


def _begun(recipe: Recipe, model: torch.nn.Module) -> export.Part:
    """Room for the weights, and for two states, what is there of them counted: one stays until the next is whole."""
    weights: int = sum(p.numel() * p.element_size() for p in model.parameters())
    of_states = 2 * (weights + 12 * sum(p.numel() for p in model.parameters())) if recipe.state_every else 0
    return export.begin(recipe.out, needed=weights + max(of_states - checkpoints.clear_half_written(recipe.out), 0))


def tokenized(recipe: Recipe, examples: Iterable[Conversation]) -> Data:
    """The examples as their model reads them. Raises DataError when nothing is left to learn."""
    tokenizer = chat_template.load_tokenizer(recipe.model)
    data, dropped, truncated = Data([], [], [], 0, 0), 0, 0
    for example in examples:
        try:
            tokens = chat_template.render_example(tokenizer, example.messages, example.turns, recipe.max_length)
        except DataError as error:
            raise DataError(f"{example.id}: {error}") from error
        if not tokens.learns:
            dropped += 1
            continue
        truncated += tokens.truncated
        data.names.append(example.id)
        data.ids.append(array("i", tokens.ids))
        data.weights.append(array("f", tokens.weights))
    if not data.names:
        raise DataError(
            f"nothing to learn: {dropped} examples, none with room for a response in {recipe.max_length} tokens"
        )
    return Data(data.names, data.ids, data.weights, dropped, truncated)


def _loop(
    recipe: Recipe, data: Data, engine: Any, meter: Meter, states: checkpoints.States, report: Report, done: int
) -> dict[str, float]:
    """The steps after the first `done`; the last one's metrics. Rank 0 writes each one's, and reports them."""
    plan = batches.steps(
        data.lengths, sequences_per_step=recipe.sequences_per_step, epochs=recipe.epochs, seed=recipe.seed
    )
    lines = (states.part.path / export.METRICS).open("a", encoding="utf-8", buffering=1) if states.part else None
    started, metrics = time.monotonic(), {}
    for step, rows in enumerate(plan[done:], done):
        metrics = _step(recipe, data, engine, meter, states, rows, step, len(plan))
        if lines:
            lines.write(json.dumps(metrics) + "\n")
            report(step + 1, metrics)
        if recipe.keeps_state(step + 1, len(plan)):
            states.save(engine, step + 1)
    if lines:
        lines.close()
    seconds, tokens = time.monotonic() - started, sum(data.tokens(rows) for rows in plan[done:])
    length = data.tokens(range(len(data.ids))) / len(data.ids)
    totals = {"seconds": seconds, "tokens": float(tokens)} | meter.of(tokens, seconds, length=length)
    resumed = {"resumed_at": float(done)} if done else {}
    return metrics | totals | resumed | {"dropped": float(data.dropped), "truncated": float(data.truncated)}


def _step(
    recipe: Recipe,
    data: Data,
    engine: Any,
    meter: Meter,
    states: checkpoints.States,
    rows: list[int],
    step: int,
    steps: int,
) -> dict[str, float]:
    """One optimizer step over the rows. Raises DataError, before the weights change, when the loss is no number."""
    started = time.monotonic()
    passes = batches.micro_batches(
        rows, data.lengths, workers=dist.get_world_size(), sequences_per_device=recipe.sequences_per_device
    )
    targets, rate = data.targets(rows), recipe.rate(step, steps)
    # Random numbers (of dropout, where a model has it) are a function of the step too.
    torch.manual_seed(random.Random(f"{recipe.seed}/{step}/{dist.get_rank()}").getrandbits(63))
    losses = _backward(data, engine, rows, [shares[dist.get_rank()] for shares in passes], targets)
    _check(losses, data, rows, step, states)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    engine.step()
    norm = float(engine.get_global_grad_norm() or 0.0)
    if not math.isfinite(norm):
        raise DataError(f"the gradient is not a number at step {step + 1}; a lower learning rate may help")
    real = data.tokens(rows)
    return {
        "step": step + 1,
        "steps": steps,
        "loss": float(losses.sum()) / targets,
        "learning_rate": rate,
        "gradient_norm": norm,
        "tokens": real,
        "padding": 1 - real / batches.padded(passes, data.lengths),
        **meter.of(real, time.monotonic() - started, length=real / len(rows)),
    }


def _backward(data: Data, engine: Any, rows: list[int], mine: list[list[int]], targets: int) -> torch.Tensor:
    """Gradients of a step, this worker's shares one by one. The loss of each row, (rows,) float64, on every worker."""
    place, workers = {row: i for i, row in enumerate(rows)}, dist.get_world_size()
    losses = torch.zeros(len(rows), dtype=torch.float64)
    for i, share in enumerate(mine):
        engine.set_gradient_accumulation_boundary(i == len(mine) - 1)
        sums = _sequence_losses(engine, *_collated(data, share))
        # DeepSpeed averages gradients over the workers; the step's loss is a sum over them.
        engine.backward(sums.sum() * workers / targets)
        for row, value in zip(share, sums.detach().double().tolist(), strict=False):  # A dummy has no row.
            losses[place[row]] = value
    everywhere = losses.to(engine.device)
    dist.all_reduce(everywhere)
    return everywhere.cpu()


def _collated(data: Data, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (rows, length) and weights (rows, length), padded on the right with weight 0.

    A pad is never seen by a real token (attention looks left only), so no mask is needed. No rows: one dummy pair of
    tokens with nothing to learn.
    """
    if not rows:
        return torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2)
    longest = max(len(data.ids[row]) for row in rows)
    ids, weights = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        ids[i, : len(data.ids[row])] = torch.tensor(data.ids[row])
        weights[i, : len(data.weights[row])] = torch.tensor(data.weights[row])
    return ids, weights


def _sequence_losses(engine: Any, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of target-token losses of each sequence, (rows,) float32."""
    ids, weights = ids.to(engine.device), weights.to(engine.device)
    learned = weights[:, 1:] > 0
    with _vocabulary_at(engine.module, learned):
        logits = engine(input_ids=ids, use_cache=False).logits
    chosen = logits[:, :-1][learned] if logits.shape[:2] == ids.shape else logits[0]
    losses = cross_entropy(chosen.float(), ids[:, 1:][learned], reduction="none")
    rows = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(learned)[learned]
    return torch.zeros(len(ids), device=ids.device).index_add(0, rows, losses * weights[:, 1:][learned])


@contextmanager
def _vocabulary_at(model: Any, learned: torch.Tensor) -> Iterator[None]:
    """Here a forward pass computes logits (1, targets, vocabulary) of the places before a target, and of no others.

    learned: (rows, length - 1) bool. With a vocabulary of 128k, logits of prompts and pads would be most of the memory,
    and of a small model most of the work. What a model does to its logits it does to each alone, so these are right. A
    model that has no head of its own, or a batch without targets, has its logits as ever: (rows, length, vocabulary).
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


def _check(losses: torch.Tensor, data: Data, rows: list[int], step: int, states: checkpoints.States) -> None:
    bad = [data.names[row] for row, loss in zip(rows, losses.tolist(), strict=True) if not math.isfinite(loss)]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"the loss is not a number at step {step + 1}, in {', '.join(bad[:5])}{more}. No model was written. "
            f"{checkpoints.kept(states.out, states.key)} A lower learning rate, fp32, or leaving these samples out may "
            "help."
        )


def _device(recipe: Recipe) -> str | None:
    """The GPU's name, where its bf16 peak is what the training could reach."""
    return torch.cuda.get_device_name() if recipe.precision == "bf16" and torch.cuda.is_available() else None


def _join() -> None:
    """The process group that is there, one by torchrun's environment (Ray Train's workers have it too), or one alone.

    It is kept while the process lives: DeepSpeed holds on to the first group it sees.
    """
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def main(paths: list[str]) -> None:
    """Train the job files in turn, with a line of JSON a step."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    for path in paths:
        recipe, lineage, examples = read_job(Path(path))
        train(recipe, examples, report=_print, lineage=lineage | {"recipe": asdict(recipe)}, threads=threads)
    dist.destroy_process_group()


def _print(step: int, metrics: dict[str, float]) -> None:
    print(json.dumps(metrics), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
