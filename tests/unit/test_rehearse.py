"""A rehearsal: the target sits the new problems before it studies them, at no call but for keys in doubt."""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lai_ray.cli import run as cli_run
from lai_ray.cli.check import check
from lai_ray.cli.check.names import check_names
from lai_ray.cli.check.reuse import reuse_of
from lai_ray.config.config import Config
from lai_ray.config.settings import CurateSettings
from lai_ray.contracts import Model
from lai_ray.errors import ConfigError, StageError
from lai_ray.instructor.spending.ledger import spent_in
from lai_ray.records import Answer, Attempt, Completion, Grade, Problem, Request, Sample
from lai_ray.report import facts, sections
from lai_ray.report.story import story
from lai_ray.stages.evaluate import request_for
from lai_ray.stages.job import Job
from lai_ray.stages.rehearse import SOLVED, WRONG_KEY
from lai_ray.stages.votes import same_answer, votes
from lai_ray.storage.run import Run
from lai_ray.storage.store import View
from lai_ray.world import rules
from lai_ray.world import word_kinds as kinds
from tests.conftest import records
from tests.local import Crash, LocalExecutor, job

Said = Completion | str | None


class Sitting(LocalExecutor):
    """say: what the target answers in a rehearsal; None for the answer of the pretend target."""

    def __init__(self, say: Callable[[Request], Said] = lambda request: None, **options: Any) -> None:
        super().__init__(**options)
        self.say = say

    def generate(self, requests: Iterable[Request], target: Model) -> Iterator[Answer]:
        for answer in super().generate(requests, target):
            request = self.requests["generate"][-1]
            said = self.say(request) if ">" in request.id else None
            done = Completion(said, "stop", 5, 5) if isinstance(said, str) else said
            yield answer if done is None else replace(answer, completion=done)

    @property
    def rehearsed(self) -> list[Request]:
        """The requests of rehearsals."""
        return [request for request in self.requests["generate"] if ">" in request.id]


def solved(request: Request) -> str:
    """The right answer, in words of the target's own."""
    question = next(item for line in request.messages[-1]["content"].splitlines() if (item := kinds.recognise(line)))
    return f"I think it is this.\n#### {kinds.solve(question.kind, question.numbers)[-1].result}"


def every_third(request: Request) -> bool:
    """By the problem, whatever the draw."""
    return zlib.crc32(request.messages[-1]["content"].encode()) % 3 == 0


def rehearsed(tmp_path: Path, executor: LocalExecutor, name: str = "small", **settings: Any) -> Run:
    """A run with a rehearsal. settings: of [curate]; those with "__" are of another table."""
    others = {key: settings.pop(key) for key in list(settings) if "__" in key or key == "iterations"}
    curate = {f"curate__{key}": value for key, value in ({"rehearse": 1} | settings).items()}
    return cli_run.run_job(job(tmp_path, name=name, **curate, **others), executor=executor).run


def samples(run: Run, stage: str = "rehearse", file: str = "samples.jsonl", iteration: int = 0) -> list[Sample]:
    return list(View(run.stage(iteration, stage).store, file, Sample))


def counts(run: Run) -> dict[str, Any]:
    table: dict[str, Any] = run.stage(0, "rehearse").store.get_json("rehearse.json")["datasets"]["word_problems"]
    return table


def wrong_keys(request: Request) -> str:
    """The tutor's reply, with another answer than the right one beside every second new problem."""
    text = rules.reply(request.messages, request.seed)
    if len(request.messages) == 1:
        return text
    return re.sub(r"(?m)^(\d*[02468]\. .*)\nAnswer: [\s\S]*?#### .*$", r"\1\nAnswer: 1 + 1 = 2\n#### 2", text)


# Without a rehearsal, and what one alone changes


