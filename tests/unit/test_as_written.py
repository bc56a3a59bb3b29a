"""Answers as models write them: typography, thoughts, further questions, lists over lines, fences that do not pair."""

from __future__ import annotations

import pytest

from lai_ray.common import plugins
from lai_ray.contracts import DEFAULT_GRADING, Grading
from lai_ray.grading import bbh
from lai_ray.grading.answer_part import own_parts, without_thoughts
from lai_ray.grading.choices import default_choice
from lai_ray.grading.numbers import default_grade, paper_grade
from lai_ray.grading.numerals import in_digits
from lai_ray.grading.programs import Prompted, default_program
from lai_ray.instructor.parsing.choice_samples import choice_pieces
from lai_ray.instructor.parsing.text_samples import math_pieces
from lai_ray.records import UNCLOSED, Grade, Problem
from lai_ray.stages.evaluate import grade_of

CITIES = dict(zip("ABCD", ["Paris", "London", "Rome", "Berlin"], strict=True))
COLOURS = dict(zip("ABCDEFGHIJ", "red green blue cyan pink teal gold gray lime navy".split(), strict=True))  # noqa: SIM905


@pytest.mark.parametrize(
    ("written", "digits"),
    [
        ("12{,}500", "12500"), ("12,\\!500", "12500"), ("12\\,500", "12500"), ("12\u202f500", "12500"),
        ("12’500", "12500"), ("12 500 people", "12500 people"), ("1.234.567", "1234567"), ("₹1,50,000", " 150000"),
        ("7万", "70000"), ("2½", "2 1/2"), ("2\\frac{1}{2}", "2 1/2"), ("\\frac34", "3/4"), ("4 × 10⁻²", "0.04"),
        ("6^2", "36"), ("2.5e3", "2500"), ("3 billion", "3000000000"), ("$2.5M", "$2500000"),
        ("\\boxed{1.5} million", "\\boxed{1500000}"), ("−4", "-4"), ("－4", "-4"), ("25 m^2", "25 m"),
        # Not one number, or no scale:
        ("in 2020 300 came", "in 2020 300 came"), ("3 100-watt bulbs", "3 100-watt bulbs"), ("5 km", "5 km"),
        ("5 million-dollar houses", "5 million-dollar houses"), ("**3** 4", "**3** 4"), ("8–4", "8–4"),
        ("555 123 4567", "555 123 4567"), ("70, 000", "70, 000"), ("1,234.5", "1,234.5"),
        ("9 minus 6", "9 minus 6"), ("300 K", "300 K"),
        # Set in parts:
        ("3,\\! 250,\\! 000", "3250000"), ("3\\text{,}250", "3250"), ("4\\times10^3", "4000"),
        ("4\\times{10}^{3}", "4000"),
        ("3.5 \\text{ million}", "3500000 "), ("2.5\\text{M}", "2500000"), ("it is minus 6", "it is -6"),
    ],
)  # fmt: skip
def test_numbers_are_read_as_they_are_written(written, digits):
    assert in_digits(written) == digits


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("12500", "It earns \\$12{,}500 in 3 years: $\\boxed{\\$12{,}500}$ for 4 people", True),
        ("12", "It earns $12{,}500$.", False),
        ("-5", "\\boxed{-\\$5} after 2 days", True),
        ("18", "$\\boxed{6 \\times 3 = 18}$ for 2", True),
        ("6", "$\\boxed{6 \\times 3 = 18}$", False),
        ("18", "\\boxed{\\mathrm{18\\ km}} in 4 hours", True),
        ("3", "The answer is 3 billion.", False),
        ("6", "The answer is 6e40.", False),
        ("18", "答案：１８", True),
        ("18", "The answer is 18.\n\n**Question 2:** What is 3 + 4?\nThe answer is 7.", True),
        ("18", "So it is 18.\n\nUser: and 3?\n\\boxed{3}", True),
        ("7", "Let me restate it:\n\nQuestion: 3 + 4?\nThe answer is 7.", True),
        ("7", "Question: 3 + 4?\nAnswer: 7", True),
        ("18", "\\boxed{\n18\n} over 2 years", True),
        ("18", "<answer>18</answer> (in 2 steps)", True),
        ("18", "The answer is <b>18</b>, after 2 steps", True),
        ("5", "The answer is 9 minus 4 = 5", True),
        ("18", "答案是18元，一共2人。", True),
        ("18", "It is 18.\n\n**Problem 2.** What is 3 + 4?\nThe answer is 7.", True),
        ("18", "It is 18.\n\nProblem 2. What is 3 + 4?\nThe answer is 7.", True),
        ("18", "Question 1: How many? 9.\nQuestion 2: How much? 9 x 2.\nThe answer is 18.", True),
        ("18", "It is 18.\n\nQuestion (2): What is 3 + 4?\nThe answer is 7.", True),
        ("18", "It is 18.\n<|user|>\nand 3 + 4?\n<|assistant|>\nThe answer is 7.", True),
        ("18", "Q: 9 x 2?\nA: 18\n\nQ: 3 + 4?\nA: 7", True),
        ("18", "It is 18.\n\nQ. What is 3 + 4?\nA. 7", True),
        ("18", "It is 18.\n\n## Question\nWhat is 3 + 4?\n## Answer\n7", True),
    ],
)
def test_a_number_is_right_or_wrong_however_it_is_set(gold, response, right):
    assert default_grade(gold, response).score == right


