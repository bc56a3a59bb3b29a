"""A job file is read strictly, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lai_ray.cli import run
from lai_ray.cli.check.names import check_names
from lai_ray.common import plugins
from lai_ray.config import config, job_file
from lai_ray.errors import ConfigError
from lai_ray.stages import grid, select
from lai_ray.stages.job import Job
from tests.local import job

MINIMAL = """
[target]
model = "org/model"
[evaluate]
learn_from = ["word_problems"]
[instructor]
model = "teacher"
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "job.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_job_is_named_after_its_file_and_everything_else_has_a_default(write):
    job = job_file.read(write(MINIMAL, "mine.toml"))
    assert (job.name, job.iterations, job.contrast.neighbours, job.curate.samples_per_dataset) == ("mine", 3, 3, 3000)


def test_a_typo_is_an_error_with_a_suggestion(write):
    with pytest.raises(ConfigError, match=r"'train.lerning_rate'.*'learning_rate'\?"):
        job_file.read(write(MINIMAL + "[train]\nlerning_rate = 1e-5\n"))


def test_a_misspelt_section_is_an_error_with_a_suggestion(write):
    with pytest.raises(ConfigError, match=r"'tran'.*'train'\?"):
        job_file.read(write(MINIMAL + "[tran]\n"))


def test_every_mistake_is_reported_at_once(write):
    with pytest.raises(ConfigError) as error:
        job_file.read(write(MINIMAL + "[train]\nzero_stage = 4\nepochs = 0\n"))
    assert "train.zero_stage" in str(error.value)
    assert "train.epochs" in str(error.value)


def test_a_job_may_extend_another_and_overrides_come_last(write):
    write(MINIMAL + "[train]\nepochs = 2\nlearning_rate = 1e-4\n", "base.toml")
    job = job_file.read(
        write('extends = "base.toml"\n[train]\nepochs = 3\n'), ["train.learning_rate=0.01", "name=other"]
    )
    assert (job.train.epochs, job.train.learning_rate, job.name) == (3, 0.01, "other")


def test_jobs_that_extend_each_other_are_refused(write):
    write('extends = "b.toml"\n', "a.toml")
    write('extends = "a.toml"\n', "b.toml")
    with pytest.raises(ConfigError, match="extends itself"):
        job_file.read(write('extends = "a.toml"\n'))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.epochs", "'train.epochs' .*section.key=value"),
        ("target.model.first=x", "'target.model.first=x': 'model'"),
        ("train.epochs=many", "train.epochs: "),
    ],
)
def test_an_override_without_meaning_is_refused(write, override, named):
    with pytest.raises(ConfigError, match=named):
        job_file.read(write(MINIMAL), [override])


def test_a_missing_file_is_reported_with_similar_names(write):
    write(MINIMAL, "quickstart.toml")
    with pytest.raises(ConfigError, match=r"quikstart\.toml: .*'quickstart.toml'\?"):
        job_file.read(write(MINIMAL).with_name("quikstart.toml"))


def test_a_number_for_a_text_and_single_brackets_are_reported_with_what_to_write(write):
    with pytest.raises(ConfigError, match='name: .*"2024" .*name="2024"'):
        job_file.read(write(MINIMAL), ["name=2024"])
    with pytest.raises(ConfigError, match=r"\[benchmark\] .*\[\[benchmark\]\]"):
        job_file.read(write(MINIMAL + '[benchmark]\nname = "own"\n'))


def test_invalid_toml_is_reported_with_its_line(write):
    with pytest.raises(ConfigError, match=r"job\.toml: .*TOML: .*line 2"):
        job_file.read(write("a = 1\nb = \n"))


def test_a_list_of_strategies_goes_on_with_its_last():
    schedule = config.ScheduleSettings(strategy=["le", "lec"])
    assert [schedule.name(i, "any") for i in range(4)] == ["le", "lec", "lec", "lec"]


def test_a_strategy_for_each_dataset_must_name_every_dataset(write):
    with pytest.raises(ConfigError, match=r"schedule\.strategy .*gsm8k; evaluate\.learn_from .*word_problems"):
        job_file.read(write(MINIMAL + '[schedule]\nstrategy = { gsm8k = "le" }\n'))


@pytest.mark.parametrize(
    ("kind", "name", "near"), [("benchmarks", "word_problem", "word_problems"), ("strategies", "lecc", "lec")]
)
def test_an_unknown_plug_in_is_named_with_those_there_are(kind, name, near):
    with pytest.raises(ConfigError, match=f"Did you mean '{near}'"):
        plugins.load(kind, name)


