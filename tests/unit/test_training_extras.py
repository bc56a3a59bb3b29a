"""What stands beside a trained model: its card, its curves, and how much of a GPU it used."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lai_ray.training import mfu, model_card
from lai_ray.training.tensorboard import TensorBoardWriter

LINEAGE = {
    "name": "abc", "base": "mistralai/Mistral-7B", "iteration": 2, "learning_rate": 5e-6, "seed": 3,
    "settings": {"epochs": 1, "zero_stage": 2, "learning_rate": 1.0}, "samples": {"count": 9000, "hash": "ff|00"},
    "metrics": {"loss": 0.123456, "steps": 282.0, "truncated": 7.0, "dropped": 0.0},
}  # fmt: skip


def test_a_card_has_base_samples_settings_and_scores(tmp_path):
    (tmp_path / "lineage.json").write_text(json.dumps(LINEAGE))
    model_card.write(str(tmp_path))
    before = (tmp_path / "README.md").read_text()
    assert before.startswith("---\nlibrary_name: transformers\n")
    for row in (
        "| base | mistralai/Mistral-7B |", "| samples | 9000 |", "| truncated | 7 |", "| seed | 3 |",
        "| zero_stage | 2 |", "| loss of the last step | 0.1235 |", "| learning rate at the start | 5e-06 |",
        "| hash of the samples | ff\\|00 |",
    ):  # fmt: skip
        assert row in before
    assert "| learning_rate | 1.0 |" not in before, "the job's, which a decay may have lowered since"
    assert "Scores" not in before
    model_card.write(str(tmp_path), {"gsm8k.test": {"right": 660, "n": 1319}, "mmlu.dev": {"right": 0, "n": 0}})
    after = (tmp_path / "README.md").read_text()
    assert "| gsm8k.test | 660 of 1319 (50.0%) |" in after and "| mmlu.dev | 0 of 0 |" in after
    assert after.startswith(before.rstrip("\n"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "lineage.json"]


def test_a_card_calls_the_model_and_its_base_by_their_names(tmp_path):
    names = {"model": "mine, iteration 2", "base": "mine, iteration 1"}
    (tmp_path / "lineage.json").write_text(json.dumps(LINEAGE | {"names": names, "base": "ab" * 16}))
    model_card.write(str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "# mine, iteration 2\n" in card and "| base | mine, iteration 1 |" in card
    assert f"| identity of the base | {'ab' * 16} |" in card and f"| identity | {LINEAGE['name']} |" in card


def test_a_model_without_lineage_gets_no_card(tmp_path):
    (tmp_path / "README.md").write_text("theirs")
    model_card.write(str(tmp_path), {"gsm8k.test": {"right": 1, "n": 2}})
    model_card.write(str(tmp_path / "nowhere"))
    assert (tmp_path / "README.md").read_text() == "theirs"


def test_tensorboard_finds_each_steps_metrics_beside_the_model(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    board = TensorBoardWriter(str(tmp_path / "checkpoint"))
    for step in (5, 6):
        board(step, {"loss": 1.0 / step, "learning_rate": 0.1, "steps": 9.0})
    board.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, seen, at = file.read_bytes(), {}, 0
    while at < len(content):  # A record: its length (8 bytes), a checksum (4), the event, a checksum (4).
        length = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + length])
        seen |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        at += length + 16
    assert seen[5, "train/loss"] == pytest.approx(0.2) and seen[6, "train/loss"] == pytest.approx(1 / 6)
    assert {tag for _, tag in seen} == {"train/loss", "train/learning_rate"}


def test_a_training_without_steps_leaves_no_curves(tmp_path):
    TensorBoardWriter(str(tmp_path / "checkpoint")).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("device", "found"), [
    ("NVIDIA H100 80GB HBM3", 9.89e14), ("NVIDIA H100 PCIe", 7.56e14), ("NVIDIA A100-SXM4-80GB", 3.12e14),
    ("NVIDIA A10G", 7.0e13), ("NVIDIA L40S", 3.62e14), ("NVIDIA L4", 1.21e14), ("NVIDIA GeForce GTX 1080", None),
])  # fmt: skip
def test_a_devices_peak_is_found_by_its_name(device, found):
    assert mfu.peak(device) == found


def test_mfu_is_the_share_of_what_all_workers_could_do():
    class Parameter:
        def numel(self) -> int:
            return 500

    config = SimpleNamespace(num_hidden_layers=2, hidden_size=10)
    model = SimpleNamespace(parameters=lambda: [Parameter(), Parameter()], config=config)
    meter = mfu.meter(model, workers=4, device="NVIDIA A100")
    per_token = 6 * 1000 + 12 * 2 * 10 * 50
    found = meter.of(10**9, 2.0, length=50)
    assert found == {"tokens_per_second": 5e8, "mfu": pytest.approx(5e8 * per_token / (4 * 3.12e14))}
    assert mfu.meter(model, workers=4, device=None).of(10, 2.0, length=50) == {"tokens_per_second": 5.0}
