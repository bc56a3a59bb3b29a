"""Ray Data over engine actors: every request is answered once, on two CPUs, whatever dies."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import ray
import torch

from lai_ray.common.chat_template import load_tokenizer, render
from lai_ray.config.settings import ClusterSettings, TargetSettings
from lai_ray.contracts import Model
from lai_ray.distributed.generation.generate import BLOCKS_ON_CPU, ROWS, generate
from lai_ray.distributed.generation.living_engines import keeper
from lai_ray.errors import ConfigError, DataError, StageError
from lai_ray.records import Answer, Completion, Request
from lai_ray.storage import canaries
from lai_ray.storage.canaries import Canary
from tests.ray.conftest import STUDENT

MODEL = Model(path="nowhere", identity="scripted")
SETTINGS = TargetSettings(engine="scripted", model="toy")
TWO = ClusterSettings(target_replicas=2, gpus_per_replica=0, cpus_per_replica=0.9, stall_seconds=120)


def request(i: int, text: str = "", **settings: object) -> Request:
    messages = [{"role": "user", "content": f"{i} plus 1 {text}"}]
    return Request(id=f"q{i}#0", key=f"key{i}", messages=messages, **({"max_tokens": 16} | settings))


def run(requests, cluster=TWO, settings=SETTINGS, model=MODEL, logs=None, processes=None) -> dict[str, Answer]:
    """In processes that end with this call, where none are given."""
    kept = processes or keeper(uuid4().hex)
    answers = list(generate(iter(requests), model, settings=settings, cluster=cluster, logs=logs, processes=kept))
    assert max(Counter(a.key for a in answers).values(), default=1) == 1
    return {a.key: a for a in answers}


def engines_started(logs: str, line: str = "engine ready") -> int:
    return sum(path.read_text().count(line) for path in Path(logs).glob("engine-*.log"))


def test_processes_are_kept_engines_only_for_the_same_model_and_a_training_gets_their_memory(logs):
    processes, one = keeper(uuid4().hex), TWO.model_copy(update={"target_replicas": 1})
    for model, ready, kept in (("first", 1, 0), ("first", 1, 1), ("second", 2, 1)):
        run([request(1)], one, model=Model("nowhere", model), logs=logs, processes=processes)
        assert (engines_started(logs), engines_started(logs, "engine kept")) == (ready, kept)
    ray.get(processes.rest.remote())
    run([request(1)], one, model=Model("nowhere", "second"), logs=logs, processes=processes)
    assert engines_started(logs) == 3, "closed for the training, and built anew"
    assert engines_started(logs, "engine process started") == 1


def test_a_process_killed_between_two_generations_is_replaced(logs):
    import os
    import signal

    processes, one = keeper(uuid4().hex), TWO.model_copy(update={"target_replicas": 1})
    run([request(1)], cluster=one, logs=logs, processes=processes)
    (first,) = Path(logs).glob("engine-*.log")
    os.kill(int(re.search(r"\d+", first.name)[0]), signal.SIGKILL)
    assert run([request(2)], cluster=one, logs=logs, processes=processes)["key2"].completion.error is None
    assert engines_started(logs, "engine process started") == 2


def test_after_an_abandoned_generation_no_process_goes_on_with_it(logs):
    processes, one = keeper(uuid4().hex), TWO.model_copy(update={"target_replicas": 1})
    slow = [request(i, "sleep 60" if i == 2 * ROWS - 1 else "") for i in range(2 * ROWS)]
    stream = generate(iter(slow), MODEL, settings=SETTINGS, cluster=one, logs=logs, processes=processes)
    next(stream)
    stream.close()
    began = time.monotonic()
    assert len(run([request(1)], cluster=one, logs=logs, processes=processes)) == 1
    assert time.monotonic() - began < 45, "it did not wait for the request that was abandoned"
    assert engines_started(logs, "engine process started") == 2


def test_without_kept_processes_each_replica_has_its_own_engine(logs):
    answers = list(generate(map(request, range(ROWS)), MODEL, settings=SETTINGS, cluster=TWO, logs=logs))
    assert len(answers) == ROWS and engines_started(logs) >= 1
    assert engines_started(logs, "engine process started") == 0


def test_every_request_is_answered_once_by_two_replicas_on_two_cpus(logs):
    n = (BLOCKS_ON_CPU + 1) * ROWS + 3
    # The first blocks are slow, so that the replica that starts first is busy until the other has started.
    slow = range(0, BLOCKS_ON_CPU * ROWS, ROWS)
    answers = run((request(i, "sleep 6" if i in slow else "") for i in range(n)), logs=logs)
    assert {key: a.completion.text for key, a in answers.items()} == {
        f"key{i}": f"The answer is {i + (7 if i in slow else 1)}." for i in range(n)
    }
    assert answers["key7"].id == "q7#0"
    assert engines_started(logs) == 2


def test_no_requests_start_no_engine(logs):
    assert run([], logs=logs) == {}
    assert engines_started(logs) == 0


def test_errors_counts_finish_reasons_and_unusual_text_arrive_unchanged():
    unusual = request(2, "“ñ” 你好 \U0001f600\n\t\0", seed=2**64 - 1, temperature=0.7)
    answers = run([request(1, max_tokens=2), unusual, request(3, "refuse this"), request(4)])
    assert (answers["key1"].completion.finish_reason, answers["key1"].completion.completion_tokens) == ("length", 2)
    assert (answers["key2"].completion.finish_reason, answers["key2"].completion.text) == ("stop", "The answer is 3.")
    assert "refuse" in answers["key3"].completion.error
    assert answers["key1"].completion.error is None
    assert answers["key4"].completion.text == "The answer is 5."


def test_a_request_that_crashes_its_engines_gets_an_error_and_all_others_an_answer(tmp_path, logs):
    n, crashes, raises, crashes_once = 6 * ROWS, 2 * ROWS + 77, 5 * ROWS, 3 * ROWS + 5
    mark = tmp_path / "crashed"
    bad = {crashes: "crash always", raises: "stumble", crashes_once: f"crash unless {mark}"}
    answers = run((request(i, bad.get(i, "")) for i in range(n)), logs=logs)
    errors = {key: a.completion.error for key, a in answers.items() if a.completion.error}
    assert mark.exists()
    assert set(errors) == {f"key{crashes}", f"key{raises}"}
    assert "RuntimeError" in errors[f"key{raises}"], "the engine's own error"
    texts = {key: a.completion.text for key, a in answers.items()}
    assert all(texts[f"key{i}"] == f"The answer is {i + 1}." for i in range(n) if i not in bad)
    # For each of the two: with others, alone, as a piece, as a request.
    assert engines_started(logs) <= 2 + 2 * 4 + 1


def test_an_engine_that_dies_on_everything_ends_the_stage_soon(logs):
    one = TWO.model_copy(update={"target_replicas": 1})
    with pytest.raises(StageError, match="an engine died 5 times .*, the last time on q"):
        run([request(i, "crash always") for i in range(2 * ROWS)], cluster=one, logs=logs)
    assert engines_started(logs) == 6


def test_answers_arrive_before_the_last_request_is_answered():
    slow = [request(i, "sleep 5" if i == 0 else "") for i in range(4 * ROWS)]
    kept = keeper(uuid4().hex)
    first = next(iter(generate(iter(slow), MODEL, settings=SETTINGS, cluster=TWO, logs=None, processes=kept)))
    assert first.key != "key0"


def test_an_engines_own_error_is_raised_unchanged():
    with pytest.raises(DataError, match="fault: break"):
        run([request(1), request(2, "break the engine")])


def test_an_engine_that_cannot_start_is_an_error_and_is_not_started_again(logs):
    with pytest.raises(ConfigError, match="no_such_module"):
        run([request(1)], settings=TargetSettings(engine="scripted", model="no_such_module:f"), logs=logs)
    assert len(list(Path(logs).glob("engine-*.log"))) <= 2


def test_replicas_that_cannot_be_placed_are_an_error_with_what_is_wanted_and_what_is_there():
    too_large = TWO.model_copy(update={"cpus_per_replica": 3.0, "gpus_per_replica": 1.0, "stall_seconds": 5.0})
    with pytest.raises(StageError, match=r"3 CPU, 1 GPU; the cluster has 2 CPU, 0 GPU"):
        run([request(1)], cluster=too_large)


def test_an_engine_that_hangs_is_an_error_with_the_progress_so_far():
    stuck = [request(i, "sleep 300" if i == 4 * ROWS - 1 else "") for i in range(4 * ROWS)]
    impatient = TWO.model_copy(update={"stall_seconds": 8.0})
    answered, message = set(), ""
    kept = keeper(uuid4().hex)  # Its process is killed, and a replica of its own would keep its CPU for 300 s.
    try:  # Not pytest.raises, which keeps the error and what that holds.
        for answer in generate(iter(stuck), MODEL, settings=SETTINGS, cluster=impatient, logs=None, processes=kept):
            answered.add(answer.key)
    except StageError as error:
        message = str(error)
    assert f"no progress for 8 s, after {len(answered)} results" in message
    assert f"key{4 * ROWS - 1}" not in answered


@pytest.mark.skipif(not (STUDENT / "config.json").is_file(), reason="no student in lai_ray/world/student")
def test_real_engines_give_the_students_greedy_answers_even_when_one_is_killed(tmp_path, logs):
    """One test for all that needs vLLM, since an engine's start is most of its time.

    "The same answers as undisturbed" is asked of the model itself: under transformers, each token of each answer must
    be the most likely one, or tied with it to within what float32 sums in another order can turn.
    """
    import os
    import signal

    settings = TargetSettings(engine="vllm", model=str(STUDENT), max_model_len=256)
    model = Model(path=str(STUDENT), identity="student")
    asked = [request(i, "apples?", max_tokens=24) for i in range(4 * ROWS)]
    asked[5] = request(5, "apples " * 600)
    # With a seed, as an instructor is asked, and more than one step can read: vLLM must not cut such a prompt in parts.
    asked += [request(i, "apples " * 90, max_tokens=4, temperature=0.8, seed=i) for i in range(5 * ROWS, 6 * ROWS)]
    answers, killed, processes = {}, False, keeper(uuid4().hex)
    for answer in generate(iter(asked), model, settings=settings, cluster=TWO, logs=logs, processes=processes):
        answers[answer.key] = answer.completion
        if not killed:
            killed = True
            victim = next(Path(logs).glob("engine-*.log"))
            os.kill(int(re.search(r"\d+", victim.name)[0]), signal.SIGKILL)
    assert len(answers) == len(asked)
    assert "maximum context length" in answers.pop("key5").error
    assert all(c.error is None and c.prompt_tokens and c.completion_tokens and c.text for c in answers.values())
    assert {c.finish_reason for c in answers.values()} <= {"stop", "length"}
    gaps = [short_of_greedy(r, answers[r.key]) for r in asked if r.key in answers and not r.temperature]
    assert max(gaps) < NEAR_TIE
    assert sum(gap > 0 for gap in gaps) < len(gaps) / 50

    # A model whose folder holds other weights than its training wrote there is refused by an engine that is alive.
    for i, stale in enumerate((False, True)):
        other = Model(path=str(trained(tmp_path / f"{i}", stale=stale)), identity=f"trained {i}")
        one = TWO.model_copy(update={"target_replicas": 1})
        if stale:
            with pytest.raises(DataError, match="does not answer with the weights of this training"):
                run(asked[:1], one, settings, other, logs, processes)
        else:
            assert run(asked[:1], one, settings, other, logs, processes)["key0"] == Answer(
                "q0#0", "key0", answers["key0"]
            )
    assert engines_started(logs, "engine refused") == 2


def trained(folder: Path, *, stale: bool) -> Path:
    """The student, as if by a training that moved it here. stale: or away from here."""
    shutil.copytree(STUDENT, folder)
    tokenizer, model = student()
    ids = tokenizer("12 apples and 30 apples are 42 apples.", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    here = logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    other = [value - 0.2 for value in here]
    canaries.write(folder, [Canary(ids, *((here, other) if stale else (other, here)))])
    return folder


NEAR_TIE = 1e-3


def short_of_greedy(asked: Request, completion: Completion) -> float:
    """How far, in logits, the student's answer ever falls short of its most likely token."""
    tokenizer, model = student()
    prompt = render(tokenizer, asked.messages)
    answer = tokenizer(completion.text, add_special_tokens=False)["input_ids"]
    answer += [tokenizer.eos_token_id] * (completion.finish_reason == "stop")
    assert len(answer) == completion.completion_tokens
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
    return float((logits.max(1).values - chosen).max())


@cache
def student() -> Any:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return load_tokenizer(str(STUDENT)), AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
