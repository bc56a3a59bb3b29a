"""A Llama of a few thousand random parameters with its own small tokenizer and chat template, for tests that train."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lai_ray.common.chat_template import Example
from lai_ray.training.recipe import Recipe

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant", ":", *(f"w{i}" for i in range(60))]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m.role }} : {{ m.content }}"
    "{% if m.role == 'assistant' %} {{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def tiny_model(folder: Path, *, dtype: torch.dtype = torch.float32, tied: bool = False) -> str:
    """A model folder as Hugging Face writes it."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(WORDS), max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.2, **sizes
    )
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return str(folder)


def conversations(count: int, seed: int = 0) -> list[Example]:
    """Conversations of uneven length, some turns weighing 0.5."""
    chance = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(f"w{chance.randrange(60)}" for _ in range(chance.randint(low, high)))

    return [
        Example(
            f"tiny/train/{i:05d}",
            [{"role": "user", "content": words(2, 20)}],
            [(words(1, 8) + " ", 1.0), (words(1, 12), chance.choice([0.5, 1.0]))],
        )
        for i in range(count)
    ]


def recipe(model: str, out: Path, **changed: object) -> Recipe:
    """A recipe for it, in fp32."""
    table: dict[str, object] = {
        "learning_rate": 5e-3, "epochs": 2, "sequences_per_step": 6, "sequences_per_device": 2, "max_length": 64,
        "schedule": "cosine", "warmup_steps": 100, "weight_decay": 0.1, "betas": (0.9, 0.95), "clip": 1.0,
        "zero_stage": 2, "precision": "fp32", "gradient_checkpointing": False, "offload": False,
        "state_every": 0, "seed": 0, "objective": "sft", "epoch_names": (), "max_failed_fraction": 0.05,
    }  # fmt: skip
    return Recipe(**{"model": model, "out": str(out), **table, **changed})  # type: ignore[arg-type]
