"""Checkpoints of a training in progress: weights, optimizer, metrics so far. Every worker's part, or none of it.

    .<out>.state/step_00000040/    whole: every worker's files, metrics.jsonl, and state.json written last
    .<out>.state/.<mark>/          being written, or abandoned half-written

What else a step depends on (order of samples, learning rate, random numbers) is a function of the step, so a resumed
training ends in the same weights: bit for bit on CPUs, on GPUs as far as their kernels are deterministic.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lai_ray.errors import StageError
from lai_ray.training import process_group
from lai_ray.training.export import METRICS, Part, flush

STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's state.json holds."""

    key: str
    """Of its training."""
    step: int
    """Steps done."""
    workers: int


def folder_of(out: str) -> Path:
    """The folder with the checkpoints of the training that makes `out`."""
    path = Path(out).absolute()
    return path.with_name(f".{path.name}.state")


def last_whole(out: str, key: str | None = None) -> tuple[Path, Checkpoint] | None:
    """The last whole checkpoint and its folder; with a key, of that training only. None where there is none."""
    for folder in sorted(folder_of(out).glob("step_*"), reverse=True):
        with contextlib.suppress(OSError, ValueError, TypeError):
            checkpoint = Checkpoint(**json.loads((folder / STATE).read_text(encoding="utf-8")))
            if key in (None, checkpoint.key):
                return folder, checkpoint
    return None


def clear_half_written(out: str) -> int:
    """Removes what earlier starts left half-written. Returns the bytes of the checkpoints that stay."""
    for half in folder_of(out).glob(".*"):
        shutil.rmtree(half, ignore_errors=True)
    return sum(file.stat().st_size for file in folder_of(out).rglob("*") if file.is_file())


def remove(out: str) -> None:
    """Removes all checkpoints of a training."""
    shutil.rmtree(folder_of(out), ignore_errors=True)


def take_over(out: str, earlier: str) -> None:
    """The checkpoints of the training that was to make `earlier` become those of the one that makes `out`.

    Moved, not shared: a process of the earlier start that still runs then writes into a folder that is never read.
    """
    if folder_of(earlier).is_dir():
        with contextlib.suppress(OSError):
            folder_of(out).parent.mkdir(parents=True, exist_ok=True)
            folder_of(earlier).rename(folder_of(out))


@dataclass(frozen=True)
class Checkpoints:
    """Those of one training, on one of its workers."""

    out: str
    key: str
    part: Part | None
    """Rank 0's unfinished model folder, with the metrics so far; None on every other worker."""

    def kept(self) -> str:
        """What there is of this training to resume from, in a sentence."""
        last = last_whole(self.out, self.key)
        return f"The checkpoint of step {last[1].step} is kept." if last else "There is no earlier checkpoint."

    def save(self, engine: Any, step: int) -> None:
        """Every worker calls this after the same step. Older checkpoints are removed once this one is whole.

        Raises StageError when it cannot be written; the older ones stay then.
        """
        folder = folder_of(self.out)
        mark = process_group.from_first(self.part and self.part.mark)
        made = folder / mark
        with self._explained(step):
            if self.part:
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir(parents=True)
            engine.save_checkpoint(str(folder), tag=mark, save_latest=False)
            for file in _written_by(process_group.rank(), made):
                flush(file)  # In parallel: the others would wait while rank 0 flushed all of them.
            process_group.wait_for_all()
            if self.part:
                _finish(made, Checkpoint(self.key, step, process_group.count()), self.part)

    def load(self, engine: Any) -> int:
        """The steps done already: 0, or those of this training's last whole checkpoint, which the engine then holds.

        Every worker calls this. The metrics so far are copied into rank 0's part. A checkpoint of another training
        (another `key`) is ignored. Raises StageError when another number of workers wrote it, or it cannot be read.
        """
        last: tuple[Path, Checkpoint] | None = process_group.from_first(
            last_whole(self.out, self.key) if self.part else None
        )
        if last is None:
            return 0
        folder, checkpoint = last
        if checkpoint.workers != process_group.count():
            raise StageError(
                f"{folder}: the checkpoint of step {checkpoint.step} is in {checkpoint.workers} parts, one of each of "
                f"{checkpoint.workers} workers, and now there are {process_group.count()}. Set cluster.train_workers = "
                f"{checkpoint.workers} to resume from it, or remove that folder to train from the start."
            )
        try:
            engine.load_checkpoint(str(folder.parent), tag=folder.name, load_lr_scheduler_states=False)
            if self.part:
                shutil.copyfile(folder / METRICS, self.part.path / METRICS)
        except Exception as error:  # torch and DeepSpeed raise many kinds for a broken file.
            if process_group.lost(error):
                raise
            raise StageError(
                f"{folder}: the checkpoint of step {checkpoint.step} cannot be read ({error}). Remove that folder to "
                "train from the start."
            ) from error
        return checkpoint.step

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter when a disk is full.
            if process_group.lost(error):
                raise
            raise StageError(
                f"{folder_of(self.out)}: the checkpoint of step {step} could not be saved ({error}). {self.kept()} "
                "Free disk space or repair the folder, and start the same command again."
            ) from error


def _finish(made: Path, checkpoint: Checkpoint, part: Part) -> None:
    part.check_mine(made.parent)
    here = len(list(made.glob("*optim_states.pt")))
    if here != checkpoint.workers:
        raise StageError(
            f"{made.parent}: the checkpoint of step {checkpoint.step} has the parts of {here} of {checkpoint.workers} "
            "workers. Do all nodes share this folder?"
        )
    shutil.copyfile(part.path / METRICS, made / METRICS)
    (made / STATE).write_text(json.dumps(asdict(checkpoint)), encoding="utf-8")
    flush(made / METRICS)
    flush(made / STATE)
    part.check_mine(made.parent)
    whole = made.with_name(f"step_{checkpoint.step:08d}")
    shutil.rmtree(whole, ignore_errors=True)
    made.rename(whole)
    flush(whole.parent)
    for other in whole.parent.glob("step_*"):
        if other != whole:
            shutil.rmtree(other, ignore_errors=True)


def _written_by(rank: int, made: Path) -> list[Path]:
    """DeepSpeed's files of one worker; rank 0 also writes those that are not per worker."""
    files = list(made.iterdir())
    return [f for f in files if f"pp_rank_{rank}_" in f.name or (rank == 0 and "pp_rank_" not in f.name)]
