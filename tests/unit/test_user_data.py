"""A user's own data from a [[benchmark]] table: five kinds, trained on without code, and errors for faulty data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import pytest

from lai_ray.benchmark_kinds.rows import hub_rows
from lai_ray.benchmark_kinds.user_data import user_benchmark
from lai_ray.cli import run as cli_run
from lai_ray.config import config
from lai_ray.config.settings import BenchmarkSettings
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Answer, Case, Completion, Sample
from lai_ray.report import sections
from lai_ray.stages.job import Job
from lai_ray.stages.select import select
from lai_ray.storage.store import View
from tests.local import LocalExecutor, job

REVIEWS = [
    {"text": f"The {thing} was {word}.", "sentiment": label, "shop": shop}
    for thing in ("soup", "tea", "cake", "staff", "music", "light", "bread", "chair")
    for word, label in (("lovely", "positive"), ("dreadful", "negative"), ("there", "neutral"))
    for shop in ("north", "south")
]
TOWNS = [("France", "Paris"), ("Peru", "Lima"), ("Chad", "N'Djamena"), ("Fiji", "Suva")]
CAPITALS = [{"question": f"What is the capital of {land}?", "answer": town} for land, town in TOWNS]
SUMS = [{"q": f"What is {i} and {i}?", "n": 2 * i} for i in range(6)]
QUIZ = [
    {"q": f"Which is number {i}?", "one": f"first {i}", "two": f"second {i}", "right": "AB"[i % 2]} for i in range(6)
]
CODE = [
    {
        "task": f"Add {i} to a number.",
        "solution": f"def add(n):\n    return n + {i}",
        "asserts": [f"assert add(1) == {i + 1}", f"assert add(0) == {i}"],
    }
    for i in range(3)
]


def written(folder: Path, name: str, rows: list[dict]) -> str:
    path = folder / name
    if name.endswith(".csv"):
        header = list(rows[0])
        lines = [",".join(header), *(",".join(f'"{row[key]}"' for key in header) for row in rows)]
        path.write_text("\n".join(lines))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def benchmark(tmp_path: Path, rows: list[dict], kind: str, name: str = "rows.jsonl", **settings):
    path = written(tmp_path, name, rows)
    return user_benchmark(BenchmarkSettings(name="mine", kind=kind, train=path, **settings))


KINDS = [
    ("label", REVIEWS, {"question": "text", "answer": "sentiment", "subject": "shop"}),
    ("exact", CAPITALS, {}),
    ("number", SUMS, {"question": "q", "answer": "n"}),
    ("choice", QUIZ, {"question": "q", "answer": "right", "choices": ["one", "two"]}),
    ("code", CODE, {"question": "task", "answer": "solution", "tests": "asserts"}),
]


@pytest.mark.parametrize(("kind", "rows", "settings"), KINDS)
def test_references_are_right_and_absurd_answers_are_wrong(tmp_path, kind, rows, settings):
    mine = benchmark(tmp_path, rows, kind, **settings)
    problems = [mine.problem(record, "train", i) for i, record in enumerate(mine.load("train"))]
    assert len({problem.id for problem in problems}) == len(rows)
    for problem in problems:
        assert mine.grade(problem, mine.reference(problem)).score == 1.0
        assert mine.prompt(problem)[0]["content"]
        assert mine.group(problem)
    for absurd in ("", "\U0001f642", "Answer:", "#### x", "x" * 100_000):
        assert mine.grade(problems[0], absurd).score == 0.0


@pytest.mark.parametrize(("kind", "rows", "settings"), KINDS)
def test_a_reply_in_the_requested_form_is_parsed(tmp_path, kind, rows, settings):
    mine = benchmark(tmp_path, rows, kind, **settings)
    problems = [mine.problem(record, "train", i) for i, record in enumerate(mine.load("train"))][:3]
    tests = [f"\nTests:\n{p.extra['test']}" if kind == "code" else "" for p in problems]
    reply = "\n\n".join(
        f"{i}. Question: {mine.show(p)}\nAnswer: {mine.reference(p).removeprefix('Answer: ')}{t}"
        for i, (p, t) in enumerate(zip(problems, tests, strict=True), 1)
    )
    pieces = mine.parse(f"Here they are:\n\n{reply}")
    assert [piece.rejected for piece in pieces] == [None] * 3
    assert [piece.answer for piece in pieces] == [problem.answer for problem in problems]
    assert mine.brief()


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("Answer: positive", (1.0, "positive", "answer")),
        ("**Answer:** Positive, since it was lovely and not negative.", (1.0, "positive", "answer")),
        ("The answer is: negative", (0.0, "negative", "answer")),
        ("Answer: negative\nOn reflection, answer: positive", (1.0, "positive", "answer")),
        ("I would call this positive.", (1.0, "positive", "only_label")),
        ("It may be positive or negative.", (0.0, None, "none")),
        ("positively so", (0.0, None, "none")),
    ],
)
def test_a_label_counts_where_the_model_commits_to_one(tmp_path, response, verdict):
    mine = benchmark(tmp_path, REVIEWS, "label", question="text", answer="sentiment")
    grade = mine.grade(mine.problem(REVIEWS[0], "train", 0), response)
    assert (grade.score, grade.answer, grade.rule) == verdict


@pytest.mark.parametrize(
    ("answer", "how", "letter"),
    [(2, None, "C"), (2.0, None, "C"), ("2", "place", "C"), ("2", "text", "B"), ("c", None, "C"), ("24", None, "C")],
)
def test_a_choice_is_given_by_its_index_its_letter_or_its_text(tmp_path, answer, how, letter):
    row = {"q": "What is 4!?", "choices": ["8", "2", "24", "120"], "right": answer}
    mine = benchmark(tmp_path, [row], "choice", question="q", answer="right", choices="choices", answer_as=how)
    [read] = mine.load("train")
    assert mine.problem(read, "train", 0).answer == letter


@pytest.mark.parametrize(
    ("written", "gold"),
    [
        (1e-05, "0.00001"), (1e20, "100000000000000000000"), ("1.5e3", "1500"), ("1,234.5", "1,234.5"), ("$7", "$7"),
        ("€ 7.5", "7.5"), ("50%", "50"),
        ("-3", "-3"), ("1/2", "1/2"), (0.25, "0.25"), ("2 + 3 = 5", "5"), ("so it is 12", "12"), ("1 2\n#### 3", "3"),
    ],
)  # fmt: skip
def test_a_number_is_read_in_full(tmp_path, written, gold):
    mine = benchmark(tmp_path, [{"q": "how many?", "n": written}], "number", question="q", answer="n")
    [row] = mine.load("train")
    problem = mine.problem(row, "train", 0)
    assert problem.answer == gold
    assert mine.grade(problem, mine.reference(problem)).score == 1.0


def test_the_labels_of_a_data_set_on_the_hub_have_their_names(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": ["good", "bad", "?"], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train-00000.parquet")
    mine = [row.record["label"] for row in hub_rows("mine", str(tmp_path), None, "train")]
    assert mine == ["pos", "neg", None]


CHOICE = {"kind": "choice", "question": "q", "answer": "right", "choices": ["one", "two"]}
FUNCTION = {"kind": "code", "question": "task", "answer": "solution", "tests": "asserts"}
LABEL = {"kind": "label", "question": "text", "answer": "sentiment"}
NUMBER = {"kind": "number", "question": "q", "answer": "n"}


@pytest.mark.parametrize(
    ("rows", "settings", "error", "parts"),
    [
        (REVIEWS, LABEL | {"question": "txt"}, ConfigError, "'txt'.*'text'"),
        (REVIEWS, LABEL | {"question": "txt"}, ConfigError, "'txt'.*text, sentiment, shop"),
        (REVIEWS, LABEL | {"labels": ["good"]}, DataError, r"rows\.jsonl:1:.*'positive'.*labels good"),
        ([*SUMS, {"q": "", "n": 3}], NUMBER, DataError, r"rows\.jsonl:7:.*'q'.*empty"),
        ([{"q": "how many?", "n": "many"}], NUMBER, DataError, r"rows\.jsonl:1:.*'n'.*'many'"),
        ([{**QUIZ[0], "right": "E"}], CHOICE, DataError, r"rows\.jsonl:1:.*'E'.*A, B"),
        ([{**QUIZ[0], "right": "zebra"}], CHOICE, DataError, r"rows\.jsonl:1:.*'zebra'.*A, B"),
        ([QUIZ[0], {"q": "?", "right": "A"}], CHOICE, DataError, r"rows\.jsonl:2:.*'one'.*q, right"),
        ([{**QUIZ[0], "one": "1", "right": "1"}], CHOICE, DataError, "'1'.*A by its text, B by its place.*answer_as"),
        ([{**QUIZ[0], "one": "B", "right": "B"}], CHOICE, DataError, "'B'.*A by its text, B by its letter.*answer_as"),
        ([{**QUIZ[0], "right": 2}], CHOICE, DataError, r"rows\.jsonl:1:.*'2'.*A, B"),
        *(
            ([{"q": "how many?", "n": n}], NUMBER, DataError, rf"rows\.jsonl:1:.*'n'.*{re.escape(n)}.*number")
            for n in ("1 00", "1.234,5", "12:30", "10^", "3-4")
        ),
        ([{"q": "how many?", "n": float("nan")}], NUMBER, DataError, r"rows\.jsonl:1:.*'n'.*empty"),
        ([SUMS[0], {"q": [{"role": "user"}], "n": 1}], NUMBER, DataError, ":2:.*'q'.* list"),
        ([{"q": "half \ud800", "n": 1}], NUMBER, DataError, r"rows\.jsonl:1:.*'q'.*surrogate"),
        ([{**REVIEWS[0], "sentiment": "Neutral"}, *REVIEWS], LABEL, ConfigError, "mine.*'Neutral'.*'neutral'.*case"),
        ([], NUMBER, DataError, r"rows\.jsonl.*no rows"),
        ([{**CODE[0], "asserts": ["assert 1"]}], FUNCTION, DataError, r"rows\.jsonl:1:.*'asserts'"),
        (
            [{"question": f"{i}", "answer": f"a{i}"} for i in range(60)], {"kind": "label"}, ConfigError,
            "60 .*'answer'.*`labels`.*exact",
        ),
    ],
)  # fmt: skip
def test_faulty_data_is_reported_with_file_line_column_and_value(tmp_path, rows, settings, error, parts):
    faulty = benchmark(tmp_path, rows, **settings)
    with pytest.raises(error, match=parts):
        list(faulty.load("train"))


def test_a_missing_file_and_a_malformed_line_are_reported(tmp_path):
    missing = user_benchmark(BenchmarkSettings(name="mine", kind="exact", train=str(tmp_path / "nothing.jsonl")))
    with pytest.raises(ConfigError, match=r"mine.*nothing\.jsonl"):
        list(missing.load("train"))
    with pytest.raises(ConfigError, match=f"mine.*{tmp_path}.*folder"):
        list(user_benchmark(BenchmarkSettings(name="mine", kind="exact", train=str(tmp_path))).load("train"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "a", "answer": "b"}\n{"question": "\xff"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl:2:.*UTF-8"):
        list(
            user_benchmark(BenchmarkSettings(name="mine", kind="exact", train=str(tmp_path / "latin.jsonl"))).load(
                "train"
            )
        )
    (tmp_path / "broken.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": \n')
    with pytest.raises(DataError, match=r"broken\.jsonl:2:.*JSON"):
        list(
            user_benchmark(BenchmarkSettings(name="mine", kind="exact", train=str(tmp_path / "broken.jsonl"))).load(
                "train"
            )
        )


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"name": "gsm8k", "kind": "number", "train": "x"}, ("gsm8k", "built-in")),
        ({"name": "mine", "kind": "number"}, ("mine", "train", "test")),
        ({"name": "mine", "kind": "choice", "train": "x"}, ("mine", "`choices`")),
        ({"name": "mine", "kind": "code", "train": "x"}, ("mine", "`tests`")),
        ({"name": "mine", "kind": "labels", "train": "x"}, ("benchmark.0.kind",)),
        ({"name": "mine", "kind": "exact", "train": "x", "colum": "y"}, ("benchmark.0.colum",)),
    ],
)
def test_invalid_settings_are_refused(tmp_path, table, parts):
    with pytest.raises(ConfigError) as refused:
        job(tmp_path, benchmark=[table])
    assert all(part in str(refused.value) for part in parts)


def own_job(tmp_path: Path, **changes) -> config.Config:
    mine = {
        "name": "reviews", "kind": "label", "question": "text", "answer": "sentiment",
        "train": written(tmp_path, "train.csv", REVIEWS[:36]), "test": written(tmp_path, "test.jsonl", REVIEWS[36:]),
    }  # fmt: skip
    settings = {
        "benchmark": [mine], "evaluate__learn_from": ["reviews"], "evaluate__report_on": ["reviews"],
        "curate__samples_per_dataset": 8,
    }  # fmt: skip
    return job(tmp_path, **settings | changes)


class Critic(LocalExecutor):
    """A target that calls everything positive, and an instructor that writes numbered reviews."""

    def __init__(self):
        super().__init__(reply=_three_reviews)

    def generate(self, requests, target):
        for request in requests:
            self._count("generate")
            yield Answer(request.id, request.key, Completion("Answer: positive", "stop"))


def _three_reviews(request) -> str:
    return "\n".join(f"{i}. Question: Dish {request.seed} {i} was bad.\nAnswer: negative" for i in range(1, 4))


def test_le_and_lec_work_on_it_without_code(tmp_path):
    run = cli_run.run_job(own_job(tmp_path), executor=Critic()).run
    scores = run.stage(0, "evaluate").store.get_json("scores.json")
    assert (scores["reviews.test"]["right"], scores["reviews.test"]["n"]) == (4, 12)
    cases = list(View(run.stage(0, "diagnose").store, "cases.jsonl", Case))
    assert (len(cases), {len(case.contrasts) for case in cases}) == (24, {3})
    samples = list(View(run.stage(0, "curate").store, "samples.jsonl", Sample))
    assert {sample.problem.answer for sample in samples} == {"negative"}
    assert "reviews" in sections.scores(run, 0.95)[0].markdown()


def test_changed_content_of_a_file_is_another_run(tmp_path):
    settings = own_job(tmp_path)
    cli_run.run_job(settings, until="evaluate", executor=LocalExecutor())
    path = Path(settings.benchmark[0].train or "")
    path.write_text(path.read_text().replace("soup", "broth"))
    with pytest.raises(ConfigError, match=r"content\.data\.reviews"):
        cli_run.run_job(settings, until="evaluate", executor=LocalExecutor())


def test_its_splits_are_those_with_a_file(tmp_path):
    assert [part.name for part in select(Job.of(own_job(tmp_path)), 0)] == ["reviews.train", "reviews.test"]
    with pytest.raises(ConfigError, match=r"adds: reviews"):
        select(Job.of(own_job(tmp_path, evaluate__report_on=["review"])), 0)
