"""No text of a model, an instructor or a data file controls the terminal, whichever command shows it."""

from __future__ import annotations

import ast
import contextlib
import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lai_ray.cli import main as cli_main
from lai_ray.cli import run as cli_run
from lai_ray.common.screen import printable
from lai_ray.contracts import Model
from lai_ray.records import Answer, Completion, Request
from lai_ray.report import annotation_sheet
from tests.local import LocalExecutor, job

TITLE, CLEAR = "\x1b]0;owned\x07", "\x1b[2J"
EVIL = f"{TITLE}{CLEAR}\x9b2J\x08\u202e\rhidden"
PACKAGE = Path(cli_main.__file__).parent.parent
SCREENS = ("cli", "common", "loop.py", "report", "stages", "storage")
"""Rooms whose code may reach a screen; workers and child processes print to logs."""


class Hostile(LocalExecutor):
    """A target and an instructor that add control sequences to all that they write."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(reply=_reply)
        self.fails = fails

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        for answer in super().generate(requests, target):
            yield Answer(answer.id, answer.key, replace(answer.completion, text=f"{EVIL}\n{answer.completion.text}"))

    def ask(self, *arguments: Any) -> Iterator[Answer]:
        for answer in super().ask(*arguments):
            failed = Completion("", "error", error=f"the server says {EVIL}")
            yield Answer(answer.id, answer.key, failed if self.fails else answer.completion)


def _reply(request: Request) -> str:
    numbers = [(request.seed or 0) % 1000 + 7 * i for i in range(2)]
    samples = (
        f"{i}. Question: How much is {n} apples and {i} pears in town {n}?\n"
        f"Answer: {EVIL} {n} + {i} = {n + i}\n#### {n + i}"
        for i, n in enumerate(numbers, 1)
    )
    return "\n\n".join(samples)


@pytest.fixture
def job_file(tmp_path):
    """A job on data with control sequences in questions, and in a label that groups are named by."""
    rows = [{"q": f"{EVIL}\tWhat is {i} and {i}?", "a": str(2 * i)} for i in range(40)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows if split == "train" else rows[:20])))
    job(tmp_path)  # Makes the model.
    path = tmp_path / "job.toml"
    path.write_text(f"""
        name = "evil"
        iterations = 1
        storage = "{tmp_path}"
        target = {{model = "{tmp_path}/model", engine = "tests.local:LocalExecutor", max_new_tokens = 64}}
        evaluate = {{learn_from = ["mine"], report_on = ["mine"], learn_from_copies = true}}
        schedule = {{strategy = "lec"}}
        contrast = {{encoder = "target"}}
        instructor = {{model = "rules"}}
        curate = {{samples_per_dataset = 5}}
        [[benchmark]]
        name = "mine"
        kind = "number"
        train = "{tmp_path}/train.jsonl"
        test = "{tmp_path}/test.jsonl"
        question = "q"
        answer = "a"
    """)
    return path


@pytest.fixture
def lai(monkeypatch, capsys):
    """The command in this process; returns all that it showed."""

    def typed(line: str, executor: LocalExecutor | None = None) -> str:
        original = cli_run.run_job

        def run_here(config: Any, **options: Any) -> Any:
            return original(config, executor=executor, console=Console(highlight=False), **options)

        with monkeypatch.context() as patched:
            patched.setattr(cli_run, "run_job", run_here)
            patched.setattr("sys.argv", ["lai", *shlex.split(line)])
            with contextlib.suppress(SystemExit):
                cli_main.main()
        shown = capsys.readouterr()
        return shown.out + shown.err

    return typed


def harmless(text: str) -> bool:
    return printable(text) == text and "\\x1b" in text


def test_control_characters_are_shown_as_escapes_and_newlines_and_tabs_stay():
    assert printable(f"a\tb\r\nc {CLEAR}") == "a\tb\r\nc \\x1b[2J"
    assert printable("\x9b \x7f \u202e \ud800 over\rwritten") == "\\x9b \\x7f \\u202e \\ud800 over\\x0dwritten"
    assert printable("Grüße, 你好 → ½ 👍🏽") == "Grüße, 你好 → ½ 👍🏽"


def test_no_command_lets_a_text_control_the_terminal(tmp_path, job_file, lai):
    assert harmless(lai(f"check {job_file} --prompts --no-probe"))
    failed = lai(f"run {job_file} limits.max_failed_fraction=0", Hostile(fails=True))
    assert harmless(failed) and "error: " in failed and "the server says" in failed
    lai(f"run {job_file}", Hostile())
    assert harmless(lai(f"show {tmp_path}/evil"))
    assert harmless(lai(f"try {job_file}", Hostile()))
    responses, out = tmp_path / "responses.jsonl", tmp_path / "out.jsonl"
    row = {"q": "2?", "response": f"{EVIL} 4", EVIL: "x"}
    responses.write_text(json.dumps(row))
    assert harmless(lai(f"grade gsm8k --responses {responses} --out {out}"))


def test_nor_do_tests_alone_several_runs_a_sweep_or_a_search_for_copies(tmp_path, monkeypatch, job_file, lai):
    assert printable(shown := lai(f"evaluate {job_file}", Hostile())) == shown and "written: " in shown
    lai(f"run {job_file}", Hostile())
    assert printable(shown := lai(f"report {tmp_path}/evil {tmp_path}/evil-tests")) == shown and "evil-tests" in shown
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('job = "job.toml"\nseeds = [0]\n[arms."evil"]\ninstructor.model = "m\\u001b[2J"\n')
    assert printable(shown := lai(f"sweep {sweep} --plan")) == shown and "evil" in shown
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"id": EVIL, "question": f"{EVIL} What is 1 and 1?"}))
    monkeypatch.setattr("lai_ray.distributed.executor.RayExecutor", lambda *arguments: Closed())
    shown = lai(f"contamination {samples} --against word_problems --out {tmp_path}/copies.json")
    assert printable(shown) == shown and "written: " in shown


class Closed(LocalExecutor):
    """With the end that an executor of a command has."""

    def close(self) -> None:
        """Nothing is open."""


def test_tables_and_report_files_hold_no_control_characters(tmp_path, monkeypatch, job_file, lai):
    lai(f"run {job_file}", Hostile())
    section = "from lai_ray.report.tables import Table\n"
    section += f"def SECTION(run, confidence):\n    return [Table({EVIL!r}, [{EVIL!r}], [[{EVIL!r}]], {EVIL!r})]\n"
    (tmp_path / "evil_section.py").write_text(section)
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = lai(f"run {job_file} 'report.sections=[\"evil_section:SECTION\"]'", Hostile())
    assert harmless(shown) and shown.count("\\x1b]0;owned") >= 4
    assert harmless(lai(f"report {tmp_path}/evil"))
    assert harmless((tmp_path / "evil" / "report.md").read_text())
    assert harmless(annotation_sheet.cell(EVIL.replace("\r", "")))


@pytest.mark.parametrize("room", SCREENS)
def test_only_the_screen_and_the_tables_print(room):
    files = [PACKAGE / room] if room.endswith(".py") else (PACKAGE / room).rglob("*.py")
    for path in files:
        if path.name in ("screen.py", "tables.py"):
            continue
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printing = [c for c in calls if getattr(c, "id", "") == "print" or getattr(c, "attr", "") in ("print", "echo")]
        assert not printing, f"{path} prints; use lai_ray.common.screen"
