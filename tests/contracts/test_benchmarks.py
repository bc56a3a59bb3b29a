"""The contract of a benchmark, tested on every file in lai_ray/benchmarks, and on your own:

    PYTHONPATH=. LAI_TEST_BENCHMARKS="my_module:BENCHMARK" pytest tests/contracts/test_benchmarks.py

Benchmarks of the package that load published files read them below LAI_TEST_DATA, in a folder with their name.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from lai_ray.common import plugins
from lai_ray.contracts import Grading
from lai_ray.errors import ConfigError

DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
NAMES = [*plugins.available("benchmarks"), *os.environ.get("LAI_TEST_BENCHMARKS", "").split()]
PARTS = [(name, split) for name in NAMES for split in plugins.load("benchmarks", name).splits]
LEARNED = [name for name in NAMES if "train" in plugins.load("benchmarks", name).splits]


@cache
def loaded(name: str):
    benchmark = plugins.load("benchmarks", name)
    if ":" in name or not getattr(benchmark, "source", None):
        return benchmark
    if not (DATA / name).is_dir():
        pytest.skip(f"the published files of {name} are not in {DATA}")
    return replace(benchmark, source=str(DATA / name))


@cache
def problems(name: str, split: str):
    benchmark = loaded(name)
    return [benchmark.problem(record, split, row) for row, record in enumerate(benchmark.load(split))]


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("name", "split"), PARTS)
def test_every_reference_is_right(name, split):
    benchmark = loaded(name)
    # MBPP has no reference for 28 refined rows (mbpp.NO_REFERENCE); no other benchmark may lack one.
    with_reference = [p for p in problems(name, split) if p.answer or name != "mbpp"]
    wrong = [p.id for p in with_reference if benchmark.grade(p, benchmark.reference(p)).score != 1.0]
    assert not wrong


@pytest.mark.parametrize("rules", ["default", "paper"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("response", ["", " ", "\n\n####", "🙂", "#### #### ####", "x" * 100_000, "\x00\ud800"])
def test_an_empty_or_absurd_response_is_no_error(name, response, rules):
    benchmark = loaded(name)
    problem = problems(name, benchmark.splits[0])[0]
    grade = benchmark.grade(problem, response, Grading(rules))
    assert grade.status in ("graded", "unparsed")
    # By the paper's rules an absurd response to a choice question can be right: the last rule always chooses.
    assert grade.score < 1.0 or (rules == "paper" and grade.rule == "fuzzy")


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_and_stable_and_hold_benchmark_and_split(name):
    benchmark = loaded(name)
    ids = [(p.id, split) for split in benchmark.splits for p in problems(name, split)]
    assert len(ids) == len(set(ids))
    assert all(problem_id.startswith(f"{benchmark.name}/{split}/") for problem_id, split in ids)
    again = [
        benchmark.problem(record, split, row).id
        for split in benchmark.splits
        for row, record in enumerate(benchmark.load(split))
    ]
    assert again == [problem_id for problem_id, _ in ids]


@pytest.mark.parametrize("name", NAMES)
def test_no_question_is_in_two_splits(name):
    benchmark = loaded(name)
    asked = {split: {benchmark.show(p) for p in problems(name, split)} for split in benchmark.splits}
    for one, other in itertools.combinations(asked, 2):
        # As published: 32 of MMLU's dev and val questions are in its test as well.
        assert len(asked[one] & asked[other]) <= {"mmlu": 32}.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_split_is_refused_with_the_existing_ones(name):
    with pytest.raises(ConfigError, match=loaded(name).splits[0]):
        list(loaded(name).load("validation"))


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_holds_the_whole_question(name):
    benchmark = loaded(name)
    for problem in problems(name, benchmark.splits[-1])[::50]:
        asked = benchmark.prompt(problem)[-1]["content"]
        choices = problem.extra.get("choices", {})
        texts = choices.values() if isinstance(choices, dict) else choices
        assert all(squeezed(str(text)) in squeezed(asked) for text in [problem.question, *texts])


@pytest.mark.parametrize("name", LEARNED)
def test_a_reply_in_the_requested_form_is_parsed_and_other_text_is_not(name):
    benchmark = loaded(name)
    some = problems(name, "train")[:3]
    parts = [f"{i}. Question: {benchmark.show(p)}\nAnswer: {benchmark.reference(p)}" for i, p in enumerate(some, 1)]
    pieces = benchmark.parse("Here you are.\n\n" + "\n\n".join(parts) + "\n\nGood luck!")
    read = [piece for piece in pieces if piece.rejected is None]
    assert [squeezed(piece.question) for piece in read] == [squeezed(p.question) for p in some]
    assert [piece.answer for piece in read] == [p.answer for p in some]
    assert not [piece for piece in benchmark.parse("I would rather not.") if piece.rejected is None]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(LEARNED)))
def test_a_benchmark_without_train_split_cannot_be_learned_from(name):
    with pytest.raises(ConfigError):
        list(loaded(name).load("train"))


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_has_a_group(name):
    benchmark = loaded(name)
    groups = {benchmark.group(p) for split in benchmark.splits for p in problems(name, split)}
    assert groups and all(groups)