def test_a_question_in_millions_may_be_answered_in_them():
    question = "A town has $30 million and spends $26 million. What is left?"
    assert default_grade("4", "So $4 million are left.", question).score == 1
    assert default_grade("4000000", "So $4 million are left.", question).score == 1
    assert default_grade("4", "So $5 million are left.", question).score == 0
    assert default_grade("4", "So $4 million are left.", "What is left?").score == 0


@pytest.mark.parametrize(
    ("response", "rest"),
    [
        ("<think>A?</think>B", "B"), ("A?</think>B", "B"), ("<thinking>\nA\n</thinking>\nB", "\nB"),
        ("B <think>or A", "B "), ("[THINK]A[/THINK]B", "B"), ("<reason>A</reason>B", "B"),
        ("```<think>A</think>", "```"),
        ("<|channel|>commentary<|message|>A<|end|><|channel|>final <|constrain|>json<|message|>B", "B"),
        ("<think>use <think> here</think>B", "B"),
        ("analysisA?assistantfinalB", "B"),
        ("<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>", "B"),
        ("<think>A", None), ("analysisThe answer is A, but", None), ("<|channel|>analysis<|message|>A", None),
        ("The analysis gives B", "The analysis gives B"), ("Analysis: B", "Analysis: B"), ("", ""),
        ("close it with `</think>`.", "close it with `</think>`."),
        ("re.sub('<think>.*?</think>', '', s)", "re.sub('<think>.*?</think>', '', s)"),
    ],
)  # fmt: skip
def test_thoughts_are_taken_off(response, rest):
    assert without_thoughts(response) == rest


def test_an_unclosed_thought_has_no_answer_by_default_rules_and_one_by_the_papers():
    grade = default_grade("5", "<think>The answer is 5")
    assert (grade.status, grade.note) == ("unparsed", UNCLOSED)
    assert paper_grade("#### 5", "<think>The answer is 5").score == 1
    assert default_choice("<think>Answer: A", CITIES).letter is None


def test_another_question_ends_the_answer():
    assert list(own_parts("A\n\nProblem 2: x")) == ["A", "A\n\nProblem 2: x"]
    assert list(own_parts("The problem: x is 3.\nA question remains.")) == ["The problem: x is 3.\nA question remains."]


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("答案是B。", "B"), ("我选B，因为它是首都。", "B"), ("（Ｂ）", "B"), ("不是A，选B", "B"), ("正解はBです", "B"),
        ("**London**", "B"), ("A is incorrect. B is right.", "B"), ("not A but B", "B"), ("It is not A.", None),
        ("A and B are both wrong", None), ("B is right and A is wrong.", "B"),
        ("Answer: B\n\nQuestion 2: What?\nAnswer: C", "B"), ("Question: Capital?\nAnswer: B", "B"),
        ("London, not Paris.", "B"), ("It isn't Paris or Rome, it is London.", "B"), ("It can't be Rome.", None),
        ("## Reasoning\nThe answer is A? No.\n\n## Answer\n\nB", "B"), ("I see A, C and D fail. So B.", "B"),
    ],
)  # fmt: skip
def test_the_letter_in_any_script_and_not_a_denied_one(response, letter):
    assert default_choice(response, CITIES).letter == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("I, for one, choose C.", "C"), ("My answer: I would say D", "D"), ("The answer is J, I guess", "J"),
        ("I waver between C and D. I'd rather choose D.", "D"), ("If I choose A, then B fails", None),
        ("So do I.", None), ("I’m not certain", None), ("I have no idea", None),
        ("Answer: I", "I"), ("I is correct.", "I"), ("I: lime", "I"), ("The answer is I because lime fits.", "I"),
    ],
)  # fmt: skip
def test_the_word_i_is_no_letter_and_the_letter_is_no_word(response, letter):
    assert default_choice(response, COLOURS).letter == letter


