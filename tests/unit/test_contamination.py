"""Near-copies: ROUGE-L is exact, copies are found, and original samples are not taken for copies."""

from __future__ import annotations

import gzip
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from lai_ray.cli import contamination
from lai_ray.cli import run as cli_run
from lai_ray.common import plugins
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Problem, Sample, Turn
from lai_ray.stages.curation import evaluation_sets, rouge
from lai_ray.stages.curation.contamination import INSIDE, OVERLAP, SAME, EvaluationSets, frame
from lai_ray.stages.curation.duplicates import Kept, fingerprint
from lai_ray.stages.curation.nearness import Nearness, distribution
from lai_ray.stages.curation.rouge import References, code_of, coded, rouge_l
from lai_ray.stages.curation.words import normalised, options, words
from lai_ray.stages.job import Job
from lai_ray.stages.select import Part
from lai_ray.storage.store import View
from tests.conftest import lai
from tests.local import LocalExecutor, job

LONG = (
    "A baker in Lyon fills twelve trays with eighteen rolls each before sunrise and sells two thirds of them to the "
    "hotel across the square. How many rolls are left for the market?"
)
SHORT = "What is the capital of Peru?"


def problem(question: str, choices: dict[str, str] | None = None, id: str = "p") -> Problem:
    return Problem(id, "b", "test", question, "", {"choices": choices} if choices else {})


def sets(*questions: Problem, **more: object) -> EvaluationSets:
    return EvaluationSets.of({"b.test": questions}, **more)  # type: ignore[arg-type]


def lcs(one: list[str], other: list[str]) -> int:
    row = [0] * (len(other) + 1)
    for token in one:
        row = [0, *row][:1] + _next_row(row, token, other)
    return row[-1]


def _next_row(row: list[int], token: str, other: list[str]) -> list[int]:
    found = [0]
    for j, there in enumerate(other):
        found.append(row[j] + 1 if token == there else max(found[-1], row[j + 1]))
    return found[1:]


def texts(rng: random.Random, n: int) -> list[list[str]]:
    return [
        [f"w{rng.randrange(rng.choice([3, 40, 5000]))}" for _ in range(rng.choice([0, 1, 12, 64, 65, 150]))]
        for _ in range(n)
    ]


def test_rouge_l_is_the_longest_common_subsequence_over_the_mean_length():
    rng = random.Random(1)
    queries, references = texts(rng, 20), texts(rng, 25)
    code = code_of(references)
    found = rouge_l([coded(t, code) for t in queries], [coded(t, code) for t in references])
    for i, one in enumerate(queries):
        for j, other in enumerate(references):
            assert found[i, j] == pytest.approx(2 * lcs(one, other) / max(len(one) + len(other), 1), abs=1e-12)


def test_rouge_l_equals_the_rouge_score_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    rng = random.Random(2)
    queries, references = texts(rng, 200), texts(rng, 200)
    code = code_of(references)
    found = rouge_l([coded(t, code) for t in queries], [coded(t, code) for t in references]).diagonal()
    for score, one, other in zip(found, queries, references, strict=True):
        assert score == pytest.approx(scorer._score_lcs(other, one).fmeasure, abs=1e-12)


def test_more_distinct_words_than_sixteen_bits_are_still_distinguished():
    many = [[f"word{i}"] for i in range(70_000)]
    references = References.of({"s": many})
    found = list(references.nearest([["word69999"], ["word3", "word65535"], ["unknown"]]))
    assert found[0]["s"] == (1.0, 69_999)
    assert found[1]["s"] == (pytest.approx(2 / 3), 3)
    assert found[2]["s"][0] == 0.0


def test_more_distinct_words_than_there_are_characters_are_refused(monkeypatch):
    monkeypatch.setattr(rouge, "MOST", 3)
    with pytest.raises(DataError, match="5 .*3"):
        code_of([["a", "b", "c", "d", "e"]])


