"""`lai contracts` finds each way to break what a benchmark promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from lai_ray.benchmarks.word_problems import WordProblems
from lai_ray.cli import contracts
from lai_ray.cli.main import app
from lai_ray.records import Grade


class Few(WordProblems):
    """A few of the built-in problems, which keep every promise."""

    name = "few"

    def load(self, split: str) -> list[dict[str, Any]]:
        rows = list(super().load(split))
        return rows[:60]


class Wrong(Few):
    def reference(self, problem):
        return "#### 0.123"


class Generous(Few):
    def grade(self, problem, response, grading=None):
        return Grade(1.0, response[:5], "all", "graded")


class Nameless(Few):
    def problem(self, record, split, row):
        return replace(super().problem(record, split, row), id=f"x/{row // 2}")


class Leaking(Few):
    def load(self, split):
        super().load(split)
        return super().load("train")


class AnySplit(Few):
    def load(self, split):
        return super().load(split if split in self.splits else "train")


class Short(Few):
    def prompt(self, problem):
        return [{"role": "user", "content": problem.question[:10]}]


class Deaf(Few):
    def parse(self, reply):
        return []


class Groupless(Few):
    def group(self, problem):
        return ""


FEW, WRONG, NAMELESS, BROKEN = Few(), Wrong(), Nameless(), "no benchmark"
BREAKING = {
    "every_reference_is_right": Wrong,
    "no_absurd_response_is_right_or_an_error": Generous,
    "ids_are_unique_and_stable": Nameless,
    "no_question_is_in_two_splits": Leaking,
    "an_unknown_split_is_refused_with_those_there_are": AnySplit,
    "the_prompt_holds_the_whole_question": Short,
    "a_reply_in_the_requested_form_is_read_and_no_other": Deaf,
    "every_problem_has_a_group": Groupless,
}


def test_each_promise_has_one_that_breaks_it():
    assert list(BREAKING) == [promise.__name__ for promise in contracts.PROMISES]


@pytest.mark.parametrize("promise", contracts.PROMISES, ids=lambda promise: promise.__name__)
def test_a_broken_promise_is_found(promise):
    assert list(promise(contracts.Examined(BREAKING[promise.__name__]())))
    assert not list(promise(contracts.Examined(FEW)))


def test_the_command_names_what_does_not_hold_and_fails():
    here = "tests.unit.test_contracts_command"
    sound = CliRunner().invoke(app, ["contracts", f"{here}:FEW"])
    assert sound.exit_code == 0 and sound.output.count("holds") >= len(contracts.PROMISES)
    broken = CliRunner().invoke(app, ["contracts", f"{here}:WRONG"])
    assert broken.exit_code == 1 and "its own reference is graded 0" in " ".join(broken.output.split())
    refused = CliRunner().invoke(app, ["contracts", f"{here}:BROKEN"])
    assert refused.exit_code != 0 and "BROKEN" in str(refused.exception)
