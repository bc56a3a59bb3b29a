"""Answers from a plain function, for tests: no model is opened.  requests -> answers

`target.model` names the function, "module:function", from the messages to a text; a name without a colon stands for
`arithmetic`. What a test wants to go wrong is written into the question (see `CRASH_ONCE` and the others).
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lai_ray.common import plugins
from lai_ray.config.settings import TargetSettings
from lai_ray.contracts import Model
from lai_ray.errors import DataError
from lai_ray.records import Answer, Completion, Message, Request

CRASH_ONCE = re.compile(r"crash unless (\S+)")
"""The process kills itself, unless this file exists; it makes the file first, so that it happens once."""
CRASH = "crash always"
"""The process kills itself each time."""
SLEEP = re.compile(r"sleep ([0-9.]+)")
"""So many seconds pass before the answer."""
REFUSED = "refuse this"
"""The answer has an error."""
BROKEN = "break the engine"
"""generate raises an error for a person."""
STUMBLE = "stumble"
"""generate raises an error that nobody foresaw."""


def arithmetic(messages: Sequence[Message]) -> str:
    """The sum of the numbers in the last message."""
    return f"The answer is {sum(int(n) for n in re.findall(r'[0-9]+', messages[-1]['content']))}."


class ScriptedEngine:
    """Answers by a function; the same requests get the same answers in any order and on any machine."""

    def __init__(self, model: Model, settings: TargetSettings, gpus: float) -> None:
        self._function: Callable[[Sequence[Message]], str] = (
            plugins.attribute(settings.model, what="target.model") if ":" in settings.model else arithmetic
        )
        print(f"engine ready: {model.identity}", flush=True)

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in their order."""
        return [Answer(request.id, request.key, self._completion(request)) for request in requests]

    def _completion(self, request: Request) -> Completion:
        question = request.messages[-1]["content"]
        if (found := CRASH_ONCE.search(question)) and not Path(found[1]).exists():
            Path(found[1]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if CRASH in question:
            os.kill(os.getpid(), signal.SIGKILL)
        if found := SLEEP.search(question):
            time.sleep(float(found[1]))
        if BROKEN in question:
            raise DataError("the scripted engine was told to break")
        if STUMBLE in question:
            raise RuntimeError("the scripted engine was told to stumble")
        if REFUSED in question:
            return Completion("", "error", error="the scripted engine was told to refuse")
        words = self._function(request.messages).split()
        cut = len(words) > request.max_tokens
        return Completion(
            " ".join(words[: request.max_tokens]),
            "length" if cut else "stop",
            prompt_tokens=sum(len(m["content"].split()) for m in request.messages),
            completion_tokens=min(len(words), request.max_tokens),
        )


ENGINE = ScriptedEngine