def test_the_nearest_is_named_the_first_of_equals_and_the_cut_into_chunks_changes_nothing(monkeypatch):
    rng = random.Random(3)
    references = References.of({"one": texts(rng, 30), "two": [["a", "b"], ["a", "b"]], "none": []})
    queries = [*texts(rng, 17), ["a", "b"], []]
    whole = list(references.nearest(queries))
    assert whole[17]["two"] == (1.0, 0)
    assert "none" not in whole[0]
    monkeypatch.setattr(rouge, "PAIRS", 64)
    asked = []

    def each(function, items):
        for item in items:
            asked.append(len(item))
            yield function(item)

    assert list(references.nearest(iter(queries), each)) == whole
    assert max(asked) == 2


def test_symbols_that_decide_between_formulas_stay_and_the_punctuation_of_prose_does_not():
    assert normalised("Solve x + 1 = 2.") != normalised("Solve x - 1 = 2.")
    assert normalised("[ ( [") != normalised("( [ (")
    assert normalised("“Well-known”,  she   SAID: 1,200!") == normalised("'well known' she said 1,200")
    assert normalised("x - 1") == normalised("x -  1") == normalised("x -1")
    assert words("A 3.5% rise, x_1 ½") == ["a", "3.5", "rise", "x", "1", "1", "2"]


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (LONG, SAME),
        (LONG.upper(), SAME),
        (" \n ".join(LONG.split()), SAME),
        (f"My teacher asked: {LONG} Explain it slowly.", INSIDE),
        (LONG.replace("market", "fair"), OVERLAP),
        (LONG.replace("twelve", "nine"), OVERLAP),
        (" ".join(reversed(LONG.split(". "))), OVERLAP),
        (SHORT.lower(), SAME),
    ],
)
def test_a_copy_is_found_with_the_question_it_copies(question, why):
    copy = sets(problem(LONG, id="b/test/00000"), problem(SHORT, id="b/test/00001")).copied(problem(question))
    assert copy is not None
    assert (copy.set, copy.question) == ("b.test", f"b/test/0000{1 if question == SHORT.lower() else 0}")
    assert copy.why == why


def test_thirteen_words_in_a_row_make_a_copy_wherever_in_the_question_they_are_and_twelve_do_not():
    asked, tokens = sets(problem(SHORT), problem(LONG, id="long")), LONG.split()
    for part in (tokens[:13], tokens[-13:], tokens[5:18]):
        copy = asked.copied(problem(f"Well then. {' '.join(part)} Or not?"))
        assert copy is not None and (copy.question, copy.why) == ("long", OVERLAP), part
        assert asked.copied(problem(f"Well then. {' '.join(part[1:])} Or not?")) is None
        assert asked.copied(problem(f"Well then. {' '.join(part[:-1])} Or not?")) is None


@pytest.mark.parametrize("question", ["What is the capital of Chile?", "Yes or no?", "", "🙂", "= ="])
def test_a_short_question_is_not_a_copy(question):
    assert sets(problem(LONG), problem(SHORT), problem("- -")).copied(problem(question)) is None


def test_the_same_stem_with_other_options_is_another_question():
    asked = sets(problem("Which is prime?", {"A": "4", "B": "5"}))
    assert asked.copied(problem("Which is prime?", {"A": "8", "B": "7"})) is None
    assert asked.copied(problem("which is  prime", {"A": "4", "B": "5"})) is not None


def test_a_question_written_down_with_its_options_is_the_same_question():
    question = problem("Which is prime?", {"A": "4", "B": "5"})
    asked = sets(question, shown={"b.test": ["Which is prime?\nA. 4\nB. 5"]})
    copy = asked.copied(problem("WHICH is prime? (A) 4 (B) 5"))
    assert copy is not None and copy.why == SAME
    assert asked.copied(problem("Which is odd? (A) 4 (B) 5")) is None


def test_a_question_written_down_with_its_options_is_named_with_its_own_set():
    question = problem("Which is prime?", {"A": "4", "B": "5"}, id="second")
    shown = {"b.test": ["Which is odd?\nA. 2\nB. 3", "Which is prime?\nA. 4\nB. 5"]}
    both = {"a.test": [problem(LONG, id="long")], "b.test": [problem("Which is odd?", {"A": "2", "B": "3"}), question]}
    copy = EvaluationSets.of(both, shown=shown).copied(problem("WHICH is prime? (A) 4 (B) 5"))
    assert copy is not None and (copy.set, copy.question) == ("b.test", "second")


