"""Our engine actors against ray.data.llm on the same prompts: seconds to the first answers, tokens/s from then on.

    python -m tests.perf.ray_data_llm ours|theirs [--prompts 1024] [--tokens 64] [--mixed]

Prints a JSON line. Every answer is forced to `--tokens` tokens, or with `--mixed` to 1/8 of them for seven in eight and
all of them for the eighth.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator

from lai_ray.world import STUDENT
from tests.perf._sides import QUIET, in_turn
from tests.perf.bench import Figure

LONGEST = 256


def bench(pairs: int) -> Iterator[Figure]:
    """The steady rate, and how soon the first answers are there."""
    runs = in_turn(pairs, "tests.perf.ray_data_llm", ("ours", "theirs"))
    for figure, unit in (("tokens_per_s_after", "tokens/s"), ("first_answers_s", "s")):
        yield Figure(
            name=f"ray_data_llm.{figure}",
            unit=unit,
            values=[run["ours"][figure] for run in runs],
            baselines=[run["theirs"][figure] for run in runs],
            reach="",
            notes={"load": [[run[side]["load"] for side in ("ours", "theirs")] for run in runs]},
        )


def lengths(args: argparse.Namespace) -> list[int]:
    short = max(1, args.tokens // 8)
    return [short if args.mixed and i % 8 else args.tokens for i in range(args.prompts)]


def question(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tom has {i} apples and gives {i * 7 % 100} away. How many are left?"}]


def ours(args: argparse.Namespace) -> Iterator[int]:
    """Yields the tokens of each answer as it arrives."""
    from lai_ray.config.settings import ClusterSettings, TargetSettings
    from lai_ray.contracts import Model
    from lai_ray.distributed.generation.generate import generate
    from lai_ray.records import Request

    settings = TargetSettings(engine="tests.perf._timed:ENGINE", model=STUDENT, max_model_len=LONGEST)
    cluster = ClusterSettings(target_replicas=args.replicas, gpus_per_replica=0, cpus_per_replica=0.9)
    asked = (Request(str(i), str(i), question(i), n) for i, n in enumerate(lengths(args)))
    for answer in generate(asked, Model(STUDENT, "bench"), settings=settings, cluster=cluster, logs=None):
        yield answer.completion.completion_tokens


def theirs(args: argparse.Namespace) -> Iterator[int]:
    """Yields the tokens of each answer as it arrives."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from lai_ray.common import chat_template

    tokenizer = chat_template.load_tokenizer(STUDENT)
    config = vLLMEngineProcessorConfig(
        model_source=STUDENT,
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
    rows = [{"ids": chat_template.render(tokenizer, question(i)), "n": n} for i, n in enumerate(lengths(args))]
    dataset = processor(ray.data.from_items(rows, override_num_blocks=max(2, args.prompts // 128)))
    for batch in dataset.iter_batches(batch_size=None, prefetch_batches=1):
        yield from (int(n) for n in batch["tokens"])


def one(args: argparse.Namespace) -> dict[str, object]:
    """One run, timed at the driver."""
    os.environ |= QUIET | {"LAI_BENCH_NOTES": os.devnull, "LAI_BENCH_FORCED": "1"}
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
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=["ours", "theirs"])
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--mixed", action="store_true")
    print(json.dumps(one(parser.parse_args())), flush=True)


if __name__ == "__main__":
    main()
