"""Changes to a finished run: allowed, computed again as far as needed, or refused with the difference."""

from __future__ import annotations

import io
import json
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from lai_ray.cli import run as cli_run
from lai_ray.cli.check import reuse as cli_reuse
from lai_ray.cli.check.dry_run import replayed
from lai_ray.common.findings import Finding
from lai_ray.errors import ConfigError, StageError
from lai_ray.instructor.prompts import built_in
from lai_ray.records import Answer, Completion, Sample
from lai_ray.storage.run import Run
from lai_ray.storage.store import View
from tests.local import LocalExecutor, job, pretend_model

ALL = {"evaluate__max_train_problems": None, "evaluate__learn_from": ["tests_own:BENCHMARK"],
       "evaluate__report_on": ["word_problems"], "evaluate__max_test_problems": 30}  # fmt: skip


def finished(tmp_path: Path, **changes) -> Run:
    return cli_run.run_job(job(tmp_path, **changes), executor=LocalExecutor()).run


def asked(tmp_path: Path, reuse: Run | None = None, **changes) -> Counter[str]:
    executor = LocalExecutor()
    where = [reuse.store.where] if reuse else []
    cli_run.run_job(job(tmp_path, **changes), executor=executor, reuse=where)
    return +executor.asked


def printed(tmp_path: Path, reuse: Run | None = None, **changes) -> str:
    console, config = Console(width=400, file=io.StringIO()), job(tmp_path, **changes)
    own = cli_run.existing(config)
    with replayed(config, [run for run in (own, reuse) if run]) as replay:
        cli_reuse.show(replay, config, console)
    return console.file.getvalue()


