"""What every benchmark must be, run over every one that is found: a new file is tested the day it appears."""

from __future__ import annotations

import itertools

import pytest

from lai_ray import plugins
from lai_ray.errors import ConfigError

NAMES = plugins.available("benchmarks")
PARTS = [(name, split) for name in NAMES for split in plugins.load("benchmarks", name).splits]


def problems(name: str, split: str):
    benchmark = plugins.load("benchmarks", name)
    return [benchmark.problem(record, split, row) for row, record in enumerate(benchmark.load(split))]


@pytest.mark.parametrize(("name", "split"), PARTS)
def test_every_reference_is_right(name, split):
    benchmark = plugins.load("benchmarks", name)
    wrong = [p.id for p in problems(name, split) if benchmark.grade(p, benchmark.reference(p)).score != 1.0]
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("response", ["", " ", "\n\n####", "🙂", "#### #### ####", "x" * 100_000, "\x00\ud800"])
def test_an_empty_or_absurd_response_is_no_error_and_not_right(name, response):
    benchmark = plugins.load("benchmarks", name)
    problem = problems(name, benchmark.splits[0])[0]
    grade = benchmark.grade(problem, response)
    assert grade.score < 1.0
    assert grade.status in ("graded", "unparsed")


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_stable_and_say_where_they_come_from(name):
    benchmark = plugins.load("benchmarks", name)
    ids = [(p.id, split) for split in benchmark.splits for p in problems(name, split)]
    assert len(ids) == len(set(ids))
    assert all(problem_id.startswith(f"{name}/{split}/") for problem_id, split in ids)
    assert ids == [(p.id, split) for split in benchmark.splits for p in problems(name, split)]


@pytest.mark.parametrize("name", NAMES)
def test_no_question_stands_in_two_splits(name):
    benchmark = plugins.load("benchmarks", name)
    questions = {split: {p.question for p in problems(name, split)} for split in benchmark.splits}
    for one, other in itertools.combinations(questions, 2):
        assert not questions[one] & questions[other]


@pytest.mark.parametrize("name", NAMES)
def test_a_split_it_does_not_have_is_refused_with_those_it_has(name):
    with pytest.raises(ConfigError, match=plugins.load("benchmarks", name).splits[0]):
        list(plugins.load("benchmarks", name).load("validation"))


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_in_the_requested_form_is_read_and_chatter_is_not(name):
    benchmark = plugins.load("benchmarks", name)
    some = problems(name, benchmark.splits[0])[:3]
    reply = "\n\n".join(f"{i}. Question: {p.question}\nAnswer: {benchmark.reference(p)}" for i, p in enumerate(some, 1))
    pieces = benchmark.parse(f"Here you are.\n\n{reply}\n\nGood luck!")
    assert [piece.question for piece in pieces if piece.rejected is None] == [p.question for p in some]
    assert not [piece for piece in benchmark.parse("I would rather not.") if piece.rejected is None]


@pytest.mark.parametrize("name", NAMES)
def test_every_group_is_a_word(name):
    benchmark = plugins.load("benchmarks", name)
    assert all(benchmark.group(p) for split in benchmark.splits for p in problems(name, split))
