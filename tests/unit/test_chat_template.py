"""One renderer: what the target is trained on begins, token for token, with what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lai_ray.common import chat_template
from lai_ray.errors import DataError

TEMPLATES = {
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant here') }}{% endif %}{% endfor %}"
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "bare": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ),
}
END = {"llama3": "<|eot_id|>", "mistral": "</s>", "chatml": "<|im_end|>", "gemma": "<end_of_turn>", "bare": "</s>"}
SPECIAL = [
    *("<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"),
    *("<start_of_turn>", "<end_of_turn>"),
]
QUESTION = [{"role": "user", "content": "Ann has 3 apples and buys 4. How many?"}]
STYLES = sorted(TEMPLATES)


def made(style: str) -> Any:
    """A small byte-level BPE with one style of chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = ["Ann has 3 apples and buys 4. How many?\n\n", "She has 3 + 4 = 7 apples.\n\n\n The answer is 7."] * 4
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATES[style]
    return tokenizer


def learned(tokenizer: Any, tokens: chat_template.Tokens) -> str:
    return str(tokenizer.decode([i for i, w in zip(tokens.ids, tokens.weights, strict=True) if w > 0]))


@pytest.mark.parametrize("style", STYLES)
def test_training_begins_with_the_prompt_of_generation_token_for_token(style):
    tokenizer = made(style)
    prompt = chat_template.render(tokenizer, QUESTION)
    example = chat_template.render_example(tokenizer, QUESTION, [("3 + 4 = 7", 1.0)], max_length=500)
    assert example.ids[: len(prompt)] == prompt
    assert not any(example.weights[: len(prompt)])
    assert all(example.weights[len(prompt) :])


@pytest.mark.parametrize("style", STYLES)
def test_the_response_and_its_end_are_learned_and_nothing_after_it(style):
    tokenizer = made(style)
    example = chat_template.render_example(tokenizer, QUESTION, [("3 + 4 = 7", 1.0)], max_length=500)
    said = "3 + 4 = 7\n</s>" if style == "bare" else f"3 + 4 = 7{END[style]}"  # bare: the tokenizer's EOS is added
    assert learned(tokenizer, example).strip() == said
    assert tokenizer.convert_ids_to_tokens(example.ids[-1]) == END[style]
    assert not example.truncated
    assert example.learns


def test_render_is_what_the_tokenizers_own_template_gives():
    tokenizer = made("llama3")
    own = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert chat_template.render(tokenizer, QUESTION) == own


@pytest.mark.parametrize(("style", "count"), [("llama3", 1), ("mistral", 1), ("gemma", 1), ("chatml", 0)])
def test_bos_is_as_often_there_as_the_template_writes_it(style, count):
    tokenizer = made(style)
    assert chat_template.render(tokenizer, QUESTION).count(tokenizer.bos_token_id) == count


@pytest.mark.parametrize("style", STYLES)
def test_a_response_that_begins_with_newlines_leaves_the_prompt_as_it_was(style):
    tokenizer = made(style)
    prompt = chat_template.render(tokenizer, QUESTION)
    example = chat_template.render_example(tokenizer, QUESTION, [("\n\n She has 7.\n", 1.0)], max_length=500)
    assert example.ids[: len(prompt)] == prompt
    assert "She has 7." in learned(tokenizer, example)


@pytest.mark.parametrize("style", STYLES)
def test_each_turn_is_learned_with_its_own_weight_and_the_end_with_the_last(style):
    tokenizer = made(style)
    example = chat_template.render_example(
        tokenizer, QUESTION, [("She has 8.", 0.0), (" No: she has 7.", 2.0)], max_length=500
    )
    assert set(example.weights) == {0.0, 2.0}
    assert learned(tokenizer, example).startswith(" No: she has 7.")
    assert example.weights[-1] == 2.0


@pytest.mark.parametrize("style", STYLES)
def test_white_space_around_a_response_moves_no_weight_to_another_turn(style):
    tokenizer = made(style)
    turns = [(" \n  She has 8.", 0.0), (" No: she has 7.", 2.0), (" The answer is 7. \n", 1.0)]
    example = chat_template.render_example(tokenizer, QUESTION, turns, max_length=500)
    assert learned(tokenizer, example).startswith(" No: she has 7. The answer is 7.")
    last = [i for i, w in zip(example.ids, example.weights, strict=True) if w == 1.0]
    assert tokenizer.decode(last).startswith(" The answer is 7.")