@pytest.mark.parametrize(
    ("target", "response", "right"),
    [
        ("ant bee cow", "Sorted:\n\n1. ant\n2. bee\n3. cow", True),
        ("ant bee cow", "* ant\n* bee\n* cow", True),
        ("ant bee cow", "So the answer is ant, bee, and cow.", True),
        ("ant bee cow", "$\\boxed{\\text{ant bee cow}}$", True),
        ("ant bee cow", "The answer is `ant bee cow`. It took 3 steps.", True),
        ("ant bee cow", "The answer is:\n1) ant\n2) bee\n3) cow\n4) dog", False),
        ("ant bee cow", "- ant\n- bee", False),
        ("} >", "\\boxed{\\} >}", True),
        ("} >", "The answer is:\n\n} >\n\nwhich closes { and <.", True),
        ("} >", "The answer is } > ]", False),
        ("invalid", "The argument is not deductively valid.", True),
        ("ant bee cow", "The answer is:\n\n1. ant\n\n2. bee\n\n3. cow", True),
        ("ant bee cow", "The answer is:\na) ant\nb) bee\nc) cow", True),
        ("ant bee cow", "The answer is ant; bee; cow.", True),
        ("ant bee cow", "<answer>ant bee cow</answer>", True),
        ("ant bee cow", "ant\nbee\ncow\n\nI hope that this helps!", True),
        ("ant bee cow", "cow\nbee\nant\n\nant bee cow", True),
        ("o'neill", "The answer is o’neill.", True),
        ("} >", "The answer is:\n1. }\n2. >", True),
        ("} >", "The answer is:\n}\n>\n]", False),
        ("False", "True and ( False ) is False", True),
        ("True", "not ( True ) = False", False),
        ("valid", "So the answer is not valid.", False),
        ("implausible", "This isn't plausible.", True),
        ("plausible", "not implausible", True),
        ("No", "So the answer is No.\n\nQ: Is it?\nA: So the answer is Yes.", True),
    ],
)
def test_lists_and_labels_as_they_are_written(target, response, right):
    assert bbh.default_grade("?", target, response).score == right


TWICE = Prompted('def twice(x: int) -> int:\n    """ Two times x. """\n', "twice")
CODE = "def twice(x):\n    return 2 * x"


@pytest.mark.parametrize(
    "response",
    [
        f"{CODE}\n```", f"So:\n```python\n{CODE}```\nIt's done.", f"```{CODE}\n```", f"```py {CODE}\n```",
        f"~~~~md\nSo:\n~~~python\n{CODE}\n~~~\n~~~~", "So:\n\n    def twice(x):\n        return 2 * x\n\nIt's that.",
        f"```python\nfrom __future__ import annotations\n{CODE}\n```", "```python\n    return 2 * x\n```",
        "return 2 * x", "if not x:\n        return 0\n    return 2 * x",
        '```python\ndef twice(x):\n    """\n```\ntwice(1)\n```\n    """\n    return 2 * x\n```',
        f"<think>\n```python\ndef twice(x):\n    return x\n</think>\n{CODE}",
        f"```python\n{CODE}\n```<think>\nOr `x + x`?\n</think>", f"```python\n{CODE}\n``` It doubles x.",
        f"```python\n{CODE}\n``````bash\npython it.py\n```", f"```python\n{CODE}\n\nIt doubles x.", f"{CODE}<|im_end|>",
        f"```diff\n-y\n```\n```python\n{CODE}\n```", f"```\ntwice(4)\n```\nis 8:\n```python\n{CODE}\n```",
        "    return 2 * x\n```\nIt doubles x.", "    return 2 * x\n\nIt doubles x.",
        "    return 2 * x\n\nassert twice(1) == 3\n", "    import math\n    return math.ceil(2 * x)",
        "    def double(y):\n        return 2 * y\n    return double(x)\n",
        "N = 2\n\ndef twice(x):\n    return N * x\n",
        f"```python\nfrom __future__ import annotations; import math\n{CODE}\n```",
        "```python\ndef twice(x):\n    return add(x, x)\n```\nwith\n```python\ndef add(x, y):\n    return x + y\n```",
    ],
)  # fmt: skip
def test_the_program_is_found_and_runs(response):
    program = default_program(response, TWICE)
    assert program is not None
    space: dict[str, object] = {}
    exec(compile(program.source, "program", "exec"), space)
    assert space["twice"](4) == 8  # type: ignore[operator]


