"""The whole state of a training in its middle: weights, optimizer, metrics so far. Every worker's part, or none of it.

    .<out>.state/step_00000040/    whole: every worker's files, metrics.jsonl, and state.json written last
    .<out>.state/.<mark>/          being written, or half-written for ever

What else a step depends on (order of samples, learning rate, random numbers) is a function of the step, so a training
that goes on from here ends in the same weights: bit for bit on CPUs, on GPUs as far as their kernels repeat themselves.
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
class State:
    """What is known of a state without reading it."""

    key: str
    """Of the training it belongs to."""
    step: int
    """Steps done."""
    workers: int


def folder_of(out: str) -> Path:
    """Where the states of the training that makes `out` are."""
    path = Path(out).absolute()
    return path.with_name(f".{path.name}.state")


def last_whole(out: str, key: str | None = None) -> tuple[Path, State] | None:
    """The last whole state, of the training with that key where one is given, and its folder; None where none is."""
    for folder in sorted(folder_of(out).glob("step_*"), reverse=True):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = State(**json.loads((folder / STATE).read_text(encoding="utf-8")))
            if key in (None, found.key):
                return folder, found
    return None


def kept(out: str, key: str) -> str:
    """What there is of this training to go on from, in a sentence."""
    found = last_whole(out, key)
    return f"The state of step {found[1].step} is kept." if found else "No state was kept before it."


def clear_half_written(out: str) -> int:
    """Removes what earlier starts left half-written; the bytes of the states that stay."""
    for half in folder_of(out).glob(".*"):
        shutil.rmtree(half, ignore_errors=True)
    return sum(file.stat().st_size for file in folder_of(out).rglob("*") if file.is_file())


def remove(out: str) -> None:
    """All states of a training: it is over."""
    shutil.rmtree(folder_of(out), ignore_errors=True)


def take_over(out: str, earlier: str) -> None:
    """The states of a training that was to make `earlier` are now those of the one that makes `out`.

    Moved, not shared: should what began the earlier one still be at it, it writes where nobody looks.
    """
    if folder_of(earlier).is_dir():
        with contextlib.suppress(OSError):
            folder_of(out).parent.mkdir(parents=True, exist_ok=True)
            folder_of(earlier).rename(folder_of(out))


@dataclass(frozen=True)
class States:
    """Those of one training, for one of its workers."""

    out: str
    key: str
    part: Part | None
    """Rank 0's folder in the making, with the metrics so far; None on every other worker."""

    def save(self, engine: Any, step: int) -> None:
        """Every worker calls this after the same step. Older states are removed once this one is whole.

        Raises StageError when it cannot be written; they stay then.
        """
        folder = folder_of(self.out)
        mark = process_group.from_first(self.part and self.part.mark)
        made = folder / mark
        with _explained(self.out, self.key, step):
            if self.part:
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir(parents=True)
            engine.save_checkpoint(str(folder), tag=mark, save_latest=False)
            for file in _written_by(process_group.rank(), made):
                flush(file)  # Side by side: rank 0 would keep the others waiting until it had done all of them.
            process_group.wait_for_all()
            if self.part:
                _finish(made, State(self.key, step, process_group.count()), self.part)

    def load(self, engine: Any) -> int:
        """The steps done already: 0, or those of this training's last whole state, which the engine then has.

        Every worker calls this. The metrics so far are put into rank 0's part. A state of another training (another
        `key`) is left alone. Raises StageError when another number of workers wrote it, or it cannot be read.
        """
        found: tuple[Path, State] | None = process_group.from_first(
            last_whole(self.out, self.key) if self.part else None
        )
        if found is None:
            return 0
        folder, state = found
        if state.workers != process_group.count():
            raise StageError(
                f"this training stands at step {state.step}, in {folder}, as {state.workers} workers left it, and "
                f"{process_group.count()} would go on: its parts are cut by worker. Set cluster.train_workers = "
                f"{state.workers} to go on from there, or remove that folder to begin anew."
            )
        try:
            engine.load_checkpoint(str(folder.parent), tag=folder.name, load_lr_scheduler_states=False)
            if self.part:
                shutil.copyfile(folder / METRICS, self.part.path / METRICS)
        except Exception as error:  # Whatever torch and DeepSpeed say of a broken file.
            if process_group.lost(error):
                raise
            raise StageError(
                f"{folder}: the state of step {state.step} cannot be read ({error}). Remove that folder to begin anew."
            ) from error
        return state.step


def _finish(made: Path, state: State, part: Part) -> None:
    _still_mine(made, part)
    here = len(list(made.glob("*optim_states.pt")))
    if here != state.workers:
        raise StageError(
            f"{made.parent}: of step {state.step} the parts of {here} of {state.workers} workers are here. "
            "Do all nodes see this folder?"
        )
    shutil.copyfile(part.path / METRICS, made / METRICS)
    (made / STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
    flush(made / METRICS)
    flush(made / STATE)
    _still_mine(made, part)
    whole = made.with_name(f"step_{state.step:08d}")
    shutil.rmtree(whole, ignore_errors=True)
    made.rename(whole)
    flush(whole.parent)
    for other in whole.parent.glob("step_*"):
        if other != whole:
            shutil.rmtree(other, ignore_errors=True)


def _still_mine(made: Path, part: Part) -> None:
    """An orphan of a killed driver must not put its state in the place of its successor's."""
    if not part.is_mine():
        raise StageError(f"{made.parent}: another training has begun to write this model; this one stands back")


def _written_by(rank: int, made: Path) -> list[Path]:
    """DeepSpeed's files of one worker; rank 0 writes those that are not cut by worker too."""
    files = list(made.iterdir())
    return [f for f in files if f"pp_rank_{rank}_" in f.name or (rank == 0 and "pp_rank_" not in f.name)]


@contextlib.contextmanager
def _explained(out: str, key: str, step: int) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter when a disk is full.
        if process_group.lost(error):
            raise
        raise StageError(
            f"{folder_of(out)}: the state of step {step} could not be saved ({error}). {kept(out, key)} "
            "Make room or mend the folder, and start the same command again."
        ) from error
