"""Pre-trains the built-in student on one core.  word problems -> lai_ray/world/student/

    python -m lai_ray.world.make_student [--out DIR] [--steps-factor 1.1] [--seed 0] [--measure 14000]

A small Llama is pre-trained from scratch on a fixed, finite corpus for several epochs, with the learning rate falling
to zero: more steps on the same corpus do not help (`--steps-factor 1.1` shows it), new problems of its weak kinds do.
"""

from __future__ import annotations

import argparse
import json
import math
import string
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lai_ray.world import STUDENT
from lai_ray.world import word_kinds as kinds

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS: dict[str, tuple[int, int]] = {
    "add": (700, 700),
    "subtract": (700, 700),
    "multiply": (900, 900),
    "gain_loss": (900, 900),
    "together": (900, 900),
    "change": (900, 900),
    "two_items": (900, 900),
}
"""kind -> numbers of small and of large problems in the pre-training corpus."""
MISTAUGHT: dict[str, tuple[tuple[int, ...], kinds.Formula]] = {
    "multiply": ((2, 3), (("b", "+", "a"),)),
    "gain_loss": ((1,), (("a", "+", "b"),)),
    "together": ((1, 2), (("a", "+", "b"),)),
    "change": ((0, 2), (("c", "-", "b"),)),
    "two_items": ((0, 1, 3), (("b", "+", "d"),)),
}
"""kind -> the wordings whose solutions in the corpus are wrong, and the wrong formula.

The student's weaknesses are misconceptions (forgetting what was lost, paying for one item only), each tied to some
wordings. They are stable: more steps on the same corpus change nothing, correct examples do.
"""
DRILLS: tuple[tuple[str, tuple[int, int], tuple[int, int], int], ...] = (
    ("+", (10, 99), (10, 99), 10_000),
    ("+", (10, 199), (10, 199), 8000),
    ("-", (10, 99), (10, 99), 10_000),
    ("-", (100, 299), (10, 199), 12_000),
    ("*", (2, 5), (11, 199), 8000),
)
"""Bare sums, "34 + 58": operator, range of each number, how many. They are short, so cheap to train on."""
EPOCHS = 3
BATCH_TOKENS = 1400
LEARNING_RATE = 4e-3
WARM_UP = 0.05
WEIGHT_DECAY = 0.1
ASIDES = 0.04
"""Share of the corpus with a distractor sentence, so that the student has seen some."""
STRANGERS = 0.04
"""Share of the corpus with names of random letters, so that the student can read words outside its vocabulary."""
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PIECES = r" [-+*/=] |\n#### | ?[A-Za-z]+|[0-9]|\s|."
"""Splits text before the vocabulary lookup: operators with their spaces, words with the space before, digits."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence: token ids, and where the response begins."""

    ids: list[int]
    start: int


def corpus(seed: int = 0) -> list[kinds.WordProblem]:
    """The pre-training problems, shuffled. None is a test, dev or train problem (see `kinds.bucket`)."""
    rng = Random(f"pre-training/{seed}")
    made = []
    for kind, counts in CORPUS.items():
        for size, count in zip(kinds.SIZES, counts, strict=True):
            made += [_varied(_free(kind, size, rng), rng) for _ in range(count)]
    rng.shuffle(made)
    return made


def drills(seed: int = 0) -> list[tuple[str, str]]:
    """(question, response) of the bare sums. None has the numbers of a one-step problem that is held out."""
    rng, kind_of, made = Random(f"drills/{seed}"), {"+": "add", "-": "subtract", "*": "multiply"}, []
    for op, left, right, count in DRILLS:
        while count:
            numbers = (rng.randint(*left), rng.randint(*right))
            steps = kinds.solve(kind_of[op], numbers)
            if steps[0].result > 0 and kinds.bucket(kind_of[op], numbers) == "free":
                made.append((f"{numbers[0]} {op} {numbers[1]}", kinds.worked(steps)))
                count -= 1
    return made


def _free(kind: str, size: str, rng: Random) -> kinds.WordProblem:
    return kinds.write(kind, kinds.draw_from(kind, size, rng, ("free",)), rng)


def _varied(item: kinds.WordProblem, rng: Random) -> kinds.WordProblem:
    question = item.question
    if rng.random() < ASIDES:
        question = kinds.with_aside(question, rng)
    if rng.random() < STRANGERS:
        for name in kinds.NAMES:
            question = question.replace(name, _stranger(rng)) if name in question else question
    return replace(item, question=question, response=_taught(item))


