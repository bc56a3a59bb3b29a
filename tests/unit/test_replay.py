"""The target's own right answers are learned again: drawn by group, seeded, free, and part of what a model is."""

from __future__ import annotations

import json

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.errors import ConfigError
from lai_ray.records import Attempt, Completion, Grade, Problem
from lai_ray.report import sections
from lai_ray.stages.job import Job
from lai_ray.stages.replay import apportioned, replay
from tests.conftest import records
from tests.local import Crash, LocalExecutor, job


class Given:
    """Attempts as a stage reads them."""

    def __init__(self, attempts: list[Attempt]) -> None:
        self.attempts = attempts

    def of(self, name: str, split: str) -> list[Attempt]:
        return [a for a in self.attempts if a.problem.benchmark == name and split == "train"]


def attempt(row: int, kind: str, *, right: bool, finish: str = "stop", choices: int = 0) -> Attempt:
    extra = {"kind": kind} | ({"choices": ["x"] * choices} if choices else {})
    problem = Problem(f"word_problems/train/{row:05d}", "word_problems", "train", f"{kind} {row}?", str(row), extra)
    done = Completion(f"So it is {row}.\n#### {row}", finish)
    return Attempt(f"{problem.id}#0", problem, [], done, Grade(float(right), str(row), "r", "graded"))


def drawn(tmp_path, attempts: list[Attempt], wanted, **changes):
    return replay(Given(attempts), 0, Job.of(job(tmp_path, train__replay=wanted, **changes)))


ATTEMPTS = [
    *(attempt(i, "add", right=True) for i in range(60)),
    *(attempt(i, "subtract", right=True) for i in range(100, 130)),
    attempt(200, "two_step", right=True),
    *(attempt(i, "two_step", right=False) for i in range(300, 350)),
    attempt(400, "add", right=True, finish="length"),
]


@pytest.mark.parametrize(
    ("wanted", "count"), [(0.1, 10), (0.5, 46), (1.0, 91), ("all", 91), ("gold", 91), (20, 20), (5000, 91)]
)
def test_a_share_a_count_or_all_of_the_right_answers_and_never_more_than_there_are(tmp_path, wanted, count):
    made = drawn(tmp_path, ATTEMPTS, wanted)
    assert len(made.examples) == made.facts["count"] == count
    assert made.facts["of"] == 91, "wrong answers and those cut off are none of them"
    ids = {example.id for example in made.examples}
    assert len(ids) == count and "word_problems/train/00400#0+replay" not in ids


def test_every_group_gets_its_part_and_a_small_one_is_not_left_out(tmp_path):
    groups = drawn(tmp_path, ATTEMPTS, 10).facts["groups"]
    assert groups == {"word_problems/add": 6, "word_problems/subtract": 3, "word_problems/two_step": 1}


def test_its_own_words_are_replayed_or_with_gold_the_references(tmp_path):
    own, gold = (drawn(tmp_path, ATTEMPTS, wanted) for wanted in ("all", "gold"))
    assert own.examples[0].turns == [("So it is 0.\n#### 0", 1.0)]
    assert gold.examples[0].turns != own.examples[0].turns
    assert (own.facts["texts"], gold.facts["texts"]) == ("own", "reference")
    assert own.examples[0].messages == gold.examples[0].messages


def test_what_is_replayed_may_weigh_more_and_makes_another_model(tmp_path):
    assert {e.turns[0][1] for e in drawn(tmp_path, ATTEMPTS, "all", train__replay_weight=2).examples} == {2.0}
    plain, heavy = (job(tmp_path, train__replay_weight=weight).train.identity() for weight in (1, 2))
    assert "replay_weight" not in plain and heavy["replay_weight"] == 2
    for weight in (0, -1, float("inf")):
        with pytest.raises(ConfigError, match="train.replay_weight"):
            job(tmp_path, train__replay_weight=weight)


def test_the_draw_is_seeded_and_nested(tmp_path):
    one, again, more = ({e.id for e in drawn(tmp_path, ATTEMPTS, wanted).examples} for wanted in (0.3, 0.3, 0.6))
    other = {e.id for e in drawn(tmp_path, ATTEMPTS, 0.3, seed=1).examples}
    assert one == again < more and one != other


def test_right_choices_that_may_be_luck_are_counted(tmp_path):
    some = [attempt(i, "c", right=i < 40, choices=4) for i in range(70)]
    assert drawn(tmp_path, some, "all").facts["right_by_chance"] == 10.0, "30 wrong guesses among 4: 10 right ones"
    assert drawn(tmp_path, ATTEMPTS, "all").facts["right_by_chance"] == 0.0


