"""What a training holds, by the arithmetic of its ZeRO stage; whether it fits; and what would."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from lai_ray.cli.check import memory as report
from lai_ray.config import job_file
from lai_ray.config.settings import TrainSettings
from lai_ray.errors import DataError
from lai_ray.training import deepspeed_engine
from lai_ray.training.memory import BUCKET, Plan, Room, activations, estimate, fits, plan_of, remedies
from lai_ray.training.model_size import Size, counted_parameters, from_config, size_of
from tests.conftest import lai
from tests.tiny_model import tiny_model

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "hidden_act": "silu",
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024,
        "activation_function": "gelu_new"}  # fmt: skip
GIB = 1 << 30


def plan(**changed: object) -> Plan:
    table = {"precision": "bf16", "zero_stage": 2, "gradient_checkpointing": True, "sequences_per_device": 1,
             "max_length": 1024, "offload": False, "workers": 1, "gpu": True}  # fmt: skip
    return Plan(**{**table, **changed})  # type: ignore[arg-type]


def part(of: Plan, moment: str, name: str, size: Size | None = None) -> int:
    return estimate(size or from_config(LLAMA_8B), of).moments[moment].get(name, 0)


def test_known_models_have_the_parameters_that_their_makers_give():
    assert from_config(LLAMA_8B).parameters == 8_030_261_248
    assert from_config(GPT2).parameters == 124_439_808


@pytest.mark.parametrize("tied", [False, True])
def test_headers_count_what_the_model_has_and_a_tied_head_once(tmp_path, tied):
    folder = tiny_model(tmp_path, tied=tied)
    true = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert counted_parameters(folder, tied=tied) == (true, 4)
    size = size_of(folder)
    assert (size.parameters, size.exact) == (true, True)
    assert from_config(json.loads((tmp_path / "config.json").read_text())).parameters == true


def test_a_tied_head_that_is_written_beside_its_embedding_is_counted_once(tmp_path):
    folder = tiny_model(tmp_path, tied=False)
    untied, _ = counted_parameters(folder, tied=False)
    assert counted_parameters(folder, tied=True) == (untied - 32 * size_of(folder).vocabulary, 4)


def test_shards_are_counted_together_and_strangers_in_the_folder_not(tmp_path):
    whole = counted_parameters(tiny_model(tmp_path / "one"), tied=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    (tmp_path / "many/adapter.safetensors").write_bytes((tmp_path / "one/model.safetensors").read_bytes())
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    assert counted_parameters(str(tmp_path / "many"), tied=False) == whole


def test_a_broken_header_or_config_is_said_with_its_file(tmp_path):
    folder = Path(tiny_model(tmp_path))
    (folder / "model.safetensors").write_bytes(b"\x10\0\0")
    with pytest.raises(DataError, match=r"model\.safetensors: its header cannot be read"):
        size_of(str(folder))
    (folder / "config.json").write_text("[1]")
    with pytest.raises(DataError, match="config.json is no table"):
        size_of(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="config.json cannot be read"):
        size_of(str(folder))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hidden_size": None}, "no hidden_size or n_embd or d_model"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1"),
        ({"num_experts": 8}, "mixture of experts"),
    ],
)
def test_a_config_that_lacks_something_says_what(changed, said):
    with pytest.raises(DataError, match=said):
        from_config({**LLAMA_8B, **changed})


def test_a_model_of_text_and_images_has_its_sizes_inside():
    assert from_config({"model_type": "x", "text_config": LLAMA_8B}) == from_config(LLAMA_8B)


def test_each_stage_divides_what_deepspeed_divides():
    n, workers = from_config(LLAMA_8B).parameters, 8
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
    n = from_config(LLAMA_8B).parameters
    assert part(plan(precision="fp32"), "the step", "weights") == 4 * n
    assert part(plan(precision="fp32"), "the step", "optimizer") == 12 * n


def test_the_bucket_is_the_engine_s():
    assert deepspeed_engine.BUCKET == BUCKET


def test_offloading_moves_the_optimizer_to_the_host():
    size = from_config(LLAMA_8B)
    here, there = estimate(size, plan()), estimate(size, plan(offload=True))
    assert there.moments["a pass"]["optimizer"] == 0
    assert there.host_total >= 16 * size.parameters > here.host_total
    assert there.total < here.total - 12 * size.parameters


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all():
    size = from_config(LLAMA_8B)
    assert activations(size, plan()) < activations(size, plan(gradient_checkpointing=False)) / 8


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", [True, False])
def test_more_of_anything_never_needs_less_and_more_workers_never_more(gpu, precision, stage, offload):
    size = from_config(LLAMA_8B)
    base = plan(gpu=gpu, precision=precision, zero_stage=stage, offload=offload, workers=2)
    need = estimate(size, base).total
    for more in ({"sequences_per_device": 2}, {"max_length": 2048}, {"gradient_checkpointing": False}):
        assert estimate(size, replace(base, **more)).total >= need
    for larger in ({"num_hidden_layers": 40}, {"hidden_size": 5120}, {"vocab_size": 200_000}):
        assert estimate(from_config({**LLAMA_8B, **larger}), base).total > need
    for workers in (3, 4, 8, 64):
        fewer, need = need, estimate(size, replace(base, workers=workers)).total
        assert need <= fewer


def test_what_is_proposed_fits_and_is_cheapest_first():
    size, room = from_config(LLAMA_8B), Room(80 * GIB, shared=False)
    tight = plan(gradient_checkpointing=False, sequences_per_device=8, workers=4)
    assert not fits(size, tight, room)
    found = remedies(size, tight, room, may_offload=True)
    assert found
    for each in found:
        assert fits(size, each.plan, room) and each.total <= room.bytes
        assert each.total == estimate(size, each.plan).total
    assert list(found[0].changes) == ["train.gradient_checkpointing"]
    assert not any(set(found[0].changes) < set(each.changes) for each in found)


def test_the_least_number_of_workers_is_named():
    size, room = from_config(LLAMA_8B), Room(80 * GIB, shared=False)
    found = remedies(size, plan(), room, may_offload=False)
    workers = next(each for each in found if list(each.changes) == ["cluster.train_workers"]).plan.workers
    assert not fits(size, plan(workers=workers - 1), room)
    assert all("train.offload" not in each.changes for each in found)
    assert list(remedies(size, plan(), room, may_offload=True)[0].changes)[-1] == "train.offload"


def test_offloading_is_not_proposed_where_the_host_has_no_room():
    size, room = from_config(LLAMA_8B), Room(80 * GIB, shared=False, host=32 * GIB)
    assert all("train.offload" not in each.changes for each in remedies(size, plan(), room, may_offload=True))


def test_workers_on_cpus_share_the_memory_so_fewer_of_them_may_fit():
    size = replace(from_config(GPT2), parameters=1_000_000_000)
    many = plan(gpu=False, workers=8, precision="fp32", max_length=256)
    assert estimate(size, many).total * 8 > 64 * GIB
    found = remedies(size, many, Room(64 * GIB, shared=True), may_offload=True)
    assert found and all(each.plan.workers <= 8 and not each.plan.offload for each in found)
    assert any(each.plan.workers < 8 for each in found)


def test_what_can_never_fit_is_soon_said():
    began = time.monotonic()
    size = from_config({**LLAMA_8B, "num_hidden_layers": 3000})
    assert (
        remedies(size, plan(sequences_per_device=64, max_length=8192), Room(GIB, shared=False), may_offload=True) == []
    )
    assert time.monotonic() - began < 10


def test_the_plan_is_the_settings():
    found = plan_of(TrainSettings(zero_stage=3, precision="fp32", offload=True), workers=2, gpu=False)
    assert (found.zero_stage, found.width, found.offload, found.workers) == (3, 4, True, 2)


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


def test_a_job_that_does_not_fit_is_warned_of_with_what_would(monkeypatch):
    monkeypatch.setattr(report, "host_memory", lambda: 2 * GIB)
    title, text = table_of("train.sequences_per_device=512")
    assert title == "Memory of training: it does not fit"
    assert "What would: train.gradient_checkpointing=true" in text
    monkeypatch.setattr(report, "host_memory", lambda: 1 << 20)
    assert "nothing tried here would" in table_of()[1]


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
    assert "no GPU is here; a card of 80 GiB is assumed" in table_of("cluster.gpus_per_worker=1")[1]
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 24576\necho 40960\n")
    smi.chmod(0o755)
    assert report.gpu_memories() == [24 * GIB, 40 * GIB]
    text = table_of("cluster.gpus_per_worker=0.5", "cluster.train_workers=1")[1]
    assert "12.0 GiB are there (0.5 of the smallest of 2 GPUs of this machine)" in text
    smi.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert report.gpu_memories() == []