def test_without_a_rehearsal_there_is_no_trace_of_one_and_no_key_changes(tmp_path):
    run = rehearsed(tmp_path, LocalExecutor(), rehearse=0)
    assert not run.store.names("iteration_0/rehearse")
    defaults = {
        "samples_per_dataset": 3000, "keep_clear_of": "all", "max_rouge_l": None, "solve_again": False,
        "near_duplicates": None,
    }  # fmt: skip
    assert CurateSettings().identity() == defaults
    assert CurateSettings(rehearse=4, own_texts=True).identity() == defaults


def test_alone_it_reports_the_share_solved_already_and_changes_nothing_that_is_learned(tmp_path, capsys):
    without, executor = LocalExecutor(), Sitting()
    plain = rehearsed(tmp_path, without, "plain", rehearse=0)
    run = cli_run.run_job(job(tmp_path, curate__rehearse=1), executor=executor, console=Console(width=200)).run
    right = sum(a.right for a in View(run.stage(0, "rehearse").store, "attempts.jsonl", Attempt))
    table = counts(run)
    assert 0 < right < 30
    assert (table["problems"], table["solved"], table["right"], table["studied"]) == (30, right, right, 30)
    assert sum(group["solved"] for group in table["groups"].values()) == right and table["strategy"] == "lec"
    assert f"word_problems: rehearsal: it already solves {right / 30:.0%} of 30 new problems" in capsys.readouterr().out
    assert executor.jobs[0].name == without.jobs[0].name, "the same model"
    assert executor.asked["ask"] == without.asked["ask"], "no instructor call"
    assert samples(run) == samples(plain, "curate")


def test_the_first_answer_is_the_one_a_test_asks_for_and_the_others_are_sampled(tmp_path):
    executor = Sitting()
    run = rehearsed(tmp_path, executor, rehearse=3)
    config, plan = job(tmp_path), Job.of(job(tmp_path))
    target = Model("", run.record()["identity"]["content"]["target"])
    benchmark = plan.benchmark("word_problems")
    for sample in samples(run):
        draws = [r for r in executor.rehearsed if r.id.rpartition("#")[0] == sample.id]
        assert [request.id for request in draws] == [f"{sample.id}#{i}" for i in range(3)]
        assert draws[0].key == request_for(sample.problem, benchmark, target, config.target).key
        assert [request.temperature for request in draws] == [0.0, 1.0, 1.0]
        assert draws[1].seed != draws[2].seed and len({request.key for request in draws}) == 3
    attempts = View(run.stage(0, "rehearse").store, "attempts.jsonl", Attempt)
    assert [a.id for a in attempts][:4] == [r.id for r in executor.rehearsed][:4]


def test_a_finished_run_with_every_switch_asks_for_nothing_again(tmp_path):
    switches = {"drop_solved": True, "own_texts": True, "hint": True, "check_keys": True}
    rehearsed(tmp_path, LocalExecutor(), **switches)
    again = LocalExecutor()
    rehearsed(tmp_path, again, **switches)
    assert not again.asked


# The gate


def test_problems_that_every_answer_solves_are_not_studied(tmp_path):
    def sometimes(request: Request) -> str:
        always = every_third(request)
        return solved(request) if always or request.temperature else "#### 0"

    executor = Sitting(sometimes)
    run = rehearsed(tmp_path, executor, rehearse=2, drop_solved=True)
    before, left, dropped = samples(run, "curate"), samples(run), samples(run, file="dropped.jsonl")
    assert dropped and {sample.dropped for sample in dropped} == {SOLVED}
    assert len(left) + len(dropped) == len(before) == 30
    assert [e.id for e in executor.jobs[0].examples] == [sample.id for sample in left]
    assert all(sample.id not in {s.id for s in dropped} for sample in left)
    assert counts(run)["dropped"] == {SOLVED: len(dropped)} and counts(run)["solved"] == len(dropped)
    assert counts(run)["right"] == 30 + len(dropped)


