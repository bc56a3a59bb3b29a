"""train.early_stopping keeps the epoch with the best dev score; killed anywhere, nothing is trained or asked twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from lai_ray.cli import run as cli_run
from lai_ray.cli.check import check
from lai_ray.cli.check.names import check_names
from lai_ray.cli.check.reuse import reuse_of
from lai_ray.config.settings import TrainSettings
from lai_ray.contracts import Trained, TrainJob
from lai_ray.errors import ConfigError, DataError, StageError
from lai_ray.stages import early_stopping
from lai_ray.stages.early_stopping import best, mean_score
from lai_ray.storage import model_folders
from lai_ray.storage.run import Run, Stage
from lai_ray.training import loop
from lai_ray.training.recipe import epoch_folder, recipe_for
from tests.local import Crash, LocalExecutor, job

SKILLS = (50, 90, 70)
TRAIN = "iteration_0/train"


def stopping(folder: Path, **changes: Any):
    return job(folder, **({"train__early_stopping": True, "train__epochs": 3} | changes))


def run(folder: Path, executor: LocalExecutor | None = None, *, reuse: tuple[str, ...] = (), **changes: Any) -> Run:
    executor = executor or LocalExecutor(epoch_skills=SKILLS)
    return cli_run.run_job(stopping(folder, **changes), executor=executor, reuse=reuse).run


def lineage(run: Run) -> dict[str, Any]:
    made: dict[str, Any] = run.store.get_json(f"{TRAIN}/checkpoint/lineage.json")
    return made


def kept(run: Run) -> tuple[int, int]:
    """The epoch that was kept, by the lineage, and the skill of the model at train/checkpoint."""
    return lineage(run)["early_stopping"]["epoch"], run.store.get_json(f"{TRAIN}/checkpoint/skill.json")


def generated(*executors: LocalExecutor) -> list[str]:
    return [request.key for executor in executors for request in executor.requests["generate"]]


@pytest.mark.parametrize(("skills", "epoch"), [((50, 90, 70), 2), ((50, 70, 90), 3), ((90, 90, 50), 1)])
def test_the_best_epoch_is_kept_and_of_equals_the_earliest(tmp_path, skills, epoch):
    executor = LocalExecutor(epoch_skills=skills)
    made = run(tmp_path, executor)
    assert kept(made) == (epoch, skills[epoch - 1])
    assert executor.asked["train"] == 1
    assert made.stage(0, "train").facts()["epoch"] == epoch
    left = list(made.store.local.rglob("skill.json"))
    assert left == [made.store.local / TRAIN / "checkpoint/skill.json"], "the weights of the others are removed"


def test_the_score_is_the_mean_over_benchmarks_and_equal_scores_are_equal():
    one = {"a.dev": {"right": 3, "n": 10}, "b.dev": {"right": 5, "n": 20}}
    other = {"a.dev": {"right": 2, "n": 10}, "b.dev": {"right": 7, "n": 20}}
    less = {"a.dev": {"right": 3, "n": 10}, "b.dev": {"right": 4, "n": 20}}
    assert mean_score(one) == mean_score(other)
    assert best([less, one, other]) == best([less, other, one]) == 2
    assert best([less]) == 1


def test_lineage_marker_card_and_screen_have_the_epoch_and_all_dev_scores(tmp_path, capsys):
    config = stopping(tmp_path)
    executor = LocalExecutor(epoch_skills=SKILLS)
    made = cli_run.run_job(config, executor=executor, console=Console(width=200)).run
    output = capsys.readouterr().out
    choice = lineage(made)["early_stopping"]
    assert (choice["epoch"], choice["of"], len(choice["dev"])) == (2, 3, 3)
    for epoch, scores in enumerate(choice["dev"], 1):
        written = made.store.get_json(f"{TRAIN}/epochs/epoch_{epoch}/evaluate/scores.json")["word_problems.dev"]
        assert scores == {"word_problems.dev": {"right": written["right"], "n": written["n"]}}
    before = made.store.get_json("iteration_0/evaluate/scores.json")["word_problems.dev"]
    assert choice["before"]["word_problems.dev"]["right"] == before["right"]
    assert made.stage(0, "train").facts()["dev"] == choice["dev"]
    assert made.store.get_json(f"{TRAIN}/lineage.json") == lineage(made)
    card = (made.store.local / TRAIN / "checkpoint/README.md").read_text()
    assert "2 of 3" in card and card.count("word_problems.dev") == 3
    assert "epoch 2 of 3" in output
    for scores in (choice["before"], *choice["dev"]):
        assert f"{100 * float(mean_score(scores)):.1f}%" in output


def test_the_dev_problems_are_not_learned_from_and_answered_before_the_training_too(tmp_path):
    executor = LocalExecutor(epoch_skills=SKILLS)
    made = run(tmp_path, executor, evaluate__max_train_problems=None)
    attempts = made.store.local / "iteration_0/evaluate/attempts"
    dev, train = (
        {json.loads(line)["problem"]["question"] for line in (attempts / f"word_problems.{split}.jsonl").open()}
        for split in ("dev", "train")
    )
    assert dev and train and not dev & train


def test_a_finished_run_asks_nothing(tmp_path):
    first = run(tmp_path)
    again = LocalExecutor()
    outcome = cli_run.run_job(stopping(tmp_path), executor=again)
    assert not again.asked
    assert outcome.target.identity == lineage(first)["name"]


def test_no_model_is_asked_a_problem_twice_the_chosen_one_neither(tmp_path):
    executor = LocalExecutor(epoch_skills=SKILLS)
    made = run(tmp_path, executor, iterations=2)
    assert len(generated(executor)) == len(set(generated(executor)))
    assert executor.asked["train"] == 2
    dev = made.store.get_json("iteration_1/evaluate/scores.json")["word_problems.dev"]
    chosen = lineage(made)["early_stopping"]["dev"][1]["word_problems.dev"]
    assert (dev["right"], dev["n"]) == (chosen["right"], chosen["n"])


def test_every_epoch_has_a_name_of_its_own_and_so_have_its_answers(tmp_path):
    executor = LocalExecutor(epoch_skills=(60, 60, 60))
    made = run(tmp_path, executor)
    (training,) = executor.jobs
    names = [*training.epoch_names, training.name]
    assert len(set(names)) == 3
    assert lineage(made)["name"] == names[0]
    keys = [
        {json.loads(line)["key"] for path in folder.glob("*.jsonl") for line in path.open()}
        for epoch in (1, 2, 3)
        if (folder := made.store.local / TRAIN / f"epochs/epoch_{epoch}/evaluate/answers").is_dir()
    ]
    assert len(keys) == 3 and len(set.union(*keys)) == sum(map(len, keys)) > 0


def answers_before_epochs(tmp_path: Path) -> tuple[int, int]:
    """The target's answers before the training, and those to the dev problems of one epoch."""
    executor = LocalExecutor(epoch_skills=SKILLS)
    made = run(tmp_path, executor, name="counted")
    n = made.store.get_json(f"{TRAIN}/epochs/epoch_1/evaluate/scores.json")["word_problems.dev"]["n"]
    return sum(part["n"] for part in made.store.get_json("iteration_0/evaluate/scores.json").values()), n


