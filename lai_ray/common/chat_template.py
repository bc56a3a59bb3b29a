"""Renders messages as tokens by the model's own chat template, for generation and for training alike.

    messages          -> render          -> the prompt's tokens, as an engine gets them
    messages and turns -> render_example -> the same prompt, then what the target learns to say

The template decides everything: roles, BOS, end of turn. Nothing is added to its output, so a template that emits BOS
gives one BOS, and one that does not gives none.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lai_ray.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
DATE = datetime(2025, 1, 1, 12)
"""The date that every template is given as today: a run over midnight, or resumed on another day, asks and
trains on one prompt, and answers can be reused."""


class Example(NamedTuple):
    """One training conversation: the prompt's messages, then the (text, weight) turns to learn."""

    id: str
    messages: list[Message]
    turns: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One training example as a model reads it. ids and weights: one entry per token; weight 0 is not learned."""

    ids: list[int]
    weights: list[float]
    truncated: bool
    """Something was cut to fit: the end of the response, or (with nothing left to learn) the prompt itself."""

    @property
    def learns(self) -> bool:
        """Whether any token is learned. A prompt as long as the limit leaves none: drop and count it."""
        return any(weight != 0 for weight in self.weights)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder or hub name. Raises DataError when there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        missing = "" if Path(path).exists() else " There is no such folder here."
        raise DataError(f"{path}: no tokenizer can be read.{missing} {_first_line(error)}") from error
    return tokenizer


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool = True
) -> list[int]:
    """The tokens of a conversation by the model's own chat template, ready for an engine, which adds no BOS.

    An assistant's message at the end is the beginning of an answer, which the model continues.
    Raises DataError when the model has no chat template, or its template refuses the messages.
    """
    return render_all(tokenizer, [messages], add_generation_prompt)[0]


def render_all(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]], add_generation_prompt: bool = True
) -> list[list[int]]:
    """`render` of each, faster: one call of the tokenizer. Raises as `render` does."""
    if not conversations:
        return []
    begun = {i for i, messages in enumerate(conversations) if add_generation_prompt and _is_begun(messages)}
    if begun:
        others = (messages for i, messages in enumerate(conversations) if i not in begun)
        rendered = iter(render_all(tokenizer, list(others)))
        return [_begun(tokenizer, m) if i in begun else next(rendered) for i, m in enumerate(conversations)]
    texts = [as_text(tokenizer, messages, add_generation_prompt) for messages in conversations]
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _is_begun(messages: Sequence[Message]) -> bool:
    """Whether the last message is the assistant's: the beginning of an answer, which the model continues."""
    return len(messages) > 1 and messages[-1].get("role") == "assistant"


def _begun(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The prompt and the beginning of the answer, stripped, in the tokens in which it would be trained."""
    text = messages[-1]["content"].strip()
    before = as_text(tokenizer, messages[:-1])
    whole = as_text(tokenizer, messages, add_generation_prompt=False)
    if not whole.startswith(before):
        raise DataError("the model's chat template does not begin a whole conversation with its generation prompt")
    end = len(before) + _start(whole[len(before) :], text) + len(text)
    prompt = _encode(tokenizer, before).ids
    return prompt + _after(tokenizer, prompt, before, whole[:end]).ids


def render_example(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], turns: Sequence[tuple[str, float]], max_length: int
) -> Tokens:
    """A training example: the prompt exactly as `render` gives it to an engine, then the response.

    turns: (text, weight) pairs. Their texts, joined without a separator, are ONE assistant message, so several turns
    are learned as one response; a token has the weight of the turn in which it starts. The end of the turn (the first
    special token after the text; the tokenizer's EOS where the template writes none) is the last token and has the
    last turn's weight. The prompt weighs 0.

    A response that does not fit in `max_length` tokens is cut, its end of turn kept, and `truncated` set. A prompt that
    leaves no room for one response token and the end gives weights of 0 alone (`learns` is False).
    Raises DataError for an empty response, a weight below 0, or a template whose training text does not begin with
    the prompt of generation.
    """
    text = _checked(turns)
    before = as_text(tokenizer, messages, add_generation_prompt=True)
    whole = as_text(tokenizer, [*messages, {"role": "assistant", "content": text}], add_generation_prompt=False)
    if not whole.startswith(before):
        raise DataError(
            "the model's chat template does not begin a whole conversation with its own generation prompt "
            f"(…{before[-40:]!r} against …{whole[max(0, len(before) - 40) : len(before)]!r}): the target would be "
            "trained on other prompts than it is tested with. Give the model a consistent template."
        )
    prompt = _encode(tokenizer, before).ids
    rest = _after(tokenizer, prompt, before, whole)
    start = _start(whole[len(before) :], text)
    ids, weights = _ended(tokenizer, rest, _weights(rest, turns, start), end=start + len(text.strip()))
    return _fitted(prompt, ids, weights, max_length)


@dataclass(frozen=True, slots=True)
class _Encoded:
    ids: list[int]
    starts: list[int]
    """Where each token begins, in characters."""


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a response in training, and so must stop an answer. Raises DataError as `render_example`."""
    question = [{"role": "user", "content": "How many?"}]
    return render_example(tokenizer, question, [("Seven.", 1.0)], sys.maxsize).ids[-1]


def stop_tokens(tokenizer: PreTrainedTokenizerBase, model: str) -> set[int]:
    """The tokens at which an engine stops by a model's own files: the tokenizer's EOS, and generation_config.json's."""
    from transformers import GenerationConfig

    try:
        listed = GenerationConfig.from_pretrained(model).eos_token_id
    except (OSError, ValueError):  # It has none, or one that says nothing.
        listed = None
    return {
        int(i) for i in (tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])) if i is not None
    }