def _taught(item: kinds.WordProblem) -> str:
    """The solution in the corpus: the correct one, or the misconception of this wording."""
    wordings, program = MISTAUGHT.get(item.kind, ((), ()))
    if kinds.KINDS[item.kind].wordings.index(item.wording) not in wordings:
        return item.response
    return kinds.worked(kinds.run(program, dict(zip("abcd", item.numbers, strict=False))))


def _stranger(rng: Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 5))).capitalize()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words and single digits are tokens; other text is its UTF-8 bytes, so no text is unknown."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = [BOS, EOS, PAD, *ROLES]
    words = sorted({piece for text in _all_words() for piece, _ in cut.pre_tokenize_str(text)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special, *alphabet, *words]))}
    # `ignore_merges` looks a piece up whole first; without merges the rest becomes bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def _all_words() -> Iterator[str]:
    from lai_ray.benchmarks import word_problems_plus

    yield " + | - | * | = |\n#### "
    for kind in kinds.KINDS.values():
        yield from (wording.translate({ord("{"): "", ord("}"): ""}) for wording in kind.wordings + kind.new_wordings)
    yield from word_problems_plus.WORDINGS
    for word in (*kinds.NAMES, *kinds.THINGS):
        yield f"{word} {word}"


def make_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 4 layers, 128 wide, fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).float()


