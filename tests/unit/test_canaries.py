"""An engine's log-probabilities show whether it holds the weights that a training wrote."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lai_ray.storage import canaries
from lai_ray.storage.canaries import Canary
from lai_ray.training.loop import train
from tests.tiny_model import conversations, recipe, tiny_model


def planted(moved: float, noise: float) -> tuple[list[Canary], dict[str, list[list[float]]]]:
    """Canaries of a training that moved each of 200 tokens by about so much, and what engines with the weights of
    after, of before and of another training find, with rounding."""
    chance = random.Random(0)
    before = [[-chance.expovariate(1) for _ in range(50)] for _ in range(4)]

    def near(rows: list[list[float]], spread: float) -> list[list[float]]:
        return [[value + chance.gauss(0, spread) for value in row] for row in rows]

    after = near(before, moved)
    known = [Canary(list(range(51)), *each) for each in zip(before, after, strict=True)]
    return known, {"after": near(after, noise), "before": near(before, noise), "other": near(after, 2 * moved)}


@pytest.mark.parametrize(("moved", "noise"), [(1.0, 0.06), (0.5, 0.0), (0.2, 0.03), (1e-3, 1e-6)])
def test_weights_of_before_the_training_are_a_fault_and_those_of_after_are_none(moved, noise):
    known, found = planted(moved, noise)
    assert canaries.fault(known, lambda ids: found["after"]) is None
    fault = canaries.fault(known, lambda ids: found["before"])
    assert fault and "200 tokens" in fault and "base model" in fault


def test_weights_that_are_neither_are_a_fault():
    known, found = planted(0.5, 0.0)
    assert canaries.fault(known, lambda ids: found["other"])
    assert canaries.fault(known, lambda ids: [[math.nan] * 50] * 4)


def test_a_training_that_changed_nothing_that_rounding_does_not_is_no_fault():
    known, found = planted(1e-4, 0.03)
    assert canaries.fault(known, lambda ids: found["before"]) is None


def test_a_model_without_canaries_has_no_fault(tmp_path):
    assert canaries.read(str(tmp_path)) == canaries.read("org/on-a-hub") == []
    assert canaries.fault([], lambda ids: []) is None


@pytest.mark.parametrize("stage", [2, 3])
def test_a_training_leaves_what_transformers_finds_in_both_of_its_models(tmp_path, stage):
    base, out = tiny_model(tmp_path / "base"), tmp_path / "out"
    train(recipe(base, out, zero_stage=stage), conversations(12), report=lambda *_: None, lineage={})
    known = canaries.read(str(out))
    assert len(known) == 4 and all(len(canary.ids) > 2 for canary in known)
    assert canaries.fault(known, lambda ids: found_by(out, ids)) is None
    assert canaries.fault(known, lambda ids: found_by(Path(base), ids))
    after = [value for canary in known for value in canary.after]
    assert after == pytest.approx([v for row in found_by(out, [c.ids for c in known]) for v in row], abs=1e-4)


def found_by(folder: Path, sequences: list[list[int]]) -> list[list[float]]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for ids in sequences:
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        found.append(logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist())
    return found
