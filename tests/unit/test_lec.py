"""LEC's choices that the paper leaves open: what is compared, and where neighbours may come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lai_ray.benchmarks.gsm8k import BENCHMARK as GSM8K
from lai_ray.contracts import Model, StrategySettings
from lai_ray.errors import ConfigError
from lai_ray.records import Attempt, Completion, Grade, Problem
from lai_ray.stages.diagnose import ContrastQuality, _embed_together
from lai_ray.stages.embedding_cache import EmbeddingCache
from lai_ray.storage.store import Store
from lai_ray.strategies.le import STRATEGY as LE
from lai_ray.strategies.lec import STRATEGY
from tests.local import LocalExecutor

SETTINGS = StrategySettings(0, 0, 3, 3, Model("", "encoder"), count_cut_off=False, show_reference=False)


def attempt(i: int, question: str, right: bool, response: str = "", **extra) -> Attempt:
    problem = Problem(f"mmlu/train/{i:05d}", "mmlu", "train", question, "A", extra)
    return Attempt(
        f"{problem.id}#0", problem, [], Completion(response, "stop"), Grade(float(right), "A", "r", "graded")
    )


ATTEMPTS = [
    attempt(0, "what is the boiling point of water", False, "one", subject="physics", choices=["hot", "cold"]),
    attempt(1, "what is the boiling point of iron", True, "two", subject="chemistry", choices=["red", "blue"]),
    attempt(2, "how fast does light travel", True, "three", subject="physics", choices=["very", "slow"]),
    attempt(3, "who painted this", True, "one one one", subject="physics", choices=["hot", "cold"]),
    attempt(4, "what is the melting point of water", True, "four", subject="history", choices=["x", "y"]),
]


def shown(**changes) -> list[str]:
    (case,) = STRATEGY.cases(ATTEMPTS, replace(SETTINGS, **changes), LocalExecutor())
    assert [c.distance for c in case.contrasts] == sorted(c.distance for c in case.contrasts)
    return [contrast.attempt.problem.id[-1] for contrast in case.contrasts]


def test_neighbours_come_from_the_whole_dataset_by_the_question():
    assert set(shown(neighbours=2)) == {"1", "4"}


def test_within_a_subject_only_its_own_questions_are_shown_at_their_own_distances():
    assert set(shown(neighbours=3, contrast_within="subject")) == {"2", "3"}
    (free,) = STRATEGY.cases(ATTEMPTS, replace(SETTINGS, neighbours=4), LocalExecutor())
    (held,) = STRATEGY.cases(ATTEMPTS, replace(SETTINGS, neighbours=4, contrast_within="subject"), LocalExecutor())
    everywhere = {c.attempt.id: c.distance for c in free.contrasts}
    assert all(np.isclose(everywhere[c.attempt.id], c.distance, atol=1e-6) for c in held.contrasts)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("question", "what is the boiling point of water"),
        ("question_and_options", "what is the boiling point of water\nhot\ncold"),
        ("question_and_response", "what is the boiling point of water\none"),
    ],
)
def test_what_is_compared_is_the_jobs_choice(text, seen):
    embedded = []

    class Watching(LocalExecutor):
        def embed(self, texts, encoder):
            embedded.extend(texts)
            return super().embed(texts, encoder)

    list(STRATEGY.cases(ATTEMPTS, replace(SETTINGS, contrast_text=text), Watching()))
    assert embedded[0] == seen


def test_the_targets_right_answers_are_shown_where_the_job_asks_for_them():
    (case,) = STRATEGY.cases(ATTEMPTS, replace(SETTINGS, neighbours=2), LocalExecutor())
    bare, full = (STRATEGY.messages(case, GSM8K, replace(SETTINGS, show_answers=show))[1]["content"] for show in (0, 1))
    assert "RIGHT ANSWER" not in bare
    assert "[QUESTION ANSWERED CORRECTLY]\nwhat is the boiling point of iron\n\n[RIGHT ANSWER]\ntwo\n" in full
    assert "[QUESTION ANSWERED CORRECTLY]\nwhat is the melting point of water\n\n[RIGHT ANSWER]\nfour\n" in full


def test_a_dataset_without_subjects_cannot_be_contrasted_within_them():
    bare = [attempt(0, "a b", False), attempt(1, "a c", True)]
    with pytest.raises(ConfigError, match=r"contrast\.within.*mmlu"):
        list(STRATEGY.cases(bare, replace(SETTINGS, contrast_within="subject"), LocalExecutor()))


def test_quality_reports_distances_subjects_and_the_most_shown_question():
    quality = ContrastQuality()
    for case in STRATEGY.cases(ATTEMPTS, replace(SETTINGS, neighbours=2), LocalExecutor()):
        quality.add(case)
        quality.add(case)
    table = quality.table()
    assert table["nearest"] <= table["farthest"]
    assert (table["same_subject"], table["questions_shown"], table["most_often"]) == (0.0, 2.0, 2.0)


def test_the_texts_of_all_datasets_are_embedded_in_one_start_of_the_encoder(tmp_path):
    executor = LocalExecutor()
    cache = EmbeddingCache(executor, Store(str(tmp_path)))
    others = [replace(a, problem=replace(a.problem, question=f"{a.problem.question} or oil")) for a in ATTEMPTS]
    by_dataset = {"mmlu": STRATEGY, "other": STRATEGY, "plain": LE, "all wrong": STRATEGY}
    views = {"mmlu": ATTEMPTS, "other": others, "plain": ATTEMPTS, "all wrong": ATTEMPTS[:1]}
    _embed_together(by_dataset, views, dict.fromkeys(by_dataset, SETTINGS), cache)
    for dataset, strategy in by_dataset.items():
        assert list(strategy.cases(views[dataset], SETTINGS, cache))
    assert (executor.asked["embed"], executor.asked["nearest"]) == (1, 2)
