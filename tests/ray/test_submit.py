"""`lai submit` on a real cluster with token authentication: alone, by the printed line, again, and while running."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from lai_ray.distributed.jobs import submission
from lai_ray.distributed.jobs import submit as job_submit
from lai_ray.errors import ConfigError, StageError
from tests import provider, submitting
from tests.unit.test_recorded import answers

KEY = "sk-planted-7f3a9c51d2"
JOB = """
name = "own"
iterations = 1
storage = "{storage}"
[target]
engine = "recorded"
model = "lai_ray.world:STUDENT"
attempts = {{ word_problems = "answers" }}
[evaluate]
learn_from = ["word_problems"]
[schedule]
strategy = "le"
[contrast]
encoder = "target"
[instructor]
model = "m"
base_url = "{base_url}"
api_key_env = "LAI_PLANTED_KEY"
[curate]
samples_per_dataset = 10
[cluster]
gpus_per_replica = 0
gpus_per_worker = 0
instructor_workers = 1
"""


@dataclass
class Place:
    """A folder with a job and data of its own, a cluster whose nodes have the package and the key, and a provider."""

    folder: Path
    storage: Path
    address: str
    environment: dict[str, str]
    provider: provider.Provider
    metrics_port: int

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`lai submit` of the job, from its folder."""
        command = [sys.executable, "-m", "lai_ray", "submit", "job.toml", "--address", self.address, *arguments]
        return subprocess.Popen(
            [*command, "--until", "instruct"], cwd=self.folder, env=self.environment | environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def submit(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        return ended(self.start(*arguments, **environment))

    def shell(self, line: str) -> subprocess.Popen[str]:
        """A line as a user pastes it, in any folder."""
        return subprocess.Popen(
            line, shell=True, cwd="/", env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def get(self, path: str) -> str:
        """The dashboard's reply to a request with the token."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.address}{path}", headers=token), timeout=30
        ) as reply:
            return str(reply.read().decode())

    def metrics(self) -> str:
        """The run's lines on the node's own endpoint for Prometheus."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as reply:
            return "\n".join(line for line in reply.read().decode().splitlines() if line.startswith("ray_lai_"))

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Every submitted job, by id."""
        return {job["submission_id"]: job for job in json.loads(self.get("/api/jobs/")) if job["submission_id"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("own")
    storage = tmp_path_factory.mktemp("shared") / "runs"
    answers(folder)
    [port] = submitting.free_ports(1, above=9000)
    options = [f"--metrics-export-port={port}", '--system-config={"metrics_report_interval_ms": 500}']
    with provider.serve() as server, \
            submitting.head(storage.parent, *options, LAI_PLANTED_KEY=KEY) as (address, environment):  # fmt: skip
        (folder / "job.toml").write_text(JOB.format(storage=storage, base_url=server.base_url))
        yield Place(folder, storage, address, environment, server, port)


class Watching(threading.Thread):
    """Searches every command line of this machine for a word, repeatedly."""

    def __init__(self, word: str) -> None:
        super().__init__(daemon=True)
        self.word, self.seen, self.looked, self.over = word.encode(), set[str](), 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes()
                except OSError:
                    continue
                self.looked += 1
                if self.word in words:
                    self.seen.add(words.replace(b"\0", b" ").decode(errors="replace"))

    def __enter__(self) -> Watching:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def holding(folder: Path, word: str) -> list[Path]:
    """Files below a folder that hold a word; sockets and links are passed over."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [path for path in files if word.encode() in path.read_bytes()]


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What a command has printed when it is over."""
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def until(what: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


@dataclass
class Life:
    """One run: begun, followed, left, disturbed by a second driver, stopped, resumed, and submitted again."""

    begun: subprocess.CompletedProcess[str]
    beside: subprocess.CompletedProcess[str]
    """The same command, given at the same moment."""
    followed: str
    left: subprocess.CompletedProcess[str]
    after_leaving: str
    meddling: subprocess.CompletedProcess[str]
    resumed: subprocess.CompletedProcess[str]
    asked: int
    by_hand: subprocess.CompletedProcess[str]
    asked_again: int
    metrics: str
    """The first metrics of the run on the node's endpoint."""
    watching: Watching
    keyless: subprocess.CompletedProcess[str]
    """Another run, whose key is not on the cluster."""


@pytest.fixture(scope="module")
def life(place: Place) -> Life:
    place.provider.fault = lambda number, body: "hang" if number > 1 else None
    with Watching(KEY) as watching:
        line = place.submit("--print").stdout
        begun, beside = map(ended, [place.start("--no-wait"), place.start("--no-wait")])
        assert begun.returncode == beside.returncode == 0, begun.stderr + beside.stderr
        keyless = place.start("name=keyless", "instructor.api_key_env=NOT_SET_THERE")
        until(lambda: len(place.provider.log) > 2)

        meddler = place.shell(line)
        following = place.start("limits.max_calls=99")
        assert following.stdout is not None
        followed = until(lambda: "iteration_0/diagnose" in (line := following.stdout.readline()) and line)
        following.send_signal(signal.SIGINT)
        left = ended(following)
        after_leaving = place.jobs()["lai-own-1"]["status"]

        meddling = ended(meddler)
        metrics = until(place.metrics)
        ended(place.shell(f"ray job stop --address {place.address} lai-own-1"))
        place.provider.fault = lambda number, body: None
        resumed = place.submit()
    asked = len(place.provider.log)
    by_hand = ended(place.shell(line))
    return Life(
        begun, beside, followed, left, after_leaving, meddling, resumed, asked, by_hand, len(place.provider.log),
        metrics, watching, ended(keyless),
    )  # fmt: skip


def test_a_running_job_is_followed_and_not_submitted_again(life: Life, place: Place):
    assert life.begun.stdout == life.beside.stdout == "lai-own-1\n"
    assert ["equivalent command" in done.stderr for done in (life.begun, life.beside)].count(True) == 1
    assert "ray job stop --address" in life.begun.stderr
    assert "lai-own-1 is already running this job" in life.left.stderr
    assert "limits.max_calls=99" in life.left.stderr, "a differing setting is reported"
    assert "iteration_0/diagnose" in life.followed


def test_ctrl_c_does_not_stop_the_job(life: Life):
    assert life.left.returncode == 130
    assert "no longer following lai-own-1" in life.left.stderr
    assert life.after_leaving == "RUNNING"


def test_a_second_driver_on_one_run_folder_is_refused(life: Life):
    assert life.meddling.returncode == 1
    assert "is being written by process" in life.meddling.stdout


def test_after_a_stop_the_same_command_resumes_under_the_next_id(life: Life, place: Place):
    assert life.resumed.returncode == 0, life.resumed.stdout + life.resumed.stderr
    assert "--submission-id lai-own-2 " in life.resumed.stderr
    assert "stopped after iteration_0/instruct" in life.resumed.stdout
    assert {place.jobs()[f"lai-own-{n}"]["status"] for n in (1, 2)} == {"STOPPED", "SUCCEEDED"}


def test_the_printed_line_in_a_shell_does_what_lai_submit_does(life: Life, place: Place):
    found = place.jobs()
    by_hand = re.findall(r"'(raysubmit_\w+)' submitted", life.by_hand.stdout)
    ours, theirs = found["lai-own-2"], found[by_hand[-1]]
    for name in ("entrypoint", "runtime_env", "status", "driver_exit_code", "driver_node_id"):
        assert ours[name] == theirs[name], name
    assert ours["metadata"]["lai_run"] == theirs["metadata"]["lai_run"] == f"{place.storage}/own"
    assert life.resumed.returncode == life.by_hand.returncode == 0
    assert "stopped after iteration_0/instruct" in life.by_hand.stdout
    assert life.asked == life.asked_again, "recorded answers are not asked again"


def test_ray_exports_the_metrics_of_a_running_run(life: Life):
    shown = {
        match[1]: (match[2], float(match[3])) for match in re.finditer(r"ray_lai_(\w+)\{([^}]*)\} (\S+)", life.metrics)
    }
    assert shown["requests_per_minute_limit"][1] == 500
    assert shown["tokens_per_minute_limit"][1] == 300_000
    assert shown["spent_calls"][1] >= 2
    assert shown["requests_per_minute"][1] > 0
    assert shown["samples_accepted"][1] == 0, "this provider's replies are no samples"
    for tag in ('run="own"', 'iteration="0"', 'stage="instruct"'):
        assert tag in shown["done"][0].lower()


def test_a_planted_key_is_used_and_found_nowhere(life: Life, place: Place):
    used = {seen.key for seen in place.provider.log}
    assert used == {KEY}
    assert life.watching.looked > 1000
    assert not life.watching.seen, "in the list of processes"
    assert not holding(place.storage, KEY), "in the run's folder"
    assert not holding(submitting.folder_of_head(), KEY), "in what Ray keeps: logs, uploads"
    for path in ("/api/jobs/", "/api/v0/actors?detail=true", "/api/v0/tasks?detail=true", "/api/v0/runtime_envs"):
        assert '"result": true' in (reply := place.get(path)) or path == "/api/jobs/"
        assert KEY not in reply, path
    printed = [life.begun, life.beside, life.left, life.meddling, life.resumed, life.by_hand, life.keyless]
    assert not [done for done in printed if KEY in done.stdout + done.stderr]


def test_a_key_variable_that_is_not_set_on_the_cluster_is_reported_and_the_exit_code_is_the_jobs(life: Life):
    assert life.keyless.returncode == 2
    assert "NOT_SET_THERE" in life.keyless.stdout
    assert "lai-keyless-1 failed (exit code 2)" in life.keyless.stderr


@pytest.mark.parametrize(
    ("token", "reason"),
    [("f" * 64, "the variable RAY_AUTH_TOKEN is not its own"), ("", "none was found here")],
)
def test_a_wrong_token_and_a_missing_one_are_reported(place: Place, tmp_path: Path, token: str, reason: str):
    done = place.submit(RAY_AUTH_TOKEN=token, HOME=str(tmp_path))
    assert done.returncode == 2
    assert place.address in done.stderr and reason in done.stderr
    assert "ray get-auth-token" in done.stderr


SMALL = """
storage = "{storage}"
iterations = 0
target = {{ engine = "slowly:Engine", model = "lai_ray.world:STUDENT" }}
evaluate = {{ learn_from = ["word_problems"], report_on = ["word_problems"] }}
instructor = {{ model = "m", base_url = "http://127.0.0.1:1/v1" }}
cluster = {{ gpus_per_replica = 0, gpus_per_worker = 0, cpus_per_replica = 0.5 }}
"""
SLOWLY = """
import pathlib, time
from lai_ray.engines.scripted import ScriptedEngine
def answer(messages):
    while pathlib.Path({held!r}).exists(): time.sleep(0.1)
    return "7"
class Engine(ScriptedEngine):
    def __init__(self, model, settings, gpus): self._function = answer
"""
SWEEP = """
job = "small.toml"
at_once = 2
[grid]
evaluate.max_test_problems = [11, 12]
"""


@pytest.mark.soak
def test_a_sweep_is_one_job_whose_runs_stop_with_it_and_which_the_same_command_ends(place: Place):
    held = place.storage.parent / "held"
    held.touch()
    (place.folder / "small.toml").write_text(SMALL.format(storage=place.storage))
    (place.folder / "slowly.py").write_text(SLOWLY.format(held=str(held)))
    (place.folder / "both.toml").write_text(SWEEP)
    command = [sys.executable, "-m", "lai_ray", "submit", "both.toml", "--address", place.address]

    def submit(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options], cwd=place.folder, env=place.environment, capture_output=True, text=True, timeout=120
        )

    def runs() -> list[list[str]]:
        lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return [line for line in lines if "run" in line and f'storage="{place.storage}/both"' in line]

    assert submit("--no-wait").stdout == "lai-both-1\n"
    until(lambda: len(runs()) == 1)  # The two sit one test, of which each problem is to be asked once.
    ended(place.shell(f"ray job stop --address {place.address} lai-both-1"))
    until(lambda: not runs(), 30)
    held.unlink()

    done, again = submit(), submit()
    assert done.returncode == again.returncode == 0, done.stdout + done.stderr + again.stdout
    assert "2 runs, 0 done before" in done.stdout and "2 runs, 2 done before" in again.stdout
    assert [place.jobs()[f"lai-both-{n}"]["status"] for n in (1, 2, 3)] == ["STOPPED", "SUCCEEDED", "SUCCEEDED"]
    rows = list(csv.DictReader((place.storage / "both" / "sweep.csv").open()))
    assert [row["state"] for row in rows] == ["done", "done"]


class Broken:
    """A job server whose connections break: the first log ends in mid-word, then the server is away for a while."""

    LOG = "one\ntwo\nthree\n"

    def __init__(self, *refusals: str) -> None:
        self.reads = self.refused = self.listed = 0
        self.busy: list[int] = []
        """Which of the looks at its jobs, counted from 1, it is too busy for."""
        self.refusals = list(refusals)
        self.taken: list[dict[str, Any]] = []

    async def version(self, request: Any) -> Any:
        return web.json_response({"version": "4", "ray_version": "2.60.0"})

    async def job(self, request: Any) -> Any:
        if request.match_info["id"] != "lai-x-1":
            return web.Response(status=404, text="Job does not exist")
        if self.reads == 1 and self.refused < 2:
            self.refused += 1
            return web.Response(status=503, text="away")
        status = "RUNNING" if self.reads < 3 else "SUCCEEDED"
        return web.json_response({"type": "SUBMISSION", "status": status, "entrypoint": "x"})

    async def logs(self, request: Any) -> Any:
        self.reads += 1
        if self.reads == 2:
            return web.Response(status=503)
        return web.json_response({"logs": self.LOG[:6] if self.reads == 1 else self.LOG})

    async def jobs(self, request: Any) -> Any:
        self.listed += 1
        if self.listed in self.busy:
            return web.Response(status=503, text="upstream is busy")
        return web.json_response([])

    async def package(self, request: Any) -> Any:
        return web.Response()

    async def submit(self, request: Any) -> Any:
        if self.refusals:
            return web.Response(status=500, text=f"Traceback (most recent call last):\n  …\n{self.refusals.pop(0)}\n")
        self.taken.append(await request.json())
        return web.json_response({"job_id": "x", "submission_id": "x"})

    @contextmanager
    def serve(self) -> Iterator[str]:
        app, loop = web.Application(), asyncio.new_event_loop()
        app.router.add_get("/api/version", self.version)
        app.router.add_get("/api/jobs/", self.jobs)
        app.router.add_post("/api/jobs/", self.submit)
        app.router.add_route("*", "/api/packages/{protocol}/{name}", self.package)
        app.router.add_get("/api/jobs/{id}", self.job)
        app.router.add_get("/api/jobs/{id}/logs", self.logs)
        runner = web.AppRunner(app)
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        wait = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(10)  # noqa: E731
        wait(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        wait(site.start())
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        wait(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def test_after_a_lost_connection_no_line_of_the_log_is_lost_or_repeated(monkeypatch):
    monkeypatch.setattr(job_submit, "POLL_SECONDS", 0.1)
    written: list[str] = []
    messages: list[str] = []
    with Broken().serve() as address:
        ended = job_submit.Server(address).follow("lai-x-1", written.append, messages.append)
    assert "".join(written) == Broken.LOG
    assert (ended.status, ended.code) == ("SUCCEEDED", 0)
    lost, back = messages
    assert f"{address} does not answer" in lost and "5 minutes" in lost and f"{address} answers again" in back


def test_a_job_that_the_cluster_no_longer_knows_is_reported():
    with Broken().serve() as address, pytest.raises(StageError, match="no longer knows lai-gone-1"):
        job_submit.Server(address).follow("lai-gone-1", print, print)


def test_a_cluster_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(job_submit, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(job_submit, "POLL_SECONDS", 0.1)
    with Broken().serve() as address:
        server = job_submit.Server(address)
    with pytest.raises(StageError, match=f"{address} has not answered for 0 minutes"):
        server.follow("lai-x-1", print, print)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> submission.Submission:
    (tmp_path / "job.toml").write_text(JOB.format(storage="/mnt/runs", base_url="http://h/v1"))
    answers(tmp_path)
    monkeypatch.chdir(tmp_path)
    return submission.of(Path("job.toml"))


def test_a_cluster_that_is_not_ready_is_retried(mine: submission.Submission):
    broken = Broken("No available agent to submit job, please try again later.", "RPC error: CANCELLED")
    broken.busy = [2, 4]
    with broken.serve() as address:
        assert job_submit.Server(address).begin(mine, print) == ("lai-own-1", False)
    [taken] = broken.taken
    assert taken["entrypoint"] == "python -m lai_ray run job.toml"
    assert taken["metadata"] == {"lai_run": "/mnt/runs/own"}
    assert taken["runtime_env"]["working_dir"].startswith("gcs://")
    assert not {"entrypoint_num_gpus", "entrypoint_num_cpus"} & set(taken), "the loop takes no GPU"


def test_a_dashboard_that_does_not_list_its_jobs_is_reported():
    broken = Broken()
    broken.busy = [1]
    with (
        broken.serve() as address,
        pytest.raises(ConfigError, match=f"{address} does not list its jobs: .*503"),
    ):
        job_submit.Server(address)


def test_a_rejected_job_is_reported_with_rays_last_line(mine: submission.Submission):
    with Broken("ValueError: pip cannot be used here").serve() as address:
        server = job_submit.Server(address)
        with pytest.raises(ConfigError, match=f"{address} rejected the job: ValueError: pip cannot be used here\n"):
            server.begin(mine, print)
