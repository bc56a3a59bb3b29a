"""A benchmark without a dev split lends some of its training problems, and only to a job that chooses something."""

from __future__ import annotations

import json

import pytest

from lai_ray.config import job_file
from lai_ray.errors import ConfigError
from lai_ray.stages.curation.evaluation_sets import evaluation_sets
from lai_ray.stages.job import Job
from lai_ray.stages.select import select


@pytest.fixture
def job(tmp_path):
    for split, n in (("train", 300), ("test", 5)):
        rows = [{"question": f"{split} {i // 2} + 1?", "answer": f"#### {i // 2 + 1}"} for i in range(n)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def make(**sections):
        table = {
            "name": "t",
            "target": {"model": "m"},
            "instructor": {"model": "i"},
            "evaluate": {"learn_from": ["gsm8k"], "report_on": ["gsm8k"]},
            "data": {"gsm8k": str(tmp_path)},
        }
        return Job.of(job_file.parse(table | sections))

    return make


def ids(job) -> dict[str, list[str]]:
    return {part.name: [problem.id for problem in part] for part in select(job, 0)}


def test_without_a_search_the_training_split_is_whole(job):
    parts = ids(job())
    assert {name: len(found) for name, found in parts.items()} == {"gsm8k.train": 300, "gsm8k.test": 5}
    assert "gsm8k.dev" not in evaluation_sets(job()).problems


def test_with_a_search_a_fifth_of_it_is_dev_and_no_question_is_on_both_sides(job):
    searching = job(search={"learning_rate": [1e-5]})
    parts = {part.name: list(part) for part in select(searching, 0)}
    dev, train = parts["gsm8k.dev"], parts["gsm8k.train"]
    assert len(dev) + len(train) == 300
    assert 60 <= len(dev) <= 62
    assert not {p.question for p in dev} & {p.question for p in train}
    assert all(p.id.startswith("gsm8k/dev/") for p in dev)
    assert len(list(evaluation_sets(searching).problems["gsm8k.dev"])) == len(dev)


def test_the_dev_side_is_the_same_for_every_seed_and_limit(job):
    search = {"learning_rate": [1e-5]}
    one, two = ids(job(search=search, seed=1)), ids(job(search=search, seed=2))
    assert one["gsm8k.dev"] == two["gsm8k.dev"]
    few = job(search=search, evaluate={"learn_from": ["gsm8k"], "max_train_problems": 20})
    assert len(ids(few)["gsm8k.train"]) == 20
    assert set(ids(few)["gsm8k.train"]) <= set(one["gsm8k.train"])


@pytest.mark.parametrize("name", ["arc_challenge", "gsm_plus", "bbh"])
def test_a_test_of_transfer_is_not_learned_from(job, name):
    with pytest.raises(ConfigError, match=f"{name}.*evaluate.learn_from"):
        select(job(evaluate={"learn_from": [name]}), 0)
