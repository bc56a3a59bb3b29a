"""`lai check` says what `lai run` then does: which answers are reused, what is refused, how many calls are made.

Every setting of the tables below is varied by its type, so that a later setting is tested the day it appears; one whose
type has no obvious variation fails with its name until VALUES has one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from lai_ray.benchmarks.word_problems import WordProblems
from lai_ray.cli import run as cli_run
from lai_ray.cli.check import budget
from lai_ray.cli.check import reuse as cli_reuse
from lai_ray.cli.check.dry_run import Replay, answers_of, folder_of, replayed
from lai_ray.config import settings as tables
from lai_ray.config.config import Config
from lai_ray.contracts import Model
from lai_ray.errors import ConfigError
from lai_ray.storage.answers import Answers
from lai_ray.storage.run import Run
from tests.local import Crash, LocalExecutor, job, pretend_model

HERE = "tests.unit.test_check_equals_run"
ROWS = {"train": 32, "dev": 12, "test": 10}


@functools.cache
def rows(split: str, first: int) -> list[dict[str, Any]]:
    """Some of the built-in word problems."""
    made = list(WordProblems().records(split, first + ROWS[split]))[first:]
    return [row | {"subject": row["size"]} for row in made]


class Few(WordProblems):
    """A few of the built-in word problems."""

    name = "few"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        return iter(rows(split, 40))


class Others(Few):
    """Others of them."""

    name = "others"

    def load(self, split: str) -> Iterator[dict[str, Any]]:
        return iter(rows(split, 100))


FEW, OTHERS = Few(), Others()


class Executor(LocalExecutor):
    """Each encoder has its own vectors."""

    def embed(self, texts: Any, encoder: Model) -> np.ndarray:
        order = np.random.default_rng(len(encoder.identity) * 7 + ord(encoder.identity[0])).permutation(32)
        return super().embed(texts, encoder)[:, order] ** (1 + ord(encoder.identity[-1]) % 3)


TABLES = {
    "target": tables.TargetSettings, "evaluate": tables.EvaluateSettings, "schedule": tables.ScheduleSettings,
    "contrast": tables.ContrastSettings, "instructor": tables.InstructorSettings, "curate": tables.CurateSettings,
    "train": tables.TrainSettings,
}  # fmt: skip
SET_WHEN_READ = {"evaluate.imported"}
VALUES: dict[str, list[Any]] = {
    "target.engine": ["tests.unit.test_check_equals_run:Executor"],
    "target.model": ["{folder}/elsewhere/model"],
    "target.attempts": [{"few": "{folder}/answers.jsonl"}],
    "evaluate.learn_from": [[f"{HERE}:FEW", f"{HERE}:OTHERS"], [f"{HERE}:OTHERS"]],
    "evaluate.report_on": [[f"{HERE}:OTHERS"], [f"{HERE}:FEW", f"{HERE}:OTHERS"], []],
    "evaluate.max_train_problems": [20, 31],
    "evaluate.max_test_problems": [5],
    "schedule.strategy": [
        "le", "untargeted", "auggpt", "random_contrast", "fine_tuning", "llm2llm", "tripost", ["le", "lec"],
        ["lec", "untargeted"],
        {"few": "untargeted"},
    ],
    "contrast.neighbours": [1, 2, 4, 30],
    "contrast.within": ["subject"],
    "contrast.encoder": ["{folder}/encoder"],
    "instructor.engine": ["tests.local:LocalExecutor"],
    "instructor.model": ["another"],
    "instructor.base_url": ["http://127.0.0.1:1/v1"],
    "instructor.api_key_env": ["A_NAME"],
    "instructor.parameters": [{"seed": "random_seed"}],
    "instructor.prompts": ["{folder}/prompts"],
    "curate.samples_per_dataset": [6, 12, 40, {"few": 15}],
    "curate.rehearse": [1, 3],
    "curate.keep_clear_of": [[], "none"],
    "curate.max_rouge_l": [0.95],
    "curate.near_duplicates": [0.6],
    "train.replay": [0.5, 3, "all", "gold"],
    "train.betas": [(0.8, 0.9)],
    "train.objective": ["equal_examples:OBJECTIVE"],
}  # fmt: skip
"""Values of settings whose type does not tell one, or that deserve several."""
BESIDE: dict[str, dict[str, Any]] = {
    "target.attempts": {"target__engine": "recorded"},
    "instructor.engine": {"instructor__model": "target"},
    "curate.drop_solved": {"curate__rehearse": 2},
    "curate.own_texts": {"curate__rehearse": 2},
    "curate.hint": {"curate__rehearse": 1, "curate__own_texts": True},
    "curate.check_keys": {"curate__rehearse": 1},
    "train.replay_weight": {"train__replay": 0.5},
    "train.early_stopping": {"train__epochs": 2},
}
"""Settings that another one needs; the run that is reused has them too, where it can."""
WITHOUT = {"target.attempts", "instructor.engine"}
"""Settings whose companions the reused run does not have."""


def variations(key: str, field: Any) -> list[Any]:
    """Values of a setting other than its default, by its type."""
    if key in VALUES:
        return VALUES[key]
    return by_type(field.annotation, field.default)


def by_type(kind: Any, default: Any) -> list[Any]:
    if typing.get_origin(kind) is Literal:
        return [value for value in typing.get_args(kind) if value != default]
    if typing.get_origin(kind) is typing.Annotated:
        return by_type(typing.get_args(kind)[0], default)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next((found for one in typing.get_args(kind) if (found := by_type(one, default))), [])
    if kind is bool:
        return [not default]
    if kind is int:
        return [999 if default is None else default + 1]
    if kind is float:
        return [0.5 if default is None else default / 2 or 0.5]
    return []


FIELDS = {f"{table}.{name}": field for table, kind in TABLES.items() for name, field in kind.model_fields.items()}
CASES = [
    (key, number)
    for key, field in FIELDS.items()
    if key not in SET_WHEN_READ
    for number in range(len(variations(key, field)))
]


def test_every_setting_has_a_variation():
    without = [key for key, field in FIELDS.items() if key not in SET_WHEN_READ and not variations(key, field)]
    assert not without, f"give VALUES a value of {', '.join(without)}, other than its default"
    assert not {*VALUES, *BESIDE} - FIELDS.keys()
    assert len(CASES) >= 60


def small(folder: Path, **changes: Any) -> Config:
    settings = {
        "iterations": 2, "target__engine": f"{HERE}:Executor", "evaluate__learn_from": [f"{HERE}:FEW"],
        "evaluate__report_on": [f"{HERE}:FEW"], "evaluate__max_train_problems": None,
        "evaluate__max_test_problems": None, "curate__samples_per_dataset": 12, "curate__keep_clear_of": ["few"],
        "contrast__encoder": str(folder / "first_encoder"),
    }  # fmt: skip
    return job(folder, **(settings | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    pretend_model(folder / "elsewhere" / "model", skill=60)
    for name in ("encoder", "first_encoder"):
        pretend_model(folder / name)
        (folder / name / "config.json").write_text(f'{{"name": "{name}"}}')
    (folder / "prompts").mkdir()
    (folder / "prompts" / "lec.txt").write_text(
        "[system]\nMind this. {brief}\n[user]\n{correct}\n{question}\n{wrong_answer}\nWrite {n} new problems."
    )
    return folder


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("docs/examples")
    monkeypatch.setenv("A_NAME", "none")
    monkeypatch.setattr("lai_ray.stages.curate.nearness", lambda *arguments: {})


@dataclass(frozen=True)
class Told:
    """What check says."""

    replay: Replay
    used: set[str]
    pools: dict[str, budget.KnownPool]
    calls: tuple[int, int]


def told(config: Config, sources: list[Run], own: Run | None = None) -> Told:
    with replayed(config, [*([own] if own else []), *sources]) as replay:
        pools = list(budget.known_pools(replay, own)) if replay else []
        job = replay.job if replay else cli_run.admission(config, {}).job
        expected = budget.still_to_come(pools, job, replay)
        budget.tables_of(job, replay, own)
        for source in sources:
            cli_reuse.reuse_of(source, config, replay)
        used = replay.used if replay else set()
        calls = expected.least.calls, expected.most.calls
        return Told(replay, used, {pool.stage.folder: pool for pool in pools}, calls)


def keys(run: Run, *, inherited: bool, reached: Any = None) -> dict[str, set[str]]:
    """By folder of answers, those copied from another run, or those paid for."""
    found: dict[str, set[str]] = {}
    for store in answers_of(run):
        folder, answers = folder_of(store, run), Answers(store)
        if reached is None or folder.rpartition("/")[0] in reached:
            found[folder] = {answer.key for answer in (answers.inherited() if inherited else answers.paid())}
    return found


def calls_for(datasets: Iterable[str], run: Run, folder: str, before: dict[str, set[str]]) -> int:
    """Calls of one stage about these datasets, but for those before."""
    if not run.store.names(folder):
        return 0
    paid = [answer for answer in Answers(run.store.inside(folder)).paid() if answer.key not in before.get(folder, ())]
    return sum(answer.id.partition("/")[0] in datasets for answer in paid)


def assert_agrees(
    config: Config, foreseen: Told, run: Run, executor: LocalExecutor, before: dict[str, set[str]]
) -> None:
    """Assert that a run did what check showed. before: what the run itself had paid."""
    paid = {
        START.sub("/start_1/", folder): found - before.get(folder, set())
        for folder, found in keys(run, inherited=False).items()
    }
    replay = foreseen.replay
    if replay is not None and not before:
        copied = set().union(*keys(run, inherited=True, reached=replay.run.reached).values())
        if replay.executor.guessed:
            assert foreseen.used <= copied
        else:
            assert foreseen.used == copied, (replay.end, len(foreseen.used), len(copied))
    for (stage, whom), missing in replay.executor.missing.items() if replay is not None else ():
        if stage.endswith("/evaluate") and whom == "target":
            assert missing.by_dataset.total() == len(paid[f"{stage}/answers"]), stage
    for stage, pool in foreseen.pools.items():
        made = calls_for(pool.to_ask, run, f"{stage}/answers", before)
        funnel = run.store.get_json(f"{stage.removesuffix('instruct')}curate/funnel.json") or {}
        dropped = any(set(counts) - {"samples", "kept", "over the cap"} for counts in funnel.values())
        expected = sum(pool.to_ask.values())
        if pool.guessed:
            assert made <= expected
        elif dropped:
            assert expected <= made, "those that are rejected are asked for again"
        else:
            assert made == expected, (stage, made, expected)
    calls = executor.asked["ask"]
    least, most = foreseen.calls
    assert least <= calls <= most, (calls, foreseen.calls)
    may_apply = replay is not None and any(budget.reusable(replay, i) for i in range(config.iterations))
    assert may_apply or most <= budget.WIDEST * least, foreseen.calls


START = re.compile(r"/start_\d+/")
"""Each start of a run has folders of its own for the trials of a search."""
BASES: dict[str, Run] = {}


def base(folder: Path, beside: dict[str, Any]) -> Run:
    """A finished run with these settings, made once."""
    name = "_".join(["base", *(f"{key}-{value}" for key, value in beside.items())])[:80]
    if name not in BASES or not Path(BASES[name].store.where).is_dir():
        BASES[name] = cli_run.run_job(small(folder, name=name, **beside), executor=Executor()).run
    return BASES[name]


def changes_of(folder: Path, key: str, number: int) -> dict[str, Any]:
    value = variations(key, FIELDS[key])[number]
    text = str(folder)
    if isinstance(value, str):
        value = value.replace("{folder}", text)
    if key == "target.attempts":
        value = {name: path.replace("{folder}", text) for name, path in value.items()}
    changes = BESIDE.get(key, {}) | {key.replace(".", "__"): value}
    if key == "evaluate.learn_from":
        names = [name.rpartition(":")[2].lower() for name in value]
        changes["curate__keep_clear_of"] = ["few"]
        assert names
    return changes


@pytest.mark.parametrize(("key", "number"), CASES, ids=[f"{key}-{number}" for key, number in CASES])
def test_what_check_says_of_another_run_is_what_run_then_does(folder, tmp_path, key, number):
    beside = {} if key in WITHOUT else BESIDE.get(key, {})
    source = base(folder, beside)
    if key == "target.attempts":
        write_answers(folder / "answers.jsonl", source.store.lines("iteration_0/evaluate/attempts/few.train.jsonl"))
    changes = {"contrast__encoder": str(folder / "first_encoder")} | changes_of(folder, key, number)
    asks = key.partition(".")[0] not in ("target", "train")  # Those do not change what a fresh run asks.
    for name, reuse in (("other", [source]), *[("fresh", [])] * asks):
        config, executor = small(tmp_path, name=name, **changes), Executor()
        foreseen = told(config, reuse)
        run = cli_run.run_job(config, executor=executor, reuse=[source.store.where for source in reuse]).run
        assert_agrees(config, foreseen, run, executor, {})
    assert_the_same_in_its_own_folder(tmp_path, source, changes)


def assert_the_same_in_its_own_folder(folder: Path, source: Run, changes: dict[str, Any]) -> None:
    """The same change in the run's own folder is refused by both, or goes on as check showed."""
    shutil.copytree(source.store.where, folder / "own")
    config = small(folder, name="own", **changes)
    run = Run.read(str(folder / "own"))
    refusal, executor = cli_reuse.refusal(run, config), Executor()
    before = keys(run, inherited=False)
    foreseen = told(config, [], run)
    if refusal is not None:
        with pytest.raises(ConfigError) as error:
            cli_run.run_job(config, executor=executor)
        assert str(refusal) == str(error.value)
        return
    cli_run.run_job(config, executor=executor)
    assert_agrees(config, foreseen, run, executor, before)


