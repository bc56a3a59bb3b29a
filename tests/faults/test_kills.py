"""A driver killed in every stage, with real vLLM and DeepSpeed: the same command finishes, with the same samples.

`make test` kills the submitted main job in instruct (tests/test_quickstart.py), and every stage without real parts
(tests/unit/test_loop.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import IN_FLIGHT, Tutor, lai, recorded, records

EVERY_STAGE = ("evaluate", "diagnose", "instruct", "curate", "train")
NEAR_TIE = 1e-3


def first_iteration(storage: Path, tutor: Tutor, name: str) -> list[str]:
    """Arguments of `lai run` for the first iteration of the main job, with a few test problems."""
    return [
        "jobs/quickstart.toml", f"storage={storage}", f"name={name}", f"instructor.base_url={tutor.base_url}",
        "iterations=1", "evaluate.max_test_problems=100", "cluster.target_replicas=1",
        f"limits.max_in_flight={IN_FLIGHT}",
    ]  # fmt: skip


@pytest.mark.soak
def test_killed_once_in_each_stage_the_same_command_finishes_with_the_same_samples(tmp_path: Path, tutor: Tutor):
    whole, run = tmp_path / "whole", tmp_path / "killed"
    undisturbed = lai("run", *first_iteration(tmp_path, tutor, "whole"))
    assert undisturbed.returncode == 0, undisturbed.stdout[-1500:] + undisturbed.stderr[-1500:]
    calls = len(tutor.requests())
    kept: set[str] = set()
    asked_before = 0
    for stage in EVERY_STAGE:
        killed = lai("run", *first_iteration(tmp_path, tutor, "killed"), MORTAL=stage)
        assert killed.returncode == -9, f"not killed in {stage}: {killed.stdout[-1500:]}{killed.stderr[-1500:]}"
        if stage == "instruct":
            kept = recorded(run / "iteration_0/instruct/answers")
            asked_before = len(tutor.requests())
    finished = lai("run", *first_iteration(tmp_path, tutor, "killed"))
    assert finished.returncode == 0, finished.stdout[-1500:] + finished.stderr[-1500:]
    assert len(list((run / "driver").glob("*.json"))) == len(EVERY_STAGE) + 1

    asked_again = [r for r in tutor.requests()[asked_before:] if r["reply_sha256"] in kept]
    assert kept, "some replies were recorded before the kill"
    assert not asked_again, "a recorded reply was asked for again"
    turned = turned_answers(whole, run)
    assert all(gap < NEAR_TIE for gap in turned), "an answer differs between the runs and is no greedy near-tie"
    if not turned:
        assert len(tutor.requests()) - calls <= calls + 2 * IN_FLIGHT
        one, other = (records(folder / "iteration_0/curate/samples.jsonl") for folder in (whole, run))
        assert one == other


def turned_answers(one: Path, other: Path) -> list[float]:
    """For each training problem that two runs of one model answered differently: the gap of the logits that decided."""
    file = "iteration_0/evaluate/attempts/word_problems.train.jsonl"
    answers = [{a["id"]: a for a in records(run / file)} for run in (one, other)]
    differing = [
        key for key in answers[0] if answers[0][key]["completion"]["text"] != answers[1][key]["completion"]["text"]
    ]
    return [
        gap(*(side[key]["completion"]["text"] for side in answers), answers[0][key]["messages"]) for key in differing
    ]


def gap(one: str, other: str, messages: list[dict[str, str]]) -> float:
    """The difference of the student's logits for the first token in which two answers part."""
    import torch
    from transformers import AutoModelForCausalLM

    from lai_ray.common.chat_template import load_tokenizer, render
    from lai_ray.world import STUDENT

    tokenizer = load_tokenizer(STUDENT)
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in (one, other)]
    same = next(i for i, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1])
    prompt = torch.tensor([render(tokenizer, messages) + texts[0][:same]])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)(prompt).logits[0, -1]
    return float((logits[texts[0][same]] - logits[texts[1][same]]).abs())