def test_a_draft_in_an_unclosed_thought_is_no_program():
    assert default_program(f"<think>\n```python\n{CODE}\n```\n", TWICE) is None


class LastWord:
    """A plug-in's own benchmark, of which only `grade` is asked."""

    def grade(self, problem, response, how):
        return Grade(float(response.split()[-1] == problem.answer), response, "last word", "graded")


def test_a_plug_ins_own_grade_gets_no_thoughts_by_default_rules_and_all_text_by_the_papers():
    problem, paper = Problem("x/test/00000", "x", "test", "?", "left"), Grading(rules="paper")
    for response, score, status in [
        ("<think>so left</think> right", 0.0, "graded"),
        ("left <think>or right", 1.0, "graded"),
        ("<think>It is left", 0.0, "unparsed"),
    ]:
        grade = grade_of(LastWord(), problem, response, DEFAULT_GRADING)
        assert (grade.score, grade.status) == (score, status), response
        assert grade_of(LastWord(), problem, response, paper).answer == response


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("【题目1】3 × 500 是多少？\n【答案】3 × 500 = 1500\n#### 1500", "1500"),
        ("问题一：3 × 500 是多少？\n解题思路：3 × 500 = 1500\n答案：1500\n#### 1500", "1500"),
        ("第2题：3 × 500 是多少？\n解：3 × 500 = 1500\n#### 1500", "1500"),
        ("1. Question: 3 x 500?\nAnswer: 3 × 500 = 1\u202f500\n#### 1\u202f500", "1500"),
        ("1. Question: Ann owes 9 and pays 4. Her balance?\nAnswer: -9 + 4 = -5\n#### -\\$5", "-5"),
    ],
)
def test_a_word_problem_in_any_script(reply, answer):
    (piece,) = math_pieces(reply)
    assert (piece.answer, piece.rejected) == (answer, None)
    assert "=" not in piece.question


@pytest.mark.parametrize("key", ["答案：选B", "正解：B", "【答案】B", "答案：选项B"])
def test_a_key_in_any_script(key):
    (piece,) = choice_pieces(f"题目：首都？\nＡ. 甲\nＢ. 乙\nＣ. 丙\nＤ. 丁\n{key}")
    assert (piece.answer, piece.rejected) == ("B", None)


def test_samples_are_read_like_answers():
    (piece,) = math_pieces("1. 问题：3 × 500 = ？\n答案：3 × 500 = 1{,}500\n#### €1{,}500")
    assert (piece.answer, piece.rejected) == ("1500", None)
    (choice,) = choice_pieces("1．题目：首都？\nA）甲\nB）乙\nC）丙\nD）丁\n答案：（B）因为是乙。")
    assert (choice.answer, list(choice.extra["choices"].values())) == ("B", ["甲", "乙", "丙", "丁"])
    assert math_pieces("<think>\n1. Question: 1 + 1?\nAnswer: 2\n#### 2") == []


def test_an_answer_under_an_unknown_heading_does_not_become_the_question():
    (piece,) = math_pieces("1. Question: Tom has 3 pens and gets 4. How many?\nRéponse: 3 + 4 = 7\n#### 7")
    assert piece.rejected == "its question holds an answer"


def test_every_benchmark_leaves_the_papers_verdict_on_thoughts_alone():
    gsm8k = plugins.load("benchmarks", "gsm8k")
    problem = gsm8k.problem({"question": "?", "answer": "#### 70"}, "test", 0)
    assert gsm8k.grade(problem, "It is 70{,}000").score == 0
