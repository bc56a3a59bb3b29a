"""Training is numerically what plain torch gives, whatever the ZeRO stage and the workers; a model appears whole."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lai_ray.errors import DataError, StageError
from lai_ray.training import batches, export, loop
from lai_ray.training.objectives.sft import OBJECTIVE
from lai_ray.training.recipe import Recipe, epoch_folder, write_job
from lai_ray.training.sequences import tokenized
from tests.tiny_model import TEMPLATE, conversations, recipe, tiny_model

ROOT = Path(__file__).parents[2]
COUNT = 37  # 6 a step: the last step of an epoch has one sequence, so one of two workers has nothing in it.
LONG = 8
"""Epochs of the trainings that are compared with plain torch: 56 steps."""


def run(job: Recipe, examples: Any = None, lineage: dict[str, Any] | None = None) -> dict[str, float]:
    examples = conversations(COUNT) if examples is None else examples
    return loop.train(job, examples, report=lambda step, metrics: None, lineage=lineage or {})


def losses(out: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def weights(folder: str) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The relative distance of two models' weights."""
    difference = sum(float((a[name] - b[name]).double().square().sum()) for name in b)
    return (difference / sum(float(b[name].double().square().sum()) for name in b)) ** 0.5


@dataclasses.dataclass
class Plain:
    losses: list[float]
    weights: dict[str, torch.Tensor]
    first: dict[str, torch.Tensor]
    """After the first epoch."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plain(model: str) -> Plain:
    """One process, torch alone, one sequence at a time without padding, gradients of a step summed, AdamW."""
    job = recipe(model, Path("unused"), epochs=LONG)
    data = tokenized(job, OBJECTIVE, conversations(COUNT))
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    matrices, others = ([p for p in net.parameters() if (p.ndim >= 2) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": job.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=job.learning_rate, betas=job.betas)
    seen, first = [], {}
    plan = batches.steps(data.lengths, sequences_per_step=6, epochs=LONG, seed=0)
    for step, rows in enumerate(plan):
        total = torch.zeros(())
        for row in rows:
            ids, weight = torch.tensor([list(data.ids[row])]), torch.tensor(list(data.weights[row]))
            chances = net(ids).logits[0, :-1].log_softmax(-1)
            total = total - (chances[torch.arange(ids.shape[1] - 1), ids[0, 1:]] * weight[1:]).sum()
        loss = total / sum(sum(w > 0 for w in data.weights[row]) for row in rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), job.clip)
        for group in optimizer.param_groups:
            group["lr"] = job.rate(step, len(plan))
        optimizer.step()
        seen.append(loss.item())
        if step + 1 == len(plan) // LONG:
            first = {name: value.clone() for name, value in net.state_dict().items()}
    return Plain(seen, net.state_dict(), first)


@pytest.fixture(scope="module")
def two_workers(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage trained by two gloo workers under torchrun, in one start of it."""
    folder = tmp_path_factory.mktemp("two")
    for stage in (1, 2, 3):
        job = recipe(model, folder / f"{stage}/out", zero_stage=stage, epochs=LONG, epoch_names=("first",))
        write_job(folder / f"{stage}.json", job, conversations(COUNT), {"name": f"two-{stage}"})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["-m", "lai_ray.training.sft", *(str(folder / f"{stage}.json") for stage in (1, 2, 3))]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as torchrun:
        try:
            output, _ = torchrun.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(torchrun.pid, signal.SIGKILL)  # Its workers too.
            raise
    assert torchrun.returncode == 0, output.decode()[-3000:]
    return folder


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_worker_learns_what_plain_torch_learns(model, plain, tmp_path, stage):
    run(recipe(model, tmp_path / "out", zero_stage=stage, epochs=LONG))
    assert losses(str(tmp_path / "out")) == pytest.approx(plain.losses, abs=1e-4)
    assert apart(weights(str(tmp_path / "out")), plain.weights) < 1e-4


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_workers_learn_what_plain_torch_learns(two_workers, plain, stage):
    out = str(two_workers / f"{stage}/out")
    assert losses(out) == pytest.approx(plain.losses, abs=1e-4)
    assert apart(weights(out), plain.weights) < 1e-4
    first = weights(epoch_folder(out, 1))
    assert apart(first, plain.first) < 1e-4 < apart(first, plain.weights)


