"""A sweep makes whole runs over any settings, asks nothing twice, and a second start does only what is missing."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lai_ray.cli.sweep import costs, file, runs, table
from lai_ray.cli.sweep.file import Member, Sweep, toml
from lai_ray.common.intervals import mean_of, t_of
from lai_ray.config import job_file
from lai_ray.errors import ConfigError, InterruptedRunError, StageError
from lai_ray.stages.instruct import planned
from lai_ray.storage.driver import Driver
from tests.local import pretend_model

JOB = """
iterations = 1
storage = "{storage}"
[target]
model = "{storage}/model"
engine = "tests.local:LocalExecutor"
max_new_tokens = 64
[evaluate]
learn_from = ["word_problems"]
report_on = ["word_problems"]
max_train_problems = 60
max_test_problems = 40
[contrast]
encoder = "target"
[instructor]
model = "rules"
[curate]
samples_per_dataset = 30
[cluster]
gpus_per_replica = 0
gpus_per_worker = 0
"""
ARMS = """
job = "job.toml"
seeds = [0, 1]
at_once = 2
[arms.le]
schedule.strategy = "le"
[arms.untargeted]
schedule.strategy = "untargeted"
[grid]
train.epochs = [1, 2]
"""


def made_in(folder: Path) -> Path:
    pretend_model(folder / "model", skill=40)
    (folder / "job.toml").write_text(JOB.format(storage=folder))
    (folder / "arms.toml").write_text(ARMS)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_in(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    """Start runs with the executor of tests/local.py in place of Ray."""
    command = runs.command
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "command", lambda *a: [part.replace("lai_ray", "tests.sweeping") for part in command(*a)])
        yield


def run(sweep: Sweep) -> tuple[str, runs.Results]:
    """What it printed, and its results."""
    out = io.StringIO()
    results = runs.run(sweep, Console(file=out, width=200))
    return out.getvalue(), results


@dataclass
class Swept:
    sweep: Sweep
    printed: str
    results: runs.Results


@pytest.fixture(scope="module")
def swept(small_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Two arms x two values x two seeds, two at once."""
    sweep = file.read(made_in(tmp_path_factory.mktemp("swept")) / "arms.toml")
    return Swept(sweep, *run(sweep))


def asked(sweep: Sweep) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(sweep.storage) / "asked.jsonl").read_text().splitlines()]


def test_the_members_are_every_arm_with_every_value_and_seed(folder):
    sweep = file.read(folder / "arms.toml")
    assert [member.name for member in sweep.members] == [
        f"{arm}-epochs_{epochs}-seed_{seed}" for arm in ("le", "untargeted") for epochs in (1, 2) for seed in (0, 1)
    ]
    one = sweep.members[-1]
    assert (one.config.schedule.strategy, one.config.train.epochs, one.config.seed) == ("untargeted", 2, 1)
    assert one.config.storage == f"{folder}/arms" and one.config.name == one.name


def test_a_text_with_seed_in_braces_is_each_seeds_own(folder):
    (folder / "own.toml").write_text(
        'job = "job.toml"\nseeds = [3, 4]\n[arms.le]\ncontrast.encoder = "encoders/{seed}/whole"\n'
    )
    members = file.read(folder / "own.toml").members
    assert [member.config.contrast.encoder for member in members] == ["encoders/3/whole", "encoders/4/whole"]
    assert [member.name for member in members] == ["le-seed_3", "le-seed_4"]


def test_nothing_is_asked_twice_and_a_second_start_does_nothing(swept):
    sweep = swept.sweep
    assert not swept.results.failed and "8 runs, 0 done before" in swept.printed
    lines = asked(sweep)
    for verb in ("generate", "ask"):
        keys = Counter(key for line in lines for key in line[verb])
        before_training = [key for line in lines if line["until"] for key in line[verb]]
        assert before_training and max(keys.values()) == 1, f"{verb}: asked twice"
    # Two arms x two seeds have a pool of replies each; no run of the last wave asks the instructor anything.
    assert {line["run"] for line in lines if line["ask"]} == {
        line["run"] for line in lines if line["until"] == "0/instruct"
    }
    assert len([line for line in lines if line["until"] == "0/instruct"]) == 4
    again, results = run(sweep)
    assert "8 done before" in again and len(results.done_before) == 8
    assert asked(sweep) == lines