@pytest.mark.parametrize(
    ("sizes", "count", "parts"),
    [
        ({"a": 5, "b": 5}, 10, {"a": 5, "b": 5}),
        ({"a": 5, "b": 5}, 3, {"a": 2, "b": 1}),
        ({"a": 90, "b": 9, "c": 1}, 10, {"a": 8, "b": 1, "c": 1}),
        ({"a": 1, "b": 1, "c": 1}, 2, {"a": 1, "b": 1, "c": 0}),
        ({}, 0, {}),
    ],
)
def test_shares_add_up(sizes, count, parts):
    assert apportioned(sizes, count) == parts


def test_a_run_replays_for_free_and_its_lineage_card_and_funnel_have_it(tmp_path):
    plain, replaying = LocalExecutor(), LocalExecutor()
    first = cli_run.run_job(job(tmp_path, name="plain"), executor=plain)
    second = cli_run.run_job(job(tmp_path, name="replaying", train__replay="all"), executor=replaying)
    assert plain.asked == replaying.asked
    assert first.target.identity != second.target.identity
    (training,) = replaying.jobs
    right = [a for a in records(tmp_path / "replaying/iteration_0/evaluate/attempts/word_problems.train.jsonl")
             if a["grade"]["score"] == 1]  # fmt: skip
    assert len(training.examples) == 30 + len(right)
    lineage = json.loads((tmp_path / "replaying/iteration_0/train/lineage.json").read_text())
    assert lineage["replay"]["count"] == len(right) and lineage["samples"]["count"] == 30
    assert "replay" not in json.loads((tmp_path / "plain/iteration_0/train/lineage.json").read_text())
    (funnel,) = (t for t in sections.tables_of(second.run) if "replayed" in t.columns)
    assert funnel.rows[0][-1] == str(len(right))
    again = LocalExecutor()
    cli_run.run_job(job(tmp_path, name="replaying", train__replay="all"), executor=again)
    assert not again.asked


def test_a_killed_training_with_replay_is_begun_again_with_the_same_examples(tmp_path):
    whole, broken, rest = LocalExecutor(), LocalExecutor(die_after={"train": 0}), LocalExecutor()
    cli_run.run_job(job(tmp_path, name="whole", train__replay=0.5), executor=whole)
    with pytest.raises(Crash):
        cli_run.run_job(job(tmp_path, name="killed", train__replay=0.5), executor=broken)
    cli_run.run_job(job(tmp_path, name="killed", train__replay=0.5), executor=rest)
    assert [e.id for e in rest.jobs[0].examples] == [e.id for e in whole.jobs[0].examples]
    assert rest.jobs[0].name == whole.jobs[0].name and not rest.asked["ask"]


def test_a_target_without_a_right_answer_trains_without_replay(tmp_path):
    none = [a for a in ATTEMPTS if not a.right]
    made = drawn(tmp_path, none, "all")
    assert made.examples == [] and made.facts["of"] == 0


@pytest.mark.parametrize("value", [-0.1, 1.5, "some", True, float("nan")])
def test_what_is_no_replay_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match="train.replay"):
        job(tmp_path, train__replay=value)


def test_trials_of_a_search_share_their_replay_and_may_try_several(tmp_path):
    executor = LocalExecutor()
    search = {"grid": {"train.replay": [0, "all"]}, "learning_rate": [1e-5, 2e-5]}
    cli_run.run_job(job(tmp_path, search=search), executor=executor)
    counts = sorted(len(training.examples) for training in executor.jobs)
    assert counts[0] == counts[1] == 30 < counts[2] == counts[3]


def test_trials_that_differ_in_the_weight_of_what_is_replayed_are_two_models(tmp_path):
    executor = LocalExecutor()
    search = {"grid": {"train.replay_weight": [1.0, 3.0]}}
    cli_run.run_job(job(tmp_path, train__replay="all", search=search), executor=executor)
    assert len({training.name for training in executor.jobs}) == 2


def test_iterations_may_start_from_the_base_and_learn_all_samples_so_far(tmp_path):
    executor = LocalExecutor()
    config = job(tmp_path, iterations=2, train__start_from="base", train__data="cumulative")
    cli_run.run_job(config, executor=executor)
    first, second = executor.jobs
    assert first.model.identity == second.model.identity
    assert {e.id for e in first.examples} < {e.id for e in second.examples}
    assert len(second.examples) == 60


def test_a_training_problem_that_is_also_in_a_test_is_not_replayed_unless_such_are_learned(tmp_path):
    from lai_ray.benchmarks.word_problems import BENCHMARK

    (test, *_) = BENCHMARK.load("test")
    copied = attempt(7, "add", right=True)
    copied = Attempt(copied.id, BENCHMARK.problem(test, "train", 7), [], copied.completion, copied.grade)
    some = [copied, *ATTEMPTS[10:20]]
    assert drawn(tmp_path, some, "gold").facts["of"] == 10
    assert drawn(tmp_path, some, "gold", evaluate__learn_from_copies=True).facts["of"] == 11