def test_the_training_is_long_enough_to_tell(model, plain):
    assert len(plain.losses) == 56
    assert apart(plain.weights, weights(model)) > 0.05
    assert plain.losses[-1] < plain.losses[0]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(model, tmp_path):
    run(recipe(model, tmp_path / "a"))
    run(recipe(model, tmp_path / "b"))
    run(recipe(model, tmp_path / "c", seed=1))
    a, b, c = (weights(str(tmp_path / name)) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_accumulation_and_checkpointing_change_nothing_that_is_learned(model, plain, tmp_path):
    run(recipe(model, tmp_path / "out", sequences_per_device=6, gradient_checkpointing=True, epochs=LONG))
    assert losses(str(tmp_path / "out")) == pytest.approx(plain.losses, abs=1e-4)


def test_a_batch_loses_what_its_sequences_lose_alone(model):
    """Pads are never in the loss, and change nothing that is."""
    examples = [c._replace(turns=[("w1 w2 w3", 1.0)]) for c in conversations(9)]
    data = tokenized(recipe(model, Path("unused")), OBJECTIVE, examples)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    class Bare:
        device = torch.device("cpu")
        module = net
        __call__ = staticmethod(net)

    rows, places = list(range(9)), []
    watch = net.lm_head.register_forward_hook(lambda _, given, made: places.append(made.shape[:2]))
    together = loop.sequence_losses(Bare(), OBJECTIVE, *data.padded(rows))
    watch.remove()
    assert places == [(1, data.targets(rows))], "only what is learned has its logits computed"
    for row in rows:
        ids = torch.tensor([list(data.ids[row])])
        labels = torch.where(torch.tensor([list(data.weights[row])]) > 0, ids, -100)
        alone = net(input_ids=ids, labels=labels).loss * data.targets([row])
        assert together[row].item() == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize(("dtype", "precision", "stage", "tied"), [
    (torch.float32, "fp32", 2, False),
    (torch.bfloat16, "fp32", 3, True),
    (torch.bfloat16, "bf16", 2, True),
    (torch.float32, "bf16", 1, False),
])  # fmt: skip
def test_the_folder_is_a_model_like_its_base(tmp_path, dtype, precision, stage, tied):
    base = tiny_model(tmp_path / "base", dtype=dtype, tied=tied)
    metrics = run(recipe(base, tmp_path / "out", precision=precision, zero_stage=stage), lineage={"name": "abc"})
    out = tmp_path / "out"
    trained = AutoModelForCausalLM.from_pretrained(out)
    assert trained.dtype == dtype
    assert {p.name for p in Path(base).iterdir()} - {p.name for p in out.iterdir()} == set()
    assert (out / "model.safetensors").stat().st_size == (Path(base) / "model.safetensors").stat().st_size
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    assert export.lineage_of(str(out)) == {"name": "abc", "metrics": metrics}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_saved_model_answers_as_the_trained_one(model, tmp_path, monkeypatch):
    kept = {}
    consolidated = loop.consolidated

    def keep(engine: Any, stage: int) -> Any:
        with torch.no_grad():
            kept["logits"] = engine.module(torch.arange(20).unsqueeze(0)).logits.clone()
        return consolidated(engine, stage)

    monkeypatch.setattr(loop, "consolidated", keep)
    run(recipe(model, tmp_path / "out"))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(saved(torch.arange(20).unsqueeze(0)).logits, kept["logits"])


def test_metrics_of_every_step_are_written_and_reported(model, tmp_path):
    reported = []
    loop.train(
        recipe(model, tmp_path / "out"), conversations(COUNT), report=lambda s, m: reported.append(m), lineage={}
    )
    written = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert written == reported
    assert len(written) == 14
    assert [m["step"] for m in written] == list(range(1, 15))
    assert {m["steps"] for m in written} == {14}
    assert all(m["gradient_norm"] > 0 and m["tokens_per_second"] > 0 and 0 <= m["padding"] < 0.5 for m in written)


def test_the_rate_warms_up_for_a_tenth_and_then_falls():
    job = recipe("model", Path("out"), learning_rate=1.0)
    rates = [job.rate(step, 50) for step in range(50)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert rates[27] == pytest.approx(0.5, abs=0.03)
    assert 0 < rates[-1] < 0.01
    assert dataclasses.replace(job, schedule="constant").rate(49, 50) == 1.0
    assert dataclasses.replace(job, schedule="linear").rate(5 + 9, 50) == pytest.approx(0.8)


def test_a_loss_that_is_not_finite_stops_with_step_and_sample_and_leaves_nothing(tmp_path):
    base = tiny_model(tmp_path / "base")
    net = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        net.model.embed_tokens.weight[AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("w59")] = float("nan")
    net.save_pretrained(base)
    clean = [c for c in conversations(300) if "w59" not in str(c)][:20]
    bad = clean[7]._replace(id="the/bad/one", messages=[{"role": "user", "content": "w1 w59"}])
    with pytest.raises(DataError, match=r"step \d+, in the/bad/one\."):
        run(recipe(base, tmp_path / "out"), [*clean[:7], bad, *clean[8:]])
    assert not (tmp_path / "out").exists()


def test_an_example_without_room_is_dropped_and_counted(model, tmp_path):
    long = conversations(1)[0]._replace(messages=[{"role": "user", "content": "w1 " * 80}])
    metrics = run(recipe(model, tmp_path / "out"), [*conversations(6), long])
    assert metrics["dropped"] == 1.0
    with pytest.raises(DataError, match="nothing to learn"):
        run(recipe(model, tmp_path / "none"), [long])


def test_a_response_beyond_the_model_s_positions_is_cut_there_and_counted(model, tmp_path):
    long = conversations(1)[0]._replace(turns=[("w1 " * 80, 1.0)])
    assert run(recipe(model, tmp_path / "out", max_length=500), [long, *conversations(5)])["truncated"] == 1.0


REFUSAL = "{% if m.role == 'assistant' and 'w59' in m.content %}{{ raise_exception('w59 is not for me') }}{% endif %}"


def strict_model(folder: Path) -> str:
    """Its template refuses a response with w59."""
    tiny_model(folder)
    (folder / "chat_template.jinja").write_text(
        TEMPLATE.replace("{% for m in messages %}", "{% for m in messages %}" + REFUSAL)
    )
    return str(folder)


def test_an_example_that_the_template_refuses_is_left_out_and_counted_with_its_reason(tmp_path):
    base = strict_model(tmp_path / "base")
    good = [c for c in conversations(60) if "w59" not in str(c)][:30]
    bad = good[7]._replace(id="the/bad/one", turns=[("w1 w59", 1.0)])
    metrics = run(recipe(base, tmp_path / "out"), [*good, bad])
    assert metrics["refused"] == 1.0
    lineage = json.loads((tmp_path / "out/lineage.json").read_text())
    assert list(lineage["left_out"]) == ["the/bad/one"] and "w59 is not for me" in lineage["left_out"]["the/bad/one"]
    run(recipe(base, tmp_path / "without"), good)
    assert apart(weights(str(tmp_path / "out")), weights(str(tmp_path / "without"))) == 0


def test_too_many_refused_examples_stop_with_the_limit_and_a_higher_one_goes_on(tmp_path):
    base = strict_model(tmp_path / "base")
    good = [c for c in conversations(20) if "w59" not in str(c)][:8]
    both = [*good, good[0]._replace(id="the/bad/one", turns=[("w59", 1.0)])]
    with pytest.raises(DataError, match=r"1 of 9 .*limits\.max_failed_fraction = 0\.05 .*the/bad/one: .*w59 is not"):
        run(recipe(base, tmp_path / "out"), both)
    assert not (tmp_path / "out").exists()
    assert run(recipe(base, tmp_path / "out", max_failed_fraction=0.2), both)["refused"] == 1.0
    with pytest.raises(DataError, match="nothing to learn: 1 examples, .* 1 refused"):
        run(recipe(base, tmp_path / "none", max_failed_fraction=1.0), both[-1:])


UNSAVABLE = {"do_sample": False, "temperature": 0.7, "top_k": 3, "eos_token_id": [2, 5], "pad_token_id": 0}


def test_a_generation_config_that_cannot_be_saved_is_kept_as_the_base_has_it(tmp_path):
    base = Path(tiny_model(tmp_path / "base"))
    (base / "generation_config.json").write_text(json.dumps(UNSAVABLE))
    run(recipe(str(base), tmp_path / "out"), conversations(6))
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == UNSAVABLE


def test_sampling_settings_in_the_config_of_an_old_model_leave_its_stop_tokens(tmp_path):
    base = Path(tiny_model(tmp_path / "base"))
    (base / "generation_config.json").unlink()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"temperature": 0.7, "do_sample": False}))
    run(recipe(str(base), tmp_path / "out"), conversations(6))
    saved = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert saved["eos_token_id"] == 2 and "temperature" not in saved


