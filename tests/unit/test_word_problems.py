"""The built-in benchmark: its problems, its grading, and its parsing of replies."""

from __future__ import annotations

from random import Random

import pytest

from lai_ray.benchmarks.word_problems import BENCHMARK
from lai_ray.benchmarks.word_problems_plus import BENCHMARK as PLUS
from lai_ray.benchmarks.word_problems_plus import TYPES
from lai_ray.contracts import Grading
from lai_ray.errors import ConfigError
from lai_ray.grading.arithmetic_check import false_statements
from lai_ray.records import Piece, Problem
from lai_ray.world import word_kinds as kinds


def problem(answer: str, question: str = "How many?") -> Problem:
    return Problem(
        id="word_problems/test/00000", benchmark="word_problems", split="test", question=question, answer=answer
    )


def grade(response: str, *, answer: str = "5") -> tuple[float, str, str]:
    verdict = BENCHMARK.grade(problem(answer), response)
    return verdict.score, verdict.rule, verdict.status


def parse(reply: str) -> list[Piece]:
    return BENCHMARK.parse(reply)


# --- problems


def test_the_rows_are_the_same_on_every_platform():
    first = next(BENCHMARK.load("test"))
    assert first == {
        "question": "Maya has 78 flags and buys 38 more. How many flags does Maya have now?",
        "answer": "78 + 38 = 116\n#### 116",
        "kind": "add",
        "size": "small",
        "numbers": [78, 38],
    }


def test_no_problem_of_one_split_is_in_another():
    keys = {
        split: {kinds.key(r["kind"], tuple(r["numbers"])) for r in BENCHMARK.records(split, 700)}
        for split in BENCHMARK.splits
    }
    assert not keys["test"] & keys["train"]
    assert not keys["test"] & keys["dev"]
    assert not keys["dev"] & keys["train"]


def test_numbers_that_may_change_places_make_the_same_problem():
    assert kinds.key("add", (17, 40)) == kinds.key("add", (40, 17))
    assert kinds.key("subtract", (40, 17)) != kinds.key("subtract", (17, 40))
    assert (
        kinds.key("two_items", (2, 30, 4, 50))
        == kinds.key("two_items", (4, 50, 2, 30))
        != kinds.key("two_items", (2, 50, 4, 30))
    )
    assert (
        kinds.key("gain_loss", (10, 20, 5))
        == kinds.key("gain_loss", (20, 10, 5))
        != kinds.key("gain_loss", (5, 20, 10))
    )


def test_every_kind_and_size_comes_equally_often():
    rows = list(BENCHMARK.records("dev", 28))
    assert sorted({(r["kind"], r["size"]) for r in rows}) == sorted((k, s) for k in kinds.KINDS for s in kinds.SIZES)


def test_more_dev_problems_begin_with_the_loaded_ones():
    few, many = list(BENCHMARK.records("dev", 30)), list(BENCHMARK.records("dev", 60))
    assert many[:30] == few
    assert len({row["question"] for row in many}) == 60


def test_an_unknown_split_is_refused_with_the_existing_ones():
    with pytest.raises(ConfigError, match="word_problems.*'validation'.*train, dev, test"):
        BENCHMARK.load("validation")
    with pytest.raises(ConfigError, match="word_problems_plus.*'train'.*evaluate.report_on"):
        PLUS.load("train")


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_every_wording_is_recognised(kind: str):
    rng = Random(0)
    for wording in kinds.KINDS[kind].wordings + kinds.KINDS[kind].new_wordings:
        numbers = kinds.draw(kind, "small", rng)
        item = kinds.write(kind, numbers, rng, wordings=(wording,))
        known = kinds.recognise(kinds.with_aside(item.question, rng))
        assert known is not None
        assert (known.kind, known.numbers, known.response) == (kind, numbers, item.response)


def test_free_text_is_no_known_problem():
    assert kinds.recognise("What is the capital of France?") is None
    assert kinds.recognise("") is None


@pytest.mark.parametrize(
    ("step", "carries"),
    [
        ((24, "+", 85), 1),
        ((29, "+", 85), 2),
        ((73, "-", 53), 0),
        ((363, "-", 309), 1),
        ((5, "*", 299), 3),
        ((4, "*", 20), 0),
    ],
)
def test_carries_are_counted_as_on_paper(step: tuple[int, str, int], carries: int):
    assert kinds.Step(*step).carries == carries


def test_the_reference_earns_the_point_in_both_benchmarks():
    for benchmark in (BENCHMARK, PLUS):
        for row, record in zip(range(40), benchmark.load("test"), strict=False):
            made = benchmark.problem(record, "test", row)
            assert made.id == f"{benchmark.name}/test/{row:05d}"
            assert benchmark.grade(made, benchmark.reference(made)).score == 1.0
            assert false_statements(benchmark.reference(made)) == []


def test_the_perturbed_test_has_its_types_equally_often_and_held_out_numbers():
    rows = list(PLUS.load("test"))
    groups = [PLUS.group(PLUS.problem(row, "test", i)) for i, row in enumerate(rows)]
    assert {name: groups.count(name) for name in TYPES} == dict.fromkeys(TYPES, 168)
    assert {kinds.bucket(row["kind"], tuple(row["numbers"])) for row in rows} == {"test"}