def test_a_sample_without_a_question_or_without_a_text_is_not_compared():
    samples = [
        Sample("0", None, problem("q", id="kept"), [Turn("a")]),
        Sample("1", None, problem("q", id="dropped"), [Turn(" "), Turn("a")], dropped="duplicate"),
        Sample("2", None, problem(" ", id="none"), [Turn("a")]),
        Sample("3", None, problem("q", id="none"), [Turn(" ")]),
        Sample("4", None, problem("q", id="none"), []),
    ]
    assert [(p.id, kept) for p, kept in evaluation_sets.parsed(samples)] == [("kept", True), ("dropped", False)]


def test_words_that_ten_questions_share_do_not_make_a_copy_but_the_whole_question_does():
    lead_in = "Read the statement below with care and then say whether the following claim about it is true or false:"
    names = ["ants", "bees", "cats", "dogs", "elks", "foxes", "goats", "hens", "ibex", "jays", "koalas"]
    asked = sets(*(problem(f"{lead_in} {name} sleep.") for name in names))
    assert asked.copied(problem(f"{lead_in} yaks eat grass in spring.")) is None
    assert asked.copied(problem(f"Well then. {lead_in} bees sleep. Think.")) is not None


def test_a_new_combination_of_common_phrases_is_not_a_copy():
    parts = [
        "has {} boxes and puts {} more into the cellar.",
        "How many boxes are there in all, and how many are left?",
    ]
    names = ["Ann", "Ben", "Cleo", "Dan", "Eva", "Fred", "Gus", "Hal", "Ida", "Jo", "Kim", "Leo"]
    asked = sets(*(problem(f"{n} {parts[0].format(i + 3, i + 40)} {parts[1]}") for i, n in enumerate(names)))
    assert asked.copied(problem(f"Zoe {parts[0].format(5, 42)} {parts[1]}")) is None


def test_the_frame_of_a_prompt_does_not_make_a_copy():
    framed = f"Answer the question about {LONG}"
    instruction = "Answer the following question in one short sentence and give your reasons in no more than ten words."
    asked = sets(problem(f"{instruction} {LONG}"), frames=[instruction])
    assert asked.copied(problem(f"{instruction} Who wrote Hamlet?")) is None
    assert frame([f"{instruction}\n{LONG}\nA. x"], problem(LONG, {"A": "x"})) == [f"{instruction}\n", "\nA. ", ""]
    assert asked.copied(problem(framed)) is not None


def test_a_benchmark_without_a_brief_can_be_an_evaluation_set():
    class TestingOnly(type(plugins.load("benchmarks", "word_problems_plus"))):
        def brief(self):
            raise ConfigError("for testing only")

    sets = evaluation_sets.sets_of([Part(TestingOnly(), "test", None, 0)])
    assert sets.sizes == {"word_problems_plus.test": 1008}


def test_the_built_in_benchmarks_that_a_job_does_not_keep_clear_of_are_named(tmp_path):
    config = job(tmp_path, curate__keep_clear_of=["word_problems"])
    others = [name for name in plugins.available("benchmarks") if name != "word_problems"]
    assert evaluation_sets.not_checked(Job.of(config)) == others


def test_only_the_test_splits_can_be_asked():
    both = EvaluationSets.of({"b.dev": [problem(LONG, id="d")], "b.test": [problem(SHORT, id="t")]})
    assert both.only("test").copied(problem(LONG)) is None
    assert both.only("test").copied(problem(SHORT)) is not None
    assert both.only("dev").copied(problem(f"Now: {LONG}")) is not None


def test_a_near_duplicate_is_dropped_only_with_a_threshold_and_the_nearest_is_named():
    kept, lax = Kept(threshold=0.8), Kept()
    for memory in (kept, lax):
        memory.add("first", problem(LONG))
        memory.add("second", problem(LONG.replace("Lyon", "Nice").replace("hotel", "inn")))
    near = problem(LONG.replace("Lyon", "Nice").replace("hotel", "inn").replace("market", "fair"))
    twin = kept.twin(near)
    assert twin is not None and twin.id == "second" and 0.9 < twin.similarity < 1 and not twin.same
    assert lax.twin(near) is None
    assert kept.twin(problem("Something else altogether.")) is None
    same = lax.twin(problem(LONG.upper()))
    assert same is not None and same.id == "first" and same.same


