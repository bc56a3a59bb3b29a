"""One timed run of training: ours under Ray Train, or the same loop started bare.

    python -m tests.perf._training ours|bare BASE WORKERS

BASE: the folder that `base` has made. Bare: `python -m lai_ray.training.sft` for one worker, torch's own launcher for
more. Prints a JSON line: tokens/s of the steps after the first SKIPPED, from the metrics that the loop itself writes,
so that no start-up is in it; the processor seconds of every process of the run while those steps were made; and how
each rank's own thread spent them: computing, standing in line for a processor, asleep.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from lai_ray.config.settings import TrainSettings
from lai_ray.contracts import Example, Model, TrainJob
from lai_ray.training import export
from lai_ray.training.recipe import recipe_for, write_job
from tests.perf._sides import QUIET, ROOT

STEPS, SKIPPED = 18, 3
TOKENS = 256
"""Of every sequence, so that each step is the same work."""
SEQUENCES = 2
"""In one forward pass of one worker."""
VOCABULARY = 8192


def base(folder: Path) -> str:
    """A Llama of 20.4 M random parameters (8 layers x 384), with a word for every token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tests.tiny_model import TEMPLATE, WORDS

    words = [*WORDS[:7], *(f"w{i}" for i in range(VOCABULARY - 7))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=512, **sizes)).save_pretrained(folder)
    return str(folder)


def job(model: str, out: str, workers: int) -> TrainJob:
    """STEPS steps of SEQUENCES sequences a worker, TOKENS tokens each."""
    settings = TrainSettings(
        learning_rate=1e-4, sequences_per_step=SEQUENCES * workers, sequences_per_device=SEQUENCES, max_length=TOKENS,
        precision="fp32", gradient_checkpointing=False, zero_stage=2,
    )  # fmt: skip
    chance = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{chance.randrange(VOCABULARY - 7)}" for _ in range(count))

    # Longer than TOKENS, so all are cut to it.
    examples = [
        Example(f"bench/{i}", [{"role": "user", "content": words(100)}], [(words(200), 1.0)])
        for i in range(STEPS * settings.sequences_per_step)
    ]
    return TrainJob("bench", Model(model, "bench"), examples, settings, 1e-4, 0, out, {})


class Watch:
    """Processor seconds of this process's children and itself, between two of its looks; and of the busiest threads."""

    def __init__(self) -> None:
        self.first: dict[int, tuple[str, float]] = {}
        self.last: dict[int, tuple[str, float]] = {}
        self.threads: list[dict[str, tuple[float, float]]] = []
        self.began = self.ended = 0.0

    def __call__(self, done: int, steps: int) -> None:
        if done < SKIPPED or self.ended:
            return
        if not self.first:
            self.first, self.began = _seconds(), time.monotonic()
            self.threads.append(_threads())
        elif done >= steps - 1:
            self.last, self.ended = _seconds(), time.monotonic()
            self.threads.append(_threads())

    def shares(self) -> dict[str, float]:
        """Processor seconds a second of clock, by kind of process, the largest first."""
        spent: Counter[str] = Counter()
        before = {pid: seconds for pid, (_, seconds) in self.first.items()}
        for pid, (name, seconds) in self.last.items():
            spent[name] += seconds - before.get(pid, 0.0)
        clock = max(self.ended - self.began, 1e-9)
        return {name: round(seconds / clock, 4) for name, seconds in spent.most_common() if seconds > 0}

    def ranks(self, workers: int) -> list[list[float]]:
        """Of each worker's training thread, shares of the clock: computing, kept waiting by others' work, asleep."""
        if len(self.threads) < 2:
            return []
        clock, (first, last) = self.ended - self.began, self.threads
        spent = [(last[who][0] - first[who][0], last[who][1] - first[who][1]) for who in last if who in first]
        busiest = sorted(spent, reverse=True)[:workers]
        return [[round(share / clock, 3) for share in (ran, held, clock - ran - held)] for ran, held in busiest]


def _threads() -> dict[str, tuple[float, float]]:
    """Thread -> seconds that it ran, and that it could have run but stood in line, of all processes of the run."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            try:
                ran, held, _ = map(int, file.read_text().split())
            except OSError:
                continue
            found[str(file)] = (ran / 1e9, held / 1e9)
    return found


def _seconds() -> dict[str, float]:
    """ "pid#name" -> processor seconds so far, children that have ended included in nobody's."""
    me = psutil.Process()
    found = {}
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
            found[process.pid] = ("driver" if process == me else _name(process), times.user + times.system)
        except psutil.Error:
            continue
    return found


def _name(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    if words[0].startswith("ray::"):
        return words[0]
    scripts = [Path(word).name for word in words if word.endswith(".py")]
    module = words[words.index("-m") + 1] if "-m" in words else ""
    return module or (scripts[0] if scripts else Path(words[0]).name)


def ours(work: TrainJob, workers: int, watch: Callable[[int, int], None]) -> None:
    """Through the executor, as a run does it."""
    from lai_ray.config.job_file import read
    from lai_ray.distributed.executor import RayExecutor

    changes = [f"cluster.train_workers={workers}", "cluster.cpus_per_worker=1"]
    executor = RayExecutor(read(ROOT / "jobs/quickstart.toml", changes), str(Path(work.out).with_name("logs")))
    executor.train(work, watch)
    executor.close()


def bare(work: TrainJob, workers: int, watch: Callable[[int, int], None]) -> None:
    """The loop's own command line."""
    path = Path(work.out).with_name("job.json")
    write_job(path, recipe_for(work), work.examples, {"name": work.name})
    launcher = ["torch.distributed.run", f"--nproc-per-node={workers}", "--standalone", "-m"] if workers > 1 else []
    command = [sys.executable, "-m", *launcher, "lai_ray.training.sft", str(path)]
    metrics = export.part_of(work.out) / export.METRICS
    with path.with_suffix(".log").open("w") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as run:
        while run.poll() is None:
            time.sleep(0.3)  # As often as ours looks.
            if metrics.exists() and (lines := metrics.read_text().count("\n")):
                watch(lines, STEPS)
    if run.returncode:
        raise SystemExit(path.with_suffix(".log").read_text()[-2000:])


def main() -> None:
    """See the module."""
    way, model, workers = sys.argv[1:]
    os.environ |= QUIET
    load, watch, began = os.getloadavg()[0], Watch(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = job(model, f"{folder}/out", int(workers))
        {"ours": ours, "bare": bare}[way](work, int(workers), watch)
        lines = [json.loads(line) for line in Path(work.out, export.METRICS).read_text().splitlines()]
    timed = lines[SKIPPED:]
    tokens = sum(line["tokens"] for line in timed)
    seconds = sum(line["tokens"] / line["tokens_per_second"] for line in timed)
    figures = {
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "whole_s": time.monotonic() - began,
        "loss": timed[-1]["loss"],
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "ranks": watch.ranks(int(workers)),
        "processors": watch.shares(),
    }
    print(json.dumps({"way": way, "workers": int(workers), "steps": len(timed)} | figures))


if __name__ == "__main__":
    main()
