"""Chat templates with the traits of families in the field: what is learned begins with exactly what is asked, or the
model is refused with the reason. All templates are written here; no family's own text is used.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers.utils import chat_template_utils

from lai_ray.common import chat_template
from lai_ray.errors import DataError
from tests.unit.test_chat_template import QUESTION, learned, made
from tests.unit.test_look import looked, model, refusals

ENDS = ("<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>")
ASKED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TODAY = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n"
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}"
)
FAMILIES = {
    "no system turn, model role, trimmed": NO_SYSTEM
    + "<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "no system turn, brackets, space before the answer": NO_SYSTEM
    + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}",
    "a default system turn": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + CHAT
    + ASKED,
    "an end of turn that is not EOS": "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "the date": TODAY + CHAT + ASKED,
    "an empty thought before the last answer, earlier ones stripped": "{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% set answer = m.content.split('</think>')[-1] %}"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ answer.lstrip('\n') }}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}" + ASKED,
    "channels, another end of the last turn, the date": TODAY + "{% for m in messages %}<|im_start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{{ '</s>' if loop.last and m.role == 'assistant' else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
    "text alone, or content in parts": "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}" + ASKED,
}
REFUSED = {
    "a thought opened": (CHAT + ASKED.replace("assistant\n", "assistant\n<think>\n"), "trained.*<think>"),
    "an empty thought in the question alone": (
        CHAT + ASKED.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n"),
        "trained.*generation prompt",
    ),
    "content in parts alone": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}"
        "<|im_end|>\n{% endfor %}" + ASKED,
        "asked.*leaves out the user's message.*parts only",
    ),
}  # fmt: skip


def tokenizer_with(template: str) -> Any:
    tokenizer = made("chatml")
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("response", ["3 + 4 = 7", "\n\n She has 7.\n", "<think>"])
def test_what_is_learned_begins_with_exactly_what_is_asked(family, response):
    tokenizer = tokenizer_with(FAMILIES[family])
    prompt = chat_template.render(tokenizer, QUESTION)
    example = chat_template.render_example(tokenizer, QUESTION, [(response, 1.0)], max_length=500)
    assert example.ids[: len(prompt)] == prompt and not any(example.weights[: len(prompt)])
    assert response.strip() in learned(tokenizer, example) and all(example.weights[len(prompt) :])
    assert tokenizer.convert_ids_to_tokens(example.ids[-1]) in ENDS and tokenizer.pad_token is None


@pytest.mark.parametrize("family", FAMILIES)
def test_check_refuses_none_of_these(tmp_path, family):
    assert not refusals(looked(model(tmp_path, FAMILIES[family])))


@pytest.mark.parametrize("family", REFUSED)
def test_check_refuses_these_with_the_reason(tmp_path, family):
    template, reason = REFUSED[family]
    [text] = refusals(looked(model(tmp_path, template)))
    assert re.search(f"(?s){reason}", text), text


def test_a_thought_that_a_template_strips_from_what_is_learned_is_an_error_not_another_text():
    tokenizer = tokenizer_with(FAMILIES["an empty thought before the last answer, earlier ones stripped"])
    with pytest.raises(DataError, match="rewrites the response"):
        chat_template.render_example(tokenizer, QUESTION, [("<think>3 + 4</think>7", 1.0)], max_length=500)


@pytest.mark.parametrize(("family", "count"), [("an end of turn that is not EOS", 1), ("a default system turn", 0)])
def test_a_tokenizer_that_adds_bos_adds_none_to_what_a_template_has_rendered(family, count):
    tokenizer = tokenizer_with(FAMILIES[family])
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    assert tokenizer("How many?")["input_ids"][0] == bos
    assert chat_template.render(tokenizer, QUESTION).count(bos) == count
    example = chat_template.render_example(tokenizer, QUESTION, [("7", 1.0)], max_length=500)
    assert example.ids.count(bos) == count


@pytest.mark.parametrize("family", [family for family in FAMILIES if "the date" in family])
def test_a_run_over_midnight_asks_and_trains_on_one_prompt(family, monkeypatch):
    tokenizer, prompts = tokenizer_with(FAMILIES[family]), []
    for day in (30, 31):

        class Now(datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return datetime(2031, 12, day, 23, 59)

        monkeypatch.setattr(chat_template_utils, "datetime", Now)
        assert f"{day} Dec 2031" in tokenizer.apply_chat_template(QUESTION, tokenize=False), "the date of a server"
        prompts.append(chat_template.render(tokenizer, QUESTION))
    assert prompts[0] == prompts[1]
    example = chat_template.render_example(tokenizer, QUESTION, [("7", 1.0)], max_length=500)
    assert example.ids[: len(prompts[0])] == prompts[0]
    assert "01 Jan 2025" in tokenizer.decode(prompts[0])