def test_where_it_solves_everything_already_it_says_so_and_stays_as_it_is(tmp_path, capsys):
    executor = Sitting(solved)
    config = job(tmp_path, curate__rehearse=1, curate__drop_solved=True)
    outcome = cli_run.run_job(config, executor=executor, console=Console(width=200))
    assert "nothing is left to study" in capsys.readouterr().out
    assert not executor.jobs and outcome.target is not None
    scores = [outcome.run.stage(i, "evaluate").store.get_json("scores.json")["word_problems.test"] for i in (0, 1)]
    assert scores[0] == scores[1]
    again = LocalExecutor()
    cli_run.run_job(config, executor=again)
    assert not again.asked


def test_later_iterations_do_not_learn_again_what_was_left_out_and_cumulative_data_are_the_studied_ones(tmp_path):
    executor = Sitting(lambda request: solved(request) if every_third(request) else "#### 0")
    run = rehearsed(tmp_path, executor, drop_solved=True, iterations=2, train__data="cumulative")
    first, second = ([s.id for s in samples(run, iteration=i)] for i in (0, 1))
    assert len(first) < 30
    assert [e.id for e in executor.jobs[1].examples] == [*first, *second]
    questions = [s.problem.question for i in (0, 1) for s in samples(run, "curate", iteration=i)]
    assert len(questions) == len(set(questions)), "what was left out counts as kept before"


# Texts of its own


def test_where_it_has_a_right_answer_of_its_own_that_is_what_it_studies(tmp_path):
    def cut(request: Request) -> Completion | str:
        if not every_third(request):
            return "#### 0"
        return Completion(solved(request), "length" if request.temperature == 0 else "stop", 5, 5)

    executor = Sitting(cut)
    run = rehearsed(tmp_path, executor, rehearse=2, own_texts=True)
    before, left = samples(run, "curate"), samples(run)
    own = [s for s in left if s.turns[0].text.startswith("I think")]
    assert 0 < len(own) == counts(run)["own_texts"] < 30 and len(left) == 30
    assert all(s.note == f"in the target's own words: {s.id}#1" for s in own), "the first was cut off"
    assert [s for s in left if s not in own] == [b for b, s in zip(before, left, strict=True) if s not in own]
    benchmark = Job.of(job(tmp_path)).benchmark("word_problems")
    for sample, example in zip(left, executor.jobs[0].examples, strict=True):
        assert example.messages == benchmark.prompt(sample.problem)
        assert example.turns == [(sample.turns[0].text, 1.0)]


def test_an_answer_that_was_cut_off_is_never_studied(tmp_path):
    run = rehearsed(tmp_path, Sitting(lambda r: Completion(solved(r), "length", 5, 5)), own_texts=True)
    assert samples(run) == samples(run, "curate")
    assert counts(run)["solved"] == counts(run)["cut_off"] == 30 and counts(run)["own_texts"] == 0


def test_where_it_has_none_it_tries_again_with_a_hint_and_learns_without_it(tmp_path):
    def with_help(request: Request) -> Completion | str:
        if not (request.id.endswith("#hint") and "7" in request.messages[-1]["content"]):
            return "#### 0"
        return Completion(solved(request), "length", 5, 5) if every_third(request) else solved(request)

    executor = Sitting(with_help)
    run = rehearsed(tmp_path, executor, own_texts=True, hint=True)
    before, left = samples(run, "curate"), samples(run)
    hints = [r for r in executor.rehearsed if r.id.endswith("#hint")]
    assert len(hints) == 30 and all(r.temperature == 0 for r in hints)
    for sample, request in zip(before, hints, strict=True):
        assert sample.problem.question in request.messages[-1]["content"]
        assert sample.turns[0].text in request.messages[-1]["content"]
    own = [s for s in left if s.note.endswith("#hint")]
    helped = [r for r in hints if "7" in r.messages[-1]["content"]]
    assert [s.id for s in own] == [r.id.removesuffix("#hint") for r in helped if not every_third(r)], "none cut off"
    assert len(own) < len(helped)
    assert 0 < len(own) == counts(run)["after_hint"] == counts(run)["own_texts"] < 30
    assert all(s.turns[0].text.startswith("I think") for s in own)
    assert [s.turns for s in left if s not in own] == [b.turns for b in before if b.id not in {s.id for s in own}]
    learned = "\n".join(m["content"] for e in executor.jobs[0].examples for m in e.messages)
    assert "worked solution" not in learned
    titles = [chapter.title for chapter in story(run, own[0].id)]
    assert "iteration 0: the target tries again after a hint" in titles
    assert f"iteration 0: learned, in the target's own words: {own[0].id}#hint" in titles


