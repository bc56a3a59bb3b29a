"""What a real terminal shows: progress alone, tables that fit, where a run was taken up and what it left."""

from __future__ import annotations

import io
import logging
import os
import pty
import sys
import threading

import pytest
from rich.console import Console

from lai_ray.cli import run as cli_run
from lai_ray.common.event_log import event_log
from lai_ray.common.progress import Progress
from lai_ray.report import ending, tables
from lai_ray.report.tables import Table
from lai_ray.storage.run import Run
from tests.local import Crash, LocalExecutor, job


@pytest.fixture
def terminal(monkeypatch):
    """A console on a pseudo-terminal, and what it showed."""
    monkeypatch.setenv("TERM", "xterm")
    main, side = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(main, 4096):
                shown.append(data)
        except OSError:
            return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    stream = os.fdopen(side, "w", buffering=1)

    def text() -> str:
        stream.close()
        reader.join(5)
        return b"".join(shown).decode()

    return Console(file=stream, highlight=False, width=100), text


def test_what_libraries_print_stays_out_of_the_progress_bar(terminal, capsys):
    console, text = terminal
    progress = Progress(console)
    with progress.track("answers", 3) as tracker:
        print("Token authentication is enabled")
        print("a tick and a finished dataset", file=sys.stderr)
        logging.getLogger("ray.data").warning("progress bars disabled")
        tracker.advance(2)
    shown = text()
    assert "answers" in shown
    assert not any(words in shown for words in ("Token authentication", "finished dataset", "bars disabled"))
    assert "Token authentication" in capsys.readouterr().out


def test_our_own_warnings_are_shown_above_the_bar(terminal, tmp_path):
    console, text = terminal
    progress = Progress(console)
    with event_log(str(tmp_path), "r", progress), progress.track("answers", 3):
        logging.getLogger("lai_ray.distributed.temporary").warning("TMPDIR cannot be used")
    assert "TMPDIR cannot be used" in text()


def test_a_terminal_without_a_cursor_gets_lines(terminal, monkeypatch):
    console, text = terminal
    monkeypatch.setenv("TERM", "dumb")
    with Progress(console).track("answers", 3) as tracker:
        tracker.advance(1)
    assert "\x1b[" not in text()


@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_table_folds_no_word(width):
    columns = [f"a_name_of_twenty_{i:03}" for i in range(9)]
    table = Table("wide", ["dataset", *columns], [["word_problems", *(f"{i}.5" for i in range(9))]] * 2, "A note.")
    out = io.StringIO()
    tables.show([table], Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert all(column in out.getvalue() for column in columns) and max(map(len, lines)) <= width
    repeated = out.getvalue().count("word_problems")
    assert repeated == 2 * len(table.parts(width)) and out.getvalue().count("A note.") == 1
    assert (len(table.parts(140)) < len(table.parts(80))) and len(table.parts(400)) == 1


def test_a_word_longer_than_the_terminal_is_folded_as_it_must_be():
    out = io.StringIO()
    tables.show([Table("t", ["setting", "value"], [["target.model", "x" * 200]])], Console(file=out, width=80))
    assert out.getvalue().count("x") == 200


def started(config, executor):
    """The lines that a start shows."""
    out = io.StringIO()
    try:
        cli_run.run_job(config, executor=executor, console=Console(file=out, width=200))
    except Crash:
        out.write("crashed\n")
    return out.getvalue()


def test_a_start_says_what_it_resumes(tmp_path):
    config = job(tmp_path)
    first = started(config, LocalExecutor(die_after={"ask": 3}))
    assert "1 iteration, seed" in first and "resumed" not in first
    second = started(config, LocalExecutor())
    assert "resumed: " in second and "goes on with iteration_0/instruct" in second and "instructor calls" in second
    assert "finished before" in started(config, LocalExecutor())


def test_the_end_names_model_time_money_and_the_next_step(tmp_path):
    config = job(tmp_path, instructor__usd_per_million_input=1.0, instructor__usd_per_million_output=2.0)
    outcome = cli_run.run_job(config, executor=LocalExecutor())
    lines = "\n".join(ending.ended(Run.read(str(tmp_path / "small")), outcome.target.path))
    assert f"model: {outcome.target.path}, after 1 iteration\n" in lines
    assert "instructor calls for US$ 0.0" in lines and " s in complete stages" in lines
    assert f"lai show {tmp_path}/small" in lines and "iterations=2" in lines


def test_counts_have_their_plural():
    assert [ending.count(n, "iteration") for n in (0, 1, 2, 1200)] == [
        "0 iterations", "1 iteration", "2 iterations", "1,200 iterations",
    ]  # fmt: skip
