"""The tutor made of rules: what it reads, what it writes, and how it speaks HTTP."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lai_ray.benchmarks.word_problems import BENCHMARK
from lai_ray.grading.arithmetic_check import false_statements
from lai_ray.instructor.prompts import built_in
from lai_ray.world import rules, tutor
from lai_ray.world import word_kinds as kinds

QUESTION = "Rosa had 63 cards and lost 27 of them. How many cards does Rosa have left?"
WRONG_ARITHMETIC = "63 - 27 = 46\n#### 46"
TWO_STEPS = "Ann has 48 nuts. Ben has 37 more than Ann. How many nuts do they have together?"
LARGE = "Rosa had 503 cards and lost 127 of them. How many cards does Rosa have left?"


def prompt(
    question: str, *, wrong: str | None = None, correct: tuple[str, ...] = (), n: int = 20
) -> list[dict[str, str]]:
    parts = [f"[QUESTION ANSWERED CORRECTLY]\n{text}" for text in correct] + [f"[QUESTION]\n{question}"]
    parts += [f"[WRONG ANSWER]\n{wrong}"] if wrong is not None else []
    return [
        {"role": "system", "content": "You are an instructor."},
        {"role": "user", "content": "\n\n".join([*parts, f"Write {n} new questions that help."])},
    ]


def problems(messages: list[dict[str, str]], *, seed: int = 0) -> list[kinds.WordProblem]:
    pieces = BENCHMARK.parse(rules.reply(messages, seed))
    assert all(piece.rejected is None for piece in pieces)
    found = [kinds.recognise(piece.question) for piece in pieces]
    assert all(item is not None and item.response == piece.response for item, piece in zip(found, pieces, strict=True))
    return [item for item in found if item is not None]


def step_carries(item: kinds.WordProblem, step: int = 0) -> int:
    return kinds.solve(item.kind, item.numbers)[step].carries


# --- what it reads


def variants(question: str, n: int = 20) -> list[dict[str, str]]:
    return built_in.auggpt(brief=BENCHMARK.brief(), question=question, n=n)


@pytest.mark.parametrize("question", [QUESTION, TWO_STEPS, LARGE])
def test_auggpts_request_gives_the_same_question_in_other_words(question):
    shown = kinds.recognise(question)
    written = problems(variants(question))
    assert shown is not None
    assert len(written) == 20
    assert {(item.kind, item.size) for item in written} == {(shown.kind, shown.size)}
    assert shown.wording not in {item.wording for item in written}
    assert len({item.wording for item in written}) > 1
    untargeted = problems(built_in.untargeted(brief=BENCHMARK.brief(), question=question, n=20))
    assert {item.size for item in untargeted} == set(kinds.SIZES), "untargeted asks for any of its kind"


def test_asked_to_explain_it_names_the_failed_step_before_its_problems():
    evidence = {"brief": BENCHMARK.brief(), "question": QUESTION, "n": 3, "explain": True}
    reply = rules.reply(built_in.le(wrong_answer=WRONG_ARITHMETIC, **evidence), 0)
    found = built_in.explained(reply)
    assert found.mistake == "Step 1: the right step is taken, and worked out wrongly: 63 - 27 = 36."
    assert len(BENCHMARK.parse(found.rest)) == 3
    assert rules.failure(kinds.recognise(QUESTION), WRONG_ARITHMETIC) == rules.Failure(0, "arithmetic")
    assert rules.read(built_in.le(wrong_answer=WRONG_ARITHMETIC, **evidence)).wrong_answer == WRONG_ARITHMETIC


def test_it_finds_the_failed_question_the_wrong_answer_the_correct_ones_and_the_number():
    found = rules.read(prompt(QUESTION, wrong=WRONG_ARITHMETIC, correct=(TWO_STEPS, LARGE), n=7))
    assert found is not None
    assert (found.question.kind, found.question.numbers, found.wrong_answer, found.count) == (
        "subtract",
        (63, 27),
        WRONG_ARITHMETIC,
        7,
    )
    assert [(item.kind, item.numbers) for item in found.correct] == [("together", (48, 37)), ("subtract", (503, 127))]


@pytest.mark.parametrize(
    ("question", "answer", "failed"),
    [
        (QUESTION, WRONG_ARITHMETIC, (0, "arithmetic")),
        (QUESTION, "63 + 27 = 90\n#### 90", (0, "operation")),
        (QUESTION, "27 - 63 = 36\n#### 36", (0, "operation")),
        (QUESTION, "63 - 27 = 36\n#### 63", (0, "final")),
        (QUESTION, "", (0, "operation")),
        (TWO_STEPS, "37 + 48 = 85\n48 + 85 = 123\n#### 123", (1, "arithmetic")),
        (TWO_STEPS, "48 + 37 = 85\n#### 85", (1, "operation")),
        (TWO_STEPS, "48 + 37 = 75\n48 + 75 = 123\n#### 123", (0, "arithmetic")),
    ],
)
def test_it_reads_which_step_failed(question: str, answer: str, failed: tuple[int, str]):
    item = kinds.recognise(question)
    assert item is not None
    assert rules.failure(item, answer) == rules.Failure(*failed)


def test_a_changed_prompt_is_read_as_far_as_it_goes():
    text = f"Dear tutor,\n{QUESTION}\nMy pupil failed. Please write **4** new ones."
    found = rules.read([{"role": "user", "content": text}])
    assert found is not None
    assert found.question.kind == "subtract"
    assert found.count == 4


def test_a_prompt_without_a_known_question_gets_no_samples():
    for content in ("What is the capital of France?", "", "[QUESTION]\n\n[WRONG ANSWER]\nWrite 3 new"):
        answer = rules.reply([{"role": "user", "content": content}], 0)
        assert "[QUESTION]" in answer
        assert BENCHMARK.parse(answer) == []


# --- the problems it writes


def test_from_a_wrong_answer_it_writes_the_same_kind_size_and_carries():
    made = problems(prompt(QUESTION, wrong=WRONG_ARITHMETIC))
    assert len(made) == 20
    assert {(item.kind, item.size) for item in made} == {("subtract", "small")}
    assert all(step_carries(item) >= 1 for item in made)


def test_a_wrong_operation_asks_for_no_carries():
    assert any(step_carries(item) == 0 for item in problems(prompt(QUESTION, wrong="63 + 27 = 90\n#### 90")))


def test_a_misread_questions_wording_is_used_for_more_than_a_third():
    made = problems(prompt(QUESTION, wrong="63 + 27 = 90\n#### 90"))
    assert sum(item.wording == kinds.KINDS["subtract"].wordings[0] for item in made) > 8
    assert len({item.wording for item in made}) > 1


def test_words_that_no_correct_question_has_are_kept():
    correct = "Max made 43 cups and sold 21 of them. How many cups are left?"
    made = problems(prompt(QUESTION, wrong="63 + 27 = 90\n#### 90", correct=(correct,)))
    assert {item.wording for item in made if item.kind == "subtract"} == {kinds.KINDS["subtract"].wordings[0]}


def test_without_a_wrong_answer_size_and_carries_are_at_random():
    made = problems(prompt(QUESTION))
    assert {item.kind for item in made} == {"subtract"}
    assert {item.size for item in made} == {"small", "large"}
    assert any(step_carries(item) == 0 for item in made)


def test_beside_a_correct_question_of_the_same_kind_it_keeps_what_the_failed_one_has_alone():
    correct = "Rosa had 63 cards and lost 21 of them. How many cards does Rosa have left?"
    made = problems(prompt(LARGE, wrong="503 - 127 = 386\n#### 386", correct=(correct,)))
    assert {item.size for item in made} == {"large"}
    assert {item.kind for item in made} > {"subtract"}
    assert all(step_carries(item) >= 2 for item in made if item.kind == "subtract")


def test_beside_correct_questions_of_other_kinds_the_kind_is_kept():
    made = problems(prompt(QUESTION, wrong=WRONG_ARITHMETIC, correct=(TWO_STEPS,)))
    assert {item.kind for item in made} == {"subtract"}
    assert {item.size for item in made} == {"small", "large"}


def test_every_solution_is_right_and_nothing_is_shown_held_out_or_written_twice():
    for messages in (
        prompt(QUESTION, wrong=WRONG_ARITHMETIC),
        prompt(TWO_STEPS, wrong="", correct=(QUESTION,)),
        prompt(LARGE),
    ):
        made = problems(messages)
        keys = [kinds.key(item.kind, item.numbers) for item in made]
        assert len(set(keys)) == len(keys) == 20
        assert {kinds.bucket(item.kind, item.numbers) for item in made} <= {"train", "free"}
        assert not set(keys) & {
            kinds.key("subtract", (63, 27)),
            kinds.key("together", (48, 37)),
            kinds.key("subtract", (503, 127)),
        }
        assert all(
            false_statements(item.response) == [] and item.response.endswith(f"#### {item.answer}") for item in made
        )


def test_the_same_request_repeats_and_another_seed_differs():
    messages = prompt(QUESTION, wrong=WRONG_ARITHMETIC)
    assert rules.reply(messages, 1) == rules.reply(messages, 1) != rules.reply(messages, 2)
    changed = [{"role": "system", "content": "You are a teacher."}, messages[1]]
    assert rules.reply(changed, 1) != rules.reply(messages, 1)


# --- the HTTP API


def post(base_url: str, body: Any, *, path: str = "/chat/completions") -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(base_url + path, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_it_answers_a_chat_completion_and_identifies_itself():
    with tutor.serve() as base_url:
        status, answer = post(base_url, {"model": "any", "messages": prompt(QUESTION), "seed": 3, "temperature": 0.8})
        with urllib.request.urlopen(f"{base_url}/models", timeout=10) as response:
            models = json.loads(response.read())
    choice, usage = answer["choices"][0], answer["usage"]
    assert (status, choice["finish_reason"], answer["object"]) == (200, "stop", "chat.completion")
    assert choice["message"] == {"role": "assistant", "content": rules.reply(prompt(QUESTION), 3), "refusal": None}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert answer["model"] == models["data"][0]["id"] == "lai-tutor-rules"
    assert "no language model" in answer["system_fingerprint"]


def test_max_tokens_cuts_off_with_finish_reason_length():
    answer = tutor.complete({"messages": prompt(QUESTION), "max_tokens": 10})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 10
    whole = tutor.complete({"messages": prompt(QUESTION)})["choices"][0]["message"]["content"]
    assert whole.startswith(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{", 400, "not JSON"),
        ([], 400, "JSON object"),
        ({}, 400, "at least one message"),
        ({"messages": []}, 400, "at least one message"),
        ({"messages": ["hello"]}, 400, "role"),
        ({"messages": prompt(QUESTION), "n": 2}, 400, "n must be 1"),
        ({"messages": prompt(QUESTION), "stream": True}, 400, "does not stream"),
        ({"messages": prompt(QUESTION), "max_tokens": 0}, 400, "above 0"),
        ({"messages": prompt(QUESTION), "seed": "x"}, 400, "whole number"),
    ],
)
def test_a_bad_request_is_refused_in_openais_format(body: Any, status: int, named: str):
    with tutor.serve() as base_url:
        got, answer = post(base_url, body)
    assert got == status
    assert named in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_an_unknown_address_names_the_known_one():
    with tutor.serve() as base_url:
        status, answer = post(base_url, {}, path="/completions")
    assert status == 404
    assert "POST /v1/chat/completions" in answer["error"]["message"]


def test_the_access_log_has_one_line_a_request_and_the_same_hash_for_the_same_body(tmp_path: Path):
    log = tmp_path / "access.jsonl"
    with tutor.serve(log=log) as base_url:
        for seed in (1, 1, 2):
            post(base_url, {"messages": prompt(QUESTION), "seed": seed})
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [200, 200, 200]
    assert lines[0]["sha256"] == lines[1]["sha256"] != lines[2]["sha256"]


def test_two_tutors_serve_side_by_side():
    with tutor.serve() as one, tutor.serve() as other:
        assert one != other
        assert post(other, {"messages": prompt(QUESTION)})[0] == 200


def test_a_port_in_use_is_reported_without_a_traceback(capsys: pytest.CaptureFixture[str]):
    with tutor.serve() as base_url:
        port = base_url.removesuffix("/v1").rpartition(":")[2]
        assert tutor.main(["--port", port]) == 2
    printed = capsys.readouterr().err
    assert f"Port {port} on 127.0.0.1 is in use by another lai-ray tutor" in printed
    assert "--port" in printed


def test_a_port_in_use_by_another_program_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tutor, "_is_tutor", lambda host, port: False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert tutor.main(["--port", str(taken.getsockname()[1])]) == 2
    assert "another program" in capsys.readouterr().err