def test_a_plug_in_of_ones_own_is_found_by_import():
    assert plugins.load("strategies", "lai_ray.strategies.le:STRATEGY").name == "le"
    with pytest.raises(ConfigError, match="no_such_module:STRATEGY"):
        plugins.load("strategies", "no_such_module:STRATEGY")
    with pytest.raises(ConfigError, match=r"'STRATEGI'.*'STRATEGY'\?"):
        plugins.load("strategies", "lai_ray.strategies.le:STRATEGI")


PAPER = "lai_ray.benchmarks.mbpp:AS_THE_PAPER"


def test_a_benchmark_named_by_import_is_called_what_it_calls_itself_in_the_whole_job(tmp_path):
    found = job(
        tmp_path, evaluate__learn_from=["word_problems", PAPER], evaluate__report_on=[PAPER],
        schedule__strategy={"word_problems": "le", PAPER: "lec"}, data={PAPER: "/of/mbpp"},
        search={"metric": PAPER, "samples_per_dataset": [{"word_problems": 5, PAPER: 7}]},
        curate__samples_per_dataset={PAPER: 7, "word_problems": 5}, curate__keep_clear_of=[PAPER],
    )  # fmt: skip
    assert (found.evaluate.learn_from, found.evaluate.report_on) == (["word_problems", "mbpp"], ["mbpp"])
    assert found.schedule.strategy == {"word_problems": "le", "mbpp": "lec"}
    assert found.search and found.search.metric == "mbpp"
    benchmark = Job.of(found).benchmark("mbpp")
    assert benchmark.splits == ("train", "test"), "the one that was named, not the built-in of that name"
    assert getattr(benchmark, "source", "") == "/of/mbpp"
    assert PAPER not in str(found.model_dump(exclude={"evaluate": {"imported"}}))
    assert config.Config.model_validate(found.model_dump()) == found, "as a run's folder keeps it"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"evaluate__learn_from": [PAPER], "evaluate__report_on": ["mbpp"]}, f"{PAPER} .*'mbpp'.* mbpp: "),
        ({"evaluate__learn_from": ["tests.unit.test_config:SLASHED"]}, "test_config:SLASHED .*'a/b'"),
    ],
)
def test_a_name_that_two_benchmarks_share_or_no_file_can_have_is_refused(tmp_path, settings, named):
    with pytest.raises(ConfigError, match=named):
        job(tmp_path, **settings)


@pytest.mark.parametrize("wrong", ['[benchmark]\nname = "own"', "benchmark = [3]", "[[benchmark]]\nname = 3"])
def test_own_data_that_is_no_list_of_tables_is_refused_and_no_traceback(write, wrong):
    listed, rest = MINIMAL.split("[instructor]")
    listed = listed.replace('["word_problems"]', f'["{PAPER}"]')
    text = (
        f"{wrong}\n{listed}[instructor]{rest}"
        if "=" in wrong.splitlines()[0]
        else f"{listed}[instructor]{rest}{wrong}\n"
    )
    with pytest.raises(ConfigError, match="benchmark"):
        job_file.read(write(text))


SLASHED = SimpleNamespace(**dict.fromkeys(plugins.SHAPES["benchmarks"], None) | {"name": "a/b"})


def test_a_plug_in_that_lacks_members_is_refused_with_their_names(tmp_path):
    for settings, lacks in (
        (
            {"evaluate__learn_from": ["tests.tiny_model:tiny_model"]},
            r"tiny_model:tiny_model' is no benchmark: .*name, splits, .*grade",
        ),
        (
            {"schedule__strategy": "tests.tiny_model:tiny_model"},
            r"tiny_model:tiny_model' is no strategy: .*uses_neighbours, cases",
        ),
    ):
        with pytest.raises(ConfigError, match=lacks):
            check_names(job(tmp_path, **settings))


@pytest.mark.parametrize("path", ["jobs/mistral_7b.toml", "jobs/llama3_8b.toml"])
def test_the_papers_jobs_keep_their_files_under_the_names_that_they_use(path):
    found = job_file.read(path)
    resolved = Job.of(found)
    parts = [select.part(resolved, name, "test") for name in found.evaluate.report_on]
    parts += [select.part(resolved, name, "train") for name in found.evaluate.learn_from]
    assert [each.name.rpartition(".")[0] for each in parts] == [*found.evaluate.report_on, *found.evaluate.learn_from]


def test_every_strategy_that_a_search_tries_is_looked_up_before_anything_is_asked(tmp_path):
    tried = job(
        tmp_path, evaluate__learn_from=["word_problems", PAPER],
        search={"grid": {"schedule.strategy": ["lec", {"word_problems": "lec", PAPER: "lecc"}]}},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="strategy .*'lecc'"):
        check_names(tried)


