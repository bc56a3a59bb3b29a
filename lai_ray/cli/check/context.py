"""Whether a model's context fits its engine's key-value cache, as vLLM computes it. Reads config.json alone.

config.json -> tokens at most, bytes a token -> findings
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lai_ray.cli.check import memory
from lai_ray.engines.vllm import CPU_CACHE_GIB
from lai_ray.errors import DataError
from lai_ray.training.model_size import size_of
from lai_ray.training.rendering import Finding

LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
"""Keys of config.json with a model's longest text; the least counts (vLLM 0.32, model_arch_config_convertor)."""
WITHOUT_KEYS = 2048
"""Tokens where a config has none of them."""
SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Kinds of rope scaling whose factor is in the positions already."""
OTHER_CACHES = (
    "kv_lora_rank", "hybrid_override_pattern", "attn_layer_period", "full_attention_interval", "ssm_cfg",
    "block_configs", "cross_attention_layers", "num_kv_shared_layers", "layers_block_type", "compress_ratios",
    "attn_layer_indices", "attn_type_list", "attention_chunk_size", "multi_query",
)  # fmt: skip
"""Keys of models whose layers do not all keep keys and values of every token."""
GPU_SHARE = 0.92
"""Of a GPU's memory, what vLLM takes for weights, activations and cache by default."""
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
KEEP = 256
"""Tokens by which the advice stays below what fits: the cache is given out in blocks."""


@dataclass(frozen=True)
class Engine:
    """What a job says of a model's engine."""

    role: str
    """The table of the job: target or instructor."""
    folder: str
    max_model_len: int | None
    dtype: str
    tensor_parallel: int
    gpu: bool


def read(folder: str) -> dict[str, Any]:
    """A model's config.json, of a model of text and images that of its language model. Raises DataError."""
    try:
        config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return config | (config.get("text_config") or {})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: its config.json cannot be read ({error})") from error


def own_length(folder: str) -> int:
    """The longest text of a model in tokens, prompt and answer, by its own files. Raises DataError."""
    config = read(folder)
    known = [config[key] for key in LENGTHS if isinstance(config.get(key), int)]
    length: float = config.get("model_max_length") or min(known, default=WITHOUT_KEYS)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in SCALED_ALREADY and "gemma3" not in str(config.get("model_type")):
        return int(length * (rope.get("factor") or 1.0))
    return int(length)


def findings(engine: Engine) -> list[Finding]:
    """A setting above what the model can read, or a context that no cache here holds."""
    setting, own = f"{engine.role}.max_model_len", own_length(engine.folder)
    if engine.max_model_len and engine.max_model_len > own and not os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        return [Finding(f"{setting} = {engine.max_model_len}: the model reads {own} tokens at most. Lower it.")]
    wanted = engine.max_model_len or own
    each, cache = bytes_of_token(engine), cache_of(engine)
    if each is None or cache is None or wanted * each <= cache:
        return []
    fits = max(int(cache / each) // KEEP * KEEP - KEEP, 0)
    whose = (
        f"{setting} = {wanted}" if engine.max_model_len else f"{setting} is not set, and the model's own is {wanted}"
    )
    more = "" if engine.gpu else " (the variable VLLM_CPU_KVCACHE_SPACE sets another size, in GiB)"
    return [
        Finding(
            f"{whose}: a text of so many tokens needs {wanted * each / 2**30:.2f} GiB of KV cache, {each:,} bytes a "
            f"token, and the engine has {cache / 2**30:.2f} GiB{more}. Set {setting} to {fits} or less."
        )
    ]


def bytes_of_token(engine: Engine) -> int | None:
    """Of one worker's key-value cache; None for models whose layers do not all keep every token."""
    config = read(engine.folder)
    layers, heads = (
        _first(config, *names) for names in (("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head"))
    )
    hidden = _first(config, "hidden_size", "n_embd")
    if not (layers and heads and hidden) or _keeps_less(config):
        return None
    kept = _first(config, "n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num") or heads
    size = _first(config, "head_dim") or hidden // heads
    return 2 * layers * max(kept // engine.tensor_parallel, 1) * size * _width(engine)


def _keeps_less(config: dict[str, Any]) -> bool:
    slides = config.get("sliding_window") and config.get("use_sliding_window", True)
    kinds = set(config.get("layer_types") or ["full_attention"])
    return bool(slides or kinds != {"full_attention"} or any(config.get(key) for key in OTHER_CACHES))


def _first(config: dict[str, Any], *names: str) -> int | None:
    return next((value for name in names if isinstance(value := config.get(name), int) and value > 0), None)


def _width(engine: Engine) -> int:
    """Bytes of a number: on a CPU "auto" is float32 (engines/vllm.py), on a GPU half of that."""
    return WIDTHS.get(engine.dtype, 2 if engine.gpu else 4)


def cache_of(engine: Engine) -> float | None:
    """Bytes for the cache of one worker, at most; None if there is no GPU here to tell."""
    if not engine.gpu:
        return float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or CPU_CACHE_GIB) * 2**30
    gpus = memory.gpu_memories()
    try:
        weights = size_of(engine.folder).parameters * _width(engine) / engine.tensor_parallel
    except DataError:
        return None
    return GPU_SHARE * min(gpus) - weights if gpus else None
