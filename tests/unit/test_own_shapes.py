"""A user's own choices, golds and conversations in the shapes that people publish; what is in doubt is refused."""

from __future__ import annotations

import csv
import json

import pytest

from lai_ray.benchmark_kinds.user_data import user_benchmark
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.errors import DataError


def own(tmp_path, rows, kind, name="rows.jsonl", **settings):
    path = tmp_path / name
    if name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return user_benchmark(BenchmarkSettings(name="mine", kind=kind, train=str(path), **settings))


def read(mine):
    return [mine.problem(record, "train", i) for i, record in enumerate(mine.load("train"))]


TWO = {"A": "iron", "B": "tin"}


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (["iron", "tin", None, None], "B", "B"),
        (["iron", "tin", "", float("nan")], "B", "B"),
        ([{"key": "A", "value": "iron"}, {"key": "B", "value": "tin"}], "B", "B"),
        ([{"label": "B", "text": "tin"}, {"label": "A", "text": "iron"}], "B", "B"),
        ([{"text": "iron"}, {"text": "tin"}], 1, "B"),
        ({"label": ["A", "B"], "text": ["iron", "tin"]}, "B", "B"),
        ({"label": ["1", "2"], "text": ["iron", "tin"]}, "1", "A"),
        ({"label": ["1", "2"], "text": ["iron", "tin"]}, 2, "B"),
        ({"label": ["A", "B", None], "text": ["iron", "tin", None]}, "A", "A"),
        ({"A": "iron", "B": "tin", "C": None}, "B", "B"),
        ({"B": "tin", "A": "iron"}, "tin", "B"),
        ("['iron' 'tin']", "B", "B"), ("['iron', 'tin']", "B", "B"), ('["iron", "tin"]', "B", "B"),
        ("{'text': array(['iron', 'tin'], dtype=object), 'label': array(['A', 'B'], dtype=object)}", "B", "B"),
        (["iron", "tin"], "(b)", "B"), (["iron", "tin"], "1.0", "B"), (["iron", "tin"], 1.0, "B"),
    ],
)  # fmt: skip
def test_choices_are_read_in_every_published_shape(tmp_path, choices, answer, letter):
    rows = [{"question": "Which?", "choices": choices, "answer": answer}] * 2
    problems = read(own(tmp_path, rows, "choice", choices="choices"))
    assert [(problem.answer, problem.extra["choices"]) for problem in problems] == [(letter, TWO)] * 2


@pytest.mark.parametrize(
    ("choices", "answer", "parts"),
    [
        (["iron", None, "tin"], "A", "'choices'.*choice 2 of 3 is empty"),
        ([None, None], "A", "two choices"), ([], "A", "two choices"),
        (None, "A", "'choices' must hold a list"), ("iron|tin", "A", "'choices' must hold a list"),
        ("['iron' ... 'tin']", "A", "'choices' holds a list that numpy has shortened"),
        ([{"metal": "iron"}, {"metal": "tin"}], "A", "'choices'.*metal"),
        ({"first": "iron", "second": "tin"}, "A", "'choices'.*first, second"),
        ([["iron"], ["tin"]], "A", r"'choices'.*\['iron'\]"),
        ([{"label": "A", "text": "iron"}, {"label": "A", "text": "tin"}], "A", "labels are A, A"),
        (["iron", "tin"], "2", "'2'.*place_from_1"), (["iron", "tin"], 2, "'2'.*place_from_1"),
        ({"label": ["1", "2"], "text": ["iron", "tin"]}, 0, "'0'"),
        (["iron", "tin"], True, "'True'"), (["iron", "tin"], "", "'answer' is empty"),
        (["iron", "tin"], "A or B", "'A or B'"),
    ],
)  # fmt: skip
def test_choices_in_doubt_are_refused_with_row_and_column(tmp_path, choices, answer, parts):
    rows = [
        {"question": "Which?", "choices": TWO, "answer": "A"},
        {"question": "?", "choices": choices, "answer": answer},
    ]
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{parts}"):
        read(own(tmp_path, rows, "choice", choices="choices"))


def test_places_may_count_from_1(tmp_path):
    rows = [{"question": "Which?", "one": "iron", "two": "tin", "answer": n} for n in ("1", "2")]
    mine = own(tmp_path, rows, "choice", choices=["one", "two"], answer_as="place_from_1")
    assert [problem.answer for problem in read(mine)] == ["A", "B"]


@pytest.mark.parametrize(
    ("answers", "parts"), [(["A", "1"], "are numbers"), ([1 + n % 3 for n in range(40)], "none of 40 answers is 0")]
)
def test_numbers_that_may_count_from_0_or_1_are_refused(tmp_path, answers, parts):
    rows = [{"question": f"Which {i}?", "choices": list("wxyz"), "answer": one} for i, one in enumerate(answers)]
    with pytest.raises(DataError, match=f"{parts}.*answer_as"):
        read(own(tmp_path, rows, "choice", choices="choices"))


