"""bf16 ZeRO-2 on one GPU: MFU, tokens/s, and the peak of memory beside the estimate of `lai check`.

    python -m tests.gpu.training [LAYERS HIDDEN LENGTH STEPS]      a line of JSON; 1.1 B parameters by default

The model is a Llama of random weights, the text random words. Without a GPU it runs on the CPU (give it a small size):
that shows that it runs, and nothing about a GPU.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lai_ray.common.chat_template import Example
from lai_ray.config.settings import TrainSettings
from lai_ray.training import loop, memory, model_size
from lai_ray.training.recipe import Recipe
from tests.tiny_model import WORDS, recipe, tiny_model

SIZE = (22, 2048, 1024, 12)
"""Layers, width, tokens of a sequence, steps."""
VOCABULARY = 32_000
AT_ONCE = 4
WARM = 3
"""Steps that are not counted."""


def make(folder: Path, layers: int, hidden: int, length: int) -> str:
    """A model folder in bf16, with the small tokenizer of the tests."""
    tiny_model(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=11 * hidden // 4, num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64), max_position_embeddings=2 * length, tie_word_embeddings=False,
    )  # fmt: skip
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return str(folder)


def conversations(count: int, length: int) -> list[Example]:
    """All as long as `length`, nearly all of it learned: the case that memory is estimated for."""
    chance = random.Random(0)
    words = [word for word in WORDS if word.startswith("w")]
    return [
        Example(f"gpu/{i}", [{"role": "user", "content": "w1"}], [(" ".join(chance.choices(words, k=length)), 1.0)])
        for i in range(count)
    ]


def measured(layers: int, hidden: int, length: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train folder/base, made here, into folder/out, and return what was measured."""
    model = make(folder / "base", layers, hidden, length)
    job = _recipe(model, folder / "out", length)
    size = model_size.size_of(model)
    needed = memory.estimate(size, _plan(job))
    rows: list[dict[str, float]] = []
    if cuda := torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    texts = conversations(steps * job.sequences_per_step, length)
    loop.train(job, texts, report=lambda step, metrics: rows.append(metrics), lineage={})
    figures = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "parameters": size.parameters,
        "tokens_per_second": round(statistics.median(row["tokens_per_second"] for row in rows[WARM:])),
        "mfu": round(statistics.median(row.get("mfu", 0.0) for row in rows[WARM:]), 3) or None,
        "loss": [round(rows[0]["loss"], 3), round(rows[-1]["loss"], 3)],
        "preflight_gib": round(needed.total / 2**30, 2),
        "preflight": {name: round(size / 2**30, 2) for name, size in needed.moments[needed.worst].items()},
    }
    if cuda:
        free, total = torch.cuda.mem_get_info()
        figures |= {
            "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
            "used_at_the_end_gib": round((total - free) / 2**30, 2),
        }
    return figures


def _recipe(model: str, out: Path, length: int) -> Recipe:
    return recipe(
        model, out, epochs=1, sequences_per_step=4 * AT_ONCE, sequences_per_device=AT_ONCE, max_length=length,
        learning_rate=1e-4, precision="bf16", zero_stage=2, gradient_checkpointing=True, weight_decay=0.0,
    )  # fmt: skip


def _plan(job: Recipe) -> memory.Plan:
    names = TrainSettings.model_fields.keys() & vars(job).keys()
    train = TrainSettings(**{name: getattr(job, name) for name in names})
    return memory.Plan(train, workers=1, gpu=torch.cuda.is_available())


if __name__ == "__main__":
    given = [int(value) for value in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as here:
        print(json.dumps(measured(*(given or SIZE), Path(here))))
