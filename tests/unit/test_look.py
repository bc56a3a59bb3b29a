"""A model that cannot be asked or trained is refused before anything is paid for, with the reason; others are not."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lai_ray.cli.check import check, context, findings, look, machine
from lai_ray.cli.check.context import Engine
from lai_ray.common import chat_template
from lai_ray.common.chat_template import Example
from lai_ray.common.findings import Finding
from lai_ray.distributed.cluster import storage_check
from lai_ray.engines import vllm
from lai_ray.errors import ConfigError, DataError
from lai_ray.records import Request
from lai_ray.stages.job import Job
from lai_ray.training import rendering
from lai_ray.training.rendering import Look, Part
from lai_ray.world import STUDENT
from tests.local import job
from tests.unit.test_chat_template import QUESTION, TEMPLATES, made

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASSISTANT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe of use.<|im_end|>\n{% endif %}"
LEARNABLE = {
    **TEMPLATES,
    "default system": DEFAULT_SYSTEM + TURNS + ASSISTANT,
    "an empty thought, earlier ones stripped": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% if loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content.split('</think>')[-1] | trim }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    )
    + ASSISTANT,
    "channels": (
        "{% for m in messages %}<|im_start|>{{ m.role }}"
        "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    ),
}
SYSTEM = [{"role": "system", "content": "Answer with a number."}, *QUESTION]


def model(folder: Path, template: Any, **generation: Any) -> str:
    """A folder with a tokenizer and configurations, and no weights."""
    tokenizer = made("chatml")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(tokenizer)}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id} | generation))
    return str(folder)


def looked(folder: str, prompt: list[dict[str, str]] = QUESTION, **changes: Any) -> list[Finding]:
    examples = [Example(f"e{i}", prompt, [(f"She has {i} apples.", 1.0)]) for i in range(3)]
    asked = Look(
        role="target", model=folder, parts=[Part("fruit.test", 40, [prompt] * 2)], examples=examples, objective="sft",
        max_length=200, context=300, reads=None, answer_setting="target.max_new_tokens", answer_tokens=20,
        vocabulary=None, max_failed_fraction=0.05,
    )  # fmt: skip
    return rendering.findings(replace(asked, **changes))


def refusals(found: list[Finding]) -> list[str]:
    return [each.text for each in found if each.refuses]


@pytest.mark.parametrize("style", LEARNABLE)
def test_what_trains_exactly_as_it_is_asked_is_not_refused(tmp_path, style):
    assert not refusals(looked(model(tmp_path, LEARNABLE[style])))


REFUSED = {
    "no template": (None, "cannot be asked: .*no chat template"),
    "named": ([{"name": n, "template": TURNS + ASSISTANT} for n in ("rag", "tools")], r"2 named .*\(rag, tools\)"),
    "broken": ("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", "cannot be asked: .*refuses the messages"),
    "in parts": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{{ p.text }}{% endfor %}<|im_end|>\n"
        "{% endfor %}" + ASSISTANT,
        "leaves out the user's message of fruit.test, 'Ann has 3 apples.*content in parts only",
    ),
    "a thought opened": (
        TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        "cannot be trained: .*generation prompt.*<think>",
    ),
    "another turn": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content | upper if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}" + ASSISTANT,
        "cannot be trained: .*rewrites the response",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_template_that_cannot_be_asked_or_trained_is_refused_with_the_reason(tmp_path, kind):
    template, reason = REFUSED[kind]
    [text] = refusals(looked(model(tmp_path, template)))
    assert re.search(reason, text), text


def test_one_of_several_named_templates_is_used_where_it_is_the_default(tmp_path):
    named = [{"name": "default", "template": TURNS + ASSISTANT}, {"name": "rag", "template": "{{ 1 + '' }}"}]
    assert not refusals(looked(model(tmp_path, named)))


def test_an_evaluation_asks_a_model_that_could_not_be_trained(tmp_path):
    assert not refusals(looked(model(tmp_path, REFUSED["a thought opened"][0]), examples=[]))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (TEMPLATES["mistral"], "only user and assistant here"),
        (TURNS.replace("%}<", "%}{% if m.role != 'system' %}<").replace("{% endf", "{% endif %}{% endf") + ASSISTANT,
         "leaves out the system's message of fruit.test, 'Answer with a number.'"),
    ],
)  # fmt: skip
def test_a_system_turn_that_the_template_does_not_take_is_refused(tmp_path, template, reason):
    folder = model(tmp_path, template)
    assert reason in refusals(looked(folder, SYSTEM))[0]
    assert not refusals(looked(folder))


def test_one_reference_answer_that_cannot_be_learned_is_a_note_and_too_many_are_refused(tmp_path):
    folder = model(tmp_path, TEMPLATES["chatml"].replace("{{ m.content }}", "{{ m.content.replace('2', 'two') }}"))
    [note] = [each for each in looked(folder, max_failed_fraction=0.4) if "reference answers" in each.text]
    assert "1 of 3" in note.text and not note.refuses
    assert "cannot be trained" in refusals(looked(folder, max_failed_fraction=0.1))[0]


def test_prompts_that_do_not_fit_the_context_are_counted_and_the_setting_that_is_enough_is_named(tmp_path):
    folder = model(tmp_path, LEARNABLE["chatml"])
    long = [{"role": "user", "content": "Ann has 3 apples. " * 30}]
    length = len(chat_template.render(made("chatml"), long))
    part = Part("fruit.test", 40, [long, long, long, QUESTION])
    [text] = refusals(looked(folder, parts=[part], context=length))
    assert f"3 of 40 prompts do not fit into {length} tokens (target.max_model_len)" in text
    assert f"has {length}" in text and f"= {length + 20} is enough" in text
    [text] = refusals(looked(folder, parts=[part], context=length, reads=length))
    assert f"reads {length} at most" in text and "is enough" not in text
    few = looked(folder, parts=[part], context=length, max_failed_fraction=0.1)
    assert not refusals(few) and "3 of 40" in few[0].text
    cut = looked(folder, parts=[part], context=length + 1)
    assert not refusals(cut) and "3 of 40 prompts leave less than target.max_new_tokens = 20" in cut[0].text
    assert not looked(folder, parts=[part], context=length + 20)[:-1], "only the end of turn is noted"


def test_a_limit_that_leaves_no_response_room_is_refused_before_the_training(tmp_path):
    folder = model(tmp_path, LEARNABLE["chatml"])
    assert "train.max_length = 8" in refusals(looked(folder, max_length=8))[0]


def test_tokens_beyond_the_embedding_are_refused_and_unused_ones_noted(tmp_path):
    folder = model(tmp_path, LEARNABLE["chatml"])
    size = len(made("chatml"))
    assert "2 rows" in refusals(looked(folder, vocabulary=2))[0]
    [note] = [each for each in looked(folder, vocabulary=size - 1) if "rows" in each.text]
    assert not note.refuses and f"{size} tokens" in note.text
    assert not any("rows" in each.text for each in looked(folder, vocabulary=size + 64))


def test_a_date_in_the_template_is_noted(tmp_path):
    dated = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + TURNS + ASSISTANT
    found = looked(model(tmp_path, dated))
    assert not refusals(found) and any("today's date" in each.text for each in found)


def test_an_end_of_turn_that_is_no_stop_token_is_noted_and_given_to_the_engine(tmp_path):
    folder = model(tmp_path / "without", LEARNABLE["chatml"])
    tokenizer = chat_template.load_tokenizer(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert vllm.further_stops(tokenizer, folder) == [end]
    assert any("'<|im_end|>', which is not among its stop tokens" in each.text for each in looked(folder))
    listed = model(tmp_path / "with", LEARNABLE["chatml"], eos_token_id=[tokenizer.eos_token_id, end])
    assert vllm.further_stops(tokenizer, listed) == [] and not looked(listed)
    assert vllm.further_stops(chat_template.load_tokenizer(model(tmp_path / "none", None)), folder) == []


def test_a_generation_config_that_cannot_be_saved_is_noted(tmp_path):
    found = looked(model(tmp_path, LEARNABLE["chatml"], do_sample=False, temperature=0.3))
    assert not refusals(found) and any("temperature" in each.text for each in found)


def test_a_prompt_that_the_template_refuses_fails_alone_in_the_engine():
    tokenizer = made("mistral")
    requests = [Request(f"r{i}", f"k{i}", messages, 5) for i, messages in enumerate([QUESTION, SYSTEM, QUESTION])]
    prompts, refused = vllm.rendered(tokenizer, requests)
    assert [prompt is None for prompt in prompts] == [False, True, False] and list(refused) == [1]
    prompts, refused = vllm.rendered(tokenizer, requests[1:2])
    assert prompts == [None] and "only user and assistant" in str(refused[0])
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        vllm.rendered(tokenizer, requests)


# ---------------------------------------------------------------------------------------------------- the context

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 16, "hidden_size": 512, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 65536, "vocab_size": 100,
}  # fmt: skip


def engine(folder: Path, config: dict[str, Any], **changes: Any) -> Engine:
    (folder / "config.json").write_text(json.dumps(config))
    return Engine(**{"role": "target", "folder": str(folder), "max_model_len": None, "dtype": "float32",
                     "tensor_parallel": 1, "gpu": False, **changes})  # fmt: skip


def test_a_context_that_no_cache_holds_is_refused_with_the_length_that_fits(tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    each = 2 * 16 * 2 * 64 * 4  # Keys and values, layers, heads, their size, float32.
    long = LLAMA | {"max_position_embeddings": 2**30 // each + 1}
    [found] = context.findings(engine(tmp_path, long))
    assert found.refuses and "target.max_model_len is not set" in found.text and f"{each:,} bytes" in found.text
    fits = int(found.text.split("Set target.max_model_len to ")[1].split(" ")[0])
    assert not context.findings(engine(tmp_path, long, max_model_len=fits))
    assert not context.findings(engine(tmp_path, long | {"max_position_embeddings": 2**30 // each}))
    assert not context.findings(engine(tmp_path, long, dtype="bfloat16"))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert not context.findings(engine(tmp_path, long))


@pytest.mark.parametrize(
    "other",
    [{"sliding_window": 4096}, {"kv_lora_rank": 64}, {"layer_types": ["full_attention", "linear_attention"]}],
)
def test_a_model_whose_layers_forget_is_left_to_its_engine(tmp_path, other):
    assert not context.findings(engine(tmp_path, LLAMA | {"max_position_embeddings": 10**9} | other))


def test_a_gpu_holds_what_the_weights_leave(tmp_path, monkeypatch):
    wide = engine(tmp_path, LLAMA | {"max_position_embeddings": 2**22}, dtype="auto", gpu=True)
    monkeypatch.setattr(context.memory, "gpu_memories", list)
    assert not context.findings(wide), "no GPU here to tell"
    monkeypatch.setattr(context.memory, "gpu_memories", lambda: [24 << 30])
    monkeypatch.setattr(context, "size_of", lambda folder: dry_size(3 * 2**30))
    assert context.cache_of(wide) == 0.92 * (24 << 30) - 2 * 3 * 2**30
    assert "target.max_model_len" in context.findings(wide)[0].text
    assert not context.findings(replace(wide, max_model_len=2**16))


def dry_size(parameters: int) -> Any:
    from lai_ray.training.model_size import Size

    return Size(parameters, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("changed", "length"),
    [
        ({}, 65536),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 131072),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 65536),
        ({"max_position_embeddings": None, "n_positions": 1024}, 1024),
        ({"seq_length": 512}, 512),
        ({"text_config": {"max_position_embeddings": 99}}, 99),
        ({"max_position_embeddings": None}, 2048),
    ],
)
def test_a_model_s_own_length_is_read_as_its_engine_reads_it(tmp_path, changed, length):
    engine(tmp_path, LLAMA | changed)
    assert context.own_length(str(tmp_path)) == length


def test_more_than_the_model_can_read_is_refused(tmp_path):
    [found] = context.findings(engine(tmp_path, LLAMA, max_model_len=65537))
    assert "target.max_model_len = 65537" in found.text and "65536" in found.text


def test_the_engine_s_own_reason_comes_with_the_setting_that_helps():
    reason = "To serve at least one request with the model's max seq len (99), (2 GiB KV\n cache is needed"
    text = vllm.not_loaded(vllm.Model("m", "m"), ValueError(reason))
    assert "max seq len (99), (2 GiB KV cache is needed" in text and "target.max_model_len" in text
    assert "max_model_len" not in vllm.not_loaded(vllm.Model("m", "m"), ValueError("no such layer"))


# ------------------------------------------------------------------------------------------------------ the machine


def found_at(tmp_path: Path, storage: str = "", **changes: Any) -> list[str]:
    config = job(tmp_path, **changes)
    config = config.model_copy(update={"storage": storage or config.storage})
    return [each.text for each in machine.findings(Job.of(config), cluster=False)]


HERE = {"cluster__gpus_per_replica": 0, "cluster__gpus_per_worker": 0}


def test_what_a_run_would_refuse_at_once_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.memory, "gpu_memories", list)
    assert not found_at(tmp_path, **HERE)
    [text] = found_at(tmp_path)
    assert "cluster.gpus_per_replica asks for 1 GPU; this machine has 0" in text
    monkeypatch.setattr(machine.memory, "gpu_memories", lambda: [1 << 34])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not found_at(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found_at(tmp_path)
    assert not found_at(tmp_path, cluster__address="auto")


def test_an_encoder_that_is_not_there_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [text] = found_at(tmp_path, contrast__encoder="nobody/no-such-encoder", **HERE)
    assert "contrast.encoder: 'nobody/no-such-encoder'" in text
    assert not found_at(tmp_path, contrast__encoder="nobody/no-such-encoder", schedule__strategy="le", **HERE)


def test_a_storage_that_cannot_be_written_is_found_and_a_new_one_left_unmade(tmp_path, monkeypatch):
    assert not found_at(tmp_path, storage=str(tmp_path / "a/b"), **HERE) and not (tmp_path / "a").exists()

    def refused(**options: Any) -> Any:
        raise PermissionError(13, "Permission denied", options["dir"])

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refused)
    [text] = found_at(tmp_path, storage=str(tmp_path / "a/b"), **HERE)
    assert "storage = " in text and "Permission denied" in text


def test_a_disk_without_room_for_a_model_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("usage", (), {"free": 1}))
    assert "free" in found_at(tmp_path, **HERE)[0]


def test_findings_that_refuse_stop_a_run_before_it_starts():
    look.refuse([Finding("only a note", refuses=False)])
    with pytest.raises(ConfigError, match="(?s)first.*second"):
        look.refuse([Finding("first"), Finding("a note", refuses=False), Finding("second")])


# --------------------------------------------------------------------------------------------- what a job is looked at


@pytest.fixture
def asked(monkeypatch):
    """The looks that are asked for; nothing is found at them."""
    looks: list[Look] = []

    def run(command: list[str], *, input: str, **options: Any) -> Any:
        looks.append(rendering.look_from(json.loads(input)))
        return type("done", (), {"stdout": "[]", "stderr": ""})

    monkeypatch.setattr(look.subprocess, "run", run)
    return looks


def real_job(tmp_path: Path, **changes: Any) -> Job:
    target = {"target__model": str(STUDENT), "target__engine": "vllm", "target__max_model_len": 256} | HERE
    return Job.of(job(tmp_path, **target | changes))


def test_the_longest_prompts_of_each_part_are_looked_at_with_reference_answers(tmp_path, asked):
    assert not look.findings(real_job(tmp_path))
    [one] = asked
    assert {part.name: part.total for part in one.parts} == {"word_problems.train": 60, "word_problems.test": 40}
    lengths = [len(messages[0]["content"]) for messages in one.parts[0].prompts]
    assert len(lengths) == 60 and lengths == sorted(lengths, reverse=True)
    assert len(one.examples) == look.EXAMPLES and all(turns[0][0].strip() for _, _, turns in one.examples)
    assert (one.context, one.reads, one.vocabulary, one.answer_tokens) == (256, 512, 446, 64)
    assert one.max_length == 512, "no more than its positions"


def test_a_start_that_only_evaluates_is_not_refused_for_its_training(tmp_path, asked):
    look.findings(real_job(tmp_path), until="evaluate")
    look.findings(real_job(tmp_path, iterations=0))
    look.findings(real_job(tmp_path), until="instruct")
    assert [bool(one.examples) for one in asked] == [False, False, True]
    assert asked[0].parts == asked[2].parts


def test_an_open_instructor_is_asked_its_own_requests(tmp_path, asked):
    teaches = {"instructor__engine": "vllm", "instructor__model": "target", "instructor__max_model_len": 400}
    assert not look.findings(real_job(tmp_path, **teaches))
    one = asked[1]
    assert (one.role, one.context, one.answer_setting) == ("instructor", 400, "instructor.max_tokens")
    assert not one.examples and "word_problems, strategy lec" in [part.name for part in one.parts]
    too_long = look.findings(real_job(tmp_path, **teaches | {"instructor__max_model_len": 600}))
    assert "instructor.max_model_len = 600" in too_long[0].text


def test_a_target_of_recorded_answers_may_come_later(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "answers.jsonl").write_text("")
    late = {"target__engine": "recorded", "target__model": "nobody/late",
            "target__attempts": {"word_problems": str(tmp_path / "answers.jsonl")}}  # fmt: skip
    [found] = look.findings(real_job(tmp_path, **late))
    assert "'nobody/late'" in found.text and not found.refuses
    assert not look.findings(real_job(tmp_path, **late), until="diagnose") and not asked
    [missing] = look.findings(real_job(tmp_path, target__model="nobody/late"))
    assert missing.refuses


def test_a_look_that_breaks_is_a_note_with_its_last_words(tmp_path, monkeypatch):
    broken = type("done", (), {"stdout": "", "stderr": "Traceback\nKeyError: 'x'", "returncode": 1})
    monkeypatch.setattr(look.subprocess, "run", lambda *arguments, **options: broken)
    [found] = look.findings(real_job(tmp_path))
    assert "KeyError: 'x'" in found.text and not found.refuses

    def slow(command: list[str], *, timeout: float, **options: Any) -> Any:
        raise look.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(look.subprocess, "run", slow)
    [found] = look.findings(real_job(tmp_path))
    assert f"{look.SECONDS} s" in found.text and not found.refuses


def test_a_generation_config_that_no_model_loads_with_is_refused(tmp_path):
    assert "generation_config.json" in refusals(looked(model(tmp_path, LEARNABLE["chatml"], max_new_tokens=0)))[0]


# ---------------------------------------------------------------------------------------------------- the one verdict


def verdict(config: Any, found: list[Finding]) -> tuple[bool, list[str]]:
    console = Console(width=5000, file=io.StringIO())
    starts = check.verdict(config, found, console)
    return starts, console.file.getvalue().splitlines()


def test_all_findings_come_before_one_verdict(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(machine.memory, "gpu_memories", list)
    monkeypatch.setattr(machine.memory, "host_memory", lambda: 1 << 20)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    target = {"target__model": str(STUDENT), "target__engine": "vllm", "instructor__api_key_env": "NO_SUCH_KEY"}
    config = job(tmp_path, cluster__gpus_per_worker=0, **target)
    starts, lines = verdict(config, findings.here(config, cluster=False, probing=False))
    assert not starts and lines[-1] == "small: a run would be refused or fail, for 2 reasons above"
    assert [line.split(":")[0] for line in lines[:-1]] == ["refused", "refused", "note"]
    assert "NO_SUCH_KEY" in lines[0] and "asks for 1 GPU" in lines[1] and "it does not fit" in lines[2]
    assert verdict(config, [Finding("worth knowing", refuses=False)]) == (
        True, ["note: worth knowing", "small: ready to run"]
    )  # fmt: skip


def test_what_the_cluster_lacks_is_among_the_findings(tmp_path, monkeypatch):
    nodes = [storage_check.Node("10.0.0.7", {"CPU": 1.0, "GPU": 0.0}, error="the disk is not mounted")]
    joined = storage_check.Cluster(nodes, [{"CPU": 1.0}], [])
    monkeypatch.setattr(storage_check, "cluster", lambda config: joined)
    shown: list[Any] = []
    found = findings.there(job(tmp_path), shown.extend)
    assert len(shown) == 2 and len(refusals(found)) == 2
    assert "10.0.0.7: the disk is not mounted" in found[0].text and "no node has that much" in found[1].text

    def gone(config: Any) -> Any:
        raise ConfigError("no Ray cluster answers")

    monkeypatch.setattr(storage_check, "cluster", gone)
    assert refusals(findings.there(job(tmp_path), shown.extend)) == ["no Ray cluster answers"]
