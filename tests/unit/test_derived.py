"""A worked solution without a final line is kept where its result is beyond doubt, and dropped otherwise."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from lai_ray.instructor.parsing.derived import derived
from lai_ray.instructor.parsing.text_samples import math_pieces
from lai_ray.records import Problem, Sample, Turn
from lai_ray.stages.curate import Judged
from lai_ray.training import model_card


@pytest.mark.parametrize(("steps", "number"), [
    ("3 * 4 = 12 plums.\nSo she has 12 plums.", "12"), ("First 2 + 3 = 5.\nThen 5 * $4 = $20.", "20"),
    ("Total = 80 + 90\nTotal = 170\nTherefore, the total is **170** pounds.", "170"),
    ("3 * 5 = 15.\nAfter 3 weeks he has 15.", "15"),
    ("\\[ x = 60 / 3 \\]\n\\[ x = 20 \\]\nSo x is 20.", "20"),
    ("5 * 3 = 15 per week, so 15 * 2 = 30 in 2 weeks.", "30"),
])  # fmt: skip
def test_a_result_beyond_doubt_is_found(steps, number):
    found = derived(steps)
    assert found is not None and found.text == number


@pytest.mark.parametrize("steps", [
    "", "Total = 80 + 90", "366 / 4 = 91.5\nSo he writes 91 entries.", "She has 3 plums and 4 pears.", "So 12 = 3 * 4",
    "3 * 4 = 12.\n2 * 5 = 10.\nSo she has 12 plums and 10 pears.", "3 * 4 = 12.\nThat is incorrect.\nSo 12.",
    "3 * 4 = 12.\nTherefore, the answer is:", "3 * 4 = 12.\nHow many are left?", "3 * 4 = 12, and then",
    "2 * 3 = 6.\nNow she buys 3 times as many.",
    "50 / 3 = 16.67.\nEach receives 16, and 2 are left.", "It takes 10 = 5 * 2 minutes and",
    "No number at all.", "He paid $76.07 for it.",
    "4 * 42 = 168 metres.\nSo it went 138 metres farther (168 metres - 30 metres).",
    "15 - 9 = 6.\nIt rises at 6:00 AM.",
    "Left are 9 - 5 = 4.\nSo 4 hours and 15 minutes are left.",
    "7 * 4 = 28 now.\nAfter 4 years it is 32 (28 + 4).",
])  # fmt: skip
def test_doubt_is_none(steps):
    assert derived(steps) is None


QUESTION = "Question: Ada has 3 bags of 4 plums. How many has she?\nAnswer: "


def test_the_sample_gets_its_final_line_and_a_mark():
    (piece,) = math_pieces(f"{QUESTION}3 * 4 = 12.\nSo she has 12 plums.")
    assert (piece.rejected, piece.answer, piece.extra["derived"]) == (None, "12", True)
    assert piece.response == "3 * 4 = 12.\nSo she has 12 plums.\n#### 12"


def test_a_stated_result_has_no_mark():
    (piece,) = math_pieces(f"{QUESTION}3 * 4 = 12.\n#### 12")
    assert piece.rejected is None and "derived" not in piece.extra


def test_where_another_sample_has_a_final_line_one_without_it_is_cut_off():
    first, second = math_pieces(f"1. {QUESTION}3 * 4 = 12.\n#### 12\n\n2. {QUESTION}3 * 4 = 12.")
    assert first.rejected is None and second.rejected is not None


def test_a_false_step_drops_a_derived_sample_too():
    assert math_pieces(f"{QUESTION}3 * 4 = 13.\nSo she has 13 plums.")[0].rejected == "false statement"


def sample(number: int, extra: dict[str, Any]) -> Sample:
    problem = Problem(f"s/{number}", "gsm8k", "generated", "How many?", "12", extra)
    return Sample(problem.id, "r", problem, [Turn("#### 12")])


def test_the_funnel_counts_those_kept(tmp_path):
    samples = [sample(1, {"derived": True}), sample(2, {}), sample(3, {"derived": True})]
    strategy = SimpleNamespace(choose=lambda these, most, settings: list(these)[:most])
    funnel = Judged("gsm8k", samples, strategy, None, 2).funnel()  # type: ignore[arg-type]
    assert funnel == {"samples": 3, "kept": 2, "derived": 1, "over the cap": 1}


def test_the_card_counts_them():
    lineage = {"name": "m", "samples": {"count": 9, "hash": "h", "derived": 4}, "settings": {}}
    line = next(line for line in model_card.text(lineage, {}).split("\n") if "derived" in line)
    assert "4" in line


@pytest.mark.parametrize("unit", ["1 = 2 ", "= 3", "So 4. ", "2 (", " ", "12,345", "a. B"])
def test_hostile_solutions_take_no_time(unit):
    started = time.process_time()
    derived((unit * 200_000)[:200_000])
    derived((unit * 20_000)[:20_000])
    assert time.process_time() - started < 1