def test_the_table_has_a_row_a_run_and_means_over_seeds(swept):
    sweep = swept.sweep
    made = table.rows(sweep, {})
    assert next(iter(csv.DictReader(io.StringIO(table.as_csv(made).decode()))))["run"] == "le-epochs_1-seed_0"
    assert {row["state"] for row in made} == {"done"}
    assert all(row["word_problems.change"] == row["word_problems.after"] - row["word_problems.before"] for row in made)
    assert sum(row["calls"] + row["inherited"] for row in made) > sum(row["calls"] for row in made) > 0
    means = table.means(sweep, made, 0.95)
    assert next(row[:2] for row in means.rows) == ["le\ntrain.epochs = 1", "2"]
    value = statistics.fmean(row["word_problems.after"] for row in made[:2])
    assert means.rows[0][2].startswith(f"{100 * value:.1f}")


def test_a_single_seed_has_the_intervals_of_its_problems(swept):
    sweep = replace(swept.sweep, members=swept.sweep.members[:1])
    ((_, runs, after, change),) = table.means(sweep, table.rows(sweep, {}), 0.95).rows
    assert runs == "1" and re.fullmatch(r"[\d.]+\n[\d.]+–[\d.]+", after) and " to " in change


def test_the_plan_of_a_sweep_begun_has_the_time_that_its_runs_took(swept, folder):
    one = replace(swept.sweep.members[0], name="another")
    one = replace(one, config=one.config.model_copy(update={"name": "another"}))
    plan = costs.table(replace(swept.sweep, members=[*swept.sweep.members, one]))
    assert re.search(r"A finished run took \d+\.\d minutes on average; 1 more, \d+\.", plan.note)


def test_a_run_that_fails_is_named_with_its_reason_and_tried_again(folder, monkeypatch):
    (folder / "two.toml").write_text('job = "job.toml"\n[grid]\ntrain.epochs = [1, 2]\n')
    sweep = file.read(folder / "two.toml")
    monkeypatch.setenv("LAI_TEST_BREAKS", "epochs_1")
    printed, results = run(sweep)
    assert list(results.failed) == ["epochs_1"] and "Crash" in results.failed["epochs_1"] and "failed:" in printed
    states = [row["state"] for row in table.rows(sweep, results.failed)]
    assert states[0].startswith("failed: ") and states[1] == "done"
    monkeypatch.delenv("LAI_TEST_BREAKS")
    before = len(asked(sweep))
    _, results = run(sweep)
    assert not results.failed and results.done_before == ["epochs_2"]
    assert all(not line["ask"] for line in asked(sweep)[before:]), "its replies were paid for before it failed"


@pytest.mark.soak
def test_where_the_first_of_a_pool_fails_the_next_asks_for_it(folder, monkeypatch):
    (folder / "two.toml").write_text('job = "job.toml"\nat_once = 3\n[grid]\ntrain.epochs = [1, 2, 3]\n')
    sweep = file.read(folder / "two.toml")
    monkeypatch.setenv("LAI_TEST_BREAKS_AT", "ask")
    monkeypatch.setenv("LAI_TEST_BREAKS", "epochs_1")
    _, results = run(sweep)
    assert list(results.failed) == ["epochs_1"]
    keys = Counter(key for line in asked(sweep) for key in line["ask"])
    assert keys and max(keys.values()) == 1
    assert [line["run"] for line in asked(sweep) if line["ask"]] == ["epochs_2"]


def test_a_running_sweep_is_not_started_twice(folder):
    sweep = file.read(folder / "arms.toml")
    driver = Driver(runs._folder(sweep))
    try:
        with pytest.raises(StageError, match=r"_sweep.*process"):
            run(sweep)
    finally:
        driver.close()


def test_a_sweep_that_is_terminated_stops_its_runs_first(folder, monkeypatch):
    ignores = "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_DFL); time.sleep(60)"
    monkeypatch.setattr(runs, "command", lambda *a: [sys.executable, "-c", ignores])
    begun: list[subprocess.Popen[bytes]] = []
    begin = runs._start
    monkeypatch.setattr(runs, "_start", lambda *a: begun.append(begin(*a)) or begun[-1])
    threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(InterruptedRunError, match="stopped"):
        run(file.read(folder / "arms.toml"))
    assert len(begun) == 1, "first evaluations go one after another"
    assert begun[0].returncode == -signal.SIGINT


