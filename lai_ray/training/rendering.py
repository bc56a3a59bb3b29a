"""Renders a job's prompts and examples with a model's own files, before anything is paid for.  Look -> findings

`python -m lai_ray.training.rendering` reads a Look as JSON and prints its findings. It hides torch from transformers,
which needs it for weights alone: so it takes a second, and the command that asks loads neither.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lai_ray.common import chat_template, plugins
from lai_ray.common.chat_template import Example, Message
from lai_ray.common.findings import Finding
from lai_ray.errors import DataError, LaiError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Part:
    """Some prompts of a part of the job."""

    name: str
    total: int
    """Prompts of the part, of which `prompts` are the longest by characters, the longest first."""
    prompts: list[list[Message]]


@dataclass(frozen=True)
class Look:
    """What is rendered, and what it must fit."""

    role: str
    """The table of the job with the model: target or instructor."""
    model: str
    """A folder or hub name."""
    parts: list[Part]
    examples: list[Example]
    """Prompts with reference answers, as training would learn them; none where the model is not trained."""
    objective: str
    max_length: int
    """Tokens of an example, at most."""
    context: int | None
    """Tokens of a prompt and its answer, at most; None if unknown."""
    reads: int | None
    """Tokens that the model itself can read; None if unknown."""
    answer_setting: str
    answer_tokens: int
    """What `answer_setting` allows an answer."""
    vocabulary: int | None
    """Rows of the embedding; None if unknown."""
    max_failed_fraction: float


Rendered = dict[str, list[list[int]]]
"""The tokens of every prompt, by part."""


def findings(look: Look) -> list[Finding]:
    """Everything found, in the order in which a run would meet it."""
    try:
        tokenizer = chat_template.load_tokenizer(look.model)
        # A template that refuses one prompt refuses all of its kind, and nothing else can be seen then.
        rendered = {part.name: chat_template.render_all(tokenizer, part.prompts) for part in look.parts}
    except DataError as error:
        return [Finding(f"{look.role}.model cannot be asked: {error}")]
    if found := list(_left_out(tokenizer, look)):
        return found
    found = [*_too_long(rendered, look), *_ids(tokenizer, rendered, look)]
    found += _date(tokenizer)
    if look.examples:
        found += [*_training(tokenizer, look), *_saving(tokenizer, look.model)]
    return [*found, *_end(tokenizer, look)]


def _left_out(tokenizer: PreTrainedTokenizerBase, look: Look) -> Iterator[Finding]:
    """A template that renders a prompt without one of its messages: the model would answer something else."""
    for part in look.parts:
        for messages in part.prompts[:1]:
            text = _plain(chat_template.as_text(tokenizer, messages))
            for message in messages:
                if _plain(message["content"]) not in text:
                    yield Finding(
                        f"{look.role}.model cannot be asked: its chat template leaves out the {message['role']}'s "
                        f"message of {part.name}, {message['content'][:50]!r}; it renders {text[-80:]!r}."
                        + _in_parts(tokenizer, messages)
                    )
                    return


def _in_parts(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> str:
    """A sentence where the template takes a message's content as a list of parts, as for images and text."""
    parts: Any = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]
    try:
        rendered = _plain(chat_template.as_text(tokenizer, parts))
    except DataError:
        return ""
    if any(_plain(each["content"]) not in rendered for each in messages):
        return ""
    return " It takes content in parts only: put a template that also takes plain text into its chat_template.jinja."


def _plain(text: str) -> str:
    return " ".join(text.split())


def _too_long(rendered: Rendered, look: Look) -> Iterator[Finding]:
    """Prompts that do not fit the context, and those that leave too little of it for an answer."""
    total = sum(part.total for part in look.parts)
    if look.context is None or not total:
        return
    lengths = [(len(ids), name) for name, prompts in rendered.items() for ids in prompts]
    longest, name = max(lengths)
    over, short = (sum(n + room > look.context for n, _ in lengths) for room in (1, look.answer_tokens))
    least = "at least " if len(lengths) < total and over + short >= min(map(len, rendered.values())) else ""
    setting, wanted = f"{look.role}.max_model_len", longest + look.answer_tokens
    cure = f"{setting} = {wanted} is enough for all."
    if wanted > (look.reads or wanted):
        cure = f"The model reads {look.reads} at most; for all, it would have to read {wanted}."
    limit = f"{look.context} tokens ({setting})"
    if over:
        yield Finding(
            f"{least}{over} of {total} prompts do not fit into {limit} and would fail; the longest, of {name}, has "
            f"{longest}, and {look.answer_setting} is {look.answer_tokens}. {cure}",
            refuses=over > look.max_failed_fraction * total,
        )
    elif short:
        yield Finding(
            f"{least}{short} of {total} prompts leave less than {look.answer_setting} = {look.answer_tokens} of "
            f"{limit} for the answer, which is cut off there. {cure}",
            refuses=False,
        )