def test_a_sample_with_a_prompt_of_its_own_is_rehearsed_as_in_a_test_and_keeps_its_text(tmp_path, monkeypatch):
    from lai_ray.strategies import lec

    inner = lec.STRATEGY.samples

    def prompted(*arguments: Any) -> list[Sample]:
        return [replace(s, messages=[{"role": "user", "content": "In my way."}]) for s in inner(*arguments)]

    monkeypatch.setattr(type(lec.STRATEGY), "samples", lambda self, *arguments: prompted(*arguments))
    executor = Sitting(solved)
    run = rehearsed(tmp_path, executor, own_texts=True, hint=True)
    assert samples(run) == samples(run, "curate") and counts(run)["solved"] == 30
    assert {e.messages[0]["content"] for e in executor.jobs[0].examples} == {"In my way."}


# Keys in doubt


def test_none_of_the_tutors_right_samples_is_lost_to_a_check_of_keys(tmp_path):
    executor = Sitting(lambda request: "#### 1000003")
    run = rehearsed(tmp_path, executor, rehearse=3, check_keys=True)
    assert samples(run) == samples(run, "curate") and not samples(run, file="dropped.jsonl")
    assert counts(run)["keys_in_doubt"] == {"wrong": 0, "misconception": 30, "unclear": 0}


def test_a_wrong_key_is_dropped_where_a_second_solution_agrees_with_the_target(tmp_path):
    executor = Sitting(solved, reply=wrong_keys)
    run = rehearsed(tmp_path, executor, check_keys=True)
    dropped, left = samples(run, file="dropped.jsonl"), samples(run)
    assert dropped and {s.dropped for s in dropped} == {WRONG_KEY}
    assert all(s.problem.answer == "2" for s in dropped) and not any(s.problem.answer == "2" for s in left)
    assert len(dropped) + len(left) == 30 and counts(run)["keys_in_doubt"]["wrong"] == len(dropped)
    solutions = records(tmp_path / "small/iteration_0/rehearse/solutions.jsonl")
    assert {s["case_id"] for s in solutions} == {s.id for s in dropped}, "nobody else was asked about"


@pytest.mark.parametrize("solution", ["#### 1000004", "I cannot say."])
def test_a_second_solution_that_sides_with_neither_keeps_the_sample(tmp_path, solution):
    def reply(request: Request) -> str:
        return wrong_keys(request) if len(request.messages) > 1 else solution

    run = rehearsed(tmp_path, Sitting(solved, reply=reply), check_keys=True)
    assert len(samples(run)) == 30
    verdicts = counts(run)["keys_in_doubt"]
    assert verdicts["unclear"] > 0 == verdicts["wrong"] == verdicts["misconception"]


def test_second_solutions_are_calls_like_any_other_in_the_ledger_the_report_and_the_limits(tmp_path):
    executor = Sitting(solved, reply=wrong_keys)
    run = rehearsed(tmp_path, executor, check_keys=True)
    asked = len(executor.requests["ask"])
    assert spent_in(run, 100)[0].at_most.calls == asked
    assert facts.iterations(run)[0].usage()["calls"] == asked
    assert run.stage(0, "rehearse").store.get_json("usage.json")["calls"] == counts(run)["keys_in_doubt"]["wrong"]
    most = asked - 3
    first, second = Sitting(solved, reply=wrong_keys), Sitting(solved, reply=wrong_keys)
    with pytest.raises(StageError, match=rf"max_calls = {most}\b"):
        rehearsed(tmp_path, first, "limited", check_keys=True, limits__max_calls=most)
    assert len(first.requests["ask"]) == most
    resumed = rehearsed(tmp_path, second, "limited", check_keys=True, limits__max_calls=1000)
    assert len(second.requests["ask"]) == 3 and samples(resumed) == samples(run)