def test_a_similarity_of_exactly_the_threshold_counts():
    kept = Kept(threshold=0.75)
    kept.add("first", problem("one two three four"))
    assert kept.twin(problem("one two three five")) is not None
    kept = Kept(threshold=0.76)
    kept.add("first", problem("one two three four"))
    assert kept.twin(problem("one two three five")) is None


def test_a_copied_memory_does_not_grow_with_the_other():
    kept = Kept(threshold=0.9)
    kept.add("first", problem(LONG))
    kept.copy().add("second", problem(SHORT))
    assert kept.twin(problem(SHORT)) is None
    assert kept.identity() != Kept().identity()


def test_a_distribution_counts_tenths_as_written():
    from array import array

    found = distribution(array("d", [2 * 3 / 20, 0.1 + 0.2, 1.0, 0.0]))
    assert found["tenths"] == [1, 0, 0, 2, 0, 0, 0, 0, 0, 1]
    assert distribution(array("d")) == {"n": 0}


def test_the_ten_closest_pairs_are_the_ten_closest():
    counted = Nearness()
    for i in range(100):
        counted.add(f"s{i}", {"b.test": ((i * 37 % 100) / 100, i)}, kept=i % 2 == 0)
    table = counted.table()["b.test"]
    assert [pair["rouge_l"] for pair in table["closest"]] == [x / 100 for x in range(99, 89, -1)]
    assert table["all"]["n"] == 100 and table["kept"]["n"] == 50


# The loop


def instructed(*questions: str):
    """An instructor that writes these problems first in every reply, then its own."""
    own = LocalExecutor()

    def reply(request):
        listed = "\n".join(f"1. Question: {q}\nAnswer: 1 + 1 = 2\n#### 2" for q in questions)
        return f"{listed}\n{own.reply(request)}"

    return LocalExecutor(reply=reply)


def test_a_copied_test_question_is_dropped_and_the_report_shows_the_nearness_of_the_rest(tmp_path):
    words_ = plugins.load("benchmarks", "word_problems")
    question = words_.problem(next(words_.load("test")), "test", 0)
    with_answer = f"{question.question}\nAnswer: so\n#### {question.answer}"
    executor = LocalExecutor(reply=lambda r: f"1. Question: {with_answer}\n{LocalExecutor().reply(r)}")
    run = cli_run.run_job(job(tmp_path), executor=executor).run
    stage = run.stage(0, "curate")
    dropped = [s for s in View(stage.store, "dropped.jsonl", Sample) if s.problem.question == question.question]
    assert {s.dropped for s in dropped} == {"copy of word_problems.test: same question"}
    assert dropped[0].note == question.id
    report = stage.store.get_json("contamination.json")
    assert report["copies_dropped"]["word_problems.test"] == {SAME: len(dropped)}
    table = report["rouge_l"]["word_problems.test"]
    assert table["closest"][0]["rouge_l"] == 1.0 and table["closest"][0]["question"] == question.id
    assert table["all"]["mean"] > table["kept"]["mean"] and len(table["closest"]) == 10
    funnel = stage.store.get_json("funnel.json")["word_problems"]
    assert table["kept"]["n"] == funnel["kept"] == 30
    assert table["all"]["n"] == funnel["samples"]


def test_max_rouge_l_drops_what_is_nearer_and_is_not_computed_when_unset(tmp_path, monkeypatch):
    run = cli_run.run_job(job(tmp_path, name="strict", curate__max_rouge_l=0.85), executor=LocalExecutor()).run
    table = run.stage(0, "curate").store.get_json("contamination.json")["rouge_l"]
    assert max(of_set["kept"]["max"] for of_set in table.values()) <= 0.85
    reasons = run.stage(0, "curate").store.get_json("funnel.json")["word_problems"]
    assert any(reason.startswith("too near to word_problems") for reason in reasons)

    def never(*_):
        raise AssertionError("ROUGE-L was computed although max_rouge_l is not set")

    monkeypatch.setattr(EvaluationSets, "nearest", never)
    cli_run.run_job(job(tmp_path, name="lax"), executor=LocalExecutor())


