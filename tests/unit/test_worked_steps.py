"""The benchmarks with scripted feedback: multistep_arithmetic, word_sorting, word_problems."""

from __future__ import annotations

import re
import time

import pytest

from lai_ray.benchmarks.multistep_arithmetic import BENCHMARK as ARITHMETIC
from lai_ray.benchmarks.multistep_arithmetic_unseen import BENCHMARK as DEEPER
from lai_ray.benchmarks.word_problems import BENCHMARK as WORDY
from lai_ray.benchmarks.word_sorting import BENCHMARK as SORTING
from lai_ray.benchmarks.word_sorting_unseen import BENCHMARK as LONGER
from lai_ray.common.self_correction import RIGHT, Feedback, read_feedback
from lai_ray.records import Problem

PRODUCT = Problem("p", "multistep_arithmetic", "train", "What is (3 + -4) * (2 - 5)?", "3",
                  {"solution": "(1) 3 + -4 = -1\n(2) 2 - 5 = -3\n(3) -1 * -3 = 3\n#### 3"})  # fmt: skip
WORDS = Problem("w", "word_sorting", "train", "Sort these words alphabetically: mirel bato", "bato mirel",
                {"solution": "(1) mirel\n(2) bato mirel\n#### bato mirel"})  # fmt: skip


def value(question: str) -> int:
    expression = question.removeprefix("What is ").removesuffix("?")
    assert re.fullmatch(r"[-+*() \d]+", expression)
    return eval(expression)  # Its characters are checked above.


@pytest.mark.parametrize("benchmark", [ARITHMETIC, DEEPER])
def test_every_step_and_result_of_an_expression_is_what_python_computes(benchmark):
    for record in benchmark.load("test"):
        *worked, final = record["answer"].splitlines()
        for step in worked:
            left, _, result = step.partition(") ")[2].partition(" = ")
            assert value(left) == int(result)
        assert final == f"#### {value(record['question'])}"


@pytest.mark.parametrize("benchmark", [SORTING, LONGER])
def test_every_line_of_a_sorting_is_the_sorted_list_so_far(benchmark):
    for record in benchmark.load("test"):
        words = record["question"].partition(": ")[2].split()
        *lines, final = record["answer"].splitlines()
        assert [line.split()[1:] for line in lines] == [sorted(words[:n]) for n in range(1, len(words) + 1)]
        assert final.split()[1:] == sorted(words)
        assert len(set(words)) == len(words)


@pytest.mark.parametrize(("seen", "unseen"), [(ARITHMETIC, DEEPER), (SORTING, LONGER)])
def test_the_unseen_test_has_other_kinds_equally_many_of_each_and_no_training_split(seen, unseen):
    kinds = [sorted(b.group(b.problem(r, "test", i)) for i, r in enumerate(b.load("test"))) for b in (seen, unseen)]
    assert not set(kinds[0]) & set(kinds[1])
    for names in kinds:
        counts = [names.count(name) for name in set(names)]
        assert max(counts) - min(counts) <= 1
    assert (seen.domain, unseen.domain, unseen.splits) == ("in", "out", ("test",))


@pytest.mark.parametrize("benchmark", [ARITHMETIC, SORTING])
def test_any_number_of_rows_begins_with_those_that_are_loaded(benchmark):
    more = list(benchmark.records("dev", 300))
    assert len({record["question"] for record in more}) == 300
    assert more[:240] == list(benchmark.load("dev"))


@pytest.mark.parametrize(
    ("benchmark", "problem", "attempt", "feedback"),
    [
        (ARITHMETIC, PRODUCT, "(1) 3 + -4 = -1\n(2) 2 - 5 = -3\n(3) -3 * -1 = 3\n#### 3", RIGHT),
        (ARITHMETIC, PRODUCT, "(1) 3 + -4 = -1\n(2) 2 - 5 = 3\n(3) -1 * 3 = -3\n#### -3",
         Feedback(2, "(2) 2 - 5 = 3", "2 - 5 is not 3")),
        (ARITHMETIC, PRODUCT, "(1) -4 * 2 = -8\n#### 3", Feedback(1, "(1) -4 * 2 = -8", "the step is 3 + -4")),
        (ARITHMETIC, PRODUCT, "(1) 3 + -4 = -1", Feedback(2, "", "it is missing")),
        (ARITHMETIC, PRODUCT, "(1) 3 + -4 = -1\n(2) 2 - 5 = -3\n(3) -1 * -3 = 3\n#### 3\n#### 3",
         Feedback(5, "#### 3", "the answer had ended")),
        (ARITHMETIC, PRODUCT, "(1) 3 + -4 = -1\n(2) 5 - 2 = -3", Feedback(2, "(2) 5 - 2 = -3", "the step is 2 - 5")),
        (ARITHMETIC, PRODUCT, "I think it is 3.", None),
        (ARITHMETIC, PRODUCT, "", None),
        (SORTING, WORDS, "(1) mirel\n(2) mirel bato\n#### mirel bato",
         Feedback(2, "(2) mirel bato", "it does not follow from the steps before it")),
        (SORTING, WORDS, "(1) mirel\n(2) bato mirel\n#### bato mirel", RIGHT),
        (SORTING, WORDS, "mirel, bato", None),
    ],
)  # fmt: skip
def test_the_script_finds_the_first_wrong_step(benchmark, problem, attempt, feedback):
    assert benchmark.feedback(problem, attempt) == feedback


@pytest.mark.parametrize("benchmark", [ARITHMETIC, DEEPER, SORTING, LONGER, WORDY])
def test_an_improved_attempt_keeps_what_was_right_and_is_right(benchmark):
    for row, record in enumerate(list(benchmark.load("test"))[:60]):
        problem = benchmark.problem(record, "test", row)
        gold = benchmark.reference(problem).splitlines()
        assert benchmark.feedback(problem, "\n".join(gold)) == RIGHT
        for number, line in enumerate(gold, 1):
            wrong = f"{line}7" if line[-1].isdigit() else f"{line} zzz"
            attempt = "\n".join([*gold[: number - 1], wrong, *gold[number:]])
            found = benchmark.feedback(problem, attempt)
            assert (found.step, found.part) == (number, wrong)
            assert read_feedback(str(found)) == found
            improved = benchmark.improve(problem, attempt, found)
            assert improved.splitlines() == gold


@pytest.mark.parametrize("benchmark", [ARITHMETIC, SORTING, WORDY])
def test_200000_hostile_characters_take_less_than_a_second(benchmark):
    problem = benchmark.problem(next(benchmark.load("test")), "test", 0)
    for text in ("(1) " * 50_000, "(1) 1 + 1 = 1\n" * 14_000, "-1 " * 66_000, "a " * 100_000, "#### " * 40_000):
        start = time.perf_counter()
        benchmark.feedback(problem, text)
        benchmark.grade(problem, text)
        assert time.perf_counter() - start < 1, text[:20]


def test_a_sorting_from_an_instructor_is_graded_against_its_own_words_sorted():
    reply = "1. Question: Sort these words alphabetically: b a\nAnswer: (1) b\n(2) b a\n#### b a"
    (piece,) = SORTING.parse(reply)
    assert piece.answer == "a b" and piece.rejected is None
    made = Problem("x", "word_sorting", "generated", piece.question, piece.answer, piece.extra)
    assert SORTING.grade(made, piece.response).score == 0
    assert SORTING.grade(made, SORTING.reference(made)).score == 1
