"""Whether tests tell right from wrong: the reference passes them, stubs do not.  programs, tests -> faults

Many programs share one trial, in which each has names of its own; what does not pass there has a trial for itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lai_ray.grading.sandbox import runner

BATCH = 64
"""Programs in one trial: their numbers must fit into a verdict's note."""
STUBS = {"None": "None", "'wrong'": "'wrong'", "a new object": "object()"}
"""What a function that does nothing right returns -> the expression; no test may pass with all of its answers."""
_LIMITS, _STUB_LIMITS = runner.TrialLimits(cpu=20.0, wall=120.0), runner.TrialLimits(cpu=1.0)
_CALLS = 10_000
"""Of one stub: tests may wait for the right answer."""
_FOUND = re.compile(r"\[([\d, ]*)\]$")


@dataclass(frozen=True)
class Referenced:
    """A reference program and its tests."""

    program: str
    checks: runner.Checks


def faults(items: Sequence[Referenced], min_tier: str, limits: runner.TrialLimits) -> list[str | None]:
    """For each: None where the program passes and every stub fails, else what is wrong.

    limits: of one program. Raises SandboxRefusedError where this machine offers less isolation than `min_tier`.
    """
    found: list[str | None] = [None] * len(items)
    for first in range(0, len(items), BATCH):
        batch = items[first : first + BATCH]
        for i in _suspects(batch, min_tier):
            found[first + i] = _fault(batch[i], min_tier, limits)
    return found


def _fault(item: Referenced, min_tier: str, limits: runner.TrialLimits) -> str | None:
    outcome = runner.run(item.program, item.checks, min_tier=min_tier, limits=limits)
    if outcome.verdict != "passed":
        return f"the reference does not pass its tests: {outcome.note}"
    for name, value in STUBS.items():
        stub = f"{item.program}\n\n\ndef {item.checks.entry}(*_, **__):\n    return {value}\n"
        if runner.run(stub, item.checks, min_tier=min_tier, limits=_STUB_LIMITS).verdict == "passed":
            return f"its tests cannot fail: a function that always returns {name} passes them"
    return None


def _suspects(batch: Sequence[Referenced], min_tier: str) -> Sequence[int]:
    """The numbers of those that have to be looked at alone; all where the trial has no verdict."""
    specs = [(c.setup, c.tests, c.entry, c.names, c.check) for c in (item.checks for item in batch)]
    program = _PROGRAM.format(sources=[item.program for item in batch])
    stubs = ", ".join(f"lambda: {value}" for value in STUBS.values())
    checks = runner.Checks(tests=_TESTS.format(specs=specs, stubs=stubs, calls=_CALLS), entry="call")
    outcome = runner.run(program, checks, min_tier=min_tier, limits=_LIMITS)
    if outcome.verdict == "passed":
        return []
    numbers = _FOUND.search(outcome.note) if outcome.verdict == "failed" else None
    return [int(number) for number in numbers[1].split(",")] if numbers and numbers[1] else range(len(batch))


_PROGRAM = """\
_spaces = []
for _source in {sources!r}:
    _space = {{"__name__": "program", "__builtins__": __builtins__}}
    _spaces.append(_space)
    try:
        exec(compile(_source, "<program>", "exec", dont_inherit=True), _space)
    except BaseException:
        _space.clear()


def call(number, name, args, kwargs):
    return _spaces[number][name](*args, **kwargs)
"""
_TESTS = """\
def _called(number, name):
    return lambda *args, **kwargs: call(number, name, list(args), kwargs)


def _stub(made):
    left = [{calls}]

    def stub(*_, **__):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("called too often")
        return made()

    return stub


def _passes(number, spec, stub):
    setup, tests, entry, names, check = spec
    space = {{"__name__": "tests"}}
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), space)
        space.update((name, _called(number, name)) for name in (*names, entry))
        if stub:
            space[entry] = _stub(stub)
        exec(compile(tests, "<tests>", "exec", dont_inherit=True), space)
        if check:
            space["check"](space[entry])
    except BaseException:
        return False
    return True


_stubs = [{stubs}]
_suspects = [
    number for number, spec in enumerate({specs!r})
    if not _passes(number, spec, None) or any(_passes(number, spec, stub) for stub in _stubs)
]
assert not _suspects, _suspects
"""
