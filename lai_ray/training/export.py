"""Writes a trained model's folder (weights, tokenizer, lineage), whole or not at all.

Everything is written into a hidden folder beside it, on the same file system, which is renamed at the end.
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
    from transformers import GenerationConfig, PreTrainedModel

LINEAGE = "lineage.json"
METRICS = "metrics.jsonl"
COPIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "additional_chat_templates"),
    *("vocab.*", "merges.txt", "*.model", "*.tiktoken", "generation_config.json"),
)
"""What belongs to a model besides its weights and config: copied from the base unchanged."""


def lineage_of(folder: str) -> dict[str, Any] | None:
    """lineage.json of the model in a folder; None where there is no whole model of a run."""
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
    """An unfinished model folder. The mark is a file in it, new for each training."""

    path: Path
    mark: str

    def check_mine(self, out: str | Path) -> None:
        """Raises StageError when another training has begun here: a killed driver's worker must not write then."""
        if not (self.path / self.mark).exists():
            raise StageError(f"{out}: another training is writing this model; aborted without overwriting it")


def begin(out: str, *, needed: int) -> Part:
    """An empty folder to make `out` in. needed: bytes of weights and checkpoints still to be written.

    Raises StageError, before anything is trained, when it cannot be written or the disk has less free space.
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
            "Free disk space, or set another storage; nothing was trained in this start."
        )
    return part


@contextlib.contextmanager
def explained(out: str) -> Iterator[None]:
    """Turns a failed write into a StageError, and removes the half-written folder. What was at `out` stays."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        shutil.rmtree(part_of(out), ignore_errors=True)
        raise StageError(
            f"{out}: the trained model could not be saved ({error}). Nothing half-written is left. "
            "Free disk space or repair the folder; the same command trains it again."
        ) from error


def write(
    part: Path, model: PreTrainedModel, weights: dict[str, torch.Tensor], *, base: str, lineage: dict[str, Any]
) -> None:
    """Weights in the dtype that the base has on disk, config, generation settings, tokenizer, and the lineage last.

    So an engine loads every iteration's model as it loaded the first.
    """
    dtype = dtype_on_disk(base)
    model.generation_config = savable(model.generation_config)
    model.save_pretrained(part, state_dict=_cast(weights, dtype), max_shard_size="5GB")
    if dtype is not None:
        _note_dtype(part / "config.json", dtype)
    _copy_beside(base, part)
    (part / LINEAGE).write_text(json.dumps(lineage, indent=1, ensure_ascii=False), encoding="utf-8")


def savable(generation: GenerationConfig) -> GenerationConfig:
    """These settings, or their token ids alone where transformers refuses to save them.

    A file of the base's own is copied over what is saved, so this is what a base without one gets.
    """
    try:
        generation.validate(strict=True)
    except ValueError:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return type(generation)(**{name: getattr(generation, name) for name in names})
    return generation


def publish(made: Part, out: str) -> None:
    """Renames the finished folder to `out`; a model that was there before is removed only then.

    Raises StageError when another training has begun in it.
    """
    part = made.path
    made.check_mine(out)
    (part / made.mark).unlink()
    for file in part.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # safetensors makes them for their owner alone; engines may run as another user.
            flush(file)
    target, old = Path(out).absolute(), part.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def dtype_on_disk(base: str) -> str | None:
    """The dtype in the base's config ("bfloat16", "float32" …); None where it has none."""
    from transformers import AutoConfig

    dtype = getattr(AutoConfig.from_pretrained(base), "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else None


def _cast(weights: dict[str, torch.Tensor], dtype: str | None) -> dict[str, torch.Tensor]:
    import torch

    wanted = getattr(torch, dtype) if dtype else None
    done: dict[Any, torch.Tensor] = {}  # Tied weights stay one tensor, so that they are written once.
    for tensor in weights.values():
        keep = wanted is None or not tensor.is_floating_point()
        done.setdefault(_storage(tensor), tensor.detach().cpu() if keep else tensor.detach().cpu().to(wanted))
    return {name: done[_storage(tensor)] for name, tensor in weights.items()}


def _storage(tensor: torch.Tensor) -> Any:
    return tensor.data_ptr(), tensor.shape


def _note_dtype(config: Path, dtype: str) -> None:
    table = json.loads(config.read_text(encoding="utf-8"))
    table["dtype"] = dtype
    config.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_beside(base: str, part: Path) -> None:
    folder = Path(base)
    if not folder.is_dir():
        import huggingface_hub

        from lai_ray.common.chat_template import load_tokenizer

        load_tokenizer(base).save_pretrained(part)
        if isinstance(kept := huggingface_hub.try_to_load_from_cache(base, "generation_config.json"), str):
            shutil.copy(kept, part / "generation_config.json")
        return
    for pattern in COPIED:
        for source in folder.glob(pattern):
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, part / source.name)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
