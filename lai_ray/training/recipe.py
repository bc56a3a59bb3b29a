"""The recipe of a training, its job file, and the learning rate of each step. Pure, no torch.

A job file for `python -m lai_ray.training.sft JOB.json` is {"recipe": {…}, "examples": "job.examples.jsonl",
"lineage": {…}}, the examples being one `Example` a line in a file beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lai_ray.common.chat_template import Example
from lai_ray.errors import DataError

if TYPE_CHECKING:
    from lai_ray.contracts import TrainJob


@dataclass(frozen=True)
class Recipe:
    """Every choice of one training. Nothing has a default here: the defaults are in the config."""

    model: str
    """Folder or hub name of the model to start from."""
    out: str
    """Folder of the trained model; it appears whole or not at all."""
    learning_rate: float
    epochs: int
    sequences_per_step: int
    """In one optimizer step, over all workers."""
    sequences_per_device: int
    """In one forward pass of one worker, at most."""
    max_length: int
    """Tokens of prompt and response."""
    schedule: Literal["cosine", "linear", "constant"]
    warmup_steps: int
    """At most a tenth of the steps."""
    weight_decay: float
    """Of matrices; norms and biases are not decayed."""
    betas: tuple[float, float]
    clip: float
    """Largest gradient norm."""
    zero_stage: Literal[1, 2, 3]
    precision: Literal["bf16", "fp32"]
    gradient_checkpointing: bool
    offload: bool
    """Optimizer states and the optimizer step in the hosts' memory."""
    state_every: int
    """Steps between two checkpoints beside `out`; 0 for none. Does not change what is learned."""
    seed: int
    max_failed_fraction: float
    """Examples that the model's chat template may refuse, of all; more stop the training, before its first step."""
    objective: str
    """A built-in name (training/objectives) or "module:OBJECTIVE"."""
    epoch_names: tuple[str, ...]
    """Names of the models after the first epochs, each kept in its `epoch_folder`; empty keeps none. Does not change
    what is learned."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of one step (from 0): linear warm-up, then the schedule, reaching 0 after the last.

        A function of the step alone, so a resumed training needs no state for it.
        """
        warmup = min(self.warmup_steps, steps // 10)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (1 - done) if self.schedule == "linear" else self.learning_rate

    def keeps_state(self, step: int, steps: int) -> bool:
        """Whether a checkpoint follows this step (from 1). None follows the last: the model itself does."""
        return bool(self.state_every) and step < steps and step % self.state_every == 0

    def epoch_to_keep(self, step: int, steps: int) -> int:
        """The epoch (from 1) that ends with this step (from 1) and whose model is kept; 0 for none."""
        epoch, rest = divmod(step, steps // self.epochs)
        return epoch if not rest and epoch <= len(self.epoch_names) else 0


def epoch_folder(out: str, epoch: int) -> str:
    """The folder of the model after an epoch (from 1), as "…/epochs/epoch_1/checkpoint" of "…/checkpoint"."""
    path = Path(out)
    return str(path.parent / "epochs" / f"epoch_{epoch}" / path.name)


def recipe_for(job: TrainJob, state_every: int = 0) -> Recipe:
    """The recipe of a TrainJob; folders as absolute paths, because workers may have another working directory."""
    here = Path(job.model.path)
    settings = {name: getattr(job.settings, name) for name in _FROM_SETTINGS}
    return Recipe(
        model=str(here.absolute()) if here.exists() else job.model.path,
        out=job.out if "://" in job.out else str(Path(job.out).absolute()),
        learning_rate=job.learning_rate,
        seed=job.seed,
        state_every=state_every,
        epoch_names=tuple(job.epoch_names),
        max_failed_fraction=job.max_failed_fraction,
        **settings,
    )


_NOT_SETTINGS = {"model", "out", "learning_rate", "seed", "state_every", "epoch_names", "max_failed_fraction"}
_FROM_SETTINGS = {field.name for field in fields(Recipe)} - _NOT_SETTINGS


def recipe_from(table: dict[str, Any]) -> Recipe:
    """A Recipe read from JSON. Raises DataError that names what is missing or unknown."""
    # Job files of earlier versions have none of these.
    table = dict[str, Any](objective="sft", epoch_names=(), max_failed_fraction=0.0) | table
    known = {field.name for field in fields(Recipe)}
    if wrong := known.symmetric_difference(table):
        raise DataError(f"the recipe has these keys missing or unknown: {', '.join(sorted(wrong))}")
    return Recipe(**{**table, "betas": tuple(table["betas"]), "epoch_names": tuple(table["epoch_names"])})


def write_job(path: Path, recipe: Recipe, examples: Iterable[Example], lineage: dict[str, Any]) -> None:
    """Write the job file `path`, and its examples beside it, one a line."""
    beside = path.with_suffix(".examples.jsonl")
    with beside.open("w", encoding="utf-8") as lines:
        for example in examples:
            lines.write(json.dumps(example._asdict(), ensure_ascii=False) + "\n")
    job = {"recipe": asdict(recipe), "examples": beside.name, "lineage": lineage}
    path.write_text(json.dumps(job, indent=1, ensure_ascii=False), encoding="utf-8")


def read_job(path: Path) -> tuple[Recipe, dict[str, Any], Iterator[Example]]:
    """The recipe, the lineage and the examples (read lazily) of a job file."""
    job = json.loads(path.read_text(encoding="utf-8"))
    return recipe_from(job["recipe"]), job["lineage"], _examples(path.parent / job["examples"])


def _examples(path: Path) -> Iterator[Example]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Example(row["id"], row["messages"], [(text, weight) for text, weight in row["turns"]])
