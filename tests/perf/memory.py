"""The figures of docs/results/training.md, Memory: the estimate of a training, and what it was seen to hold.

python -m tests.perf.memory [--only WORDS] [--out ROWS.json]

Randomly initialised Llamas are trained for two steps by `lai_ray.training.sft` on this machine's CPU, in one process or
two. What counts is the memory a process holds for itself (RssAnon and RssShmem) above what it held when everything was
imported and no model was there, sampled every 2 ms (tests/perf/_resident.py). Pages of files are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lai_ray.config.settings import TrainSettings
from lai_ray.training import memory
from lai_ray.training.model_size import size_of
from tests import tiny_model

VOCABULARY = 16_000
SHAPES = {
    "50M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 8},
    "110M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}


@dataclass(frozen=True)
class Case:
    """One training."""

    shape: str = "50M"
    precision: str = "fp32"
    zero_stage: int = 2
    workers: int = 1
    checkpointing: bool = False
    sequences: int = 4
    """In one pass of one worker."""
    length: int = 128
    passes: int = 2
    offload: bool = False


def cases() -> list[Case]:
    """Every stage in both precisions with one worker and two; then checkpointing, a larger model, and offloading."""
    plain = [Case(precision=p, zero_stage=z, workers=w) for w in (1, 2) for p in ("fp32", "bf16") for z in (1, 2, 3)]
    long = Case(sequences=8, length=256)
    return [
        *plain,
        long,
        replace(long, checkpointing=True),
        *(Case(precision="bf16", zero_stage=z, offload=True) for z in (2, 3)),
        Case(shape="110M", precision="bf16", checkpointing=True),
        Case(shape="110M", workers=2, checkpointing=True),
    ]


def model(folder: Path, shape: str) -> str:
    """A Llama's folder with random weights, and a tokenizer of as many words as it has tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant", ":"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = tiny_model.TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=False, **SHAPES[shape]
    )
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def recipe(case: Case, model: str, out: Path) -> dict[str, Any]:
    """The recipe of a job file."""
    settings: dict[str, Any] = {
        "epochs": 1, "sequences_per_step": case.sequences * case.workers * case.passes, "weight_decay": 0.0,
        "sequences_per_device": case.sequences, "max_length": case.length, "zero_stage": case.zero_stage,
        "precision": case.precision, "gradient_checkpointing": case.checkpointing, "offload": case.offload,
    }  # fmt: skip
    return asdict(tiny_model.recipe(model, out, **settings))


def measured(case: Case, models: dict[str, str], scratch: Path) -> dict[str, int]:
    """The most that any worker held, in bytes, by phase."""
    table = recipe(case, models[case.shape], scratch / "out")
    rows = 2 * table["sequences_per_step"]
    # The prompt is two words, so nearly every position is learned; all sequences are cut to the same length.
    texts = [" ".join(f"w{(31 * i + 7 * j) % 15_000}" for j in range(case.length)) for i in range(rows)]
    job = scratch / "job.json"
    examples = [{"id": f"x/{i}", "messages": [{"role": "user", "content": "w1"}], "turns": [[text, 1.0]]}
                for i, text in enumerate(texts)]  # fmt: skip
    (scratch / "job.examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples))
    job.write_text(json.dumps({"recipe": table, "examples": "job.examples.jsonl", "lineage": {}}))
    out = scratch / "peaks"
    launch = ["-m", "tests.perf._resident"]
    if case.workers > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.workers), *launch]
    # One arena, and large blocks go back to the system when they are freed: what is held is what is needed.
    calm = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**os.environ, **calm, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, str(job), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    found = [json.loads((scratch / f"peaks.{rank}").read_text()) for rank in range(case.workers)]
    return {name: max(each.get(name, 0) for each in found) for name in found[0]}


def estimated(case: Case, folder: str) -> tuple[int, str]:
    """The estimate in bytes, without a process before its model, and the moment of the peak."""
    train = TrainSettings(
        precision=case.precision, zero_stage=case.zero_stage, gradient_checkpointing=case.checkpointing,
        sequences_per_device=case.sequences, max_length=case.length, offload=case.offload,
    )  # fmt: skip
    plan = memory.Plan(train, workers=case.workers, gpu=False)
    need = memory.estimate(size_of(folder), plan)
    return need.total - memory.PROCESS, need.worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        models = {shape: model(Path(scratch) / shape, shape) for shape in SHAPES}
        for case in cases():
            if options.only not in str(case):
                continue
            folder = Path(scratch) / "run"
            folder.mkdir(exist_ok=True)
            peaks = measured(case, models, folder)
            before = peaks.pop("before")
            seen, (expected, worst) = max(peaks.values()), estimated(case, models[case.shape])
            cells = [case.shape, case.precision, case.zero_stage, case.workers, f"{case.sequences} × {case.length}"]
            cells += ["yes" if case.checkpointing else "no", "yes" if case.offload else "no"]
            cells += [f"{seen / 1e6:.0f}", f"{expected / 1e6:.0f}", f"{expected / seen - 1:+.0%}", worst]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            rows.append({**asdict(case), "before": before, "peaks": peaks, "expected": expected, "moment": worst})
            if options.out:
                options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
