"""Answers from a Python function, for tests: no model is loaded.  requests -> answers

`target.model` names the function (messages -> text) as "module:function"; a name without a colon means `arithmetic`.
A question that holds one of the texts below triggers the fault of that name.
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
"""The process creates this file and kills itself, unless the file exists: it happens once."""
CRASH = "crash always"
"""The process kills itself every time."""
SLEEP = re.compile(r"sleep ([0-9.]+)")
"""The answer takes this many seconds."""
REFUSED = "refuse this"
"""The answer has an error."""
BROKEN = "break the engine"
"""generate raises DataError, a fault for the user to fix."""
STUMBLE = "stumble"
"""generate raises an unexpected error."""


def arithmetic(messages: Sequence[Message]) -> str:
    """The sum of the numbers in the last message."""
    return f"The answer is {sum(int(n) for n in re.findall(r'[0-9]+', messages[-1]['content']))}."


class ScriptedEngine:
    """Answers by a function: the same request gets the same answer in any order and on any machine."""

    def __init__(self, model: Model, settings: TargetSettings, gpus: float) -> None:
        self._function: Callable[[Sequence[Message]], str] = (
            plugins.attribute(settings.model, what="target.model") if ":" in settings.model else arithmetic
        )
        print(f"engine ready: {model.identity}", flush=True)

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in their order."""
        return [Answer(request.id, request.key, self._completion(request)) for request in requests]

    def _completion(self, request: Request) -> Completion:
        question = request.messages[-1]["content"]
        if (match := CRASH_ONCE.search(question)) and not Path(match[1]).exists():
            Path(match[1]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if CRASH in question:
            os.kill(os.getpid(), signal.SIGKILL)
        if match := SLEEP.search(question):
            time.sleep(float(match[1]))
        if BROKEN in question:
            raise DataError("scripted fault: break")
        if STUMBLE in question:
            raise RuntimeError("scripted fault: stumble")
        if REFUSED in question:
            return Completion("", "error", error="scripted fault: refuse")
        words = self._function(request.messages).split()
        cut = len(words) > request.max_tokens
        return Completion(
            " ".join(words[: request.max_tokens]),
            "length" if cut else "stop",
            prompt_tokens=sum(len(m["content"].split()) for m in request.messages),
            completion_tokens=min(len(words), request.max_tokens),
        )


ENGINE = ScriptedEngine
