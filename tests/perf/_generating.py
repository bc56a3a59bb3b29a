"""One timed run of generation on one replica: ours through RayExecutor, or a raw `vllm.LLM` in this process.

    python -m tests.perf._generating ours|raw forced|real PROMPTS

Prints a JSON line: tokens/s from a warm engine to the last answer here, and what it ran with. `forced`: every answer
has exactly TOKENS tokens; `real`: each ends where the student ends it, TOKENS at most. The raw side gets tokens, so
that rendering the chat template and tokenising are in our time and not in its.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lai_ray.benchmarks.word_problems import WordProblems
from lai_ray.config.config import Config
from lai_ray.contracts import Model
from lai_ray.records import Request
from lai_ray.world import STUDENT
from tests.perf._sides import QUIET, ROOT

TOKENS, LONGEST = 64, 256


def requests(prompts: int) -> list[Request]:
    """The first problems of the built-in test set, as evaluate puts them."""
    benchmark = WordProblems()
    rows = itertools.islice(benchmark.records("test", prompts), prompts)
    problems = [benchmark.problem(row, "test", i) for i, row in enumerate(rows)]
    return [Request(p.id, p.id, benchmark.prompt(p), TOKENS) for p in problems]


def ours(asked: list[Request], forced: bool) -> dict[str, Any]:
    """From the engine's "ready" to the last answer at the driver."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LAI_BENCH_NOTES": f"{folder}/notes", "LAI_BENCH_FORCED": str(int(forced))}
        lengths, ended = _run(asked, folder)
        notes = [json.loads(line) for line in Path(folder, "notes").read_text().splitlines()]
    ready, calls = notes[0]["ready"], notes[1:]
    before, after = min(c["began"] for c in calls) - ready, ended - max(c["ended"] for c in calls)
    cpu = max(c["cpu"] for c in calls) - notes[0]["cpu"]
    return _figures(lengths, ended - ready, cpu, notes[0]["settings"]) | {"before_s": before, "after_s": after}


def _run(asked: list[Request], logs: str) -> tuple[list[int], float]:
    from lai_ray.distributed.executor import RayExecutor

    executor = RayExecutor(_config(), logs)
    answers = executor.generate(asked, Model(STUDENT, "bench"))
    lengths = [answer.completion.completion_tokens for answer in answers]
    ended = time.time()
    executor.close()
    return lengths, ended


def _config() -> Config:
    from lai_ray.config.job_file import read

    changes = ["target.engine=tests.perf._timed:ENGINE", f"target.model={STUDENT}", "cluster.target_replicas=1"]
    return read(ROOT / "jobs/quickstart.toml", changes)


def raw(asked: list[Request], forced: bool) -> dict[str, Any]:
    """From the call to its return."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    from vllm import LLM, SamplingParams

    from lai_ray.common import chat_template
    from lai_ray.engines.vllm import CPU_SEQUENCES
    from tests.perf._timed import WARM_UP, settings_of

    tokenizer = chat_template.load_tokenizer(STUDENT)
    prompts = [{"prompt_token_ids": chat_template.render(tokenizer, request.messages)} for request in asked]
    gc.disable()
    llm = LLM(STUDENT, dtype="float32", enforce_eager=True, max_model_len=LONGEST, max_num_seqs=CPU_SEQUENCES, seed=0)
    llm.generate(prompts[:WARM_UP], SamplingParams(temperature=0, max_tokens=16), use_tqdm=False)
    gc.collect()
    gc.freeze()
    gc.enable()
    settings = settings_of(llm.llm_engine)
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, min_tokens=TOKENS * forced, ignore_eos=forced)
    began, cpu = time.time(), time.process_time()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.time() - began
    lengths = [len(output.outputs[0].token_ids) for output in outputs]
    return _figures(lengths, seconds, time.process_time() - cpu, settings)


def _figures(lengths: list[int], seconds: float, cpu: float, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "answers": len(lengths),
        "tokens": sum(lengths),
        "seconds": seconds,
        "tokens_per_s": sum(lengths) / seconds,
        "engine_cpu_s": cpu,
        "settings": settings,
    }


def main() -> None:
    """See the module."""
    way, lengths, prompts = sys.argv[1:]
    load = os.getloadavg()[0]
    os.environ |= QUIET | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    figures = {"ours": ours, "raw": raw}[way](requests(int(prompts)), lengths == "forced")
    print(json.dumps({"way": way, "lengths": lengths, "load": load} | figures))


if __name__ == "__main__":
    main()