# Killed, reused, searched


@pytest.mark.parametrize(("verb", "after"), [("generate", 110), ("generate", 165), ("ask", 20)])
def test_killed_in_a_rehearsal_and_started_again_it_asks_nothing_twice_and_studies_the_same(tmp_path, verb, after):
    switches = {"rehearse": 2, "own_texts": True, "hint": True, "check_keys": True, "drop_solved": True}

    def make(**options: Any) -> Sitting:
        return Sitting(
            lambda r: solved(r) if every_third(r) or r.id.endswith("hint") else None, reply=wrong_keys, **options
        )

    whole = rehearsed(tmp_path, make(), "whole", **switches)
    broken, rest = make(die_after={verb: after}), make()
    with pytest.raises(Crash):
        rehearsed(tmp_path, broken, "killed", **switches)
    stage = Run.read(str(tmp_path / "killed")).stage(0, "rehearse")
    assert stage.store.names() and not stage.facts(), "it was killed in the rehearsal"
    killed = rehearsed(tmp_path, rest, "killed", **switches)
    for asked in ("generate", "ask"):
        keys = [r.key for r in broken.requests[asked] + rest.requests[asked]]
        assert len(keys) == len(set(keys))
    for file in ("samples.jsonl", "dropped.jsonl"):
        assert samples(killed, file=file) == samples(whole, file=file)
    assert counts(killed) == counts(whole)


def test_another_run_reuses_its_answers_and_check_says_what_differs(tmp_path):
    run, again = rehearsed(tmp_path, Sitting()), Sitting()
    config = job(tmp_path, name="other", curate__rehearse=2, curate__drop_solved=True)
    cli_run.run_job(config, reuse=[run.store.where], executor=again)
    assert {r.id.rpartition("#")[2] for r in again.rehearsed} == {"1"}, "the first draws were there"
    assert "curate.rehearse: 1 there, 2 now" in reuse_of(run, config).end
    assert reuse_of(run, job(tmp_path, name="third", curate__rehearse=1)).end == ""


def test_a_search_rehearses_each_pool_once_and_its_trials_learn_what_is_left(tmp_path):
    executor = Sitting(lambda request: solved(request) if every_third(request) else "#### 0")
    search = {"learning_rate": [1e-5, 2e-5], "samples_per_dataset": [10, 30]}
    run = rehearsed(tmp_path, executor, drop_solved=True, search__learning_rate=search["learning_rate"],
                    search__samples_per_dataset=search["samples_per_dataset"])  # fmt: skip
    pool = next(facts.pools(run))
    left = [s.id for s in View(pool.stage("rehearse").store, "samples.jsonl", Sample)]
    assert len(executor.rehearsed) == 30 and 10 < len(left) < 30
    assert sorted(len(j.examples) for j in executor.jobs) == [10, 10, len(left), len(left)]
    assert all([e.id for e in j.examples] == left[: len(j.examples)] for j in executor.jobs)
    assert pool.studied() == {"word_problems": len(left)}


# Refused, forecast, reported


