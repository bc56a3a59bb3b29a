"""An open model as the instructor: it costs nothing, may be the target itself, and a resume asks nothing twice."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lai_ray.cli import run as cli_run
from lai_ray.cli.check import check, reuse
from lai_ray.cli.check.dry_run import replayed
from lai_ray.cli.check.names import check_names
from lai_ray.errors import ConfigError, StageError
from lai_ray.records import Answer, Completion
from lai_ray.report import sections
from tests.local import Crash, LocalExecutor, job

HERE = {"instructor__engine": "tests.local:LocalExecutor"}
ITSELF = HERE | {"instructor__model": "target"}


class Recording(LocalExecutor):
    """Remembers whom it asked."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.teachers: list[str] = []

    def ask(self, requests: Any, settings: Any, limits: Any, again: Any) -> Iterator[Answer]:
        self.teachers.append(settings.model)
        return super().ask(requests, settings, limits, again)


def teacher(folder: Path, weights: str = "open") -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    (folder / "tokenizer.json").write_text("{}")
    return str(folder)


def shown(show: Any, *arguments: Any) -> str:
    console = Console(width=400, file=io.StringIO())
    show(*arguments, console)
    return console.file.getvalue()


def test_the_target_of_each_iteration_teaches_itself_at_no_cost(tmp_path):
    executor = Recording()
    run = cli_run.run_job(job(tmp_path, iterations=2, **ITSELF), executor=executor).run
    trained = run.stage(0, "train").path("checkpoint")
    assert list(dict.fromkeys(executor.teachers)) == [str(tmp_path / "model"), trained]
    usage = [run.stage(i, "instruct").store.get_json("usage.json") for i in (0, 1)]
    assert [(u["usd"], u["possibly_paid"], u["calls"] > 0) for u in usage] == [(0.0, 0, True)] * 2
    assert not [name for name in run.store.names() if "/sent/" in name]
    assert "ran in the cluster" in sections.costs(run, 0.95)[0].markdown()
    # Templates of open models often know no system role; what was sent is what is recorded.
    assert {tuple(m["role"] for m in request.messages) for request in executor.requests["ask"]} == {("user",)}
    again = Recording()
    cli_run.run_job(job(tmp_path, iterations=2, **ITSELF), executor=again)
    assert not again.asked


def test_killed_and_started_again_asks_only_what_was_not_recorded(tmp_path):
    first, second = Recording(die_after={"ask": 9}), Recording()
    with pytest.raises(Crash):
        cli_run.run_job(job(tmp_path, **ITSELF), executor=first)
    run = cli_run.run_job(job(tmp_path, **ITSELF), executor=second).run
    keys = [request.key for executor in (first, second) for request in executor.requests["ask"]]
    assert len(keys) == len(set(keys))
    assert run.stage(0, "instruct").store.get_json("usage.json")["possibly_paid"] == 0


def test_an_open_model_is_identified_by_its_weights_not_by_its_folder(tmp_path):
    named = teacher(tmp_path / "teacher")
    executor = Recording()
    cli_run.run_job(job(tmp_path, instructor__model=named, **HERE), executor=executor)
    assert set(executor.teachers) == {named}
    moved = shutil.copytree(named, tmp_path / "moved")
    same = Recording()
    cli_run.run_job(job(tmp_path, instructor__model=str(moved), **HERE), executor=same)
    assert not same.asked
    other = teacher(tmp_path / "other", "other weights")
    with pytest.raises(ConfigError, match=r"content\.instructor: .* there, .* now"):
        cli_run.run_job(job(tmp_path, instructor__model=other, **HERE), executor=Recording())
    mine = job(tmp_path, instructor__model=named, **HERE)
    with replayed(mine, [cli_run.existing(mine)]) as replay:
        output = shown(reuse.show, replay, mine)
    [row] = [line for line in output.splitlines() if "iteration_0/instruct" in line]
    _, recorded, applying, *_ = row.split()
    assert recorded == applying != "0"


def test_another_length_or_model_asks_again_under_another_name(tmp_path):
    run = cli_run.run_job(job(tmp_path, **ITSELF), executor=LocalExecutor()).run
    cases = [({}, False), ({"instructor__max_model_len": 900}, True), ({"instructor__dtype": "float16"}, False)]
    for number, (changes, new) in enumerate(cases):
        executor, mine = LocalExecutor(), job(tmp_path, name=f"more{number}", **ITSELF, **changes)
        cli_run.run_job(mine, executor=executor, reuse=[run.store.where])
        assert bool(executor.asked["ask"]) == new


def test_a_budget_applies_to_an_open_model_too(tmp_path):
    changes = ITSELF | {"limits__max_calls": 4}
    with pytest.raises(StageError, match=r"limits\.max_calls = 4 .* 4 calls"):
        cli_run.run_job(job(tmp_path, **changes), executor=LocalExecutor())


def test_a_request_that_the_engine_refused_took_nothing(tmp_path):
    class Refusing(LocalExecutor):
        def ask(self, requests: Any, settings: Any, limits: Any, again: Any) -> Iterator[Answer]:
            failed = Completion("", "error", error="too long")
            for answer in super().ask(requests, settings, limits, again):
                second = self.asked["ask"] == 2
                yield Answer(answer.id, answer.key, failed, free=True) if second else answer

    changes = ITSELF | {"limits__max_failed_fraction": 0.5, "limits__max_tokens": 10**7}
    run = cli_run.run_job(job(tmp_path, **changes), executor=Refusing()).run
    usage = run.stage(0, "instruct").store.get_json("usage.json")
    assert usage["failed"] == 1
    assert (usage["possibly_paid"], usage["unknown_prompt_tokens"]) == (0, 0)


def test_check_shows_neither_key_nor_rate_limits_nor_money(tmp_path):
    config = job(tmp_path, limits__max_usd=1.0, instructor__api_key_env="NO_SUCH_KEY", **ITSELF)
    check_names(config)
    output = shown(check.show, config)
    assert "runs in the cluster: no key, no limits per minute" in " ".join(output.split())
    [row] = [line for line in output.splitlines() if "word_problems" in line and "50%" in line]
    assert "0.00" in row and row.rstrip(" │").endswith("–")
    priced = job(tmp_path, instructor__usd_per_million_output=2.0, **ITSELF)
    assert (priced.instructor.usd_per_million_input, priced.instructor.usd_per_million_output) == (0.0, 2.0)


def test_what_cannot_teach_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match='instructor.*model = "target"'):
        job(tmp_path, instructor__model="target")
    vllm = {"instructor__engine": "vllm"}
    for changes, message in [
        (HERE | {"instructor__model": "/no/such/folder"}, r"instructor.model: '/no/such/folder'"),
        (vllm | {"instructor__model": teacher(tmp_path / "base")}, r"base .*chat template"),
        (vllm | {"instructor__model": "target"}, r"model .*chat template"),
        ({"instructor__engine": "recorded"}, r"instructor.engine = 'recorded'"),
        ({"instructor__engine": "vlm"}, r"engine .*'vlm'.*'vllm'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            check_names(job(tmp_path, **changes))
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    check_names(job(tmp_path, instructor__model=str(tmp_path / "base"), **vllm))