def test_runs_that_would_share_gpus_are_refused(folder, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sweep = file.read(folder / "arms.toml", ["cluster.gpus_per_replica=1"])
    with pytest.raises(ConfigError, match=r"at_once = 2 .*cluster\.address"):
        run(sweep)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    runs._check_gpus(sweep)


def test_a_setting_that_is_a_table_may_be_in_an_arm(folder):
    (folder / "table.toml").write_text('job = "job.toml"\n[arms.a]\nschedule.strategy = {word_problems = "le"}\n')
    (member,) = file.read(folder / "table.toml").members
    assert member.config.schedule.strategy == {"word_problems": "le"}


def test_a_sweep_in_a_bucket_has_its_logs_on_a_disk(folder, monkeypatch):
    monkeypatch.setenv("LAI_CACHE", str(folder / "cache"))
    sweep = file.read(folder / "arms.toml", ["storage=s3://bucket/runs"])
    assert sweep.storage == "s3://bucket/runs/arms"
    assert 'storage="s3://bucket/runs/arms"' in sweep.members[0].overrides()
    assert runs._logs(sweep).is_relative_to(folder / "cache" / "logs")


@pytest.mark.soak
def test_smaller_sets_are_parts_of_the_largest(folder):
    (folder / "size.toml").write_text('job = "job.toml"\n[grid]\ncurate.samples_per_dataset = [10, 30, 20]\n')
    sweep = file.read(folder / "size.toml")
    run(sweep)
    asking = [line["run"] for line in asked(sweep) if line["ask"]]
    assert asking == ["samples_per_dataset_30"]


@pytest.mark.parametrize(("text", "said"), [
    ('[grid]\ntrain.epochz = [1]', "run epochz_1: .*unknown key 'train.epochz'.*epochs"),
    ('[grid]\ntrain.epochs = []', r"grid\.train\.epochs is \[\]"),
    ('[grid]\ntrain.epochs = 3', r"grid\.train\.epochs is 3"),
    ('[grid]\ntrain.epochs = [1, 0]', "run epochs_0: .*train.epochs"),
    ('sedes = [1]', "sedes: .*job, name, seeds"),
    ('seeds = [1, 1]', r"seeds .*\[1, 1\]"),
    ('[grid]\ntrain.epochs = [1, 1]', "same run"),
    ('[grid]\ntrain.learning_rate = [1e-4, 0.0001]', "same run"),
    ('[grid]\ntrain.epochs = [1]\n"train.epochs" = [2]', "train.epochs is set twice"),
    ('at_once = 0', "at_once"),
    ('[grid]\nseed = [0, 1]', "grid sets seed"),
    ('[arms.a]\nstorage = "elsewhere"', "arms.a sets storage"),
    ('[arms.a]\ntrain.epochs = 1\n[grid]\ntrain.epochs = [1]', "arms.a and grid .*train.epochs"),
    ('[grid', "not valid TOML"),
])  # fmt: skip
def test_a_wrong_sweep_file_is_refused_before_anything_starts(folder, text, said):
    (folder / "bad.toml").write_text('job = "job.toml"\n' + text)
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        file.read(folder / "bad.toml")


def test_the_error_about_a_job_in_place_of_a_sweep_names_the_right_command_and_vice_versa(folder):
    with pytest.raises(ConfigError, match=r"job\.toml.*`lai run "):
        file.read(folder / "job.toml")
    with pytest.raises(ConfigError, match=r"arms\.toml.*`lai sweep "):
        job_file.read(folder / "arms.toml")


def test_the_calls_of_a_sweep_are_estimated_before_it_starts(folder, swept):
    """A pool of each strategy and seed, in the second iteration one of each run."""
    one = costs.table(file.read(folder / "arms.toml", ["limits.max_calls=1000"]))
    two = costs.table(file.read(folder / "arms.toml", ["iterations=2"]))
    calls = [[int(row[1].replace(",", "")) for row in found.rows] for found in (one, two)]
    # Of 60 problems 48, 30 and 12 are mistakes: 2, 2 and 4 samples a request; whoever needs none asks 60, for 2 each.
    assert calls[0] == [2 * (15 + 15), 2 * (15 + 15), 2 * (8 + 15)]
    assert calls[1] == [3 * before for before in calls[0]], "eight more, four of each strategy"
    assert one.columns[-1] == "minutes" and one.rows[0][-1] == "0.1", "60 calls, 500 a minute"
    assert "evaluations (2)" in one.note and "pools of replies (4)" in one.note
    assert "later iterations (8)" in two.note
    assert not costs.table(swept.sweep).rows, "all is done"


def test_a_missing_sweep_file_gets_a_suggestion(folder):
    with pytest.raises(ConfigError, match=r"arm\.toml.*'arms\.toml'"):
        file.read(folder / "arm.toml")


@pytest.mark.parametrize("path", sorted(Path("jobs/sweeps").glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_sweep_is_valid(path):
    assert len(file.read(path).members) >= 3


@pytest.mark.parametrize("value", ["a", 'quo"te', 1, 2.5e-6, True, ["le", "lec"], {"gsm8k": "le", "own data": 1}])
def test_a_value_is_written_as_toml_reads_it(value):
    import tomllib

    assert tomllib.loads(f"x = {toml(value)}")["x"] == value


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        # A seed's first evaluation of its own goes ahead, so that another's finds it done.
        ('[arms.a]\nschedule.strategy = "le"', [["a-seed_0", "a-seed_1"], [], []]),
        # LE shows no neighbours: k is nothing to its requests.
        ('seeds = [0]\n[grid]\ncontrast.neighbours = [1, 3]\n[arms.a]\nschedule.strategy = "le"',
         [["a-neighbours_1-seed_0"], ["a-neighbours_1-seed_0"], []]),
        ('seeds = [0]\n[grid]\ncontrast.neighbours = [1, 3]\n[arms.a]\nschedule.strategy = "lec"',
         [["a-neighbours_1-seed_0"], [], []]),
        # Nor in the first iteration, where LEC comes later.
        ('seeds = [0]\n[grid]\ncontrast.neighbours = [1, 3]\n[arms.a]\nschedule.strategy = ["le", "lec"]',
         [["a-neighbours_1-seed_0"], ["a-neighbours_1-seed_0"], []]),
        # A search asks for the same pools as another, whatever its trials learn of them.
        ('seeds = [0]\n[arms.a]\nsearch.learning_rate = [1e-4]\n[arms.b]\nsearch.learning_rate = [1e-5]',
         [["a-seed_0"], [], ["a-seed_0"]]),
    ],
)  # fmt: skip
def test_what_runs_share_is_done_first(folder, text, heads):
    seeds = "" if "seeds" in text else "seeds = [0, 1]\n"
    (folder / "few.toml").write_text(f'job = "job.toml"\nat_once = 2\n{seeds}{text}\n')
    first, pools, searches, *_ = runs.waves(file.read(folder / "few.toml").members, 2)
    assert [[task.member.name for task in wave] for wave in (first, pools, searches)] == heads
    assert {task.until for task in searches} <= {"0/search"}


def test_of_runs_with_the_same_beginning_the_longest_is_first(folder):
    (folder / "long.toml").write_text('job = "job.toml"\nat_once = 2\n[grid]\niterations = [1, 3, 2]\n')
    *_, longest, others = runs.waves(file.read(folder / "long.toml").members, 2)
    assert [task.member.name for task in longest] == ["iterations_3"]
    assert [task.member.name for task in others] == ["iterations_1", "iterations_2"]


def test_runs_of_an_earlier_state_of_the_file_are_reused(folder):
    old = folder / "arms" / "of-before"
    old.mkdir(parents=True)
    (old / "run.json").write_text("{}")
    (folder / "arms" / "_sweep" / "logs").mkdir(parents=True)
    sweep = file.read(folder / "arms.toml")
    words = runs.command(sweep, runs.Task(sweep.members[0]))
    assert words[words.index("--reuse") :] == ["--reuse", f"{folder}/arms/of-before"]


def test_a_run_ends_when_its_sweep_is_killed(folder):
    """By SIGINT, since it would continue to pay, and the next start would pay too."""
    code = f"""
import sys, time
from pathlib import Path
from lai_ray.cli.sweep import runs
child = "import time, pathlib\\ntry: time.sleep(60)\\nexcept KeyboardInterrupt: pathlib.Path('{folder}/asked').touch()"
runs._start([sys.executable, "-c", child], Path("{folder}/log"))
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: (folder / "log").exists())
    time.sleep(1)
    process.kill()
    until((folder / "asked").exists)
    assert process.wait() == -signal.SIGKILL


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_names_of_runs_are_short_and_distinct(folder):
    schedules = [["le", "le", "lec", last] for last in ("le", "lec")]
    grid = f"schedule.strategy = {toml(schedules)}\ntrain.betas = [[0.9, 0.95], [0.9, 0.99]]\n"
    (folder / "long.toml").write_text(f'job = "job.toml"\n[grid]\n{grid}')
    members: list[Member] = file.read(folder / "long.toml").members
    names = [member.name for member in members]
    assert len(set(names)) == 4 and all(len(name) <= 64 for name in names)


def test_students_t_widens_the_interval_of_few_seeds():
    assert [round(t_of(0.95, n), 3) for n in (1, 2, 10, 30)] == [12.706, 4.303, 2.228, 2.042]
    found = mean_of([0.1, 0.2, 0.3])
    assert found.value == pytest.approx(0.2)
    assert found.high - found.value == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert math.isinf(mean_of([0.1]).high)
    with pytest.raises(ValueError, match="values"):
        mean_of([])


def test_a_plan_for_another_seeds_mistakes_is_not_used():
    """The order in which seeds finish has no influence: a plan belongs to its number of mistakes."""
    largest = {"wanted": 1200, "cases": 790, "samples_per_request": 3}
    others = [None, {"wanted": 1200, "cases": 801, "samples_per_request": 4}, largest]
    assert planned(others, 300, 790) == {"wanted": 300, "cases": 790, "samples_per_request": 3}
    assert planned(others[:2], 300, 790)["samples_per_request"] == 2
