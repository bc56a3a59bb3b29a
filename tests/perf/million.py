"""Many attempts through evaluate, diagnose, instruct and curate: the driver's memory and time, by stage.

    python -m tests.perf.million FOLDER [ROWS …]

Rows of a user's own data (62,500 to 1,000,000 unless said), one scripted engine on Ray, a scripted provider on this
machine, LE, 3,000 samples. The driver's own memory (RssAnon) is looked at ten times a second; a row a size is printed,
and what a row costs: the slope of the peak between the smallest size and the largest.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lai_ray.config.settings import TargetSettings
from lai_ray.contracts import Model
from lai_ray.engines.scripted import ScriptedEngine
from lai_ray.records import Message

SIZES = (62_500, 250_000, 1_000_000)
JOB = """
name = "rows-{rows}"
iterations = 1
storage = "{storage}"
[target]
model = "lai_ray.world:STUDENT"
engine = "tests.perf.million:Responder"
[[benchmark]]
name = "sums"
kind = "number"
train = "{storage}/sums-{rows}.jsonl"
[evaluate]
learn_from = ["sums"]
max_train_problems = {rows}
[schedule]
strategy = "le"
[contrast]
encoder = "target"
[instructor]
model = "scripted"
base_url = "tests.perf.million:serve"
[limits]
requests_per_minute = 100_000
tokens_per_minute = 1_000_000_000
max_in_flight = 64
[curate]
samples_per_dataset = 3000
[cluster]
target_replicas = 1
gpus_per_replica = 0
gpus_per_worker = 0
"""


def rows(count: int) -> Iterator[dict[str, str]]:
    """Questions of about thirty words, each another one."""
    for i in range(count):
        a, b = 1000 + 7 * i % 9001, 100 + 13 * i % 899
        yield {
            "question": f"In the year {i} the mill at the end of the long road by river {i % 977} ground {a} sacks of "
            f"wheat in spring and {b} sacks more before the first snow fell. How many sacks did it grind in all?",
            "answer": str(a + b),
        }


class Responder(ScriptedEngine):
    """The scripted engine with a function of our own; the student's folder is only the target's name."""

    def __init__(self, model: Model, settings: TargetSettings, gpus: float) -> None:
        super().__init__(model, settings.model_copy(update={"model": "tests.perf.million:respond"}), gpus)


def respond(messages: Sequence[Message]) -> str:
    """Right for three of five."""
    words = str(messages[-1]["content"]).split()
    year = int(words[3])
    a, b = int(words[words.index("ground") + 1]), int(words[words.index("and") + 1])
    return f"It ground {a} and then {b} sacks, which I add up. {a} + {b} = {a + b}\n#### {a + b + (year % 5 < 2)}"


class _Provider(BaseHTTPRequestHandler):
    """Three new problems in every reply."""

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        dice = random.Random(asked)
        items = []
        for place in (1, 2, 3):
            a, b = dice.randrange(1000, 9999), dice.randrange(1000, 9999)
            letters = "".join(dice.choices("bcdfglmnprst", k=8))
            items.append(f"{place}. Question: {letters} has {a} coins and finds {b}. How many now?\n"
                         f"Answer: {a} + {b} = {a + b}\n#### {a + b}")  # fmt: skip
        told = {
            "id": "x", "object": "chat.completion", "created": 0, "model": "scripted",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "\n".join(items)}}
            ],
            "usage": {"prompt_tokens": 200, "completion_tokens": 150, "total_tokens": 350},
        }  # fmt: skip
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serve() -> Iterator[str]:
    """The provider, in the driver."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()


def held(pid: int) -> int:
    """Bytes that a process holds for itself."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def stage_of(log: Path) -> str:
    """The stage of a journal's last line."""
    if not log.exists():
        return "start"
    lines = log.read_bytes()[-2000:].splitlines()
    return json.loads(lines[-1]).get("stage") or "start" if lines else "start"


def measured(folder: Path, count: int) -> dict[str, Any]:
    """One run: seconds and the driver's peak, by stage."""
    data = folder / f"sums-{count}.jsonl"
    with data.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))
    job = folder / f"job-{count}.toml"
    job.write_text(JOB.format(rows=count, storage=folder))
    peaks: defaultdict[str, int] = defaultdict(int)
    began = time.monotonic()
    with (folder / f"said-{count}.txt").open("w") as said:
        command = [sys.executable, "-m", "lai_ray", "run", str(job), "--until", "curate"]
        driver = subprocess.Popen(command, stdout=said, stderr=said)
        while driver.poll() is None:
            time.sleep(0.1)
            try:
                now = held(driver.pid)
            except OSError:
                break
            stage = stage_of(folder / f"rows-{count}/logs/driver.jsonl")
            peaks[stage] = max(peaks[stage], now)
    if driver.wait():
        raise SystemExit((folder / f"said-{count}.txt").read_text()[-3000:])
    stages = folder / f"rows-{count}/iteration_0"
    seconds = {
        done.parent.name: json.loads(done.read_text())["facts"]["seconds"]
        for done in sorted(stages.glob("*/done.json"))
    }
    scores = json.loads((stages / "evaluate/scores.json").read_text())["sums.train"]
    samples = sum(1 for _ in (stages / "curate/samples.jsonl").open())
    return {
        "rows": count, "right": scores["right"], "samples": samples, "whole": round(time.monotonic() - began, 1),
        "seconds": seconds, "driver_mb": {stage: round(peak / 1e6) for stage, peak in peaks.items()},
    }  # fmt: skip


def main() -> None:
    """See above."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for count in [int(size) for size in sys.argv[2:]] or SIZES:
        found.append(measured(folder, count))
        print(json.dumps(found[-1]), flush=True)
    if len(found) > 1:
        more = found[-1]["rows"] - found[0]["rows"]
        peaks = [1e6 * max(row["driver_mb"].values()) for row in (found[0], found[-1])]
        bytes_a_row, seconds = (peaks[1] - peaks[0]) / more, (found[-1]["whole"] - found[0]["whole"]) / more
        print(f"{bytes_a_row:.0f} bytes of the driver's memory a row; {1e6 * seconds:.0f} s a million rows")


if __name__ == "__main__":
    main()
