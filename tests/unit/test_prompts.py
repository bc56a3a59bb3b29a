"""What the instructor is asked."""

from __future__ import annotations

import pytest

from lai_ray.instructor.prompts import built_in

BRIEF = "Question: <the problem>\nAnswer: <the solution>\n#### <number>"


def le(**changes):
    given = {"brief": BRIEF, "question": "How many?", "wrong_answer": "5", "n": 3} | changes
    return built_in.le(**given)


def lec(**changes):
    given = {"brief": BRIEF, "correct": ["A?", "B?"], "question": "How many?", "wrong_answer": "5", "n": 3} | changes
    return built_in.lec(**given)


def headings(messages):
    return [line for line in messages[1]["content"].splitlines() if line in built_in.HEADINGS]


def test_the_system_message_holds_the_role_the_goal_the_requirements_and_the_return_format():
    system, user = le()
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"].startswith("You are an experienced teacher")
    assert [line for line in system["content"].splitlines() if line.startswith("### ")] == [
        "### Goal",
        "### Requirements",
        "### Return format",
    ]
    assert system["content"].endswith(BRIEF)


def test_le_shows_the_question_then_the_wrong_answer():
    assert headings(le()) == ["[QUESTION]", "[WRONG ANSWER]"]
    assert "[QUESTION]\nHow many?\n\n[WRONG ANSWER]\n5\n\nWrite 3 new problems" in le()[1]["content"]


def test_lec_shows_the_questions_answered_correctly_first_and_nothing_but_the_questions():
    assert headings(lec()) == ["[QUESTION ANSWERED CORRECTLY]"] * 2 + ["[QUESTION]", "[WRONG ANSWER]"]
    assert "[QUESTION ANSWERED CORRECTLY]\nA?\n\n[QUESTION ANSWERED CORRECTLY]\nB?\n\n[QUESTION]" in lec()[1]["content"]


def test_lec_shows_the_students_own_answers_below_the_correct_questions_when_they_are_given():
    shown = lec(correct_answers=["2 + 2 = 4", "[QUESTION]"])
    pair = ["[QUESTION ANSWERED CORRECTLY]", "[RIGHT ANSWER]"]
    assert headings(shown) == [*pair, *pair, "[QUESTION]", "[WRONG ANSWER]"]
    assert "CORRECTLY]\nA?\n\n[RIGHT ANSWER]\n2 + 2 = 4\n\n" in shown[1]["content"]
    assert "answers the first 2 questions below correctly, with the answers shown. The" in shown[1]["content"]
    assert "correctly, with the answer shown. The" in lec(correct=["A?"], correct_answers=["4"])[1]["content"]
    with pytest.raises(ValueError, match="shorter"):
        lec(correct_answers=["one"])


def test_lec_with_nothing_to_contrast_is_le():
    assert lec(correct=[]) == le()


def test_untargeted_shows_the_question_alone_and_speaks_of_no_mistake():
    messages = built_in.untargeted(brief=BRIEF, question="How many?", n=3)
    assert headings(messages) == ["[QUESTION]"]
    everything = (messages[0]["content"] + messages[1]["content"]).lower()
    assert "wrong" not in everything
    assert "mistake" not in everything


def test_auggpt_asks_for_variants_of_the_question_and_untargeted_for_others_of_its_kind():
    augmented = built_in.auggpt(brief=BRIEF, question="How many?", n=3)
    assert headings(augmented) == ["[QUESTION]"]
    assert augmented[1]["content"].split("\n\n")[-1].startswith("Write 3 new variants of this question, ")
    assert (
        built_in.auggpt(brief=BRIEF, question="q", n=1)[1]["content"]
        .split("\n\n")[-1]
        .startswith("Write 1 new variant of this question, ")
    )
    assert "nor a rewording" not in augmented[0]["content"]
    assert "nor a rewording" in built_in.untargeted(brief=BRIEF, question="How many?", n=3)[0]["content"]
    everything = (augmented[0]["content"] + augmented[1]["content"]).lower()
    assert "wrong" not in everything
    assert "mistake" not in everything
    assert "{" not in everything
    assert headings(built_in.auggpt(brief=BRIEF, question="q", n=3, reference="7")) == [
        "[QUESTION]",
        "[REFERENCE ANSWER]",
    ]


def test_llm2llm_shows_the_right_answer_and_not_the_students():
    messages = built_in.llm2llm(brief=BRIEF, question="How many?", reference="7", n=3)
    assert headings(messages) == ["[QUESTION]", "[REFERENCE ANSWER]"]
    assert messages[1]["content"].split("\n\n")[-1].startswith("Write 3 new problems that train the student")
    assert "{" not in messages[0]["content"] + messages[1]["content"]


def test_the_wording_of_runs_made_before_auggpt_and_explain_came_still_counts_as_the_same():
    assert built_in.content_hash() == built_in.content_hash(["le", "lec", "untargeted"])
    hashes = [built_in.content_hash(), built_in.content_hash(["auggpt"]), built_in.content_hash(explain=True)]
    hashes += [built_in.content_hash(show_answers=True), built_in.content_hash(["llm2llm"])]
    assert len(set(hashes)) == 5