def test_an_empty_response_is_named(model, tmp_path):
    with pytest.raises(DataError, match="tiny/train/00000: the response is empty"):
        run(recipe(model, tmp_path / "out"), [conversations(1)[0]._replace(turns=[("", 1.0)])])


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(DataError, match="no-such-model"):
        run(recipe(str(tmp_path / "no-such-model"), tmp_path / "out"))


def test_a_full_disk_is_reported_before_anything_is_trained(model, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(StageError, match="nothing was trained in this start"):
        run(recipe(model, tmp_path / "out"))


def test_a_folder_that_cannot_be_made_is_reported(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be written"):
        run(recipe(model, tmp_path / "file" / "out"))


def test_a_disk_that_fills_while_saving_keeps_what_there_was(model, tmp_path):
    """The limit on a file's size stands for the disk: writing stops in the middle of the weights."""
    before = tmp_path / "out"
    before.mkdir()
    (before / "kept").write_text("the model of before")
    write_job(tmp_path / "job.json", recipe(model, before, epochs=1), conversations(6), {})
    code = (
        "import resource, sys; from lai_ray.training import sft; from lai_ray.errors import StageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))\n"
        "try: sft.main([sys.argv[1]])\n"
        "except StageError as error: print('ERROR', error)"
    )
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "job.json")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert re.search("ERROR .* could not be saved", done.stdout), done.stderr[-2000:]
    assert (before / "kept").read_text() == "the model of before"
    assert not export.part_of(str(before)).exists()


def test_a_replaced_training_does_not_publish(tmp_path):
    orphan = export.begin(str(tmp_path / "out"), needed=0)
    export.begin(str(tmp_path / "out"), needed=0)
    with pytest.raises(StageError, match="another training"):
        export.publish(orphan, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