@pytest.mark.parametrize("moment", ["train", "first epoch", "second epoch", "last epoch"])
def test_killed_and_started_again_trains_once_and_asks_nothing_twice(tmp_path, moment):
    before, n = answers_before_epochs(tmp_path)
    after = {"first epoch": before + n // 2, "second epoch": before + n + 3, "last epoch": before + 3 * n - 1}
    dies = {"generate": after[moment]} if moment in after else {"train": 0}
    first = LocalExecutor(epoch_skills=SKILLS, die_after=dies)
    with pytest.raises(Crash):
        run(tmp_path, first, name="killed")
    second = LocalExecutor(epoch_skills=SKILLS)
    made = run(tmp_path, second, name="killed")
    assert first.asked["train"] + second.asked["train"] == 1
    assert len(generated(first, second)) == len(set(generated(first, second)))
    assert kept(made) == (2, 90)
    assert lineage(made)["name"] == lineage(Run.read(str(tmp_path / "counted")))["name"]


@pytest.mark.parametrize(
    ("where", "verb"),
    [
        (Stage, "take_over"),  # The choice is made, and its model not yet in place.
        (early_stopping.Epochs, "_noted"),  # In place, without the choice in its lineage.
        (Stage, "finish"),
        (early_stopping.Epochs, "remove_others"),  # Complete, with the weights of the others.
    ],
)
def test_killed_while_the_best_epoch_is_put_in_place(tmp_path, monkeypatch, where, verb):
    whole = getattr(where, verb)

    def dies(self: Any, *arguments: Any, **facts: Any) -> Any:
        stage = self if isinstance(self, Stage) else self.stage
        if stage.folder == TRAIN and (verb != "take_over" or arguments[1] == "checkpoint"):
            raise Crash(verb)
        return whole(self, *arguments, **facts)

    first, second = (LocalExecutor(epoch_skills=SKILLS) for _ in range(2))
    with monkeypatch.context() as patched:
        patched.setattr(where, verb, dies)
        with pytest.raises(Crash):
            run(tmp_path, first)
    made = run(tmp_path, second)
    assert (first.asked["train"], second.asked["train"]) == (1, 0)
    assert len(generated(first, second)) == len(set(generated(first, second)))
    assert kept(made) == (2, 90)
    assert len(list(made.store.local.rglob("skill.json"))) == 1


def test_another_choice_from_known_answers_trains_for_the_weights_and_asks_no_dev_problem_again(tmp_path, monkeypatch):
    """As after an edit of a grader, which grades the recorded answers again."""
    made = run(tmp_path)
    made.stage(0, "train").store.remove(["done.json"])
    monkeypatch.setattr(early_stopping, "best", lambda scores: 3)
    executor = LocalExecutor(epoch_skills=SKILLS)
    again = run(tmp_path, executor)
    assert kept(again) == (3, 70) and executor.asked["train"] == 1
    dev = made.store.get_json(f"{TRAIN}/epochs/epoch_3/evaluate/scores.json")["word_problems.dev"]["n"]
    tests = made.store.get_json("iteration_1/evaluate/scores.json")["word_problems.test"]["n"]
    assert dev and executor.asked["generate"] == tests, "only the tests, of the model that is now the target"


def test_a_model_of_another_training_is_never_taken_for_an_epoch(tmp_path):
    first = LocalExecutor(epoch_skills=SKILLS, die_after={"generate": sum(answers_before_epochs(tmp_path)) + 1})
    with pytest.raises(Crash):
        run(tmp_path, first, name="killed")
    folder = tmp_path / "killed" / TRAIN / "epochs/epoch_2/checkpoint"
    (folder / "lineage.json").write_text(json.dumps({"name": "theirs"}))
    second = LocalExecutor(epoch_skills=SKILLS)
    assert kept(run(tmp_path, second, name="killed")) == (2, 90)
    assert second.asked["train"] == 1


class Forgetful(LocalExecutor):
    """Its trainings leave the last epoch's model alone, as workers do whose folder is not shared."""

    def train(self, job: TrainJob, progress: Any = None) -> Trained:
        trained = super().train(job, progress)
        for epoch in range(1, len(job.epoch_names) + 1):
            model_folders.remove(epoch_folder(job.out, epoch))
        return trained


def test_a_training_that_leaves_no_model_of_an_epoch_is_reported_and_the_same_command_trains_again(tmp_path):
    with pytest.raises(StageError, match=r"epoch_1/checkpoint: .*epoch 1"):
        run(tmp_path, Forgetful(epoch_skills=SKILLS))
    executor = LocalExecutor(epoch_skills=SKILLS)
    assert kept(run(tmp_path, executor)) == (2, 90)
    assert executor.asked["train"] == 1


def test_another_run_reuses_the_choice_and_the_weights(tmp_path):
    first = run(tmp_path, name="first")
    (reported,) = [line for line in reuse_of(first, stopping(tmp_path, name="second")).stages if "1/eval" in line.stage]
    assert reported.recorded == reported.reused > 0, "lai check knows the model by its lineage"
    executor = LocalExecutor()
    second = run(tmp_path, executor, name="second", reuse=(str(tmp_path / "first"),))
    assert not executor.asked["train"] and not executor.asked["generate"] and not executor.asked["ask"]
    assert kept(second) == kept(first) and lineage(second)["name"] == lineage(first)["name"]


def test_a_job_without_early_stopping_has_the_names_that_it_had(tmp_path):
    assert "early_stopping" not in TrainSettings(epochs=3).identity()
    assert TrainSettings(epochs=3, early_stopping=True).identity()["early_stopping"] is True
    executor = LocalExecutor(epoch_skills=SKILLS)
    made = cli_run.run_job(job(tmp_path, train__epochs=3), executor=executor).run
    assert not executor.jobs[0].epoch_names
    assert not made.store.names(f"{TRAIN}/epochs")
    assert "early_stopping" not in lineage(made)
    assert lineage(made)["name"] == executor.jobs[0].name == made.store.get_json(f"{TRAIN}/done.json")["key"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train__epochs": 1}, r"train\.epochs = 1"),
        ({"search": {"neighbours": [1, 3]}}, r"train\.early_stopping .*\[search\]"),
        ({"search": {"grid": {"train.early_stopping": [True]}}, "train__early_stopping": False}, r"\[search\]"),
        ({"target__engine": "recorded", "target__attempts": {"word_problems": "a"}}, r"target\.attempts"),
        ({"evaluate__learn_from": ["gsm_plus"]}, "gsm_plus .*no train split"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(tmp_path, changes, named):
    with pytest.raises(ConfigError, match=named):
        check_names(stopping(tmp_path, **changes))


def test_an_object_store_is_refused(tmp_path):
    config = stopping(tmp_path).model_copy(update={"storage": "s3://bucket/runs"})
    with pytest.raises(ConfigError, match=r"train\.early_stopping .*'s3://bucket/runs'"):
        check_names(config)


def test_too_few_problems_for_a_dev_split_are_refused_with_the_setting(tmp_path):
    rows = [{"question": f"What is {i} and {i}?", "answer": str(2 * i)} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mine = {"name": "mine", "kind": "number", "train": str(tmp_path / "rows.jsonl")}
    table = {"benchmark": [mine], "evaluate__learn_from": ["mine"], "evaluate__report_on": []}
    with pytest.raises(DataError, match=r"mine: train\.early_stopping"):
        check_names(stopping(tmp_path, **table))


def test_lai_check_counts_the_dev_problems_of_every_epoch(tmp_path, capsys):
    check.show(stopping(tmp_path), Console(width=300))
    output = capsys.readouterr().out
    assert "word_problems.dev" in output and "train.epochs = 3" in output


def test_a_trial_run_of_the_job_goes_without(tmp_path):
    assert not cli_run.small(stopping(tmp_path)).train.early_stopping
    assert cli_run.only_tests(stopping(tmp_path)).iterations == 0


class Training(LocalExecutor):
    """Trains for real, in this process; the model of the first epoch passes for the best."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, dict[str, torch.Tensor]] = {}

    def train(self, job: TrainJob, progress: Any = None) -> Trained:
        self._count("train")
        metrics = loop.train(recipe_for(job), job.examples, report=lambda *_: None, lineage=job.lineage)
        for epoch, folder in enumerate([epoch_folder(job.out, 1), job.out], 1):
            self.weights[str(epoch)] = dict(load_file(Path(folder) / "model.safetensors"))
            (Path(folder) / "skill.json").write_text(str(90 - epoch * 10))
        return Trained(job.out, metrics)


def test_the_weights_that_are_kept_are_those_of_the_best_epoch(tmp_path):
    executor = Training()
    pretend = Path(job(tmp_path).target.model)
    (pretend / "skill.json").write_text("40")
    made = run(tmp_path, executor, **student(pretend))
    first, last = executor.weights["1"], executor.weights["2"]
    assert any(not torch.equal(first[name], last[name]) for name in first)
    there = load_file(made.store.local / TRAIN / "checkpoint/model.safetensors")
    assert there.keys() == first.keys() and all(torch.equal(there[name], first[name]) for name in first)
    facts = lineage(made)
    assert facts["early_stopping"]["epoch"] == 1
    assert (facts["metrics"]["step"], facts["metrics"]["steps"]) == (1.0, 2.0)


def student(folder: Path) -> dict[str, Any]:
    """The built-in student, and a training that takes it a second."""
    from lai_ray.world import STUDENT

    shutil.copytree(STUDENT, folder, dirs_exist_ok=True)
    return {
        "target__model": str(folder), "train__epochs": 2, "train__precision": "fp32", "train__max_length": 256,
        "train__learning_rate": 1e-3, "train__gradient_checkpointing": False, "train__sequences_per_device": 16,
    }  # fmt: skip
