"""Requests for feedback on an attempt and for an improved one, and how the replies are read.  attempt -> messages

After TriPosT (arXiv 2310.13522), in our own words. The instructor never sees the reference answer.
"""

from __future__ import annotations

from lai_ray.common.self_correction import Feedback, steps
from lai_ray.grading.answer_part import without_thoughts
from lai_ray.records import Message

ERROR_STEP, QUOTED, BECAUSE = "Error step:", "Quoted part:", "Reason:"
_FEEDBACK = f"""\
You check a student's solution step by step. A step is a line, counted from 1. Find the first step that is wrong: what \
comes before it is right, and it does not follow from it or is worked out wrongly.

Reply with these three lines and nothing else:
{ERROR_STEP} <the number of the first wrong step>
{QUOTED} <the wrong part of that step, copied character by character>
{BECAUSE} <why it is wrong, in one sentence, without the right result>

An example. The question is "Ann has 2 bags with 6 nuts each and eats 3. How many nuts are left?" and the solution
2 * 6 = 11
11 - 3 = 8
#### 8
A good reply:
{ERROR_STEP} 1
{QUOTED} 2 * 6 = 11
{BECAUSE} twice 6 is not 11"""
_IMPROVE = """\
You correct a student's solution. A step is a line, counted from 1. You are shown the question, the solution and what \
is wrong with it. Write the whole solution again, in the same form: first the steps before the wrong one, unchanged, \
then the wrong step put right, then all that follows from it, down to the final answer. Write nothing else."""


def feedback_request(question: str, attempt: str) -> list[Message]:
    """What is asked about a wrong attempt."""
    shown = f"[QUESTION]\n{question}\n\n[SOLUTION]\n{attempt}\n\nWhich is the first wrong step?"
    return [{"role": "system", "content": _FEEDBACK}, {"role": "user", "content": shown}]


def read_reply(reply: str) -> Feedback | None:
    """The feedback in an instructor's reply; None where one of the three lines is missing or names no step."""
    found: dict[str, str] = {}
    for line in steps(without_thoughts(reply) or ""):
        for head in (ERROR_STEP, QUOTED, BECAUSE):
            if line.casefold().startswith(head.casefold()):
                found.setdefault(head, line[len(head) :].strip())
    number = found.get(ERROR_STEP, "").strip(" .()")
    if len(found) < 3 or not found[QUOTED] or not (number.isascii() and number.isdigit() and len(number) <= 3):
        return None
    return Feedback(int(number), found[QUOTED].strip('"'), found[BECAUSE].rstrip(".")) if int(number) else None


def improvement_request(question: str, attempt: str, feedback: Feedback) -> list[Message]:
    """What is asked for an improved attempt."""
    kept = steps(attempt)[: feedback.step - 1]
    begin = "\n\n[BEGIN WITH THESE STEPS, UNCHANGED]\n" + "\n".join(kept) if kept else ""
    shown = f"[QUESTION]\n{question}\n\n[SOLUTION]\n{attempt}\n\n[FEEDBACK]\n{feedback}{begin}\n\nWrite the solution."
    return [{"role": "system", "content": _IMPROVE}, {"role": "user", "content": shown}]