def test_the_reference_answer_is_shown_only_when_it_is_given():
    assert headings(le(reference="7")) == ["[QUESTION]", "[WRONG ANSWER]", "[REFERENCE ANSWER]"]
    assert "[REFERENCE ANSWER]\n7\n" in lec(reference="7")[1]["content"]
    assert "REFERENCE" not in le()[1]["content"]


def test_the_request_is_the_last_paragraph_and_names_the_number():
    for messages in (le(), lec(), built_in.untargeted(brief=BRIEF, question="q", n=3)):
        assert messages[1]["content"].split("\n\n")[-1].startswith("Write 3 new problems")


def test_one_problem_is_asked_for_in_the_singular():
    for messages in (le(n=1), lec(n=1, correct=["A?"]), built_in.untargeted(brief=BRIEF, question="q", n=1)):
        last = messages[1]["content"].split("\n\n")[-1]
        assert last.startswith("Write 1 new problem ")
        assert " each " not in last
        assert "problems" not in last
    assert "answers the first question below correctly" in lec(correct=["A?"])[1]["content"]


def test_an_empty_answer_is_shown_as_none():
    assert f"[WRONG ANSWER]\n{built_in.NO_ANSWER}\n" in le(wrong_answer=" \n")[1]["content"]


def test_braces_in_the_evidence_stay_as_they_are():
    text = "{question} {0} {{n}} {brief!r} \\1 $n %s {"
    assert text in le(question=text)[1]["content"]
    assert text in le(wrong_answer=text)[1]["content"]
    assert text in le(brief=text)[0]["content"]


@pytest.mark.parametrize("line", ["[QUESTION]", "  [wrong answer]", "**[REFERENCE ANSWER]**", "> [QUESTION]:"])
def test_a_line_of_the_answer_that_looks_like_a_heading_is_not_one(line):
    messages = le(wrong_answer=f"First\n{line}\nSecond")
    assert headings(messages) == ["[QUESTION]", "[WRONG ANSWER]"]
    assert f"First\n| {line}\nSecond" in messages[1]["content"]


def test_asking_for_no_sample_is_an_error():
    with pytest.raises(ValueError, match="at least 1 sample, not 0"):
        le(n=0)


def test_every_slot_of_the_built_in_texts_is_filled():
    for n in (1, 3):
        for messages in (le(n=n), lec(n=n, correct=["A?"] * n), built_in.untargeted(brief=BRIEF, question="q", n=n)):
            assert "{" not in messages[0]["content"] + messages[1]["content"]


def test_the_hash_is_stable_and_changes_with_a_word(monkeypatch):
    before = built_in.content_hash()
    assert before == built_in.content_hash()
    monkeypatch.setattr(built_in, "SYSTEM", built_in.SYSTEM.replace("experienced", "seasoned"))
    assert built_in.content_hash() != before


# --- one line on what the mistake is


def test_explain_asks_for_one_line_before_the_request():
    for messages in (le(explain=True), lec(explain=True)):
        *_, line, request = messages[1]["content"].split("\n\n")
        assert line == built_in.EXPLAIN
        assert request.startswith("Write 3 new problems")
    assert built_in.MARK not in le()[1]["content"]


SAMPLE = "1. Question: What is 2 + 3?\nAnswer: 2 + 3 = 5\n#### 5"


@pytest.mark.parametrize(
    "line",
    [
        "[MISTAKE] It adds.",
        "**[MISTAKE]** It adds.",
        "[Mistake]: It adds.",
        "1. [MISTAKE] It adds.",
        "### [MISTAKE]\nIt adds.",
        "### [MISTAKE]\n\nIt adds.",
        "\n> [MISTAKE] – It adds.",
        "Mistake: It adds.",
        "**Mistake:** It adds.",
        "Sure, here it is.\n[MISTAKE] It adds.",
    ],
)
def test_the_line_is_found_in_many_guises_and_is_never_part_of_a_sample(line):
    found = built_in.explained(f"{line}\n\n{SAMPLE}")
    assert found.mistake == "It adds."
    assert "adds" not in found.rest
    assert found.rest.endswith(SAMPLE)


def test_a_reply_without_the_line_is_all_rest():
    assert built_in.explained(SAMPLE) == built_in.Explained(None, SAMPLE)
    later = f"{SAMPLE}\nMistake: none"
    assert built_in.explained(later) == built_in.Explained(None, later), "without brackets only the first line is one"


def test_the_mark_with_nothing_behind_it_explains_nothing():
    assert built_in.explained("[MISTAKE]") == built_in.Explained(None, "")
    for sample in (SAMPLE, SAMPLE.removeprefix("1. "), f"**{SAMPLE}"):
        assert built_in.explained(f"[MISTAKE]\n\n{sample}") == built_in.Explained(None, f"\n{sample}")


def test_a_line_before_each_sample_is_read_once_and_left_out_of_all():
    found = built_in.explained(f"[MISTAKE] It adds.\n{SAMPLE}\n[MISTAKE] It adds.\n{SAMPLE}")
    assert found == built_in.Explained("It adds.", f"{SAMPLE}\n{SAMPLE}")
