"""Does a trained model answer in vLLM as it does in transformers?  python -m tests.perf.exported

The built-in student is trained in fp32 for some steps; then PROMPTS problems are answered greedily by the project's
engine and by `transformers.generate`, each in a process of its own. Prints a JSON line: how many texts are the same,
and for each that is not, how far apart the two likeliest tokens were (as log-probabilities, in transformers) where the
texts part. Two sums in another order may choose differently between tokens as likely as each other, nowhere else.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lai_ray.benchmarks.word_problems import WordProblems
from lai_ray.world import STUDENT
from tests.perf._sides import QUIET, ROOT

PROMPTS, TOKENS, TRAINED = 100, 64, 256
NEAR = 1e-3
"""Tokens no further apart than this are as likely as each other."""
BENCHMARK = WordProblems()


def problems(split: str, count: int) -> list[Any]:
    """The first ones of a split of the built-in benchmark."""
    rows = itertools.islice(BENCHMARK.records(split, count), count)
    return [BENCHMARK.problem(row, split, i) for i, row in enumerate(rows)]


def train(folder: Path) -> dict[str, Any]:
    """Leaves the model at `folder`/out."""
    from lai_ray.common.chat_template import Example
    from lai_ray.training import loop
    from tests.tiny_model import recipe

    learned = [Example(p.id, BENCHMARK.prompt(p), [(BENCHMARK.reference(p), 1.0)]) for p in problems("train", TRAINED)]
    job = recipe(
        STUDENT, folder / "out", learning_rate=1e-3, epochs=1, sequences_per_step=16, sequences_per_device=16,
        max_length=256,
    )  # fmt: skip
    return dict(loop.train(job, learned, report=lambda step, metrics: None, lineage={}))


def vllm(folder: Path) -> list[str]:
    """The project's engine's answers."""
    from lai_ray.config.settings import TargetSettings
    from lai_ray.contracts import Model
    from lai_ray.engines.vllm import VllmEngine
    from lai_ray.records import Request

    model = str(folder / "out")
    engine = VllmEngine(Model(model, "exported"), TargetSettings(model=model, max_model_len=256), gpus=0)
    asked = [Request(p.id, p.id, BENCHMARK.prompt(p), TOKENS) for p in problems("test", PROMPTS)]
    texts = [answer.completion.text for answer in engine.generate(asked)]
    engine.close()
    return texts


def transformers(folder: Path) -> list[dict[str, Any]]:
    """For each prompt: its text after each token, and the gap between the two likeliest tokens at each."""
    import torch
    from transformers import AutoModelForCausalLM

    from lai_ray.common import chat_template

    torch.set_num_threads(1)
    tokenizer = chat_template.load_tokenizer(str(folder / "out"))
    model = AutoModelForCausalLM.from_pretrained(folder / "out", dtype=torch.float32).eval()
    found = []
    for problem in problems("test", PROMPTS):
        prompt = torch.tensor([chat_template.render(tokenizer, BENCHMARK.prompt(problem))])
        said = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=TOKENS,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        ids = said.sequences[0, prompt.shape[1] :].tolist()
        best = [logits[0].float().topk(2).values.tolist() for logits in said.logits]
        texts = [tokenizer.decode(ids[: i + 1], skip_special_tokens=True) for i in range(len(ids))]
        found.append({"texts": texts, "gaps": [first - second for first, second in best]})
    return found


def compared(theirs: str, ours: dict[str, Any]) -> float | None:
    """None for the same text, else the gap at the first token that is not in the other text, or is its end too soon."""
    if theirs == ours["texts"][-1]:
        return None
    parted = [gap for text, gap in zip(ours["texts"], ours["gaps"], strict=True) if not theirs.startswith(text)]
    return float(parted[0] if parted else ours["gaps"][-1])


def compare() -> dict[str, Any]:
    """Train, ask both, each in a process of its own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        metrics, theirs, ours = (_apart(step, folder) for step in ("train", "vllm", "transformers"))
    gaps = [gap for text, each in zip(theirs, ours, strict=True) if (gap := compared(text, each)) is not None]
    return {
        "steps": metrics["step"],
        "loss": metrics["loss"],
        "prompts": len(theirs),
        "distinct": len(set(theirs)),
        "tokens": sum(len(each["texts"]) for each in ours),
        "same": len(theirs) - len(gaps),
        "gaps": gaps,
        "near_ties": sum(gap <= NEAR for each in ours for gap in each["gaps"]),
        "seconds": round(time.monotonic() - began, 1),
        "load": round(os.getloadavg()[0], 2),
    }


def _apart(step: str, folder: str) -> Any:
    command, env = [sys.executable, "-m", "tests.perf.exported", step, folder], os.environ | QUIET
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """All of it, or one step of it in this process."""
    if len(sys.argv) == 1:
        print(json.dumps(compare()))
        return
    step, folder = sys.argv[1:]
    print(json.dumps({"train": train, "vllm": vllm, "transformers": transformers}[step](Path(folder))))


if __name__ == "__main__":
    main()