def test_non_ascii_text_is_learned_whole():
    tokenizer = made("chatml")
    example = chat_template.render_example(tokenizer, QUESTION, [("答えは七 🍎", 1.0)], max_length=500)
    assert learned(tokenizer, example) == "答えは七 🍎<|im_end|>"


def test_a_long_response_is_cut_and_keeps_its_end():
    tokenizer = made("llama3")
    prompt = chat_template.render(tokenizer, QUESTION)
    example = chat_template.render_example(tokenizer, QUESTION, [("7 apples. " * 50, 1.0)], max_length=len(prompt) + 10)
    assert example.truncated
    assert example.learns
    assert len(example.ids) == len(prompt) + 10
    assert tokenizer.convert_ids_to_tokens(example.ids[-1]) == "<|eot_id|>"
    assert example.weights[-1] == 1.0


def test_a_prompt_as_long_as_the_limit_leaves_nothing_to_learn():
    tokenizer = made("llama3")
    example = chat_template.render_example(tokenizer, QUESTION, [("7", 1.0)], max_length=10)
    assert example.truncated
    assert not example.learns
    assert len(example.ids) == len(example.weights) == 10


@pytest.mark.parametrize("turns", [[], [("", 1.0)], [(" \n", 1.0)]])
def test_an_empty_response_is_an_error(turns):
    with pytest.raises(DataError, match="empty"):
        chat_template.render_example(made("gemma"), QUESTION, turns, max_length=100)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_weight_below_zero_is_an_error(weight):
    with pytest.raises(DataError, match="weight"):
        chat_template.render_example(made("gemma"), QUESTION, [("7", weight)], max_length=100)


def test_a_model_without_a_template_is_refused_with_what_to_add():
    tokenizer = made("gemma")
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"chat_template\.jinja"):
        chat_template.render(tokenizer, QUESTION)


def test_a_template_that_refuses_a_role_is_quoted():
    with pytest.raises(DataError, match="only user and assistant here"):
        chat_template.render(made("mistral"), [{"role": "system", "content": "Be kind."}, *QUESTION])


def test_a_template_whose_parts_disagree_is_an_error():
    tokenizer = made("chatml")
    tokenizer.chat_template = TEMPLATES["chatml"].replace("assistant\n{% endif %}", "assistant\nHm: {% endif %}")
    with pytest.raises(DataError, match="generation prompt"):
        chat_template.render_example(tokenizer, QUESTION, [("7", 1.0)], max_length=100)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing-here"):
        chat_template.load_tokenizer(str(tmp_path / "nothing-here"))


def test_a_saved_tokenizer_renders_the_same(tmp_path: Path):
    tokenizer = made("llama3")
    tokenizer.save_pretrained(tmp_path)
    assert chat_template.render(chat_template.load_tokenizer(str(tmp_path)), QUESTION) == chat_template.render(
        tokenizer, QUESTION
    )


@pytest.mark.parametrize("style", STYLES)
def test_the_beginning_of_an_answer_is_continued_as_the_answer_is_learned(style):
    tokenizer, begun = made(style), "3 + 4 = 8\nFeedback:"
    asked = chat_template.render(tokenizer, [*QUESTION, {"role": "assistant", "content": begun}])
    whole = chat_template.render_example(tokenizer, QUESTION, [(f"{begun} no\n7", 1.0)], 512).ids
    rest = whole[len(asked) :]
    assert whole[: len(asked)] == asked and tokenizer.decode(rest).startswith(" no")
    assert END[style] not in tokenizer.decode(asked[len(chat_template.render(tokenizer, QUESTION)) :])


def test_a_template_that_rewrites_the_beginning_of_an_answer_is_refused():
    tokenizer = made("bare")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}{% endfor %}"
    with pytest.raises(DataError, match="rewrites the response"):
        chat_template.render(tokenizer, [*QUESTION, {"role": "assistant", "content": "it is"}])