def write_answers(path: Path, attempts: Iterable[bytes]) -> None:
    rows = []
    for line in attempts:
        attempt = json.loads(line)
        problem = attempt["problem"]
        rows.append({"question": problem["question"], "answer": problem["extra"]["solution"],
                     "response": attempt["completion"]["text"]})  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))


STATES = [
    {"until": "0/evaluate"}, {"until": "0/diagnose"}, {"until": "0/instruct"}, {"until": "0/curate"},
    {"until": "0/train"}, {"until": "1/evaluate"}, {"until": "1/diagnose"}, {"until": "1/train"},
    {"die": {"generate": 7}}, {"die": {"generate": 35}}, {"die": {"ask": 2}}, {"die": {"ask": 8}},
    {"die": {"train": 1}},
]  # fmt: skip
JOBS: list[dict[str, Any]] = [
    {}, {"curate__solve_again": True}, {"curate__rehearse": 1, "curate__check_keys": True},
    {"train__epochs": 2, "train__early_stopping": True}, {"search__neighbours": [1, 3]},
    {"schedule__strategy": ["untargeted", "le"], "train__replay": 0.5, "train__data": "cumulative"},
    {"evaluate__learn_from": [f"{HERE}:FEW", f"{HERE}:OTHERS"], "curate__keep_clear_of": ["few"]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "state"),
    [(0, state) for state in STATES]
    + [(number, state) for number in range(1, len(JOBS)) for state in STATES[number % 4 :: 4]],
    ids=str,
)
def test_what_check_says_of_a_run_that_has_stopped_is_what_the_same_command_then_does(tmp_path, state, number):
    pretend_model(tmp_path / "first_encoder")
    config, executor = small(tmp_path, **JOBS[number]), Executor(die_after=state.get("die"))
    until = state.get("until")
    if config.search is not None and until and until.rpartition("/")[2] not in ("evaluate",):
        until = until.partition("/")[0] + "/search"
    with contextlib.suppress(Crash):
        cli_run.run_job(config, executor=executor, until=until)
    run, again = Run.read(config.run_folder), Executor()
    before = keys(run, inherited=False)
    foreseen = told(config, [], run)
    cli_run.run_job(config, executor=again)
    assert_agrees(config, foreseen, run, again, before)
