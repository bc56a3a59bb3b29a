"""A small encoder for `contrast.encoder` where no hub can be reached, made from the benchmarks' training text alone.

LAI_TEST_DATA=DATA python -m tests.perf.small_encoder FOLDER [--steps N] [--seed N]

WordPiece, lower-cased, and a BERT of 2 layers x 256, both from nothing. Word embeddings start as the singular vectors
of which tokens share a text; then training is by contrast: two texts of one problem (its question and its options or
worked solution, or two halves of its words) shall be nearer than texts of two problems, by the vector that the product
itself uses (masked mean, normalised). No subject, verdict or test split is looked at. One thread, seeded.

Prints a JSON line: minutes, and the share of MMLU's training questions whose nearest other one is of the same subject,
by this encoder, by the same one before training, by TF-IDF, and by chance.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from lai_ray.common import plugins
from lai_ray.records import Problem

DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
VOCABULARY, WIDTH, LAYERS, LONGEST = 8000, 256, 2, 48
SHARES = {"mmlu": 0.7, "mbpp": 0.15, "gsm8k": 0.15}
"""How often a batch is of one benchmark: other benchmarks' texts would be too easy to tell apart."""
PAIRS, TEMPERATURE, PEAK = 64, 0.05, 5e-4


@dataclass(frozen=True)
class Pair:
    """A problem's question, and what else is known of it."""

    question: str
    other: str


def training(name: str) -> list[Problem]:
    """A benchmark's training problems."""
    benchmark = replace(plugins.load("benchmarks", name), source=str(DATA / name))
    return [benchmark.problem(record, "train", row) for row, record in enumerate(benchmark.load("train"))]


def pair_of(problem: Problem) -> Pair:
    """Beside the question its options, worked solution or reference code."""
    if choices := problem.extra.get("choices"):
        return Pair(problem.question, "\n".join(map(str, choices.values())))
    return Pair(problem.question, str(problem.extra.get("solution") or problem.answer))


def views(pair: Pair, chance: random.Random) -> tuple[str, str]:
    """Two texts of one problem: its question and the rest, or the two halves of a random cut through all its words."""
    if pair.other and chance.random() < 0.5:
        return some(pair.question, 0.85, chance), some(pair.other, 0.85, chance)
    words = f"{pair.question} {pair.other}".split()
    left = [chance.random() < 0.5 for _ in words]
    sides = [[word for word, is_left in zip(words, left, strict=True) if is_left is side] for side in (True, False)]
    halves = [" ".join(side) for side in sides]
    return halves[0] or pair.question, halves[1] or pair.question


def some(text: str, share: float, chance: random.Random) -> str:
    """The text with some words left out, never all."""
    return " ".join(word for word in text.split() if chance.random() < share) or text


