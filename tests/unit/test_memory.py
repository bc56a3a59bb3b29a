"""What a training holds, by the arithmetic of its ZeRO stage; whether it fits; and what would."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from lai_ray.cli.check import memory as report
from lai_ray.config import job_file
from lai_ray.config.settings import TrainSettings
from lai_ray.errors import DataError
from lai_ray.training import deepspeed_engine
from lai_ray.training.memory import BUCKET, PROCESS, Plan, Room, activations, estimate, fits, remedies
from lai_ray.training.model_size import Size, size_of
from tests.conftest import lai
from tests.tiny_model import tiny_model

LLAMA_8B = Size(parameters=8_030_261_248, hidden=4096, layers=32, inner=14336, vocabulary=128256)
LLAMA_50M = Size(parameters=50_473_472, hidden=512, layers=10, inner=1536, vocabulary=16_000)
"""The model of docs/results/training.md."""
GIB = 1 << 30


def plan(*, workers: int = 1, gpu: bool = True, **changed: Any) -> Plan:
    return Plan(TrainSettings(**{"max_length": 1024} | changed), workers, gpu)


def part(of: Plan, moment: str, name: str) -> int:
    return estimate(LLAMA_8B, of).moments[moment].get(name, 0)


@pytest.mark.parametrize("tied", [False, True])
def test_headers_count_what_the_model_has(tmp_path, tied):
    folder = tiny_model(tmp_path, tied=tied)
    true = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert size_of(folder) == Size(parameters=true, hidden=32, layers=2, inner=64, vocabulary=67)


def test_buffers_and_integers_are_no_parameters(tmp_path):
    folder = tiny_model(tmp_path)
    file = f"{folder}/model.safetensors"
    tensors, before = load_file(file), size_of(folder)
    buffers = {
        "model.layers.0.attn.bias": tensors["lm_head.weight"],
        "steps": tensors["lm_head.weight"].astype("int64"),
    }
    save_file(tensors | buffers, file)
    assert size_of(folder) == before


def test_shards_are_counted_together_and_other_files_in_the_folder_not(tmp_path):
    whole = size_of(tiny_model(tmp_path / "one"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    (tmp_path / "many/adapter.safetensors").write_bytes((tmp_path / "one/model.safetensors").read_bytes())
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    assert size_of(str(tmp_path / "many")) == whole


def test_a_broken_header_or_config_is_named_with_its_file(tmp_path):
    folder = Path(tiny_model(tmp_path))
    (folder / "model.safetensors").write_bytes(b"\x10\0\0")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        size_of(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no weights in safetensors"):
        size_of(str(folder))
    for content in ("[1]", "{"):
        (folder / "config.json").write_text(content)
        with pytest.raises(DataError, match=r"config\.json"):
            size_of(str(folder))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"hidden_size": None}, "hidden_size or n_embd or d_model"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1"),
    ],
)
def test_a_config_that_lacks_something_is_refused_with_what(tmp_path, changed, named):
    folder = Path(tiny_model(tmp_path))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(DataError, match=named):
        size_of(str(folder))


def test_sizes_of_other_families_are_read(tmp_path):
    folder = Path(tiny_model(tmp_path))
    plain = size_of(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "text_config": config}))
    assert size_of(str(folder)) == plain, "a model of text and images"
    (folder / "config.json").write_text(json.dumps({"n_embd": 768, "n_layer": 12, "vocab_size": 50257}))
    assert size_of(str(folder)) == replace(plain, hidden=768, layers=12, inner=3072, vocabulary=50257), "GPT-2"
    mixture = {"moe_intermediate_size": 48, "num_experts_per_tok": 3}
    (folder / "config.json").write_text(json.dumps(config | mixture))
    assert size_of(str(folder)).inner == 144


@pytest.mark.parametrize(
    ("precision", "stage", "workers", "sequences", "length", "checkpointing", "seen"),
    [
        ("fp32", 1, 1, 4, 128, False, 1433), ("fp32", 2, 1, 4, 128, False, 1434), ("fp32", 3, 1, 4, 128, False, 1840),
        ("bf16", 1, 1, 4, 128, False, 1420), ("bf16", 2, 1, 4, 128, False, 1319), ("bf16", 3, 1, 4, 128, False, 1627),
        ("fp32", 1, 2, 4, 128, False, 1057), ("fp32", 2, 2, 4, 128, False, 1032), ("fp32", 3, 2, 4, 128, False, 1369),
        ("bf16", 1, 2, 4, 128, False, 936), ("bf16", 2, 2, 4, 128, False, 747), ("fp32", 2, 1, 8, 256, False, 2352),
        ("fp32", 2, 1, 8, 256, True, 1470),
    ],
)  # fmt: skip
def test_what_was_measured_is_within_six_percent(precision, stage, workers, sequences, length, checkpointing, seen):
    """seen: MB of a worker above its process, docs/results/training.md."""
    of = plan(
        precision=precision, zero_stage=stage, workers=workers, gpu=False, sequences_per_device=sequences,
        max_length=length, gradient_checkpointing=checkpointing,
    )  # fmt: skip
    assert (estimate(LLAMA_50M, of).total - PROCESS) / 1e6 == pytest.approx(seen, rel=0.06)


def test_each_stage_divides_what_deepspeed_divides():
    n, workers = LLAMA_8B.parameters, 8
    one, two, three = (plan(zero_stage=stage, workers=workers) for stage in (1, 2, 3))
    for each in (one, two, three):
        assert part(each, "a pass", "optimizer") == 12 * n // workers
    assert part(one, "a pass", "weights") == part(two, "a pass", "weights") == 2 * n
    assert part(three, "a pass", "weights") == 2 * n // workers
    # Stage 1 sums the whole gradients in fp32 beside bf16 ones; the others their own part of them.
    assert part(one, "a pass", "gradients") == 6 * n
    assert part(two, "a pass", "gradients") == part(three, "a pass", "gradients") == 4 * n // workers
    assert part(two, "a pass", "buckets") == 3 * 2 * BUCKET
    # No worker builds a part of the model: each loads the whole.
    assert part(three, "starting", "weights") > 2 * n


def test_fp32_holds_its_master_weights_beside_the_weights():
    n = LLAMA_8B.parameters
    assert part(plan(precision="fp32"), "the step", "weights") == 4 * n
    assert part(plan(precision="fp32"), "the step", "optimizer") == 12 * n


def test_the_bucket_is_the_engine_s():
    assert deepspeed_engine.BUCKET == BUCKET


def test_offloading_moves_the_optimizer_to_the_host():
    here, there = estimate(LLAMA_8B, plan()), estimate(LLAMA_8B, plan(offload=True))
    assert there.moments["a pass"]["optimizer"] == 0
    assert there.host >= 16 * LLAMA_8B.parameters > here.host
    assert there.total < here.total - 12 * LLAMA_8B.parameters


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all():
    plain = plan(gradient_checkpointing=False).train
    assert activations(LLAMA_8B, plan().train) < activations(LLAMA_8B, plain) / 8


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", [True, False])
def test_more_of_anything_never_needs_less_and_more_workers_never_more(gpu, precision, stage, offload):
    base = plan(gpu=gpu, precision=precision, zero_stage=stage, offload=offload, workers=2)
    need = estimate(LLAMA_8B, base).total
    for name, value in (("sequences_per_device", 2), ("max_length", 2048), ("gradient_checkpointing", False)):
        assert estimate(LLAMA_8B, base.with_({f"train.{name}": value})).total >= need
    larger = {"parameters": 9 * 10**9, "layers": 40, "hidden": 5120, "inner": 20_000, "vocabulary": 200_000}
    for name, value in larger.items():
        assert estimate(replace(LLAMA_8B, **{name: value}), base).total >= need
    assert estimate(replace(LLAMA_8B, **larger), base).total > need
    for workers in (3, 4, 8, 64):
        fewer, need = need, estimate(LLAMA_8B, replace(base, workers=workers)).total
        assert need <= fewer


def test_what_is_proposed_fits_and_is_cheapest_first():
    room = Room(80 * GIB, shared=False)
    tight = plan(gradient_checkpointing=False, sequences_per_device=8, workers=4)
    assert not fits(LLAMA_8B, tight, room)
    found = remedies(LLAMA_8B, tight, room)
    assert found[0] == {"train.gradient_checkpointing": True} and len(found) <= 3
    assert all(fits(LLAMA_8B, tight.with_(changes), room) for changes in found)


def test_of_each_setting_the_least_change_is_named():
    room = Room(80 * GIB, shared=False)
    found = remedies(LLAMA_8B, plan(), room)
    assert [list(changes) for changes in found] == [["train.offload"], ["cluster.train_workers"]]
    workers = found[1]["cluster.train_workers"]
    assert not fits(LLAMA_8B, plan(workers=workers - 1), room)


def test_where_no_change_alone_will_do_several_are_named_and_none_is_idle():
    room, tight = Room(40 * GIB, shared=False), plan(gradient_checkpointing=False, sequences_per_device=16)
    (changes,) = remedies(LLAMA_8B, tight, room)
    assert len(changes) > 1 and fits(LLAMA_8B, tight.with_(changes), room)
    for name in changes:
        assert not fits(LLAMA_8B, tight.with_({n: v for n, v in changes.items() if n != name}), room)


def test_offloading_is_not_proposed_where_the_host_has_no_room():
    room = Room(80 * GIB, shared=False, host=32 * GIB)
    assert all("train.offload" not in changes for changes in remedies(LLAMA_8B, plan(), room))


def test_workers_on_cpus_share_the_memory_so_fewer_of_them_may_fit():
    size = replace(LLAMA_50M, parameters=1_000_000_000)
    many = plan(gpu=False, workers=8, precision="fp32", max_length=256)
    assert estimate(size, many).total * 8 > 64 * GIB
    found = remedies(size, many, Room(64 * GIB, shared=True))
    assert any(changes.get("cluster.train_workers", 8) < 8 for changes in found)
    assert all("train.offload" not in changes for changes in found)


def test_what_can_never_fit_is_reported_soon():
    began = time.monotonic()
    size = replace(LLAMA_8B, layers=3000, parameters=700 * 10**9)
    assert remedies(size, plan(sequences_per_device=64, max_length=8192), Room(GIB, shared=False)) == []
    assert time.monotonic() - began < 10


QUICK = Path("jobs/quickstart.toml")


def table_of(*changed: str) -> tuple[str, str]:
    """Title, and rows and note in one."""
    (table,) = report.of(job_file.read(QUICK, list(changed)))
    return table.title, table.markdown()


def test_check_shows_the_table():
    done = lai("check", str(QUICK))
    assert done.returncode == 0, done.stderr
    for words in ("Memory of training", "optimizer", "861,056 parameters", "It fits."):
        assert words in " ".join(done.stdout.split())


def test_a_job_that_does_not_fit_is_reported_with_what_would(monkeypatch):
    monkeypatch.setattr(report, "host_memory", lambda: 2 * GIB)
    title, text = table_of("train.sequences_per_device=512")
    assert title == "Memory of training: it does not fit"
    assert "What would: train.sequences_per_device=32" in text
    monkeypatch.setattr(report, "host_memory", lambda: 1 << 20)
    assert "none of the settings tried" in table_of()[1]


def test_a_name_on_the_hub_is_not_sized(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    title, text = table_of("target.model=some-owner/some-model")
    assert title == "Memory of training"
    assert "some-owner/some-model is a name on the hub and not on this machine" in text


def test_a_job_without_training_has_no_table():
    assert report.of(job_file.read(QUICK, ["iterations=0"])) == []


def test_gpus_are_asked_for_their_memory_and_assumed_where_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no GPU here; one of 80 GiB is assumed" in table_of("cluster.gpus_per_worker=1")[1]
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 24576\necho 40960\n")
    smi.chmod(0o755)
    assert report.gpu_memories() == [24 * GIB, 40 * GIB]
    text = table_of("cluster.gpus_per_worker=0.5", "cluster.train_workers=1")[1]
    assert "available: 12.0 GiB (0.5 of the smallest of 2 GPUs of this machine)" in text
    smi.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert report.gpu_memories() == []