@pytest.mark.parametrize(("settings", "message"), [
    ({"curate__drop_solved": True}, r"drop_solved = true .*curate\.rehearse to 1"),
    ({"curate__check_keys": True}, r"check_keys = true .*curate\.rehearse to 1"),
    ({"curate__rehearse": 1, "curate__hint": True}, r"hint = true .*own_texts = true"),
    ({"curate__rehearse": -1}, r"curate\.rehearse"),
    ({"curate__rehearse": 1, "curate__check_keys": True, "curate__solve_again": True}, r"curate\.solve_again.*false"),
    ({"curate__rehearse": 1, "target__engine": "recorded", "target__attempts": {"word_problems": "answers"}},
     r"curate\.rehearse = 1 .*target\.attempts.*curate\.rehearse = 0"),
])  # fmt: skip
def test_what_cannot_be_rehearsed_is_refused_with_the_cure(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        job(tmp_path, **settings)


def test_until_a_rehearsal_stops_there_and_is_refused_where_there_is_none(tmp_path):
    executor = LocalExecutor()
    with pytest.raises(ConfigError, match=r"curate\.rehearse = 0"):
        cli_run.run_job(job(tmp_path), until="rehearse", executor=executor)
    outcome = cli_run.run_job(job(tmp_path, curate__rehearse=1), until="rehearse", executor=executor)
    assert outcome.stopped_at == "iteration_0/rehearse" and not executor.jobs


def test_answers_that_cannot_be_graded_stop_the_stage(tmp_path, monkeypatch):
    from lai_ray.benchmarks.word_problems import WordProblems

    grade = WordProblems.grade

    def failing(self: Any, problem: Problem, response: str, *how: Any) -> Grade:
        if response == "boom":
            raise ValueError("cannot read this")
        return grade(self, problem, response)

    monkeypatch.setattr(WordProblems, "grade", failing)
    with pytest.raises(StageError, match=r"30 of 30 answers .*cannot read this.*curate\.rehearse = 0"):
        rehearsed(tmp_path, Sitting(lambda request: "boom"))


def test_a_failed_answer_counts_neither_as_solved_nor_as_a_doubt(tmp_path):
    executor = Sitting(lambda r: Completion("", "error", error="too long") if r.id.endswith("/0#1") else solved(r))
    run = rehearsed(tmp_path, executor, rehearse=2, drop_solved=True, check_keys=True, limits__max_failed_fraction=1.0)
    left = samples(run)
    assert left and all(s.id.endswith("/0") for s in left) and counts(run)["failed"] == len(left)
    assert sum(counts(run)["keys_in_doubt"].values()) == 0


def test_check_shows_what_a_rehearsal_costs(tmp_path):
    screen = io.StringIO()
    config = job(tmp_path, curate__rehearse=2, curate__own_texts=True, curate__hint=True, curate__check_keys=True)
    check.show(config, Console(file=screen, width=200))
    text = screen.getvalue()
    assert re.search(r"word_problems +30 +90 +30\s", text) and "Rehearsal in each iteration" in text
    screen = io.StringIO()
    check.show(job(tmp_path), Console(file=screen, width=200))
    assert "Rehearsal in" not in screen.getvalue()


def test_the_report_and_the_story_have_it(tmp_path):
    run = rehearsed(tmp_path, Sitting(solved, reply=wrong_keys), own_texts=True, check_keys=True, drop_solved=True)
    (table,) = (t for t in sections.tables_of(run) if t.title.startswith("Rehearsal"))
    solved_already, wrong = counts(run)["solved"], counts(run)["keys_in_doubt"]["wrong"]
    (row,) = table.rows
    assert row[:4] == ["word_problems", "0", "lec", "30"] and row[-1] == str(30 - solved_already - wrong)
    assert row[4] == f"{100 * solved_already / 30:.1f}" and row[-2] == f"{wrong} / 0 / 0"
    assert "rehearse" in next(t for t in sections.tables_of(run) if t.title.startswith("Time")).columns
    plain = rehearsed(tmp_path, LocalExecutor(), "plain", rehearse=0)
    assert not any(t.title.startswith("Rehearsal") for t in sections.tables_of(plain))
    (dropped, *_) = samples(run, file="dropped.jsonl")
    titles = [chapter.title for chapter in story(run, dropped.id)]
    assert f"iteration 0: dropped, {dropped.dropped}" in titles and "iteration 0: the target rehearses" in titles


# Votes


def attempt(answer: str | None, *, right: bool = False, finish: str = "stop", status: Any = "graded") -> Attempt:
    problem = Problem("p", "b", "generated", "?", "5")
    return Attempt("p#0", problem, [], Completion("t", finish), Grade(float(right), answer, "r", status))


@pytest.mark.parametrize(("answers", "against"), [
    (["7"], "7"), (["5"], None), (["7", "7"], "7"), (["7", "5"], None), (["7", "8"], None), (["7", "8", "7"], "7"),
    (["7", "7", "5", "5"], None), (["7", "7.0", "5", "$7"], "7"), ([None, "7"], None),
    (["1,000", "1000", "5"], "1,000"), (["Not this", "not  this"], "Not this"),
])  # fmt: skip
def test_a_clear_majority_is_more_than_half_for_one_wrong_answer(answers, against):
    assert votes([attempt(a, right=a == "5", status="graded" if a else "unparsed") for a in answers]).against == against


def test_answers_cut_off_or_not_graded_do_not_vote_and_a_text_of_its_own_is_whole_and_right():
    assert votes([attempt("7", finish="length")]).against is None
    assert votes([attempt("7", status="error"), attempt("7", status="error")]).against is None
    found = votes([attempt("5", right=True, finish="length"), attempt("7"), attempt("5", right=True)])
    assert (found.own, found.right, found.cut_off, found.solved) == (2, 2, 1, False)
    assert same_answer("1/2", "0.5") and not same_answer("A", "B") and not same_answer(None, None)


# Programs


def task(i: int) -> dict[str, Any]:
    """A function that adds i, as a row."""
    return {
        "question": f'def plus_{i}(n: int) -> int:\n    """ {i} more than n, for shelf {i}. """',
        "answer": f"def plus_{i}(n):\n    return n + {i}",
        "tests": [f"assert plus_{i}({n}) == {n + i}" for n in (1, 2)],
    }


def of_programs(tmp_path: Path, **changes: Any) -> Config:
    """A job on the user's own functions."""
    (tmp_path / "code.jsonl").write_text("\n".join(json.dumps(task(i)) for i in range(9)))
    mine = {"name": "mine", "kind": "code", "train": str(tmp_path / "code.jsonl"), "tests": "tests"}
    table = {"evaluate__learn_from": ["mine"], "evaluate__report_on": [], "schedule__strategy": "le"}
    return job(tmp_path, benchmark=[mine], **table, **changes)


def new_task(request: Request) -> str:
    """An instructor's reply with another function."""
    row = task(100 + (request.seed or 0) % 10**6)
    blocks = {"1. Question": row["question"], "Answer": row["answer"], "Tests": "\n".join(row["tests"])}
    parts = (f"{head}:\n```python\n{text}\n```" for head, text in blocks.items())
    return "\n".join(parts)


def test_programs_are_rehearsed_in_the_sandbox_and_those_that_pass_are_studied(tmp_path, sandbox):
    def own(request: Request) -> str:
        (number,) = set(re.findall(r"def plus_(\d+)", request.messages[-1]["content"]))
        more = number if every_third(request) else "0"
        return f"```python\ndef plus_{number}(n):\n    total = n + {more}\n    return total\n```"

    executor = Sitting(own, reply=new_task)
    config = of_programs(tmp_path, curate={"samples_per_dataset": 9, "rehearse": 1, "own_texts": True})
    run = cli_run.run_job(config, executor=executor).run
    left = samples(run)
    passed = [sample for sample in left if "total" in sample.turns[0].text]
    assert len(left) == 9 and 0 < len(passed) < 9
    assert {s.id for s in passed} == {r.id.removesuffix("#0") for r in executor.rehearsed if every_third(r)}


def test_keys_of_programs_cannot_be_checked_by_comparing_answers(tmp_path):
    with pytest.raises(ConfigError, match=r"curate\.check_keys .*mine are programs"):
        check_names(of_programs(tmp_path, curate__rehearse=1, curate__check_keys=True))
