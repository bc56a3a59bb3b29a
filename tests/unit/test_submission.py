"""A job as one `ray job submit`: the printed line is equivalent, and what would fail on the cluster is refused here."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lai_ray.cli import main, run
from lai_ray.cli.sweep import submitted
from lai_ray.distributed.jobs import submission, submit, upload
from lai_ray.errors import ConfigError
from tests.local import LocalExecutor, job

ROOT = Path(__file__).parents[2]
KEY = "sk-planted-0123456789"
JOB = """
name = "mine"
storage = "/mnt/shared/runs"
target.model = "some/model"
evaluate.learn_from = ["word_problems"]
instructor = { model = "some-model", api_key_env = "PLANTED_KEY" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a job in it; without cluster, key and token."""
    here = tmp_path / "my work"
    (here / "jobs").mkdir(parents=True)
    (here / "jobs" / "mine.toml").write_text(JOB)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "PLANTED_KEY"):
        monkeypatch.delenv(name, raising=False)
    return here


def mine(*overrides: str, **options) -> submission.Submission:
    return submission.of(Path("jobs/mine.toml"), overrides, **options)


def test_the_printed_line_gives_ray_the_arguments_of_lai_submit(folder: Path):
    awkward = "instructor.base_url=http://h/v1?a=1&b='$HOME' \"x\""
    made = mine(awkward, "name=lec-k1", until="instruct", reuse=["/mnt/shared/runs/my old"])
    ray = folder / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text("#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    ray.chmod(0o755)
    environment = os.environ | {"PATH": f"{ray.parent}{os.pathsep}{os.environ['PATH']}"}
    line = made.line("http://head:8265", "lai-lec-k1-2")
    done = subprocess.run(line, shell=True, cwd="/", env=environment, capture_output=True, text=True, check=True)
    words = json.loads(done.stdout)
    at = words.index("--")
    options = dict(zip(words[2:at:2], words[3:at:2], strict=True))
    assert words[:2] == ["job", "submit"]
    assert options["--address"] == "http://head:8265"
    assert options["--submission-id"] == "lai-lec-k1-2"
    assert options["--working-dir"] == made.folder == str(folder)
    assert json.loads(options["--runtime-env-json"]) == made.environment
    assert json.loads(options["--metadata-json"]) == made.metadata == {"lai_run": "/mnt/shared/runs/lec-k1"}
    assert shlex.join(words[at + 1 :]) == made.entrypoint  # as Ray's command joins them
    assert words[at + 1 :] == [
        "python", "-m", "lai_ray", "run", "jobs/mine.toml", awkward, "name=lec-k1", "--until", "instruct",
        "--reuse", "/mnt/shared/runs/my old",
    ]  # fmt: skip


def test_a_runtime_environment_beside_the_job_is_used(folder: Path):
    (folder / "jobs" / "runtime_env.yaml").write_text("env_vars: {HF_HUB_OFFLINE: '1'}\npip: [rouge-score]\n")
    made = mine()
    assert made.environment == {"env_vars": {"HF_HUB_OFFLINE": "1"}, "pip": ["rouge-score"]}
    assert f"--runtime-env '{folder}/jobs/runtime_env.yaml' " in made.line("http://head:8265")


def test_the_built_in_environment_equals_the_shipped_one():
    shipped = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())
    assert shipped == submission.ENVIRONMENT


def test_the_line_enables_tokens_and_overrides_other_addresses(folder: Path, monkeypatch):
    assert mine().line("http://head:8265").startswith("ray job submit ")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 32)
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    line = mine().line("http://head:8265")
    assert line.startswith("RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://head:8265 ray job submit ")
    assert "x" * 32 not in line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["storage=runs"], "storage = 'runs' .*storage=/mnt/shared/runs"),
        (["train.lerning_rate=1"], "lerning_rate.*'learning_rate'"),
        (
            ["target.engine=recorded", "target.attempts.word_problems=a.jsonl"],
            "target.attempts.word_problems: .*a.jsonl",
        ),
        (["target.engine=recorded", "target.attempts.word_problems=../a.jsonl"], "a.jsonl: .*outside of .*my work"),
        (["instructor.prompts=../prompts"], "instructor.prompts .*outside of .*my work"),
        (["instructor.engine=vllm", "instructor.model=../prompts"], "instructor.model .*outside of .*my work"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused_here(folder: Path, overrides, message):
    (folder.parent / "a.jsonl").write_text("{}")
    (folder.parent / "prompts").mkdir()
    (folder.parent / "prompts" / "le.txt").write_text("{question}")
    with pytest.raises(ConfigError, match=message):
        mine(*overrides)


def test_a_job_file_outside_of_the_upload_is_refused(folder: Path, monkeypatch):
    with pytest.raises(ConfigError, match="jobs/none.toml"):
        submission.of(Path("jobs/none.toml"))
    monkeypatch.chdir(folder / "jobs")
    assert submission.of(Path("mine.toml")).words[4] == "mine.toml"
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    with pytest.raises(ConfigError, match="mine.toml: the job file .*outside of .*elsewhere"):
        submission.of(Path("../jobs/mine.toml"))


def test_a_file_that_the_job_extends_must_be_uploaded_too(folder: Path):
    (folder.parent / "base.toml").write_text(JOB)
    (folder / "jobs" / "mine.toml").write_text('extends = "../../base.toml"\n')
    with pytest.raises(ConfigError, match="base.toml: a file that the job extends"):
        mine()


SWEEP = """
job = "../mine.toml"
seeds = [0, 1]
[arms.one]
instructor.api_key_env = "OTHER_KEY"
[arms.two]
data = { word_problems = "own" }
"""


@pytest.fixture
def sweep(folder: Path) -> Path:
    """A sweep below the folder of its job, whose second arm has data of its own."""
    (folder / "jobs" / "sweeps").mkdir()
    (folder / "own").mkdir()
    (folder / "jobs" / "sweeps" / "both.toml").write_text(SWEEP)
    return Path("jobs/sweeps/both.toml")


def test_a_sweep_is_one_job_with_the_files_and_keys_of_all_its_runs(folder: Path, sweep: Path):
    (folder / "jobs" / "runtime_env.yaml").write_text("env_vars: {HF_HUB_OFFLINE: '1'}\n")
    made = submitted.of(sweep, ["iterations=1"])
    assert made.words == ("python", "-m", "lai_ray", "sweep", "jobs/sweeps/both.toml", "iterations=1")
    assert (made.run, made.name) == ("/mnt/shared/runs/both", "both")
    assert made.files == ("jobs/sweeps/both.toml", "jobs/mine.toml", "own")
    assert made.key_variables == ("OTHER_KEY", "PLANTED_KEY")
    assert made.environment_file == f"{folder}/jobs/runtime_env.yaml", "its job's, if it has none of its own"
    (folder / "jobs" / "sweeps" / "runtime_env.yaml").write_text("env_vars: {HF_HUB_OFFLINE: '0'}\n")
    assert submitted.of(sweep).environment == {"env_vars": {"HF_HUB_OFFLINE": "0"}}


def test_a_sweep_that_would_fail_on_the_cluster_is_refused(folder: Path, sweep: Path, monkeypatch):
    with pytest.raises(ConfigError, match="storage = 'runs/both'"):
        submitted.of(sweep, ["storage=runs"])
    monkeypatch.setenv("OTHER_KEY", "sk-of-the-other-arm")
    with pytest.raises(ConfigError, match="this command .*OTHER_KEY"):
        submitted.of(sweep, ["instructor.model=sk-of-the-other-arm"])
    for option in (["--until", "evaluate"], ["--reuse", "/mnt/shared/runs/old"]):
        done = CliRunner().invoke(main.app, ["submit", str(sweep), "--print", *option])
        assert "--until and --reuse" in str(done.exception)
    done = CliRunner().invoke(main.app, ["submit", str(sweep), "--print"])
    assert done.output == submitted.of(sweep).line(submission.ADDRESS) + "\n"


def test_data_that_is_excluded_from_the_upload_is_named(folder: Path):
    (folder / "data").mkdir()
    (folder / "data" / "mine.jsonl").write_text("{}")
    recorded = ["target.engine=recorded", "target.attempts.word_problems=data"]
    upload.check(mine(*recorded), print)
    (folder / ".rayignore").write_text("/data/\n")
    with pytest.raises(ConfigError, match="^data: .*rayignore"):
        upload.check(mine(*recorded), print)


def test_a_key_in_an_uploaded_file_is_refused_and_a_file_that_may_hold_one_is_named(folder: Path, monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", KEY)
    (folder / "notes.txt").write_text(f"my key is {KEY}")
    with pytest.raises(ConfigError, match="notes.txt .*PLANTED_KEY") as refused:
        upload.check(mine(), print)
    assert KEY not in str(refused.value)
    (folder / ".rayignore").write_text("notes.txt\n")
    # Other variables of this shell count too; paths and short values are not searched for.
    (folder / "env.sh").write_text("export AWS_SECRET_ACCESS_KEY=0123456789abcdef0123 /etc/passwd production")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/etc/passwd")
    monkeypatch.setenv("STAGE_TOKEN", "production")
    upload.check(mine(), print)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "0123456789abcdef0123")
    with pytest.raises(ConfigError, match="env.sh .*AWS_SECRET_ACCESS_KEY"):
        upload.check(mine(), print)
    (folder / "env.sh").unlink()
    (folder / "server.pem").touch()
    (folder / "jobs" / "runtime_env.yaml").write_text("env_vars: {}")
    notes: list[str] = []
    upload.check(mine(), notes.append)
    [note] = notes
    assert f"{folder}/server.pem" in note and ".rayignore" in note


def test_a_ray_that_does_not_list_the_upload_is_refused(folder: Path, monkeypatch):
    """`packaging` is private: docs/design.md, "Ray's private parts"."""
    monkeypatch.delattr("ray._private.runtime_env.packaging._dir_travel")
    with pytest.raises(ConfigError, match=r"_dir_travel.*--print"):
        upload.check(mine(), print)


def test_no_file_of_a_whole_run_holds_a_planted_key_its_report_included(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", KEY)
    done = run.run_job(job(tmp_path, instructor__api_key_env="PLANTED_KEY"), executor=LocalExecutor())
    main._report(done.run)
    written = [path for path in (tmp_path / "small").rglob("*") if path.is_file()]
    assert {"report.md", "run.json", "provenance.json", "driver.jsonl"} <= {path.name for path in written}
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_reused_run_needs_an_absolute_path(folder: Path):
    with pytest.raises(ConfigError, match="--reuse runs/old"):
        mine(reuse=["runs/old"])


@pytest.mark.parametrize("address", ["head:8265", "auto", "ray://head:10001", "http://"])
def test_an_address_that_is_not_a_dashboards_is_refused(folder: Path, address):
    with pytest.raises(ConfigError, match=r"--address: .*http://HOST:8265"):
        submission.address_of(address)


def test_the_address_comes_from_rays_variables_or_is_this_machine(folder: Path, monkeypatch):
    assert submission.address_of(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    assert submission.address_of(None) == "http://head:8265"
    assert submission.address_of("https://other/ray") == "https://other/ray"


@pytest.mark.parametrize(
    ("overrides", "environment", "message"),
    [
        ([f"instructor.base_url=http://{KEY}@h/v1"], "", "this command .*PLANTED_KEY"),
        ([], "env_vars: {PLANTED_KEY: x}", "env_vars .*PLANTED_KEY"),
        ([], "env_vars: {HF_TOKEN: hf_abc}", "env_vars .*HF_TOKEN"),
        ([], f"env_vars: {{NOTE: 'is {KEY}'}}", "runtime_env.yaml .*PLANTED_KEY"),
        ([f"instructor.api_key_env={KEY}"], "", "instructor: api_key_env"),
    ],
)
def test_a_key_that_others_could_read_is_refused_and_not_repeated(
    folder: Path, monkeypatch, overrides, environment, message
):
    monkeypatch.setenv("PLANTED_KEY", KEY)
    if environment:
        (folder / "jobs" / "runtime_env.yaml").write_text(environment)
    with pytest.raises(ConfigError, match=message) as refused:
        mine(*overrides)
    assert KEY not in str(refused.value)


def test_the_next_id_counts_those_of_this_name():
    used = ["lai-mine-2", "lai-mine-10", "lai-mine-more-30", "raysubmit_x", "lai-mineX-40"]
    assert submit.next_id("mine", used) == "lai-mine-11"
    assert submit.next_id("m.ne", used) == "lai-m.ne-1"


def test_an_address_without_a_server_is_reported(folder: Path):
    with pytest.raises(ConfigError, match=r"http://127.0.0.1:9: .*refused"):
        submit.Server("http://127.0.0.1:9")


def test_a_server_that_is_not_ray_is_reported(folder: Path):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(ConfigError, match=f":{server.server_port} .*404"):
        submit.Server(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