def refused(tmp_path: Path, **changes) -> str:
    config = job(tmp_path, **changes)
    return str(cli_reuse.refusal(cli_run.existing(config), config))


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A user's benchmark: a plug-in file beside the job, which reads a data file."""
    rows = [{"question": f"Ann has {i} rings and buys {i + 3} more. How many rings does Ann have now?",
             "answer": f"{i} + {i + 3} = {2 * i + 3}\n#### {2 * i + 3}"} for i in range(4, 64)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tests_own.py").write_text(
        textwrap.dedent(f"""
        import json
        from lai_ray.benchmarks.word_problems import WordProblems

        class Own(WordProblems):
            name = "own"
            splits = ("train",)
            def load(self, split):
                return map(json.loads, open({str(tmp_path / "rows.jsonl")!r}))

        BENCHMARK = Own()
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "tests_own", raising=False)
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize("change", [{"limits__max_calls": 10_000}, {"cluster__target_replicas": 4}])
def test_budget_and_replicas_may_change_without_any_request(tmp_path, change):
    finished(tmp_path)
    assert not asked(tmp_path, **change)


def test_an_added_iteration_asks_only_for_that_iteration(tmp_path):
    run = finished(tmp_path)
    before = list(View(run.stage(0, "curate").store, "samples.jsonl", Sample))
    more = asked(tmp_path, iterations=2)
    assert more["train"] == 1
    # The former last iteration had only the test; the new last one has it too.
    assert more["generate"] == 60 + 40
    assert before == list(View(run.stage(0, "curate").store, "samples.jsonl", Sample))


def test_an_added_test_asks_only_for_that_test(tmp_path):
    finished(tmp_path)
    more = asked(tmp_path, evaluate__report_on=["word_problems", "word_problems_plus"])
    assert more == {"generate": 2 * 40}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"contrast__neighbours": 2}, "contrast.neighbours: 3 there, 2 now"),
        ({"train__learning_rate": 1e-4}, "train.learning_rate: 5e-06 there, 0.0001 now"),
        ({"schedule__strategy": "le"}, "schedule.strategy: 'lec' there, 'le' now"),
        ({"instructor__temperature": 0.1}, "instructor.temperature: 0.8 there, 0.1 now"),
    ],
)
def test_a_setting_that_makes_another_run_is_refused_with_the_difference(tmp_path, change, difference):
    finished(tmp_path)
    with pytest.raises(ConfigError) as error:
        asked(tmp_path, **change)
    assert difference in str(error.value)
    assert "--reuse" in str(error.value)
    assert refused(tmp_path, **change) == str(error.value)


def test_another_learning_rate_under_another_name_only_trains_again(tmp_path):
    run = finished(tmp_path)
    change = {"name": "faster", "train__learning_rate": 1e-4}
    reused = cli_reuse.reuse_of(run, job(tmp_path, **change))
    assert [(stage.recorded, stage.reused) for stage in reused.stages] == [
        (100, 100),
        (len(replies(run)), len(replies(run))),
        (40, 0),
    ]
    assert "learning_rate: 5e-06 there, 0.0001 now" in reused.end
    assert asked(tmp_path, run, **change) == {"train": 1, "nearest": 1, "generate": 40}


def replies(run: Run) -> list[str]:
    return (run.store.get("iteration_0/instruct/replies.jsonl") or b"").decode().splitlines()


def test_another_k_under_another_name_asks_only_the_instructor_again(tmp_path):
    run = finished(tmp_path)
    change = {"name": "two", "contrast__neighbours": 2}
    _, instructed = cli_reuse.reuse_of(run, job(tmp_path, **change)).stages
    assert (instructed.reused, instructed.difference) == (0, "contrast.neighbours: 3 → 2")
    assert "contrast.neighbours: 3 → 2" in printed(tmp_path, run, **change)
    more = asked(tmp_path, run, **change)
    assert more["ask"] == len(replies(run))
    assert more["generate"] == 40, "only the new model's test"


def test_another_seed_under_another_name_keeps_the_targets_answers(tmp_path):
    run = finished(tmp_path, evaluate__max_train_problems=None, evaluate__max_test_problems=20)
    change = {"name": "seed-1", "seed": 1, "evaluate__max_train_problems": None}
    more = asked(tmp_path, run, **change, evaluate__max_test_problems=20)
    assert more["ask"] > 0
    assert more["generate"] <= 2 * 20, "training answers are reused; the seeded choice of test problems differs"


def test_another_prompt_is_refused_and_under_another_name_asks_only_with_that_prompt_again(tmp_path, monkeypatch):
    run = finished(tmp_path)
    written = built_in.lec
    monkeypatch.setattr(
        built_in, "lec",
        lambda **told: [{**m, "content": m["content"] + "\nBe brief."} for m in written(**told)],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"content\.prompts"):
        asked(tmp_path)
    reused = cli_reuse.reuse_of(run, job(tmp_path, name="brief"))
    assert (reused.stages[0].reused, reused.stages[1].reused) == (100, 0)
    assert "'Be brief.'" in reused.stages[1].difference
    more = asked(tmp_path, run, name="brief")
    assert (more["generate"], more["ask"]) == (40, len(replies(run)))


def test_a_finished_run_branched_with_another_strategy_keeps_what_came_before(tmp_path):
    run = finished(tmp_path, iterations=3, schedule__strategy=["le", "lec", "lec"])
    change = {"name": "branch", "iterations": 3, "schedule__strategy": ["le", "lec", "untargeted"]}
    more = asked(tmp_path, run, **change)
    assert more["train"] == 1
    branch = Run.read(str(tmp_path / "branch"))
    for i in (0, 1):
        name = f"iteration_{i}/train/checkpoint/lineage.json"
        assert branch.store.get_json(name)["name"] == run.store.get_json(name)["name"]
        assert branch.stage(i, "instruct").store.get_json("usage.json")["calls"] == 0
        assert branch.stage(i, "instruct").store.get_json("usage.json")["inherited"] > 0
    assert branch.stage(2, "instruct").store.get_json("usage.json")["inherited"] == 0
    assert not asked(tmp_path, name="branch", **{k: v for k, v in change.items() if k != "name"}), (
        "once answers are reused, the other run is not needed any more"
    )


def test_more_samples_under_another_name_keep_the_requests_and_draw_again(tmp_path):
    run = finished(tmp_path)
    more = asked(tmp_path, run, name="larger", curate__samples_per_dataset=60)
    assert more["ask"] > 0
    usage = Run.read(str(tmp_path / "larger")).stage(0, "instruct").store.get_json("usage.json")
    assert usage["inherited"] == len(replies(run))


def test_an_edited_grader_costs_no_answer(tmp_path, own_data):
    run = finished(tmp_path, **ALL)
    scores = run.stage(0, "evaluate").store.get_json("scores.json")["own.train"]
    assert 0 < scores["right"] < scores["n"]
    plugin = tmp_path / "tests_own.py"
    plugin.write_text(plugin.read_text().replace("BENCHMARK = Own()", "class Kind(Own):\n"
        "    def grade(self, problem, response, how=None):\n"
        "        from dataclasses import replace\n"
        "        return replace(super().grade(problem, response), score=1.0)\n"
        "BENCHMARK = Kind()"))  # fmt: skip
    del __import__("sys").modules["tests_own"]
    assert not asked(tmp_path, **ALL)
    scores = run.stage(0, "evaluate").store.get_json("scores.json")["own.train"]
    assert scores["right"] == scores["n"]


def test_one_changed_row_is_refused_and_under_another_name_only_that_row_is_asked(tmp_path, own_data):
    run = finished(tmp_path, **ALL)
    lines = own_data.read_text().splitlines()
    own_data.write_text("\n".join([lines[0].replace("rings", "stones"), *lines[1:]]))
    with pytest.raises(ConfigError, match=r"content\.data\.own"):
        asked(tmp_path, **ALL)
    reused = cli_reuse.reuse_of(run, job(tmp_path, name="stones", **ALL))
    assert (reused.stages[0].recorded, reused.stages[0].reused) == (90, 89)
    assert "rings" in reused.stages[0].difference and "stones" in reused.stages[0].difference
    executor = LocalExecutor()
    cli_run.run_job(job(tmp_path, name="stones", **ALL), executor=executor, reuse=[run.store.where], until="evaluate")
    assert executor.asked["generate"] == 1


def test_a_run_cannot_reuse_itself_or_a_missing_run(tmp_path):
    run = finished(tmp_path)
    with pytest.raises(ConfigError, match="--reuse .*small"):
        asked(tmp_path, run)
    with pytest.raises(ConfigError, match="nowhere"):
        cli_run.run_job(job(tmp_path, name="other"), executor=LocalExecutor(), reuse=[str(tmp_path / "nowhere")])


def test_texts_are_embedded_once_with_a_fixed_encoder(tmp_path):
    pretend_model(tmp_path / "encoder")
    texts: Counter[str] = Counter()

    class Counting(LocalExecutor):
        def embed(self, asked, encoder):
            texts.update(asked)
            return super().embed(asked, encoder)

    cli_run.run_job(
        job(tmp_path, iterations=3, schedule__strategy="lec", contrast__encoder=str(tmp_path / "encoder")),
        executor=Counting(),
    )
    assert len(texts) == 60
    assert set(texts.values()) == {1}


def test_a_run_made_before_a_setting_existed_is_still_the_same_run(tmp_path):
    run = finished(tmp_path)
    record = run.record()
    del record["config"]["evaluate"]["rules"], record["identity"]["evaluate"]["rules"]
    run.store.put_json("run.json", record)
    assert not asked(tmp_path)
    with pytest.raises(ConfigError, match=r"evaluate\.rules: 'default' .*'paper'"):
        asked(tmp_path, evaluate__rules="paper")


class Failing(LocalExecutor):
    """An engine that refuses every prompt."""

    def generate(self, requests, target):
        for request in requests:
            yield Answer(request.id, request.key, Completion("", "error", error="the prompt has 300 tokens"))


def test_what_no_row_survived_can_be_put_right_under_the_same_name(tmp_path):
    with pytest.raises(StageError, match="100 of 100 requests failed"):
        cli_run.run_job(job(tmp_path, target__max_model_len=64), executor=Failing())
    executor = LocalExecutor()
    assert cli_run.run_job(job(tmp_path, target__max_model_len=512), executor=executor, until="0/evaluate").stopped_at
    assert executor.asked["generate"] == 100
    assert Run.read(f"{tmp_path}/small").record()["config"]["target"]["max_model_len"] == 512
    with pytest.raises(ConfigError, match=r"target\.max_model_len: 512 there, 64 now"):
        cli_run.run_job(job(tmp_path, target__max_model_len=64), executor=LocalExecutor())


def test_a_run_that_has_paid_its_instructor_is_not_looked_at_again(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(cli_run.look, "findings", lambda job, **options: looked.append(job) or [])
    config = job(tmp_path)
    cli_run.run_job(config, executor=LocalExecutor())
    assert cli_run.run_job(config).stopped_at is None and not looked, "a finished run starts no Ray either"
    monkeypatch.setattr(cli_run.look, "findings", lambda job, **options: [Finding("it has no template")])
    with pytest.raises(ConfigError, match="it has no template"):
        cli_run.run_job(config.model_copy(update={"name": "new"}))
    assert not (tmp_path / "new").exists()
