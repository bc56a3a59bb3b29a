"""Our engine actors against ray.data.llm on the same prompts: seconds to the first answers, tokens/s from then on.

    python tests/perf/generate_two_ways.py --model FOLDER [--prompts 2048] [--tokens 64] [--rounds 2]

Prints a JSON line a run; the two ways take turns, each in a process and a Ray of its own. Every answer is forced to
`--tokens` tokens, or with `--mixed` to 1/8 of them for seven in eight and all of them for the eighth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUIET = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",
}
LONGEST = 256


def lengths(args: argparse.Namespace) -> list[int]:
    short = max(1, args.tokens // 8)
    return [short if args.mixed and i % 8 else args.tokens for i in range(args.prompts)]


def question(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tom has {i} apples and gives {i * 7 % 100} away. How many are left?"}]


def ours(args: argparse.Namespace) -> Iterator[int]:
    """Yields the tokens of each answer as it arrives."""
    from lai_ray.config import ClusterSettings, TargetSettings
    from lai_ray.contracts import Model
    from lai_ray.distributed.generate import generate
    from lai_ray.records import Request

    settings = TargetSettings(engine="generate_two_ways:Forced", model=args.model, max_model_len=LONGEST)
    cluster = ClusterSettings(target_replicas=args.replicas, gpus_per_replica=0, cpus_per_replica=0.9)
    asked = (Request(str(i), str(i), question(i), n) for i, n in enumerate(lengths(args)))
    for answer in generate(asked, Model(args.model, "bench"), settings=settings, cluster=cluster, logs=None):
        yield answer.completion.completion_tokens


def theirs(args: argparse.Namespace) -> Iterator[int]:
    """Yields the tokens of each answer as it arrives."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from lai_ray import chat

    tokenizer = chat.load_tokenizer(args.model)
    config = vLLMEngineProcessorConfig(
        model_source=args.model,
        engine_kwargs={
            "enforce_eager": True,
            "max_model_len": LONGEST,
            "dtype": "float32",
            "max_num_seqs": 256,
            "distributed_executor_backend": "mp",
        },
        runtime_env={"env_vars": QUIET | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}},
        batch_size=128,
        concurrency=(args.replicas, args.replicas),
        log_engine_metrics=False,
        placement_group_config={"bundle_per_worker": {"CPU": 1}},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "tokenized_prompt": row["ids"],
            "sampling_params": {"temperature": 0.0, "max_tokens": row["n"], "ignore_eos": True},
        },
        postprocess=lambda row: {"tokens": row["num_generated_tokens"]},
    )
    rows = [{"ids": chat.render(tokenizer, question(i)), "n": n} for i, n in enumerate(lengths(args))]
    dataset = processor(ray.data.from_items(rows, override_num_blocks=max(2, args.prompts // 128)))
    for batch in dataset.iter_batches(batch_size=None, prefetch_batches=1):
        yield from (int(n) for n in batch["tokens"])


def one(args: argparse.Namespace) -> dict[str, object]:
    """One run, timed at the driver."""
    os.environ |= QUIET
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    began = time.monotonic()
    arrived = [(time.monotonic() - began, n) for n in {"ours": ours, "theirs": theirs}[args.way](args)]
    first, last = arrived[0][0], arrived[-1][0]
    after = sum(n for t, n in arrived if t > first + 0.2)
    ray.shutdown()
    return {
        "way": args.way,
        "answers": len(arrived),
        "tokens": sum(n for _, n in arrived),
        "first_answers_s": round(first, 1),
        "tokens_per_s_after": round(after / max(last - first, 1e-9)),
        "total_s": round(last, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--way", choices=["ours", "theirs"])
    args = parser.parse_args()
    if args.way:
        print(json.dumps(one(args)), flush=True)
        return
    for _ in range(args.rounds):
        for way in ("ours", "theirs"):
            done = subprocess.run(
                [sys.executable, *sys.argv, "--way", way], capture_output=True, text=True, env=os.environ | QUIET
            )
            print(done.stdout.strip().splitlines()[-1] if done.returncode == 0 else done.stderr[-3000:], flush=True)


def __getattr__(name: str) -> object:
    """`Forced`, the engine of `ours`: made when asked for, so that the driver imports no engine."""
    if name != "Forced":
        raise AttributeError(name)
    from lai_ray.engines import vllm

    sampling = vllm._sampling

    def forced(request):  # type: ignore[no-untyped-def]
        params = sampling(request)
        params.ignore_eos = True
        return params

    vllm._sampling = forced
    return vllm.VllmEngine


if __name__ == "__main__":
    main()