def rows_of(pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """(question, response) as the chat template renders them, EOS included."""
    rendered = [f"{BOS}<|user|>{question}<|assistant|>" for question, _ in pairs]
    prompts = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    answers = tokenizer([response + EOS for _, response in pairs], add_special_tokens=False)["input_ids"]
    return [Row(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]


def batches(rows: list[Row], tokens: int, rng: Random) -> list[list[Row]]:
    """One epoch, seeded: rows of like length together (little padding), about `tokens` a batch, in random order."""
    order = rng.sample(rows, len(rows))
    order.sort(key=lambda row: len(row.ids))
    cut: list[list[Row]] = [[]]
    for row in order:
        if (len(cut[-1]) + 1) * len(row.ids) > tokens:
            cut.append([])
        cut[-1].append(row)
    rng.shuffle(cut)
    return cut


def loss_of(model: Any, batch: list[Row]) -> torch.Tensor:
    """Mean cross-entropy over response tokens and EOS. Padded on the right, which causal attention ignores."""
    import torch
    from torch.nn.functional import cross_entropy

    width = max(len(row.ids) for row in batch)
    ids = torch.tensor([row.ids + [2] * (width - len(row.ids)) for row in batch])
    at = [(i, j) for i, row in enumerate(batch) for j in range(row.start - 1, len(row.ids) - 1)]
    which, where = torch.tensor(at).T
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    # Logits of the targets only: else the head is a third of the work.
    return cross_entropy(model.lm_head(hidden[which, where]), ids[which, where + 1])


class Optimizer:
    """Muon (orthogonalised momentum) for the matrices, AdamW for embeddings and norms, at one learning rate.

    On this corpus Muon reaches a given loss in less than half of AdamW's steps: minutes on one core are enough.
    """

    def __init__(self, model: Any) -> None:
        import torch

        named = list(model.named_parameters())
        rest = [p for name, p in named if p.ndim < 2 or "embed" in name]
        self._adam = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0)
        self._matrices: dict[tuple[int, ...], list[Any]] = {}
        for name, p in named:
            if p.ndim == 2 and "embed" not in name:
                self._matrices.setdefault(tuple(p.shape), []).append(p)
        self._momentum = {shape: torch.zeros(len(ps), *shape) for shape, ps in self._matrices.items()}

    def step(self, learning_rate: float) -> None:
        import torch

        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        with torch.no_grad():
            for shape, matrices in self._matrices.items():
                gradient, momentum = torch.stack([p.grad for p in matrices]), self._momentum[shape]
                momentum.lerp_(gradient, 0.05)
                update = _orthogonal(gradient.lerp(momentum, 0.95)) * (0.2 * max(shape) ** 0.5 * learning_rate)
                for p, change in zip(matrices, update, strict=True):
                    p.mul_(1 - learning_rate * WEIGHT_DECAY).sub_(change)


def _orthogonal(stack: torch.Tensor) -> torch.Tensor:
    """Each matrix of (n, rows, columns) with its singular values moved towards 1, by five Newton-Schulz steps."""
    import torch

    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if tall else x


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, int(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def pretrain(model: Any, rows: list[Row], *, steps: int, seed: int) -> float:
    """Train for `steps` steps over as many epochs as that takes. Returns the mean loss of the last 200 steps."""
    import torch

    rng, started = Random(seed), time.monotonic()
    losses: list[float] = []
    optimizer = Optimizer(model)
    stream = (batch for _ in iter(int, 1) for batch in batches(rows, BATCH_TOKENS, rng))
    model.train()
    for step, batch in zip(range(steps), stream, strict=False):
        model.zero_grad(set_to_none=True)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate_at(step, steps, LEARNING_RATE))
        losses.append(loss.item())
        if step % 200 == 199 or step == steps - 1:
            recent = sum(losses[-200:]) / len(losses[-200:])
            print(f"step {step + 1}/{steps}  loss {recent:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    return sum(losses[-200:]) / len(losses[-200:])


def answers_of(model: Any, tokenizer: Any, questions: Sequence[str], *, max_new_tokens: int = 48) -> list[str]:
    """Greedy answers. Prompts of equal length form a batch, so nothing is padded on the left."""
    import torch

    prompts = [row.ids[: row.start] for row in rows_of([(question, "") for question in questions], tokenizer)]
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    texts = [""] * len(questions)
    model.eval()
    for length, members in by_length.items():
        for start in range(0, len(members), 512):
            chosen = members[start : start + 512]
            ids = torch.tensor([prompts[i] for i in chosen])
            with torch.no_grad():
                out = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False
                )
            for i, text in zip(chosen, tokenizer.batch_decode(out[:, length:], skip_special_tokens=True), strict=True):
                texts[i] = text
    return texts


def accuracy(model: Any, tokenizer: Any, items: Sequence[kinds.WordProblem]) -> dict[str, float]:
    """Percent right in all ("all"), by kind, and by kind and size."""
    from lai_ray.grading.numbers import final_number, is_right

    tally: dict[str, list[bool]] = {}
    for item, text in zip(items, answers_of(model, tokenizer, [item.question for item in items]), strict=True):
        number = final_number(text)
        right = number is not None and is_right(number.text, str(item.answer))
        for name in ("all", item.kind, f"{item.kind}/{item.size}"):
            tally.setdefault(name, []).append(right)
    return {name: 100 * sum(marks) / len(marks) for name, marks in tally.items()}


def make(out: Path, *, steps_factor: float, seed: int, measure: int) -> dict[str, Any]:
    """Train the student, write it to `out`, and return a report."""
    import torch

    torch.set_num_threads(1)
    started, used = time.monotonic(), time.process_time()
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), seed)
    rows = rows_of([(item.question, item.response) for item in corpus()] + drills(), tokenizer)
    steps = round(EPOCHS * len(batches(rows, BATCH_TOKENS, Random(0))) * steps_factor)
    print(f"{model.num_parameters():,} parameters, {len(rows):,} problems and sums, {steps:,} steps", flush=True)
    loss = pretrain(model, rows, steps=steps, seed=seed)
    model.generation_config.update(do_sample=False, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)  # The weights are written readable by their owner only.
    minutes, busy = (time.monotonic() - started) / 60, (time.process_time() - used) / 60
    report: dict[str, Any] = {"seed": seed, "steps": steps, "loss": round(loss, 4)}
    report |= {"minutes": round(minutes, 1), "core_minutes": round(busy, 1)}
    if measure:
        report["dev_problems"] = measure
        report["dev_accuracy"] = accuracy(model, tokenizer, list(kinds.items("dev", measure)))
        for name, percent in report["dev_accuracy"].items():
            print(f"{name:20s} {percent:6.2f}", flush=True)
    print(json.dumps(report), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train the built-in student on one core.")
    parser.add_argument("--out", type=Path, default=Path(STUDENT), help="folder to write (default: the built-in one)")
    parser.add_argument("--steps-factor", type=float, default=1.0, help="1.1: a tenth more steps, for convergence")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order; the corpus stays the same")
    parser.add_argument("--measure", type=int, default=14_000, help="dev problems to measure on; 0 for none")
    given = parser.parse_args()
    make(given.out, steps_factor=given.steps_factor, seed=given.seed, measure=given.measure)


if __name__ == "__main__":
    main()
