"""A training objective is one file: named by import, trained with, part of the model's name; "sft" changes nothing."""

from __future__ import annotations

import json
from array import array
from dataclasses import asdict
from pathlib import Path

import pytest

from lai_ray.common import plugins
from lai_ray.config import job_file
from lai_ray.config.settings import TrainSettings
from lai_ray.errors import ConfigError, DataError
from lai_ray.training import loop
from lai_ray.training.recipe import recipe_from
from lai_ray.training.sequences import Sequences
from tests.tiny_model import conversations, recipe, tiny_model

CONSTANT = '''
"""Every target costs 2.5, whatever the model predicts."""
from lai_ray.training.objectives.sft import Sft

class Constant(Sft):
    def losses(self, logits, labels, weights):
        return 0 * logits.sum(-1) + 2.5 * weights.sign()

OBJECTIVE = Constant()
'''
UNLIKELY = '''
"""Learns what not to say: weights are negated, and a target's loss is -log(1 - p)."""
import torch
from dataclasses import replace
from lai_ray.training.objectives.sft import Sft

class Unlikelihood(Sft):
    def tokens(self, tokenizer, example, max_length):
        tokens = super().tokens(tokenizer, example, max_length)
        return replace(tokens, weights=[-weight for weight in tokens.weights])

    def losses(self, logits, labels, weights):
        chances = logits.softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)
        return weights * torch.log1p(-chances)

OBJECTIVE = Unlikelihood()
'''
TORN = """
from dataclasses import replace
from lai_ray.training.objectives.sft import Sft

class Torn(Sft):
    def tokens(self, tokenizer, example, max_length):
        return replace(super().tokens(tokenizer, example, max_length), weights=[1.0])

OBJECTIVE = Torn()
LACKING = object()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Puts a module of the user's on the path."""

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        return f"{name}:OBJECTIVE"

    return write


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def trained(model: str, out: Path, **changed: object) -> list[float]:
    loop.train(recipe(model, out, **changed), conversations(12), report=lambda step, metrics: None, lineage={})
    return losses(out)


def test_an_objective_of_the_users_is_one_file(own, tmp_path):
    model = tiny_model(tmp_path / "model")
    assert trained(model, tmp_path / "a", objective=own("own_constant", CONSTANT)) == pytest.approx([2.5] * 4)
    unlikely = trained(model, tmp_path / "b", objective=own("own_unlikely", UNLIKELY), epochs=8)
    assert all(loss > 0 for loss in unlikely) and unlikely[-1] < unlikely[0], "negative weights are targets too"
    after = trained(str(tmp_path / "b"), tmp_path / "c", epochs=1)
    assert after[0] > trained(model, tmp_path / "d", epochs=1)[0], "what it learned not to say is less likely"


def test_its_file_decides_the_models_name_and_sft_is_no_part_of_it(own, tmp_path):
    assert "objective" not in TrainSettings().identity()
    name = own("own_named", UNLIKELY)
    before = TrainSettings(objective=name).identity()["objective"]
    assert before[0] == name
    own("own_named", UNLIKELY + "# edited\n")
    assert TrainSettings(objective=name).identity()["objective"] != before


KEY_AT_E60D363 = "0452517e4f4ac41d"


def test_a_checkpoint_of_before_there_were_objectives_is_still_resumed():
    job = recipe_from({**_without_objective(), "model": "m", "out": "o"})
    sequences = Sequences(["a", "b"], [array("i", [1, 2, 3]), array("i", [4, 5])], [array("f", [0, 1, 1])] * 2, 0, 0)
    assert job.objective == "sft"
    assert loop.key_of(job, sequences, {"name": "one"}) == KEY_AT_E60D363


def _without_objective() -> dict[str, object]:
    table = asdict(recipe("m", Path("o")))
    del table["objective"]
    return table


def test_a_name_that_is_none_is_refused_before_anything_starts_with_those_there_are(own):
    from lai_ray.cli.check.names import check_names

    with pytest.raises(ConfigError, match=r"'sfft'.* Did you mean 'sft'\? There are: .*sft"):
        check_names(job_file.read(Path("jobs/quickstart.toml"), ["train.objective=sfft"]))
    own("own_torn", TORN)
    with pytest.raises(ConfigError, match=r"own_torn:LACKING.* tokens, losses"):
        plugins.load("training.objectives", "own_torn:LACKING")


def test_ids_without_a_weight_each_are_refused_with_the_example(own, tmp_path):
    with pytest.raises(DataError, match=r"tiny/train/00000: .*own_torn:OBJECTIVE .* 1 weights"):
        trained(tiny_model(tmp_path / "model"), tmp_path / "out", objective=own("own_torn", TORN))
