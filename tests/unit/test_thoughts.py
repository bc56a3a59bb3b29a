"""Targets that think: a thought is no answer, is shown apart, and one that never ends is cut off."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.grading.answer_part import thoughts, without_thoughts
from lai_ray.records import Attempt, Completion
from lai_ray.report.story import story
from tests.local import LocalExecutor, job


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>A?</think>B", "A?"), ("A?</think>B", "A?"), ("B", ""), ("<think>\n\n</think>\n\nB", ""),
        ("<think>A", "A"), ("B <think>or A", "or A"), ("<think>A</think>B<think>C</think>D", "A\nC"),
        ("<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B",
         "<|channel|>analysis<|message|>A<|end|><|start|>assistant"),
        ("close it with `</think>`.", ""),
    ],
)  # fmt: skip
def test_a_thought_is_what_the_answer_leaves_out(text, thought):
    assert thoughts(text) == thought
    assert "B" in (without_thoughts(text) or "B") or "close" in text


@pytest.mark.parametrize("part", ["<think>", "</think>", "<think>a</think>", "<|channel|>", "analysis "])
def test_thoughts_of_hostile_texts_are_found_in_linear_time(part):
    began = time.perf_counter()
    thoughts(part * (200_000 // len(part)))
    assert time.perf_counter() - began < 1


class Thinking(LocalExecutor):
    """A target that thinks before each answer; every fourth thought never ends."""

    def generate(self, requests, target):
        for i, answer in enumerate(super().generate(requests, target)):
            end = "" if i % 4 == 0 else f"</think>\n\n{answer.completion.text}"
            yield replace(answer, completion=Completion(f"<think>Is it #### 1?{end}", "stop", 5, 5))


def test_a_thought_is_shown_apart_and_one_that_never_ends_counts_as_cut_off(tmp_path):
    run = cli_run.run_job(job(tmp_path, schedule__strategy="le"), executor=Thinking()).run
    attempts = list(run.stage(0, "evaluate").view("attempts/word_problems.train.jsonl", Attempt))
    endless = [attempt for attempt in attempts if "</think>" not in attempt.completion.text]
    assert len(endless) == 15 and all(attempt.cut_off and not attempt.right for attempt in endless)
    wrong = [attempt for attempt in attempts if attempt not in endless and not attempt.right]
    assert run.stage(0, "diagnose").facts()["cases"]["word_problems"] == len(wrong)
    assert any(attempt.right for attempt in attempts)
    thinks, answers, *_ = story(run, wrong[0].id)
    assert (thinks.title, thinks.text) == ("iteration 0: the target thinks", "Is it #### 1?")
    assert "Is it" not in answers.text and "####" in answers.text
    _, unanswered, *_ = story(run, endless[0].id)
    assert "never closes" in unanswered.text and "Is it" not in unanswered.text


@pytest.mark.parametrize(("thoughts", "learned"), [("keep", True), ("cut", False)])
def test_own_answers_are_learned_with_or_without_their_thoughts(tmp_path, thoughts, learned):
    executor = Thinking()
    cli_run.run_job(
        job(tmp_path, schedule__strategy="le", train__replay="all", train__thoughts=thoughts), executor=executor
    )
    replayed = [example for example in executor.jobs[0].examples if example.id.endswith("+replay")]
    assert replayed and all(("Is it" in example.turns[0][0]) == learned for example in replayed)
    assert all("####" in example.turns[0][0] for example in replayed)
