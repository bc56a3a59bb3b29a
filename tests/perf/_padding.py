"""Real samples for a small model, and one training on them: as ours batches, or as the official script does.

    LAI_TEST_DATA=DATA python -m tests.perf._padding ours|official BASE SEED

The samples are the paper's own (4,000 word problems by GPT-4), the tokenizer a BPE of 8,192 trained on GSM8K. Official:
rows in plain random order, each padded to LONGEST tokens; model, samples of a step, sequences of a pass and the loss
are the same. Prints a JSON line: tokens/s without pads, and the loss on samples that were not trained on.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from lai_ray.common.chat_template import Example
from lai_ray.training import batches, loop
from lai_ray.training.objectives.sft import OBJECTIVE
from lai_ray.training.recipe import Recipe
from lai_ray.training.sequences import Sequences, tokenized
from tests.perf.arithmetic import DATA
from tests.perf.real_samples import ROWS

LONGEST = 512
TRAINED, HELD_OUT = 256, 100
"""Samples of one training, and to look at afterwards."""
SKIPPED = 2
"""Steps that are not timed."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def examples() -> list[Example]:
    """The samples in the file's order, the heading that some have kept left out."""
    with gzip.open(ROWS) as file:
        rows = json.load(file)
    return [
        Example(
            f"row/{i}",
            [{"role": "user", "content": row["question"].strip().removeprefix("#### Question:").strip()}],
            [(row["response"], 1.0)],
        )
        for i, row in enumerate(rows)
        if row["response"].strip()
    ]


def base(folder: Path) -> str:
    """A Llama of 5.2 M random parameters (4 layers x 256, tied) with a BPE tokenizer trained on GSM8K."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    with gzip.open(DATA / "gsm8k/openai/train.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [text for line in file for text in json.loads(line).values()]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=8192, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=special[3:]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=8192, max_position_embeddings=LONGEST, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def recipe(model: str, out: str, **changed: Any) -> Recipe:
    """For a model that knows nothing yet."""
    table: dict[str, Any] = {
        "learning_rate": 2e-3, "epochs": 1, "sequences_per_step": 16, "sequences_per_device": 8, "max_length": LONGEST,
        "schedule": "cosine", "warmup_steps": 10, "weight_decay": 0.0, "betas": (0.9, 0.95), "clip": 1.0,
        "zero_stage": 2, "precision": "fp32", "gradient_checkpointing": False, "offload": False,
        "state_every": 0, "seed": 0, "objective": "sft", "epoch_names": (), "max_failed_fraction": 0.05,
    }  # fmt: skip
    return Recipe(model=model, out=out, **(table | changed))


def official() -> None:
    """From here on: rows as they were shuffled, every row as long as the longest may be, and logits of every place."""

    def padded_rows(data: Sequences, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, weights = torch.zeros(len(rows), LONGEST, dtype=torch.long), torch.zeros(len(rows), LONGEST)
        for i, row in enumerate(rows):
            ids[i, : len(data.ids[row])] = torch.tensor(data.ids[row])
            weights[i, : len(data.weights[row])] = torch.tensor(data.weights[row])
        return ids, weights

    def steps(lengths: Sequence[int], *, sequences_per_step: int, epochs: int, seed: int) -> list[list[int]]:
        chance, rows, plan = random.Random(seed), list(range(len(lengths))), []
        for _ in range(epochs):
            chance.shuffle(rows)
            plan += [rows[i : i + sequences_per_step] for i in range(0, len(rows), sequences_per_step)]
        return plan

    def padded(passes: list[list[list[int]]], lengths: Sequence[int]) -> int:
        return LONGEST * sum(len(share) for shares in passes for share in shares)

    Sequences.padded, batches.steps, batches.padded = padded_rows, steps, padded  # type: ignore[method-assign]
    loop._vocabulary_at = lambda model, learned: nullcontext()  # Logits of every place, as Hugging Face's Trainer has.


def drawn(seed: int) -> tuple[list[Example], list[Example]]:
    """Samples to train on and others to look at; no question is in both, or twice."""
    distinct = list({example.messages[0]["content"]: example for example in examples()}.values())
    random.Random(seed).shuffle(distinct)
    return distinct[:TRAINED], distinct[TRAINED : TRAINED + HELD_OUT]


def held_out_loss(folder: str, samples: Sequence[Example]) -> float:
    """The mean loss of a target token, one sample at a time."""
    from transformers import AutoModelForCausalLM

    model, data = AutoModelForCausalLM.from_pretrained(folder), tokenized(recipe(folder, folder), OBJECTIVE, samples)
    total = 0.0
    with torch.no_grad():
        for ids, weights in zip(data.ids, data.weights, strict=True):
            tokens = torch.tensor([list(ids)])
            labels = torch.where(torch.tensor([list(weights)]) > 0, tokens, -100)
            learned = sum(weight > 0 for weight in weights)
            total += float(model(input_ids=tokens, labels=labels).loss) * learned
    return total / data.targets(range(len(data.ids)))


def main() -> None:
    """See the module."""
    way, model, seed = sys.argv[1:]
    trained, held_out = drawn(int(seed))
    load = os.getloadavg()[0]
    if way == "official":
        official()
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        lines: list[dict[str, float]] = []
        job = recipe(model, out, seed=int(seed))
        loop.train(job, trained, report=lambda step, m: lines.append({**m, "cpu": time.process_time()}), lineage={})
        loss = held_out_loss(out, held_out)
        before = held_out_loss(model, held_out)
    timed = lines[SKIPPED:]
    tokens, seconds = sum(m["tokens"] for m in timed), sum(m["tokens"] / m["tokens_per_second"] for m in timed)
    figures = {
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "tokens_per_cpu_s": tokens / (timed[-1]["cpu"] - lines[SKIPPED - 1]["cpu"]),
        "padding": 1 - tokens / sum(m["tokens"] / (1 - m["padding"]) for m in timed),
        "loss": loss,
        "loss_before": before,
        "seconds": seconds,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
    }
    print(json.dumps({"way": way, "seed": int(seed), "steps": len(timed)} | figures))


if __name__ == "__main__":
    main()