def test_an_edited_grader_is_other_code(tmp_path, monkeypatch):
    file = tmp_path / "my_grader.py"
    file.write_text("BENCHMARK = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = plugins.code_hash("my_grader")
    file.write_text("BENCHMARK = 2\n")
    assert plugins.code_hash("my_grader") != before


def test_code_that_a_grader_imports_counts_as_its_own():
    found = plugins.sources(plugins.load("benchmarks", "word_problems_plus"))
    assert "lai_ray.benchmarks.word_problems" in found, "it inherits grade from there"
    assert "lai_ray.records" in found
    assert not any(name.startswith(("lai_ray.distributed", "lai_ray.training")) for name in found)


@pytest.mark.parametrize(
    "line", ["import my_helper", "from my_helper import LIMIT", "def late():\n    import my_helper"]
)
def test_an_edited_helper_beside_a_users_grader_is_other_code(tmp_path, monkeypatch, line):
    (tmp_path / "my_other_grader.py").write_text(f"{line}\nimport json\nBENCHMARK = 1\n")
    helper = tmp_path / "my_helper.py"
    helper.write_text("LIMIT = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = plugins.code_hash("my_other_grader")
    helper.write_text("LIMIT = 2\n")
    assert plugins.code_hash("my_other_grader") != before
    assert set(plugins.sources("my_other_grader")) == {"my_other_grader", "my_helper"}


def test_code_in_a_users_package_is_followed_through_relative_imports(tmp_path, monkeypatch):
    package = tmp_path / "my_followed"
    (package / "inner").mkdir(parents=True)
    for name, text in {
        "__init__.py": "", "plug.py": "from . import near\nfrom .inner.far import X\n", "near.py": "",
        "inner/__init__.py": "", "inner/far.py": "X = 1\n", "unused.py": "",
    }.items():  # fmt: skip
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    found = {name.partition(".")[2] for name in plugins.sources("my_followed.plug")}
    assert found == {"", "plug", "near", "inner.far"}


@pytest.mark.parametrize("name", ["lai_ray.stages.no_such_file", "no_such_package_at_all"])
def test_code_that_is_not_there_has_no_hash(name):
    with pytest.raises(ModuleNotFoundError, match=name):
        plugins.code_hash(name)


def test_code_that_imports_what_is_not_there_has_no_hash(tmp_path, monkeypatch):
    package = tmp_path / "my_torn"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "plug.py").write_text("from my_torn.gone import X\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"my_torn\.gone"):
        plugins.code_hash("my_torn.plug")


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(ConfigError, match="api_key_env") as refused:
        job(tmp_path, instructor__api_key_env="sk-planted-0815")
    assert "0815" not in str(refused.value)


def test_a_job_made_of_another_names_the_limits_that_it_named_and_no_more(tmp_path):
    """A limit that nobody named is what the provider says."""
    named = job(tmp_path, limits__tokens_per_minute=9_000_000, search__learning_rate=[1e-4, 2e-4])
    [one, _] = grid.combinations(named, 0)
    for made in (grid.with_settings(named, one), run.small(named), run.only_tests(named)):
        assert made.limits.model_fields_set == {"tokens_per_minute"}
        assert made.limits == named.limits


BOUNDS = [
    ("target.max_new_tokens", [1], [0]),
    ("target.max_model_len", [1], [0]),
    ("contrast.neighbours", [1], [0]),
    ("instructor.temperature", [0, 2], [-0.01, 2.01]),
    ("instructor.timeout", [0.01], [0]),
    ("instructor.usd_per_million_input", [0], [-0.01]),
    ("instructor.usd_per_million_output", [0], [-0.01]),
    ("curate.samples_per_dataset", [1], [0]),
    ("curate.rehearse", [0, 1], [-1, 0.5]),
    ("curate.max_rouge_l", [0.01, 1], [0, 1.01]),
    ("curate.near_duplicates", [0.01, 1], [0, 1.01]),
    ("train.learning_rate", [1e-9, 1], [0, 1.01]),
    ("train.learning_rate_decay", [0.01, 1], [0, 1.01]),
    ("train.warmup_steps", [0], [-1]),
    ("train.weight_decay", [0], [-0.01]),
    ("train.clip", [0.01], [0]),
    ("search.learning_rate", ["[1]"], ["[0]", "[1.01]", "[]"]),
    ("search.seeds", ["[-1]"], ["[]"]),
    ("limits.max_usd", [0.01], [0]),
    ("limits.max_failed_fraction", [0, 1], [-0.01, 1.01]),
    ("cluster.gpus_per_replica", [0], [-0.01]),
    ("cluster.cpus_per_replica", [0.01], [0]),
    ("cluster.gpus_per_worker", [0], [-0.01]),
    ("cluster.cpus_per_worker", [0.01], [0]),
    ("cluster.train_state_every", [0], [-1]),
    ("cluster.stall_seconds", [0.01], [0]),
    ("report.confidence", [0.51, 0.99], [0.5, 1]),
]


@pytest.mark.parametrize(("setting", "accepted", "refused"), BOUNDS, ids=[row[0] for row in BOUNDS])
def test_the_bounds_of_a_setting(write, setting, accepted, refused):
    path = write(MINIMAL + "[search]\nneighbours = [1]\n" * setting.startswith("search."))
    for value in accepted:
        job_file.read(path, ["limits.unknown_price_is_free=true", f"{setting}={value}"])
    for value in refused:
        with pytest.raises(ConfigError, match=rf"{setting}\b"):
            job_file.read(path, ["limits.unknown_price_is_free=true", f"{setting}={value}"])


def test_the_numbers_of_a_job_that_sets_none_are_those_of_earlier_versions(write):
    """They are part of a run's identity: a changed default would ask and train again."""
    job = job_file.read(write(MINIMAL)).model_dump()
    numbers = {
        section: {name: value for name, value in job[section].items() if type(value) in (int, float)}
        for section in ("target", "evaluate", "contrast", "instructor", "curate", "train", "limits", "cluster")
    }
    assert (job["seed"], job["iterations"]) == (0, 3)
    assert numbers == {
        "target": {"max_new_tokens": 1024, "tensor_parallel": 1},
        "evaluate": {},
        "contrast": {"neighbours": 3},
        "instructor": {"tensor_parallel": 1, "temperature": 0.8, "max_tokens": 4096, "timeout": 120.0},
        "curate": {"samples_per_dataset": 3000, "rehearse": 0},
        "train": {
            "learning_rate": 5e-6, "learning_rate_decay": 0.5, "epochs": 1, "sequences_per_step": 32,
            "sequences_per_device": 1, "max_length": 1024, "warmup_steps": 100, "weight_decay": 0.0, "clip": 1.0,
            "zero_stage": 2, "replay": 0, "replay_weight": 1.0,
        },
        "limits": {
            "requests_per_minute": 500, "tokens_per_minute": 300_000, "max_in_flight": 64, "max_failed_fraction": 0.05,
        },
        "cluster": {
            "target_replicas": 1, "gpus_per_replica": 1, "cpus_per_replica": 1, "train_workers": 1,
            "gpus_per_worker": 1, "cpus_per_worker": 1, "instructor_workers": 2, "instructor_replicas": 1,
            "train_state_every": 0, "stall_seconds": 600,
        },
    }  # fmt: skip


def test_the_folder_of_a_jobs_own_prompts_is_beside_the_file_that_names_it(write, tmp_path):
    (tmp_path / "below").mkdir()
    write(MINIMAL.replace("[instructor]", '[instructor]\nprompts = "mine"'), "base.toml")
    above = write('extends = "../base.toml"\n', "below/job.toml")
    assert job_file.prompts_folder(write(MINIMAL)) == ""
    assert Path(job_file.prompts_folder(above)).resolve() == tmp_path / "mine"
    assert job_file.prompts_folder(above, ["instructor.prompts=elsewhere"]) == "elsewhere"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (['target.engine="recorded"'], r"target\.attempts"),
        (['target.attempts={word_problems = "a"}'], r"target\.engine"),
        (['target.engine="recorded"', 'target.attempts={mmlu = "a"}'], r"mmlu.*word_problems"),
        (['target.engine="recorded"', 'target.attempts={word_problems = "a"}', "search.neighbours=[1]"], r"\[search\]"),
        (["schedule.strategy=[]"], r"schedule\.strategy"),
        (["search.neighbours=[1]", "search.metric=mmlu"], r"search\.metric.*mmlu.*word_problems"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(write, overrides, named):
    with pytest.raises(ConfigError, match=named):
        job_file.read(write(MINIMAL), overrides)


@pytest.mark.parametrize(
    ("overrides", "until", "named"),
    [
        ([], None, None),
        ([], "train", None),
        ([], "iteration_2/train", None),
        ([], "iteration_3/evaluate", None),
        ([], "iteration_3/train", "iterations 0 to 2"),
        ([], "iteration_4/evaluate", "iterations 0 to 3"),
        ([], "search", "search"),
        (["iterations=1"], "iteration_1/train", "iteration 0 only"),
        (["iterations=0"], "evaluate", None),
        (["iterations=0"], "train", "iterations = 0"),
        (["iterations=0"], "iteration_0/train", "no iteration"),
        (["search.neighbours=[1]"], "search", None),
        (["search.neighbours=[1]"], "train", "search"),
    ],
)
def test_a_run_stops_only_after_a_stage_that_it_has(write, overrides, until, named):
    job = job_file.read(write(MINIMAL), overrides)
    if named is None:
        job_file.check_until(job, until)
    else:
        with pytest.raises(ConfigError, match=f"--until {until}: .*{named}"):
            job_file.check_until(job, until)
