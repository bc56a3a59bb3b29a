"""The size of a model, read from config.json and safetensors headers without loading it.  folder -> Size"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.errors import DataError

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of what can be a parameter, as safetensors names it. Integers and booleans are buffers."""
BUFFERS = re.compile(r"(^|\.)(inv_freq|masked_bias|attn\.bias|attention\.bias)$")
"""Tensors that older folders hold beside the parameters: rotary frequencies, and the causal masks of GPT-2."""


@dataclass(frozen=True)
class Size:
    """What memory depends on."""

    parameters: int
    hidden: int
    layers: int
    inner: int
    """Width of the MLP, of all experts that a token passes."""
    vocabulary: int


def size_of(folder: str) -> Size:
    """The size of the model in a folder.

    Raises DataError when its config.json or weights cannot be read, or lack what is needed.
    """
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        config |= config.get("text_config") or {}  # Where a model of text and images keeps its language model's sizes.
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: its config.json cannot be read ({error})") from error
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    inner = _number(config, "moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    return Size(
        parameters=_parameters(Path(folder)),
        hidden=hidden,
        layers=_number(config, "num_hidden_layers", "n_layer", "num_layers"),
        inner=inner * _number(config, "num_experts_per_tok", default=1),
        vocabulary=_number(config, "vocab_size"),
    )


def bytes_of(folder: str) -> int:
    """Of the files with a model's weights."""
    return sum(file.stat().st_size for file in _files(Path(folder)) if file.is_file())


def _number(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
        if value is not None:
            raise DataError(f"the target's config.json has {name} = {value!r}, which should be a whole number above 0")
    if default is None:
        raise DataError(f"the target's config.json has no {' or '.join(names)}")
    return default


def _parameters(folder: Path) -> int:
    """Parameters of all safetensors of the model. Files in the folder that its index does not name do not count."""
    from safetensors import SafetensorError, safe_open

    counts: Counter[str] = Counter()
    for file in _files(folder):
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                    tensor = opened.get_slice(name)
                    if tensor.get_dtype() in WIDTHS and not BUFFERS.search(name):
                        counts[name] = math.prod(tensor.get_shape())
        except (OSError, SafetensorError) as error:
            raise DataError(f"{file}: its header cannot be read ({error}). Is the file whole?") from error
    if not counts:
        raise DataError(f"{folder} has no weights in safetensors, so its parameters cannot be counted")
    return counts.total()


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return sorted(folder.glob("model.safetensors")) or sorted(folder.glob("*.safetensors"))
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{index}: the index of the weights cannot be read ({error})") from error
    return [folder / name for name in sorted(set(names))]
