"""A job's own prompts: which replaces what, what is refused, and what is asked anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lai_ray.cli import run as cli_run
from lai_ray.cli.check import check
from lai_ray.cli.check.names import check_names
from lai_ray.config import job_file
from lai_ray.errors import ConfigError
from lai_ray.instructor.prompts import built_in, templates
from lai_ray.records import Reply
from lai_ray.stages.job import Job
from lai_ray.storage.run import Run
from tests.local import LocalExecutor, job

LE = """\
[system]
Teach. {brief}
[user]
Asked:
[QUESTION]
{question}

Said:
{wrong_answer}

Write {n} new problems."""
LEC = LE.replace("Asked:", "Solved:\n{correct}\n\nAsked:")
PLAIN = "[system]\n{brief}\n[user]\n{question}\nWrite {n} new problems."


def folder(where: Path, **texts: str) -> Path:
    made = where / "prompts"
    made.mkdir(exist_ok=True)
    for name, text in texts.items():
        (made / f"{name.replace('__', '.')}.txt").write_text(text)
    return made


def le(texts: dict[str, str], dataset: str = "gsm8k", **changes) -> str:
    told = {"brief": "B", "question": "Q?", "wrong_answer": "W", "n": 3} | changes
    system, user = built_in.le(**told, own=templates.own_for(texts, dataset))
    return f"{system['content']}\n--\n{user['content']}"


def test_every_built_in_prompt_can_be_replaced():
    assert set(templates.NEEDED) == set(templates.FURTHER) == set(built_in.TEXTS)


def test_the_job_replaces_a_prompt_and_its_slots_are_filled():
    assert le({"le": LE}) == "Teach. B\n--\nAsked:\n[QUESTION]\nQ?\n\nSaid:\nW\n\nWrite 3 new problems."
    assert built_in.NO_ANSWER in le({"le": LE}, wrong_answer=" ")


def test_the_prompt_for_a_dataset_comes_before_that_for_all():
    texts = {"le": LE, "le.gsm8k": LE.replace("Teach", "Count"), "le.my.data-1": LE.replace("Teach", "Read")}
    assert le(texts).startswith("Count.")
    assert le(texts, dataset="mmlu").startswith("Teach.")
    assert le(texts, dataset="my.data-1").startswith("Read.")
    assert le({"lec": LEC}) == le({}), "another kind's prompt changes nothing"


def test_braces_in_the_evidence_stay_and_so_do_doubled_ones_in_the_prompt():
    text = "{question} {0} {{n}} {brief!r} \\1 $n {"
    assert f"\n{text}\n" in le({"le": LE}, question=text)
    assert "set {n} = 3, {0}, {'a': 1}" in le({"le": LE.replace("Said:", "set {{n}} = {n}, {0}, {'a': 1}")})


def test_lec_brings_the_correct_questions_and_falls_back_on_le():
    own = templates.own_for({"le": LE, "lec": LEC}, "gsm8k")
    told = {"brief": "B", "question": "Q?", "wrong_answer": "W", "n": 3, "own": own}
    shown = built_in.lec(correct=["A?", "B?"], **told)[1]["content"]
    assert "Solved:\n[QUESTION ANSWERED CORRECTLY]\nA?\n\n[QUESTION ANSWERED CORRECTLY]\nB?\n\nAsked:" in shown
    assert built_in.lec(correct=[], **told) == built_in.le(**told)


def test_the_line_of_explain_goes_when_nothing_is_to_be_explained():
    own = {"le": LE.replace("Write {n}", "{explain}\n\nWrite {n}")}
    assert built_in.EXPLAIN in le(own, explain=True)
    assert le(own, explain=False).endswith("Said:\nW\n\nWrite 3 new problems.")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lee", LE, r"'lee'. Did you mean 'le'\? .*le, lec, untargeted, auggpt, llm2llm\."),
        ("le.gsm8", LE, r"'gsm8'. Did you mean 'gsm8k'\?"),
        ("le.", LE, "dataset .*''"),
        ("le", " \n", "is empty"),
        ("le", "Teach {brief}", r"no part.*\[system\] .*\[user\]"),
        ("le", "[system]\n{brief}", r"has \[system\];"),
        ("le", f"{LE}\n[user]\nmore", r"has \[system\] and \[user\] and \[user\];"),
        ("le", f"Hello\n{LE}", r"'Hello' .*\[system\]"),
        ("le", LE.replace("Teach. {brief}", ""), r"\[system\] .*empty"),
        ("le", LE.replace("{wrong_answer}", ""), "{wrong_answer} .*missing"),
        ("lec", LE, "{correct} .*missing"),
        ("untargeted", LE, "no slot {wrong_answer}"),
        ("le", LE + "{qestion}", r"{qestion}. Did you mean 'question'\?"),
        ("le", LE + "{x}", "twice: {{x}}"),
        ("le", LE + "{reference}", "{reference} .*instructor.show_reference = false"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused_with_what_to_do(tmp_path, name, text, message):
    with pytest.raises(ConfigError, match=rf"instructor\.prompts: {name}\.txt.*{message}"):
        check_names(job(tmp_path, instructor__prompts={name: text}))


@pytest.mark.parametrize(("setting", "slot"), [("show_reference", "reference"), ("explain", "explain")])
def test_a_setting_whose_slot_is_missing_is_refused(tmp_path, setting, slot):
    change = {f"instructor__{setting}": True, "instructor__prompts": {"le": LE, "untargeted": PLAIN}}
    with pytest.raises(ConfigError, match=rf"le\.txt: instructor\.{setting} = true .*{{{slot}}}"):
        check_names(job(tmp_path, **change))
    check_names(job(tmp_path, **change | {"instructor__prompts": {"le": f"{LE} {{{slot}}}"}}))


def test_the_folder_stands_beside_the_file_that_names_it(tmp_path, monkeypatch):
    base = tmp_path / "base"
    base.mkdir()
    folder(base, le=LE, le__gsm8k=PLAIN)
    (base / "base.toml").write_text(
        '[target]\nmodel = "m"\n[evaluate]\nlearn_from = ["gsm8k"]\n[instructor]\nmodel = "t"\nprompts = "prompts/"\n'
    )
    (tmp_path / "job.toml").write_text('extends = "base/base.toml"\n')
    assert job_file.read(tmp_path / "job.toml").instructor.prompts == {"le": LE, "le.gsm8k": PLAIN}
    monkeypatch.chdir(base)
    assert job_file.read(tmp_path / "job.toml", ["instructor.prompts=prompts"]).instructor.prompts["le"] == LE
    assert not job_file.read(tmp_path / "job.toml", ["instructor.prompts="]).instructor.prompts


def test_a_folder_that_is_not_there_or_holds_no_prompt_is_refused(tmp_path):
    made = folder(tmp_path)
    with pytest.raises(ConfigError, match=r"instructor\.prompts.*prompt.*'prompts'\?"):
        job(tmp_path, instructor__prompts=str(tmp_path / "prompt"))
    with pytest.raises(ConfigError, match=r"instructor\.prompts = .*KIND\.DATASET\.txt"):
        job(tmp_path, instructor__prompts=str(made))
    (made / "README.md").write_text("What these are.")
    (made / "le.md").write_text(LE)
    with pytest.raises(ConfigError, match=r"le\.md .*KIND\.txt"):
        job(tmp_path, instructor__prompts=str(made))
    (made / "le.md").rename(made / "le.txt")
    assert list(job(tmp_path, instructor__prompts=str(made)).instructor.prompts) == ["le"]
    (made / "lec.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"lec\.txt.*UTF-8"):
        job(tmp_path, instructor__prompts=str(made))


def test_check_prints_the_jobs_own_prompt_and_names_it_shortly(tmp_path):
    config = job(tmp_path, instructor__prompts={"lec": LEC})
    shown = dict(check.prompts(Job.of(config)))["word_problems: prompt for the instructor by strategy lec"]
    assert "Solved:\n[QUESTION ANSWERED CORRECTLY]\n" in shown
    rows = dict(tuple(row) for row in check.settings(config, whole=False).rows)
    assert rows["instructor.prompts.lec"].startswith(f"{len(LEC)} characters, ")


def test_a_changed_prompt_is_refused_and_under_another_name_re_asks_exactly_its_own_answers(tmp_path):
    small = {"schedule__strategy": ["le", "lec"], "iterations": 2, "curate__samples_per_dataset": 12}
    run = cli_run.run_job(job(tmp_path, **small), executor=LocalExecutor()).run
    with pytest.raises(ConfigError, match=r"instructor\.prompts\.lec: .*\d+ characters"):
        cli_run.run_job(job(tmp_path, **small, instructor__prompts={"lec": LEC}), executor=LocalExecutor())
    executor = LocalExecutor()
    change = small | {"name": "own", "instructor__prompts": {"lec": LEC, "untargeted": PLAIN}}
    own = cli_run.run_job(job(tmp_path, **change), executor=executor, reuse=[run.store.where]).run
    assert _replies(own, 0) == _replies(run, 0), "le is as before"
    assert executor.asked["ask"] == sum(_replies(own, 1).values())
    assert all("Solved:" in request.messages[1]["content"] for request in executor.requests["ask"])
    assert not cli_run.run_job(job(tmp_path, **change), executor=LocalExecutor()).stopped_at
    again = LocalExecutor()
    cli_run.run_job(job(tmp_path, **change), executor=again)
    assert not +again.asked


def _replies(run: Run, iteration: int) -> Counter[str]:
    return Counter(reply.id for reply in run.stage(iteration, "instruct").view("replies.jsonl", Reply))


def test_auggpt_learns_from_problems_of_any_verdict(tmp_path):
    executor = LocalExecutor()
    run = cli_run.run_job(job(tmp_path, schedule__strategy="auggpt"), executor=executor).run
    assert run.stage(0, "diagnose").facts()["cases"] == {"word_problems": 60}
    assert run.stage(0, "curate").facts()["kept"] == {"word_problems": 30}
    assert all("new variants of this question" in r.messages[1]["content"] for r in executor.requests["ask"])


@pytest.mark.parametrize("strategy", ["auggpt", "untargeted"])
def test_the_calls_of_a_strategy_that_ignores_mistakes_do_not_depend_on_the_accuracy(tmp_path, strategy):
    rows = check.calls(Job.of(job(tmp_path, schedule__strategy=strategy))).rows
    assert {tuple(row[2:5]) for row in rows} == {("60", "2", "15")}
    assert len({row[2] for row in check.calls(Job.of(job(tmp_path))).rows}) == 3