def _ids(tokenizer: PreTrainedTokenizerBase, rendered: Rendered, look: Look) -> Iterator[Finding]:
    if look.vocabulary is None:
        return
    highest = max((i for prompts in rendered.values() for ids in prompts for i in ids), default=0)
    with suppress(DataError):
        highest = max(highest, chat_template.end_of_turn(tokenizer))
    if highest >= look.vocabulary:
        yield Finding(
            f"{look.role}.model cannot be asked: its prompts have the token {highest} "
            f"({tokenizer.convert_ids_to_tokens(highest)!r}), and its embedding has {look.vocabulary} rows "
            "(vocab_size in config.json). Its tokenizer belongs to another model."
        )
    elif len(tokenizer) > look.vocabulary:
        yield Finding(
            f"{look.role}.model: its tokenizer has {len(tokenizer)} tokens and its embedding {look.vocabulary} rows. "
            "A text with one of the others would stop an engine or a training.",
            refuses=False,
        )


def _date(tokenizer: PreTrainedTokenizerBase) -> Iterator[Finding]:
    if chat_template.writes_date(tokenizer):
        yield Finding(
            "the chat template writes today's date into each prompt. Tests and training of every run get "
            f"{chat_template.DATE:%d %B %Y} in its place, so that all prompts are the same on any day; a server writes "
            "its own. For another date, write it into the model's chat_template.jinja.",
            refuses=False,
        )


def _training(tokenizer: PreTrainedTokenizerBase, look: Look) -> Iterator[Finding]:
    """Whether the reference answers could be learned, exactly as they are asked."""
    objective, refused, learned = plugins.load("training.objectives", look.objective), [], 0
    for example in look.examples:
        try:
            learned += objective.tokens(tokenizer, example, look.max_length).learns
        except DataError as error:
            refused.append(str(error))
    total = len(look.examples)
    if refused:
        many = f"{len(refused)} of {total} reference answers, learned for a try, would be left out"
        fails = len(refused) > look.max_failed_fraction * total
        yield Finding(f"{look.role}.model cannot be trained: {refused[0]}" if fails else f"{many}: {refused[0]}", fails)
    elif not learned:
        yield Finding(
            f"{look.role}.model cannot be trained: no prompt of {total} leaves room for a response in "
            f"train.max_length = {look.max_length} tokens. Raise it."
        )


def _saving(tokenizer: PreTrainedTokenizerBase, model: str) -> Iterator[Finding]:
    """What would fail as a trained model is written."""
    from transformers import AutoConfig, GenerationConfig

    with tempfile.TemporaryDirectory() as folder:
        try:
            AutoConfig.from_pretrained(model).save_pretrained(folder)
            if not Path(model).is_dir():  # A folder's files are copied.
                tokenizer.save_pretrained(folder)
        except (ImportError, NameError):  # One that needs torch, which is hidden here.
            pass
        except Exception as error:
            yield Finding(f"target.model cannot be trained: its config or tokenizer cannot be saved: {_first(error)}")
        try:
            generation = GenerationConfig.from_pretrained(model)
        except OSError:  # It has none.
            return
        except ValueError as error:
            yield Finding(f"target.model cannot be loaded: its generation_config.json is wrong: {_first(error)}")
            return
        try:
            generation.save_pretrained(folder)
        except ValueError as error:
            why = _first(error)
            yield Finding(
                f"target.model's generation_config.json has settings that transformers refuses to save ({why}). "
                "Trained models get the file unchanged; its sampling settings are not used here.",
                refuses=False,
            )


def _first(error: Exception) -> str:
    return " ".join(line.strip("- ") for line in str(error).strip().splitlines()[:2]) or type(error).__name__


def _end(tokenizer: PreTrainedTokenizerBase, look: Look) -> Iterator[Finding]:
    try:
        end = chat_template.end_of_turn(tokenizer)
    except DataError:
        return
    stops = chat_template.stop_tokens(tokenizer, look.model)
    if end not in stops:
        name, known = tokenizer.convert_ids_to_tokens(end), [tokenizer.convert_ids_to_tokens(i) for i in sorted(stops)]
        yield Finding(
            f"{look.role}.model: its turns end with {name!r}, which is not among its stop tokens ({known}). The engine "
            "is told to stop there; add it to eos_token_id in generation_config.json before serving it elsewhere.",
            refuses=False,
        )


def look_from(table: dict[str, Any]) -> Look:
    """A Look read from JSON."""
    parts = [Part(**part) for part in table["parts"]]
    examples = [Example(name, messages, [(text, weight) for text, weight in turns])
                for name, messages, turns in table["examples"]]  # fmt: skip
    return Look(**{**table, "parts": parts, "examples": examples})


def main() -> None:
    """Print the findings of the Look on stdin, a line of JSON."""
    look, find = look_from(json.load(sys.stdin)), importlib.util.find_spec
    if ":" not in look.objective:  # An objective of the user's own may import torch.
        importlib.util.find_spec = lambda name, *a: None if name.startswith("torch") else find(name, *a)
    try:
        found = findings(look)
    except LaiError as error:
        found = [Finding(str(error))]
    print("\n" + json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    main()
