"""What a model's folder says of its size, read without loading it.  folder -> Size

The number of parameters is that of the safetensors headers where they are there, and of the config's sizes where not.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.errors import DataError

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of what can be a parameter, as safetensors calls it. Whole numbers and truth values are buffers."""
BUFFERS = re.compile(r"(^|\.)(inv_freq|masked_bias|attn\.bias|attention\.bias)$")
"""Tensors that older folders hold beside the parameters: rotary frequencies, and the causal masks of GPT-2."""
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size",),
}
"""What must stand in a config, under one of these names."""


@dataclass(frozen=True)
class Size:
    """What memory depends on."""

    parameters: int
    hidden: int
    layers: int
    heads: int
    queries: int
    """Width of all heads together."""
    keys: int
    """Width of the keys' heads together, or of the values'."""
    inner: int
    """Width of the MLP, of all experts that a token passes."""
    inner_copies: int
    """Tensors of that width that one MLP keeps for the way back."""
    vocabulary: int
    width_on_disk: int
    """Bytes of a parameter in the folder."""
    exact: bool
    """Counted in the weights' files, not computed from the config."""


def size_of(folder: str) -> Size:
    """The size of the model in a folder. Raises DataError when its config cannot be read, or lacks what is needed."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: its config.json cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder}: its config.json is no table")
    config = _of_text(config)
    counted = counted_parameters(folder, tied=is_tied(config))
    return from_config(config, counted)


def from_config(config: dict[str, Any], counted: tuple[int, int] | None = None) -> Size:
    """The size by a config's words. counted: parameters and bytes of one, where they are known better.

    Raises DataError that names what is missing, or is no number.
    """
    config = _of_text(config)
    hidden, layers, heads, vocabulary = (_number(config, names) for names in NAMES.values())
    head = _number(config, ("head_dim",), hidden // heads)
    inner = _number(config, ("intermediate_size", "n_inner", "ffn_dim"), 4 * hidden)
    experts = _number(config, ("num_experts_per_tok",), 1)
    activation = str(config.get("hidden_act") or config.get("activation_function") or "")
    gated = activation in ("silu", "swish") or "gemma" in str(config.get("model_type"))
    # Gated: gate, its activation, up, their product. GPT-2's gelu is put together from powers and keeps its steps.
    copies = 4 if gated else 8 if activation in ("gelu_new", "gelu_fast") else 2
    size = Size(
        parameters=0,
        hidden=hidden,
        layers=layers,
        heads=heads,
        queries=head * heads,
        keys=head * _number(config, ("num_key_value_heads",), heads),
        inner=_number(config, ("moe_intermediate_size",), inner) * experts,
        inner_copies=copies,
        vocabulary=vocabulary,
        width_on_disk=2 if "16" in str(config.get("dtype") or config.get("torch_dtype")) else 4,
        exact=counted is not None,
    )
    if counted is None and any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise DataError("a mixture of experts whose weights are not in safetensors: its parameters cannot be counted")
    parameters, width = counted or (_computed(size, config), size.width_on_disk)
    return Size(**{**vars(size), "parameters": parameters, "width_on_disk": width})


def _of_text(config: dict[str, Any]) -> dict[str, Any]:
    """A model of text and images keeps its language model's sizes in a table of their own."""
    inside = config.get("text_config")
    return {**config, **inside} if isinstance(inside, dict) else config


def _number(config: dict[str, Any], names: tuple[str, ...], default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if value is not None:
            raise DataError(f"its config.json has {name} = {value!r}, which should be a whole number above 0")
    if default is None:
        raise DataError(f"its config.json has no {' or '.join(names)}")
    return default


def _computed(size: Size, config: dict[str, Any]) -> int:
    """Parameters of a decoder of this shape: embeddings, attention, MLP, norms, and the head unless it is tied."""
    attention = 2 * size.hidden * size.queries + 2 * size.hidden * size.keys
    gpt2 = config.get("model_type") == "gpt2"
    mlp = (3 if size.inner_copies == 4 else 2) * size.hidden * size.inner
    biases = (2 * size.hidden + 5 * size.hidden + size.inner) if gpt2 else 0
    positions = size.hidden * _number(config, ("n_positions",), 0) if gpt2 else 0
    embeddings = size.vocabulary * size.hidden * (1 if is_tied(config) else 2)
    norms = 2 * size.hidden * size.layers + size.hidden * (2 if gpt2 else 1)
    return embeddings + positions + size.layers * (attention + mlp + biases) + norms


def is_tied(config: dict[str, Any]) -> bool:
    """Whether the head is the embedding. Hugging Face's default depends on the family."""
    said = config.get("tie_word_embeddings")
    return bool(said) if said is not None else str(config.get("model_type")).startswith(("gpt2", "gemma"))


def counted_parameters(folder: str, *, tied: bool) -> tuple[int, int] | None:
    """Parameters in the headers of a folder's safetensors, and the bytes of most of them. None where there are none.

    A head that is the embedding is counted once, also where both are written. Raises DataError for a broken file.
    """
    tensors: dict[str, tuple[int, int]] = {}
    for file in _files(Path(folder)):
        for name, entry in _header(file).items():
            if entry.get("dtype") in WIDTHS and not BUFFERS.search(name):
                tensors[name] = math.prod(entry["shape"]), WIDTHS[entry["dtype"]]
    if tied and any(EMBEDDING.search(name) for name in tensors):
        tensors = {name: found for name, found in tensors.items() if not HEAD.search(name)}
    if not tensors:
        return None
    by_width: dict[int, int] = {}
    for count, width in tensors.values():
        by_width[width] = by_width.get(width, 0) + count
    return sum(by_width.values()), max(by_width, key=lambda width: by_width[width])


def _files(folder: Path) -> list[Path]:
    """The one file, or the shards that the index names; what else lies in the folder is not the model's."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{index}: the index of the weights cannot be read ({error})") from error
    return [folder / name for name in sorted(set(names))]


def _header(file: Path) -> dict[str, dict[str, Any]]:
    """Name to dtype and shape. A safetensors file begins with 8 bytes, the length of the JSON that follows them."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            table = json.loads(opened.read(min(length, 1 << 28)))
            table.pop("__metadata__", None)
            return {str(name): dict(entry) for name, entry in table.items()}
    except (OSError, ValueError, struct.error, AttributeError, TypeError) as error:
        raise DataError(f"{file}: its header cannot be read ({error}). Is the file whole?") from error