def tokenizer_of(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """WordPiece as BERT has it, with a vocabulary of these texts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    core = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=VOCABULARY, special_tokens=list(SPECIAL.values()), limit_alphabet=300, show_progress=False
        ),
    )
    ends = [(SPECIAL[name], core.token_to_id(SPECIAL[name])) for name in ("sep", "cls")]
    core.post_processor = processors.BertProcessing(*ends)
    named = {f"{name}_token": token for name, token in SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=core, **named, model_max_length=512)


def word_vectors(rows: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """(size, WIDTH) float32: singular vectors of the tokens' positive pointwise mutual information within a text.

    rows: the token ids of each text.
    """
    count, shared = np.zeros(size, np.float32), np.zeros((size, size), np.float32)
    for row in rows:
        inside = np.unique(np.asarray(row, np.int64))
        count[inside] += 1
        shared[np.ix_(inside, inside)] += 1
    expected = np.maximum(np.outer(count, count / len(rows)), 1e-9)
    information = np.log(np.maximum(shared / expected, 1.0))
    np.fill_diagonal(information, 0.0)
    basis = np.random.default_rng(0).standard_normal((size, WIDTH + 32)).astype(np.float32)
    for _ in range(3):
        basis = np.linalg.qr(information @ basis)[0]
    left, strength, _ = np.linalg.svd(basis.T @ information, full_matrices=False)
    vectors = (basis @ left)[:, :WIDTH] * np.sqrt(strength[:WIDTH])
    return np.asarray(vectors / vectors.std() * 0.05, np.float32)


def vectors_of(model: BertModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """(n, WIDTH), normalised means over the tokens of each row."""
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    return torch.nn.functional.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)


def loss_of(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Each text must find its partner among the batch, in both directions."""
    alike, partner = first @ second.T / TEMPERATURE, torch.arange(len(first))
    losses = [torch.nn.functional.cross_entropy(scores, partner) for scores in (alike, alike.T)]
    return (losses[0] + losses[1]) / 2


def batches(corpus: dict[str, list[Pair]], steps: int, chance: random.Random) -> Iterator[list[tuple[str, str]]]:
    """Batches of one benchmark each, every problem of it once before any comes again."""
    waiting: dict[str, list[Pair]] = {name: [] for name in corpus}
    for _ in range(steps):
        name = chance.choices(list(SHARES), list(SHARES.values()))[0]
        if len(waiting[name]) < PAIRS:
            waiting[name] = chance.sample(corpus[name], len(corpus[name]))
        batch, waiting[name] = waiting[name][:PAIRS], waiting[name][PAIRS:]
        yield [views(pair, chance) for pair in batch]


def train(model: BertModel, tokenizer: Any, corpus: dict[str, list[Pair]], steps: int, seed: int) -> None:
    """In place; says the loss now and then."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps, pct_start=0.1)
    model.train()
    for step, batch in enumerate(batches(corpus, steps, random.Random(seed))):
        texts = [text for side in zip(*batch, strict=True) for text in side]
        found = vectors_of(model, tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"])
        loss = loss_of(*found.split(len(batch)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def embedded(model: BertModel, tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """(n, WIDTH), as the product embeds them."""
    rows = tokenizer(list(texts), truncation=True, max_length=512)["input_ids"]
    by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    vectors = np.zeros((len(rows), WIDTH), np.float32)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), 16):
            part = by_length[start : start + 16]
            vectors[part] = vectors_of(model, [rows[i] for i in part]).numpy()
    return vectors


def tfidf(rows: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """(n, size), normalised, of the same WordPieces: the lexical baseline."""
    table = np.zeros((len(rows), size), np.float32)
    for i, row in enumerate(rows):
        for token, count in Counter(row).items():
            table[i, token] = 1 + np.log(count)
    table *= np.log(len(rows) / np.maximum((table > 0).sum(axis=0), 1))
    return np.asarray(table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9))


def same_group(vectors: np.ndarray, texts: Sequence[str], groups: Sequence[str]) -> float:
    """Share of rows whose nearest row with another text has the same group."""
    alike = vectors @ vectors.T
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    numbers = np.array([number[text] for text in texts])
    alike[numbers[:, None] == numbers[None, :]] = -np.inf
    return float(np.mean([groups[i] == groups[j] for i, j in enumerate(alike.argmax(axis=1))]))


def chance_level(groups: Sequence[str]) -> float:
    """The same share for a neighbour drawn at random."""
    n = len(groups)
    return sum(count * (count - 1) for count in Counter(groups).values()) / (n * (n - 1))


def main() -> None:
    """Train, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    began, worked = time.perf_counter(), time.process_time()
    corpus = {name: list(dict.fromkeys(map(pair_of, training(name)))) for name in SHARES}
    everything = [pair for part in corpus.values() for pair in part]
    tokenizer = tokenizer_of([text for pair in everything for text in (pair.question, pair.other)])
    size = len(tokenizer)
    config = BertConfig(
        vocab_size=size, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=2 * WIDTH
    )
    model = BertModel(config, add_pooling_layer=False)
    whole = tokenizer([f"{pair.question} {pair.other}" for pair in everything], add_special_tokens=False)["input_ids"]
    model.embeddings.word_embeddings.weight.data.copy_(torch.from_numpy(word_vectors(whole, size)))
    problems = training("mmlu")
    questions, subjects = [p.question for p in problems], [str(p.extra["subject"]) for p in problems]
    shares = {"chance": chance_level(subjects)}
    lexical = tfidf(tokenizer(questions, add_special_tokens=False)["input_ids"], size)
    shares["tfidf"] = same_group(lexical, questions, subjects)
    shares["before_training"] = same_group(embedded(model, tokenizer, questions), questions, subjects)
    print(f"{time.process_time() - worked:.0f} s so far; MMLU nearest of the same subject: {shares}", flush=True)
    train(model, tokenizer, corpus, given.steps, given.seed)
    model.save_pretrained(given.folder)
    tokenizer.save_pretrained(given.folder)
    shares["trained"] = same_group(embedded(model, tokenizer, questions), questions, subjects)
    figures = {
        "steps": given.steps, "seed": given.seed, "vocabulary": size,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "minutes_of_a_core": round((time.process_time() - worked) / 60, 1),
        "minutes_by_the_clock": round((time.perf_counter() - began) / 60, 1),
        "problems": {name: len(part) for name, part in corpus.items()},
        "mmlu_nearest_of_same_subject": {name: round(share, 3) for name, share in shares.items()},
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