def test_a_sample_of_an_earlier_iteration_is_not_learned_twice(tmp_path):
    same = "Tom has 1 egg and finds 1 more under the red hen. How many eggs has Tom?"
    run = cli_run.run_job(job(tmp_path, iterations=2), executor=instructed(same)).run
    first = [s for s in View(run.stage(0, "curate").store, "samples.jsonl", Sample) if s.problem.question == same]
    assert len(first) == 1
    assert not [s for s in View(run.stage(1, "curate").store, "samples.jsonl", Sample) if s.problem.question == same]
    later = [s for s in View(run.stage(1, "curate").store, "dropped.jsonl", Sample) if s.problem.question == same]
    assert {(s.dropped, s.note) for s in later} == {("duplicate", f"iteration_0: {first[0].id}")}


def test_near_duplicates_are_dropped_in_seeded_order_when_asked(tmp_path):
    run = cli_run.run_job(job(tmp_path, curate__near_duplicates=0.7), executor=LocalExecutor()).run
    store = run.stage(0, "curate").store
    kept = list(View(store, "samples.jsonl", Sample))
    near = [s for s in View(store, "dropped.jsonl", Sample) if s.dropped == "near-duplicate"]
    assert near and {s.note.partition(": ROUGE-L")[0] for s in near} <= {s.id for s in kept}
    lists = [words(s.problem.question) for s in kept]
    code = code_of(lists)
    found = rouge_l([coded(t, code) for t in lists], [coded(t, code) for t in lists])
    assert max(found[i, j] for i in range(len(lists)) for j in range(i)) < 0.7


def test_a_training_problem_that_is_in_a_test_is_not_learned_from_unless_allowed(tmp_path, monkeypatch):
    from lai_ray.benchmarks.word_problems import WordProblems

    load = WordProblems.load

    def leaking(self, split):
        tests = list(load(self, "test"))[:10] if split == "train" else []
        return iter([*tests, *load(self, split)])

    monkeypatch.setattr(WordProblems, "load", leaking)
    monkeypatch.setattr("lai_ray.stages.curation.evaluation_sets._made", {})
    changes = {"evaluate__max_train_problems": None, "schedule__strategy": "untargeted"}
    run = cli_run.run_job(job(tmp_path, name="clean", **changes), until="diagnose", executor=LocalExecutor()).run
    facts = run.stage(0, "diagnose").facts()
    copies = run.stage(0, "diagnose").store.get_json("copies.json")["word_problems"]
    assert copies["word_problems/train/00000"] == "word_problems/test/00000: same question"
    assert facts["in_tests"]["word_problems"] == len(copies) >= 10
    assert facts["cases"]["word_problems"] == 3510 - len(copies)
    changes["evaluate__learn_from_copies"] = True
    run = cli_run.run_job(job(tmp_path, name="all", **changes), until="diagnose", executor=LocalExecutor()).run
    assert run.stage(0, "diagnose").facts()["cases"]["word_problems"] == 3510


# The command


def put(path, rows, *, zipped=False, lines=True):
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "zipped", "lines"), [("s.jsonl", False, True), ("s.json", False, False), ("s.jsonl.gz", True, False)]
)
def test_any_file_of_questions_is_read(tmp_path, name, zipped, lines):
    rows = [{"question": SHORT, "response": "Lima"}, {"question": "Which?", "A": "1", "B": "2"}]
    found = contamination.read(put(tmp_path / name, rows, zipped=zipped, lines=lines))
    assert [p.question for p in found] == [SHORT, "Which?"]
    assert found[1].extra == {"choices": {"A": "1", "B": "2"}}


def test_a_runs_own_samples_are_read_as_the_problems_they_are(tmp_path):
    run = cli_run.run_job(job(tmp_path), executor=LocalExecutor()).run
    path = tmp_path / "small/iteration_0/curate/samples.jsonl"
    assert [p.id for p in contamination.read(path)] == [
        s.problem.id for s in View(run.stage(0, "curate").store, "samples.jsonl", Sample)
    ]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ('{"text": "x"}', DataError, r"s\.jsonl:1: .*question, .* text"),
        ('{"question": "x"}\n{"quest', DataError, r"s\.jsonl:2: .*JSON"),
        ("", DataError, r"s\.jsonl .*no samples"),
        ('{"problem": {"id": 3}}', DataError, r"s\.jsonl:1: .*`problem`"),
        ('["x"]', DataError, "object"),
    ],
)
def test_a_file_without_samples_is_refused_with_the_line(tmp_path, content, error, message):
    path = tmp_path / "s.jsonl"
    path.write_text(content)
    with pytest.raises(error, match=message):
        contamination.read(path)


