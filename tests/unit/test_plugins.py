"""A plug-in has every member that is looked up, is refused with what it lacks, or has a default for it."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lai_ray.benchmarks import gsm8k
from lai_ray.cli import run as cli_run
from lai_ray.common import plugins
from lai_ray.contracts import ApiEngine, Benchmark, Engine, Objective, Strategy
from lai_ray.engines.openai import OpenAIEngine
from lai_ray.errors import ConfigError
from lai_ray.grading import numbers
from lai_ray.records import Ask, Case, Completion, Grade, Message, Reply, Sample
from lai_ray.strategies import le
from tests.conftest import records
from tests.local import LocalExecutor, job

WHOLE: dict[str, Any] = {
    "benchmarks": gsm8k.BENCHMARK, "strategies": le.STRATEGY, "engines": OpenAIEngine,
    "training.objectives": plugins.load("training.objectives", "sft"),
}  # fmt: skip
MEMBERS = [(kind, member) for kind in plugins.SHAPES for member in plugins.SHAPES[kind]]


@pytest.fixture
def own(monkeypatch):
    """Puts an object into a module of its own and returns its name there."""

    def put(thing: Any) -> str:
        module = ModuleType("my_own_plugin")
        module.THING = thing
        monkeypatch.setitem(sys.modules, "my_own_plugin", module)
        return "my_own_plugin:THING"

    return put


def members(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in dir(thing) if not name.startswith("_")}


@pytest.mark.parametrize(("kind", "member"), MEMBERS)
def test_one_that_lacks_a_member_is_refused_by_its_name(own, kind, member):
    left = {name: value for name, value in members(WHOLE[kind]).items() if name not in member.split("|")}
    with pytest.raises(ConfigError) as refused:
        plugins.load(kind, own(SimpleNamespace(**left)))
    assert member.replace("|", " or ") in str(refused.value) and "my_own_plugin:THING" in str(refused.value)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_one_is_taken_as_it_is(own, kind):
    assert plugins.load(kind, own(WHOLE[kind])) is WHOLE[kind]


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [("benchmarks", Benchmark), ("strategies", Strategy), ("training.objectives", Objective)],
)
def test_whatever_is_looked_up_stands_in_the_protocol(kind, protocol):
    required = {name for member in plugins.SHAPES[kind] for name in member.split("|")} - {"next_messages"}
    described = {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
    assert described == required | set(plugins.DEFAULTS[kind])


def test_engines_stand_in_two_protocols():
    assert {"check", "generate"} <= set(vars(Engine)) and {"check", "call"} <= set(vars(ApiEngine))


def test_a_member_with_a_default_may_be_left_out(own):
    left = {k: v for k, v in members(le.STRATEGY).items() if k not in plugins.DEFAULTS["strategies"] or k == "next"}
    strategy = plugins.load("strategies", own(SimpleNamespace(**left)))
    assert (strategy.any_verdict, strategy.Settings, strategy.texts([], None)) == (False, None, [])
    assert strategy.asks is True and strategy.content(None, None) is None
    sample = Sample("s", None, None, [])
    right, wrong, failed = (Grade(s, None, "r", status) for s, status in ((1, "graded"), (0, "graded"), (0, "error")))
    assert strategy.accepts(sample, right) is None
    assert strategy.accepts(sample, wrong) and strategy.accepts(sample, failed) == "the grader failed"
    assert list(strategy.choose(iter("abc"), 2, None)) == ["a", "b"]
    with pytest.raises(AttributeError):
        strategy.no_such_member  # noqa: B018


class Earlier:
    """A strategy as it was written before dialogues could ask anybody else."""

    name = "earlier"
    uses_neighbours = False

    def cases(self, attempts, settings, executor):
        return le.STRATEGY.cases(attempts, settings, executor)

    def next_messages(self, case, replies, benchmark, settings) -> list[Message] | None:
        return None if replies else le.STRATEGY.next(case, [], benchmark, settings).messages

    def samples(self, case, replies, benchmark, settings):
        return le.STRATEGY.samples(case, replies, benchmark, settings)


STRATEGY = Earlier()


def test_a_strategy_with_next_messages_goes_on_working(tmp_path):
    one, other = LocalExecutor(), LocalExecutor()
    cli_run.run_job(job(tmp_path, name="le", schedule__strategy="le"), executor=one)
    earlier = job(tmp_path, name="earlier", schedule__strategy="tests.unit.test_plugins:STRATEGY")
    cli_run.run_job(earlier, executor=other)
    asked = [[r.messages for r in each.requests["ask"]] for each in (one, other)]
    assert sorted(map(str, asked[0])) == sorted(map(str, asked[1])) and asked[0]


def test_its_dialogue_ends_at_a_failed_call_and_it_can_be_sent_to_another_process():
    strategy = pickle.loads(pickle.dumps(plugins.load("strategies", "tests.unit.test_plugins:STRATEGY")))
    failed = Reply("r", "c", 0, 0, [], Completion("", "error", error="HTTP 500"))
    assert strategy.next(None, [failed], None, None) is None
    assert plugins.code_hash(strategy) == plugins.code_hash("tests.unit.test_plugins")


class Particular(le.LearningFromError):
    """Accepts by its own rule, learns after a prompt of its own, and chooses from the end."""

    name = "particular"

    def samples(self, case: Case, replies, benchmark, settings):
        from dataclasses import replace

        prompt = [{"role": "user", "content": "In my own words: "}]
        return [replace(s, messages=prompt) for s in super().samples(case, replies, benchmark, settings)]

    def accepts(self, sample, grade):
        return None if len(sample.problem.answer) > 1 else "too easy"

    def choose(self, samples, most, settings):
        return list(samples)[-most:]


PARTICULAR = Particular()


def test_a_strategy_accepts_orders_and_words_its_samples_itself(tmp_path):
    executor = LocalExecutor()
    config = job(tmp_path, schedule__strategy="tests.unit.test_plugins:PARTICULAR", curate__samples_per_dataset=7)
    cli_run.run_job(config, executor=executor)
    folder = tmp_path / "small/iteration_0/curate"
    kept, dropped = (records(folder / f"{name}.jsonl") for name in ("samples", "dropped"))
    assert len(kept) == 7 and all(len(s["problem"]["answer"]) > 1 for s in kept)
    reasons = Counter(s["dropped"] for s in dropped)
    assert reasons["over the cap"] and {s["dropped"] for s in dropped if len(s["problem"]["answer"]) == 1} <= {
        "too easy", *(r for r in reasons if r not in ("over the cap",))
    }  # fmt: skip
    order = [s["id"] for s in kept]
    capped = [s["id"] for s in dropped if s["dropped"] == "over the cap"]
    assert not set(order) & set(capped)
    assert {tuple(e.messages[0].items()) for e in executor.jobs[0].examples} == {
        (("role", "user"), ("content", "In my own words: "))
    }


def test_each_sample_is_graded_once_and_each_problem_rendered_once(tmp_path, monkeypatch):
    from lai_ray.benchmarks.word_problems import WordProblems

    graded: Counter[str] = Counter()
    rendered: Counter[str] = Counter()
    grade, prompt = WordProblems.grade, WordProblems.prompt

    def counted_grade(self, problem, response, *rest):
        graded[problem.id] += problem.split == "generated"
        return grade(self, problem, response, *rest)

    def counted_prompt(self, problem):
        rendered[problem.id] += problem.split != "generated"
        return prompt(self, problem)

    monkeypatch.setattr(WordProblems, "grade", counted_grade)
    monkeypatch.setattr(WordProblems, "prompt", counted_prompt)
    cli_run.run_job(job(tmp_path), executor=LocalExecutor(), until="0/curate")
    samples = [
        s for name in ("samples", "dropped") for s in records(tmp_path / f"small/iteration_0/curate/{name}.jsonl")
    ]
    assert {graded[s["id"]] for s in samples if s["dropped"] in (None, "over the cap", "duplicate")} == {1}
    assert max(graded.values()) == 1
    asked = Counter({name: count for name, count in rendered.items() if count})
    # Once to be asked; a second time only for the frames that contamination checks need of one problem a set.
    assert len(asked) >= 100 and sum(asked.values()) <= len(asked) + 4


def test_word_problems_and_gsm8k_read_numbers_with_one_reader():
    sources = plugins.sources(plugins.load("benchmarks", "word_problems"))
    assert numbers.__name__ in sources and numbers.__name__ in plugins.sources(gsm8k.BENCHMARK)


class Overriding(le.LearningFromError):
    """An earlier plug-in on a base class that has `next` today."""

    def next_messages(self, case, replies, benchmark, settings):
        return None if replies else [{"role": "user", "content": "in its own words"}]


OVERRIDING = Overriding()


def test_an_overridden_next_messages_is_what_is_asked():
    strategy = plugins.load("strategies", "tests.unit.test_plugins:OVERRIDING")
    assert strategy.next(None, [], None, None) == Ask("instructor", [{"role": "user", "content": "in its own words"}])


def test_a_function_that_makes_engines_is_an_engine():
    made = plugins.load("engines", "tests.unit.test_plugins:make_engine")("model", "settings", 0)
    assert made == ("model", "settings", 0)


def make_engine(path, settings, gpus):
    return path, settings, gpus


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("optional_a", "from .gone import fast"),
        ("optional_b", "import optional_b.gone"),
        ("optional_c", "from optional_c.gone import fast"),
    ],
)
def test_an_import_that_may_fail_is_the_plug_ins_own_affair(tmp_path, monkeypatch, name, text):
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "plug.py").write_text(f"try:\n    {text}\nexcept ImportError:\n    fast = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(plugins.sources(f"{name}.plug")) <= {name, f"{name}.plug"}
    (package / "plug.py").write_text(f"{text}\n")
    with pytest.raises(ModuleNotFoundError):
        plugins.sources(f"{name}.plug")