def test_numbers_that_are_labels_or_texts_of_choices_are_in_no_doubt(tmp_path):
    labelled = {"label": list("1234"), "text": list("wxyz")}
    rows = [{"question": f"{i}?", "choices": labelled, "answer": str(1 + i % 4)} for i in range(40)]
    assert [problem.answer for problem in read(own(tmp_path, rows, "choice", choices="choices"))][:4] == list("ABCD")
    rows = [{"question": "?", "choices": ["tin", "7"], "answer": one} for one in ("tin", "7")]
    assert [problem.answer for problem in read(own(tmp_path, rows, "choice", choices="choices"))] == ["A", "B"]
    rows = [{"question": "?", "choices": ["3", "1"], "answer": one} for one in (1, 0)]
    assert [problem.answer for problem in read(own(tmp_path, rows, "choice", choices="choices"))] == ["B", "A"]


def test_a_right_answer_with_its_distractors_is_not_always_the_first_choice(tmp_path):
    rows = [{"question": f"{i}?", "right": "7", "wrong": "1", "worse": "B"} for i in range(20)]
    mine = own(tmp_path, rows, "choice", choices=["right", "wrong", "worse"], answer="right")
    problems = read(mine)
    assert {problem.extra["choices"][problem.answer] for problem in problems} == {"7"}
    assert {problem.answer for problem in problems} == {"A", "B", "C"}
    assert problems == read(mine)


@pytest.mark.parametrize(
    "gold",
    ["12 or 13", "10 to 12", "between 3 and 5", "The answer is 12 or 13.", "#### 12 or 13", "12 (or 13)",
     "x = 3 or x = 5", "2 hours 30 minutes", "5 feet 6 inches", "20 miles, 21 or 22", "10-12", "3, 4"],
)  # fmt: skip
def test_a_gold_of_two_numbers_is_refused_with_its_row(tmp_path, gold):
    with pytest.raises(DataError, match=r"rows\.jsonl:2: column 'answer'.*number"):
        read(own(tmp_path, [{"question": "?", "answer": 1}, {"question": "?", "answer": gold}], "number"))


@pytest.mark.parametrize(
    ("gold", "number"),
    [("3/4 = 0.75", "0.75"), ("1/2 or 0.5", "0.5"), ("7 - 3 = 4", "4"), ("6 - 3 = 3", "3"), (42.0, "42.0"),
     ("2 or 3 of them\n#### 3", "3"), ("He pays 5 and 10, so 15", "15"),
     ("#### 528 euros in 10 weeks", "528"), ("12 km", "12")],
)  # fmt: skip
def test_a_gold_with_one_result_is_read(tmp_path, gold, number):
    [problem] = read(own(tmp_path, [{"question": "?", "answer": gold}], "number"))
    assert problem.answer == number


@pytest.mark.parametrize("missing", [None, "", " ", float("nan"), True])
def test_a_gold_that_is_no_number_is_refused(tmp_path, missing):
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*'answer'"):
        read(own(tmp_path, [{"question": "?", "answer": missing}], "number"))


@pytest.mark.parametrize("kind", ["exact", "label"])
def test_a_float_that_pandas_made_of_an_integer_is_that_integer(tmp_path, kind):
    mine = own(tmp_path, [{"question": "a", "answer": 1999.0}, {"question": "b", "answer": 2001.0}], kind)
    problems = read(mine)
    assert [problem.answer for problem in problems] == ["1999", "2001"]
    assert mine.grade(problems[0], "Answer: 1999").score == 1.0
    with pytest.raises(DataError, match="'answer' is empty"):
        read(own(tmp_path, [{"question": "a", "answer": float("nan")}], kind))


ASKED = [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}]


@pytest.mark.parametrize(
    ("turns", "question"),
    [
        ([*ASKED, {"role": "assistant", "content": "It is 2"}], "Be short.\n\n1 + 1?"),
        ([{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}], "1 + 1?"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_conversation_is_its_question_and_its_answer(tmp_path, turns, question, name):
    rows = [{"messages": json.dumps(turns) if name.endswith(".csv") else turns}] * 2
    problems = read(own(tmp_path, rows, "number", name, question="messages", answer="messages"))
    assert [(problem.question, problem.answer) for problem in problems] == [(question, "2")] * 2


@pytest.mark.parametrize(
    ("turns", "parts"),
    [
        ([{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}] * 2, "4 turns"),
        ([{"role": "user", "content": "1?"}], "assistant says nothing"),
    ],
)
def test_a_conversation_that_is_no_question_with_an_answer_is_refused(tmp_path, turns, parts):
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: column 'messages'.*{parts}"):
        read(own(tmp_path, [{"messages": turns}], "number", question="messages", answer="messages"))


def test_a_question_may_be_in_several_columns(tmp_path):
    rows = [
        {"instruction": "Spell.", "input": "two", "output": "t-w-o"},
        {"instruction": "Go.", "input": "", "output": "x"},
    ]
    mine = own(tmp_path, rows, "exact", question=["instruction", "input"], answer="output")
    assert [problem.question for problem in read(mine)] == ["Spell.\n\ntwo", "Go."]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*'input'.*question ="):
        read(own(tmp_path, rows, "exact", question="instruction", answer="output"))


def test_a_column_may_be_within_an_object(tmp_path):
    inner = {"stem": "Which?", "choices": [{"text": "iron", "label": "A"}, {"text": "tin", "label": "B"}]}
    mine = own(
        tmp_path, [{"question": inner, "key": "B"}] * 2, "choice",
        question="question.stem", choices="question.choices", answer="key",
    )  # fmt: skip
    assert [(problem.question, problem.answer) for problem in read(mine)] == [("Which?", "B")] * 2