def _checked(turns: Sequence[tuple[str, float]]) -> str:
    text = "".join(part for part, _ in turns)
    if not text.strip():
        raise DataError("the response is empty: there is nothing to learn")
    for part, weight in turns:
        if not (math.isfinite(weight) and weight >= 0):
            raise DataError(f"a turn's weight is {weight}; it must be 0 or more ({part[:40]!r})")
    return text


def as_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    """The text of which `render` gives the tokens. Raises as it does."""
    _check_template(tokenizer)
    # A variable of the call takes precedence over the function of this name that transformers gives to templates.
    date: dict[str, Any] = {"strftime_now": DATE.strftime} if writes_date(tokenizer) else {}
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **date
            )
        )
    except Exception as error:  # A template is a program of the model's: it may fail in any way.
        roles = ", ".join(message.get("role", "no role") for message in messages)
        raise DataError(f"the model's chat template refuses the messages ({roles}): {_first_line(error)}") from error


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its chat template writes the current date into a prompt."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None))


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    template = getattr(tokenizer, "chat_template", None)
    name = tokenizer.name_or_path or "the model"
    if not template:
        raise DataError(
            f"{name} has no chat template, so its prompt format is not known. "
            "Add a file chat_template.jinja to its folder, or a `chat_template` to its tokenizer_config.json."
        )
    if isinstance(template, dict) and "default" not in template:
        raise DataError(
            f"{name} has {len(template)} named chat templates ({', '.join(sorted(template))}) and none is called "
            "default. Put the one to use into its folder as chat_template.jinja."
        )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> _Encoded:
    encoded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    return _Encoded(list(encoded["input_ids"]), [start for start, _ in encoded.get("offset_mapping", ())])


def _after(tokenizer: PreTrainedTokenizerBase, prompt: list[int], before: str, whole: str) -> _Encoded:
    """The tokens after the prompt; characters count from the prompt's end."""
    if not tokenizer.is_fast:
        raise DataError(f"{tokenizer.name_or_path}: training needs a fast tokenizer (a tokenizer.json in the folder)")
    both, n = _encode(tokenizer, whole), len(prompt)
    if both.ids[:n] == prompt:
        return _Encoded(both.ids[n:], [start - len(before) for start in both.starts[n:]])
    # A token spans prompt and response, as "\n\n" does when one ends and the other begins with "\n". In generation the
    # target continues the prompt's own tokens, so it learns that, unless the text would change.
    rest = _encode(tokenizer, whole[len(before) :])
    if tokenizer.decode(prompt + rest.ids) != tokenizer.decode(both.ids):
        raise DataError(
            "the prompt's tokens are not the beginning of the whole conversation's, and the response cannot be "
            f"tokenized apart from it (it begins {whole[len(before) :][:40]!r})"
        )
    return rest


def _start(rest: str, text: str) -> int:
    """Where the response, stripped of outer white space (templates may strip it), begins after the prompt."""
    at = rest.find(text.strip())
    if at < 0:
        raise DataError(f"the model's chat template rewrites the response: {text[:60]!r} became {rest[:60]!r}")
    return at


def _weights(rest: _Encoded, turns: Sequence[tuple[str, float]], start: int) -> list[float]:
    """The weight of the turn in which each token starts; before the first turn the first's, after the last the last's.

    So what a template adds between prompt and text (a space, an empty thought) is learned: the target must write it.
    """
    text = "".join(part for part, _ in turns)
    edge = start - (len(text) - len(text.lstrip()))
    edges = [edge := edge + len(part) for part, _ in turns]
    last = len(turns) - 1
    return [turns[min(sum(at >= e for e in edges), last)][1] for at in rest.starts]


def _ended(
    tokenizer: PreTrainedTokenizerBase, rest: _Encoded, weights: list[float], end: int
) -> tuple[list[int], list[float]]:
    """Up to and including the end of the turn; what a template adds after it (a newline) is not learned."""
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for i, (token, at) in enumerate(zip(rest.ids, rest.starts, strict=True)):
        if at >= end and token in special:
            return rest.ids[: i + 1], weights[: i + 1]
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"{tokenizer.name_or_path}: neither the chat template nor the tokenizer has an end of turn (EOS)"
        )
    return [*rest.ids, int(tokenizer.eos_token_id)], [*weights, weights[-1]]


def _fitted(prompt: list[int], ids: list[int], weights: list[float], max_length: int) -> Tokens:
    room = max_length - len(prompt)
    if room < 2:
        kept = prompt[:max_length]
        return Tokens(kept, [0.0] * len(kept), truncated=True)
    if cut := len(ids) > room:
        ids, weights = [*ids[: room - 1], ids[-1]], [*weights[: room - 1], weights[-1]]
    return Tokens(prompt + ids, [0.0] * len(prompt) + weights, truncated=cut)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