def test_the_prompt_is_the_bare_question():
    assert BENCHMARK.prompt(problem("5")) == [{"role": "user", "content": "How many?"}]


# --- grading


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("2 + 3 = 5\n#### 5", (1.0, "marker", "graded")),
        ("2 + 3 = 6\n#### 5", (1.0, "marker", "graded")),
        ("#### 5.00", (1.0, "marker", "graded")),
        ("#### $5", (1.0, "marker", "graded")),
        ("**#### 5**", (1.0, "marker", "graded")),
        ("#### 5 apples", (1.0, "marker", "graded")),
        ("#### 5\nQuestion: and 7?\n#### 7", (1.0, "marker", "graded")),
        ("The answer is 5.", (1.0, "phrase", "graded")),
        ("#### 4\nNo: #### 5", (1.0, "marker", "graded")),
        ("2 + 3 = 5\n####", (1.0, "last_number", "graded")),
        ("so the total is 25", (0.0, "last_number", "graded")),
        ("#### -5", (0.0, "marker", "graded")),
        ("#### 10/2", (1.0, "marker", "graded")),
        ("#### 1/0", (0.0, "none", "unparsed")),
        ("", (0.0, "none", "unparsed")),
        ("no idea \x00 \ud800", (0.0, "none", "unparsed")),
        ("#### " + "9" * 10_000, (0.0, "none", "unparsed")),
        ("so 5\n#### " + "9" * 10_000, (0.0, "none", "unparsed")),
    ],
)
def test_a_response_is_graded_by_its_final_number(response: str, verdict: tuple[float, str, str]):
    assert grade(response) == verdict


def test_thousands_may_have_commas():
    assert grade("#### 1,205", answer="1205") == (1.0, "marker", "graded")


def test_the_verdict_is_that_of_the_default_rules_whatever_the_jobs_rules_are():
    paper = BENCHMARK.grade(problem("5"), "#### 5, in 2 days", Grading(rules="paper"))
    assert paper == BENCHMARK.grade(problem("5"), "#### 5, in 2 days")
    assert (paper.score, paper.further) == (1.0, {})


# --- an instructor's reply


def test_a_numbered_list_is_read_in_order():
    first, second = parse(
        "1. Question: A has 2 nuts and 3 more?\nAnswer: 2 + 3 = 5\n#### 5\n\n"
        "2. Question: And 4 x 5?\nAnswer: 4 * 5 = 20\n#### 20"
    )
    assert (first.question, first.answer, first.response) == ("A has 2 nuts and 3 more?", "5", "2 + 3 = 5\n#### 5")
    assert (second.answer, second.rejected) == ("20", None)


@pytest.mark.parametrize(
    "reply",
    [
        "Sure! Here they are:\n\n**1. Question:** How many?\n\n**Answer:** 2 + 3 = 5\n\n#### 5\n\nI hope this helps!",
        "1) **Question**: How many?\n**Answer**: 2 + 3 = 5\n**#### 5**",
        "### Question 1: How many?\nSolution: 2 + 3 = 5 #### 5",
        "1. How many?\nAnswer:\n2 + 3 = 5\n#### 5",
        "- Question: How\nmany?\n- Answer: 2 + 3 = 5\n- #### 5\n",
    ],
)
def test_the_layout_of_a_sample_does_not_matter(reply: str):
    (piece,) = parse(reply)
    assert (piece.question, piece.answer, piece.rejected) == ("How many?", "5", None)
    assert piece.response.endswith("2 + 3 = 5\n#### 5")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("1. Question: How many?\nAnswer: 2 + 3", "no final #### line (cut off?)"),
        ("1. Question: How many?\nAnswer: 2 + 3 = 5\n####", "no final #### line (cut off?)"),
        ("1. Question: How ma", "no answer (cut off?)"),
        ("1. Question:\nAnswer: 2 + 3 = 5\n#### 5", "no question"),
        ("1. Question: How many?\nAnswer: 2 + 3 = 6\n#### 6", "false statement"),
    ],
)
def test_an_incomplete_item_is_rejected_with_the_reason(reply: str, reason: str):
    (piece,) = parse(reply)
    assert piece.rejected == reason


def test_a_truncated_last_sample_does_not_affect_the_others():
    pieces = parse("1. Question: How many?\nAnswer: 2 + 3 = 5\n#### 5\n2. Question: And how ma")
    assert [piece.rejected for piece in pieces] == [None, "no answer (cut off?)"]


def test_numbered_steps_are_not_new_questions():
    (piece,) = parse("1. Question: How many?\nAnswer:\n1. 2 + 3 = 5\n2. 5 + 1 = 6\n#### 6")
    assert piece.answer == "6"
    assert piece.rejected is None


@pytest.mark.parametrize(
    "reply", ["", "I cannot help with that.", "####", "Answer:", "\n\n1.\n", "\x00" * 50, "1. " * 500]
)
def test_parsing_never_raises(reply: str):
    assert all(piece.rejected for piece in parse(reply))


def test_a_sample_of_the_grammar_carries_its_kind():
    (piece,) = parse(
        "1. Question: Tom has 12 nuts and buys 30 more. How many nuts does Tom have now?\nAnswer: 12 + 30 = 42\n#### 42"
    )
    assert (piece.extra["kind"], piece.extra["numbers"]) == ("add", [12, 30])