def test_the_command_writes_copies_and_the_distribution(tmp_path):
    test = next(plugins.load("benchmarks", "word_problems").load("test"))["question"]
    samples = put(tmp_path / "s.jsonl", [{"question": test}, {"question": SHORT}, {"question": " "}])
    done = lai("contamination", str(samples), "--against", "word_problems", "--out", str(tmp_path / "c.json"))
    assert done.returncode == 0, done.stderr
    assert "word_problems.test" in done.stdout and "1 of 2 samples" in done.stdout
    report = json.loads((tmp_path / "c.json").read_text())
    assert [(c["sample"], c["why"]) for c in report["copied"]] == [("row 0", SAME)]
    assert report["without_question"] == 1
    assert report["rouge_l"]["word_problems.test"]["all"]["n"] == 2


@pytest.mark.parametrize(
    ("against", "data", "message"),
    [
        (["gsm8"], {}, "benchmark.*'gsm8'"),
        ([""], {}, "--against.*gsm8k"),
        (["word_problems"], {"mmlu": "x"}, "--data mmlu"),
        (["word_problems"], {"word_problems": "x"}, "--data word_problems"),
        (["gsm8k"], {"gsm8k": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_a_set_that_cannot_be_loaded_is_refused(against, data, message):
    with pytest.raises(ConfigError, match=message):
        contamination.evaluation_sets(against, data)


def test_an_out_file_in_a_missing_folder_and_a_malformed_data_option_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--out .*none"):
        contamination.check_file(tmp_path / "s.jsonl", ["word_problems"], data={}, out=tmp_path / "none" / "c.json")
    with pytest.raises(ConfigError, match="'gsm8k'.*name=FOLDER"):
        contamination.folders(["gsm8k"])
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        contamination.read(tmp_path / "none.jsonl")


def test_texts_with_lone_surrogates_have_fingerprints():
    assert fingerprint(problem("\ud800")) == fingerprint(problem("\ud800"))
    assert sets(problem("\ud800 x")).copied(problem("\ud800 y")) is None


# Real data


DATA = Path(os.environ.get("LAI_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="LAI_TEST_DATA names no folder of upstream files")


def real(name: str, folder: str, split: str) -> list[Problem]:
    return list(Part(replace(plugins.load("benchmarks", name), source=str(DATA / folder)), split, None, 0))


@needs_data
def test_all_32_mmlu_dev_and_val_questions_that_are_in_its_test_are_found():
    tests, train = real("mmlu", "mmlu/lai", "test"), real("mmlu", "mmlu/lai", "train")
    found = EvaluationSets.of({"mmlu.test": tests})
    same = {p.id for p in train if (copy := found.copied(p)) and copy.why == SAME}
    equal = {(p.question, *options(p)) for p in tests}
    raw = {p.id for p in train if (p.question, *options(p)) in equal}
    assert len(raw) == 32 and raw < same and len(same) == 33


@needs_data
def test_table_5_of_the_paper_is_reproduced_within_a_point_on_the_real_samples():
    path = DATA / "lai_generated_train/mistral_LaI_LEC_raw_k_2_train_4000.jsonl.gz"
    folders = {"gsm8k": "gsm8k/openai", "gsm_plus": "gsm_plus/lai"}
    report = contamination.check(
        contamination.read(path), list(folders), data={name: str(DATA / folder) for name, folder in folders.items()}
    )
    means = {name: 100 * of_set["all"]["mean"] for name, of_set in report["rouge_l"].items()}
    assert means == {"gsm8k.test": pytest.approx(27.7, abs=1), "gsm_plus.test": pytest.approx(26.7, abs=1)}
    assert report["samples"] == 4000
