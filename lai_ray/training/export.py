"""A trained model's folder: weights, tokenizer, lineage; there whole or not at all.

Everything is written into a hidden folder beside the wanted one, on the same file system, and renamed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lai_ray.errors import StageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LINEAGE = "lineage.json"
METRICS = "metrics.jsonl"
COPIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "additional_chat_templates"),
    *("vocab.*", "merges.txt", "*.model", "*.tiktoken", "generation_config.json"),
)
"""What belongs to a model besides its weights and config: carried over from the base as it is."""


def lineage_of(folder: str) -> dict[str, Any] | None:
    """What made the model in a folder; None where no whole one of ours is."""
    try:
        read: dict[str, Any] = json.loads((Path(folder) / LINEAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read


def part_of(out: str) -> Path:
    """The folder in which `out` is being made."""
    path = Path(out).absolute()
    return path.with_name(f".{path.name}.part")


@dataclass(frozen=True)
class Part:
    """A folder that will be a model, and the mark in it of who makes it."""

    path: Path
    mark: str

    def is_mine(self) -> bool:
        """Nobody has begun here since: an orphan of a killed driver must not publish what its successor has begun."""
        return (self.path / self.mark).exists()


def begin(out: str, *, needed: int) -> Part:
    """An empty folder to make `out` in. needed: bytes that will be written, of weights and states not there yet.

    Raises StageError, before anything is trained, when it cannot be written or the disk has not so much room.
    """
    part = Part(part_of(out), f".{uuid.uuid4().hex}")
    try:
        if part.path.exists():
            shutil.rmtree(part.path)
        part.path.mkdir(parents=True)
        (part.path / part.mark).touch()
        free = shutil.disk_usage(part.path).free
    except OSError as error:
        raise StageError(
            f"{out}: the trained model cannot be written here ({error}). Is the folder writable?"
        ) from error
    if free < needed:
        raise StageError(
            f"{out}: the trained model needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free. "
            "Make room, or give the job another storage; nothing was trained in this start."
        )
    return part


@contextlib.contextmanager
def explained(out: str) -> Iterator[None]:
    """Turns a failure to write into a StageError, and takes the half-written folder away. What was at `out` stays."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part_of(out), ignore_errors=True)
        raise StageError(
            f"{out}: the trained model could not be saved ({error}). Nothing half-written is left. "
            "Make room or mend the folder; the same command trains it again."
        ) from error


def write(
    part: Path, model: PreTrainedModel, weights: dict[str, torch.Tensor], *, base: str, lineage: dict[str, Any]
) -> None:
    """The weights in the type the base has on disk, config, generation settings, tokenizer, and the lineage last.

    So an engine treats every iteration's model as it treated the first.
    """
    dtype = dtype_on_disk(base)
    model.save_pretrained(part, state_dict=_cast(weights, dtype), max_shard_size="5GB")
    if dtype is not None:
        _note_dtype(part / "config.json", dtype)
    _copy_beside(base, part)
    (part / LINEAGE).write_text(json.dumps(lineage, indent=1, ensure_ascii=False), encoding="utf-8")


def publish(made: Part, out: str) -> None:
    """The finished folder takes its place; a model that was there before is removed only then.

    Raises StageError when another training has begun in it.
    """
    part = made.path
    if not made.is_mine():
        raise StageError(f"{out}: another training has begun to write this model; this one stands back")
    (part / made.mark).unlink()
    for file in part.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # safetensors makes them for their owner alone; engines may run as somebody else.
            flush(file)
    target, old = Path(out).absolute(), part.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def dtype_on_disk(base: str) -> str | None:
    """ "bfloat16", "float32" … as the base's config says; None when it does not."""
    from transformers import AutoConfig

    dtype = getattr(AutoConfig.from_pretrained(base), "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else None


def _cast(weights: dict[str, torch.Tensor], dtype: str | None) -> dict[str, torch.Tensor]:
    import torch

    wanted = getattr(torch, dtype) if dtype else None
    done: dict[Any, torch.Tensor] = {}  # Tied weights stay one tensor, so that they are written once.
    for tensor in weights.values():
        keep = wanted is None or not tensor.is_floating_point()
        done.setdefault(_place(tensor), tensor.detach().cpu() if keep else tensor.detach().cpu().to(wanted))
    return {name: done[_place(tensor)] for name, tensor in weights.items()}


def _place(tensor: torch.Tensor) -> Any:
    return tensor.data_ptr(), tensor.shape


def _note_dtype(config: Path, dtype: str) -> None:
    table = json.loads(config.read_text(encoding="utf-8"))
    table["dtype"] = dtype
    config.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_beside(base: str, part: Path) -> None:
    folder = Path(base)
    if not folder.is_dir():
        from lai_ray.common.chat_template import load_tokenizer

        load_tokenizer(base).save_pretrained(part)
        return
    for pattern in COPIED:
        for source in folder.glob(pattern):
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, part / source.name)


def flush(path: Path) -> None:
    """To the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
