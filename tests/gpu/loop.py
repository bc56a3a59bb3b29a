"""A whole small iteration on one GPU, part by part.  python -m tests.gpu.loop [--small] [PART ...]  -> a line of JSON

Each part has a process of its own, so that none finds the GPU's memory taken, and runs alone where its name is given; a
part whose package is missing is skipped by name, and one that fails is told with its last line.

training    a Llama of 1.1 B random parameters, bf16, ZeRO 2: MFU, and the peak of memory beside the forecast
canary      an engine of what `training` left shows that it holds these weights (made first where it is not there)
stale       with the weights of before the training in the same folder: refused
generation  tokens/s of our engine's class against `vllm.LLM`, the same requests
iteration   `lai run` of the quickstart's job for one iteration: the engine and the training take turns on the GPU

--small: sizes for a processor. That shows that it runs, and nothing about a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
SMALL = (2, 64, 32, 6)
PACKAGES = {
    "training": ("torch", "deepspeed"), "canary": ("vllm",), "stale": ("vllm",), "generation": ("vllm",),
    "iteration": ("ray", "vllm", "deepspeed", "faiss"),
}  # fmt: skip
REQUESTS = {True: (32, 16), False: (512, 256)}
"""How many, and tokens of each answer; small or not."""
SECONDS = 280
"""Of a part; all of them stay below ten minutes, since on a GPU each takes one or two."""


def training(folder: Path, small: bool) -> dict[str, Any]:
    from tests.gpu.training import SIZE, measured

    return measured(*(SMALL if small else SIZE), folder)


def canary(folder: Path, small: bool) -> dict[str, Any]:
    began = time.monotonic()
    engine = _engine(_trained(folder, small) / "out")
    seconds = time.monotonic() - began
    answers = engine.generate(_requests(2, 8))
    engine.close()
    return {"seconds": round(seconds, 1), "answers": [answer.completion.text for answer in answers]}


def stale(folder: Path, small: bool) -> dict[str, Any]:
    from lai_ray.errors import DataError

    made, old = _trained(folder, small), folder / "stale"
    shutil.copytree(made / "out", old, dirs_exist_ok=True)
    for weights in (made / "base").glob("*.safetensors*"):
        shutil.copy(weights, old)
    try:
        _engine(old)
    except DataError as error:
        return {"caught": True, "error": str(error)}
    return {"caught": False}


def generation(folder: Path, small: bool) -> dict[str, Any]:
    ours, raw = (_in_process(side, folder, small) for side in ("ours", "raw"))
    return {"ours": ours, "raw": raw, "ratio": round(ours["tokens_per_second"] / raw["tokens_per_second"], 3)}


def ours(folder: Path, small: bool) -> dict[str, Any]:
    engine, requests = _engine(_trained(folder, small) / "out"), _requests(*REQUESTS[small])
    engine.generate(requests[:8])
    return _speed(lambda: sum(answer.completion.completion_tokens for answer in engine.generate(requests)))


def raw(folder: Path, small: bool) -> dict[str, Any]:
    import torch

    from lai_ray.engines.vllm import CPU_SEQUENCES

    on_cpu: dict[str, Any] = {}
    if not torch.cuda.is_available():
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
        on_cpu = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": CPU_SEQUENCES}
    from vllm import LLM, SamplingParams

    count, tokens = REQUESTS[small]
    engine = LLM(str(_trained(folder, small) / "out"), **on_cpu)
    asked, sampling = [r.messages for r in _requests(count, tokens)], SamplingParams(temperature=0, max_tokens=tokens)
    engine.chat(asked[:8], sampling, use_tqdm=False)
    return _speed(lambda: sum(len(o.outputs[0].token_ids) for o in engine.chat(asked, sampling, use_tqdm=False)))


def iteration(folder: Path, small: bool) -> dict[str, Any]:
    devices = [] if small else [
        "cluster.target_replicas=1", "cluster.gpus_per_replica=1", "cluster.train_workers=1",
        "cluster.gpus_per_worker=1", "train.precision=bf16", "target.dtype=bfloat16",
    ]  # fmt: skip
    sizes = ["evaluate.max_train_problems=300", "curate.samples_per_dataset=100"] if small else []
    tests = ["evaluate.max_test_problems=300", "iterations=1", "schedule.strategy=le", f"storage={folder}"]
    began = time.monotonic()
    command = [sys.executable, "-m", "lai_ray", "run", "jobs/quickstart.toml", *tests, *devices, *sizes]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout[-500:])
    scores = [json.loads((folder / f"quickstart/iteration_{i}/evaluate/scores.json").read_text()) for i in (0, 1)]
    right = [{name: score["right"] / score["n"] for name, score in each.items()} for each in scores]
    return {"seconds": round(time.monotonic() - began, 1), "before": right[0], "after": right[1]}


def _trained(folder: Path, small: bool) -> Path:
    if not (folder / "out/lineage.json").exists():
        _in_process("training", folder, small)
    return folder


def _engine(path: Path) -> Any:
    import torch

    from lai_ray.config.settings import TargetSettings
    from lai_ray.contracts import Model
    from lai_ray.engines.vllm import VllmEngine

    return VllmEngine(Model(str(path), "gpu"), TargetSettings(model=str(path)), float(torch.cuda.is_available()))


def _requests(count: int, tokens: int) -> list[Any]:
    from lai_ray.records import Request

    words = [[{"role": "user", "content": f"w{i % 60} w{i % 7} w3"}] for i in range(count)]
    return [Request(f"q{i}", f"k{i}", messages, max_tokens=tokens) for i, messages in enumerate(words)]


def _speed(generate: Callable[[], int]) -> dict[str, Any]:
    began = time.monotonic()
    tokens = generate()
    return {"tokens": tokens, "tokens_per_second": round(tokens / (time.monotonic() - began), 1)}


def _in_process(part: str, folder: Path, small: bool) -> dict[str, Any]:
    """Raises RuntimeError with its last line, where it fails."""
    command = [sys.executable, "-m", "tests.gpu.loop", "--inside", str(folder), *(["--small"] if small else []), part]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=SECONDS)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main(parts: list[str], small: bool) -> dict[str, Any]:
    """What each part found, in the order of PACKAGES."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part, packages in PACKAGES.items():
            if parts and part not in parts:
                continue
            if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
                found[part] = {"skipped": f"{', '.join(missing)} is not installed"}
                continue
            try:
                found[part] = _in_process(part, Path(folder), small)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                found[part] = {"failed": str(error)}
    return found


if __name__ == "__main__":
    arguments = sys.argv[1:]
    small_sizes = "--small" in arguments
    if arguments[:1] == ["--inside"]:
        print("\n" + json.dumps(globals()[arguments[-1]](Path(arguments[1]), small_sizes)))
    else:
        print(json.dumps(main([name for name in arguments if name != "--small"], small_sizes)))
