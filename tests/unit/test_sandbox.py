# ruff: noqa: E501  (programs are written on one line)
"""The sandbox: which values cross between the processes, and what is the program's fault and what is not."""

from __future__ import annotations

import os

import pytest

from lai_ray.config.settings import SandboxSettings
from lai_ray.errors import ConfigError
from lai_ray.grading.sandbox import runner
from lai_ray.grading.sandbox.protocol import Gone, Reader, TooLarge, Writer
from lai_ray.grading.sandbox.runner import Checks, TrialLimits

QUICK = TrialLimits(cpu=1.0, wall=30.0, idle=2.0)


def judged(program: str, *tests: str, **more) -> runner.TrialResult:
    level = more.pop("min_tier", "namespaces")
    checks = Checks(tests="\n".join(tests), entry=more.pop("entry", "f"), **more)
    return runner.run(program, checks, min_tier=level, limits=QUICK)


pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(x): return x", "assert f([1, (2, 3), {'a': {4}}, None, 1.5, 'x', b'y', 2 + 1j]) "
         "== [1, (2, 3), {'a': {4}}, None, 1.5, 'x', b'y', 2 + 1j]"),
        ("def f(x): return 10 ** x", "assert f(5000) == 10 ** 5000"),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(x): return P(x, x)", "assert f(1) == (1, 1)"),
        ("def f(xs, kind): return [x for x in xs if type(x) is not kind]", "assert f([1, 'a', 2.5], int) == ['a', 2.5]"),
        ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x + 1, [1, 2]) == [2, 3]"),
        ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(x): return map(str, x)", "assert f([1]) != ['1'] and list(f([1])) == ['1']"),
        ("def f(x): return 1 // x", "try: f(0)\nexcept ZeroDivisionError: pass\nelse: assert False"),
        ("def f(x): return float('nan')", "assert f(1) != f(1)"),
        ("def f(x):\n    x.append(1)\n    return x", "a = [0]\nassert f(a) == [0, 1]"),
    ],
)  # fmt: skip
def test_plain_values_cross_unchanged(program, test):
    outcome = judged(program, test)
    assert outcome.verdict == "passed", outcome.note


def test_instances_of_the_programs_own_classes_are_made_and_read_remotely():
    program = "class P:\n    def __init__(s, a): s.a = a\ndef f(ps): return P(sum(p.a for p in ps))"
    assert judged(program, "assert f([P(1), P(2)]).a == 3", names=("P",)).verdict == "passed"


@pytest.mark.parametrize(
    ("program", "verdict", "why"),
    [
        ("def f(x): return 0", "failed", "a test does not hold"),
        ("def f(x: return 1", "failed", "SyntaxError"),
        ("def g(x): return 1", "failed", "NameError"),
        ("def f(x: List[int]): return 1", "failed", "NameError"),
        ("def f(x):\n    while True: pass", "failed", "CPU time"),
        ("import time\ndef f(x): time.sleep(60)", "error", "no CPU time used"),
        ("class E:\n    def __eq__(s, o): return True\ndef f(x): return E()", "error", "a test compares it"),
        ("def f(x): return 'x' * (3 << 20)", "error", "too large"),
    ],
)
def test_the_programs_fault_is_failed_and_anything_else_is_an_error(program, verdict, why):
    outcome = judged(program, "assert f(1) == 1")
    assert outcome.verdict == verdict and why in outcome.note, outcome


@pytest.mark.parametrize("tests", ["assert f(1) ==", "assert f(nowhere) == 1"])
def test_tests_that_cannot_be_run_are_an_error(tests):
    outcome = judged("def f(x): return 1", tests)
    assert outcome.verdict == "error" and outcome.note.startswith(runner.CANNOT_BE_RUN)


def test_a_programs_output_is_kept_up_to_a_cap():
    outcome = judged("def f(x):\n    print('hello')\n    print('x' * 10_000_000)\n    return 1", "assert f(1) == 1")
    assert outcome.verdict == "passed" and outcome.output.startswith("hello")
    assert len(outcome.output) <= 16_384


def test_two_programs_share_no_file_and_no_state():
    program = (
        "import os\nopen('mine', 'w').write('x')\nimport math\nmath.pi = 3\ndef f(x): return sorted(os.listdir('.'))"
    )
    assert judged(program, "assert f(1) == ['mine']").verdict == "passed"
    assert (
        judged("import os, math\ndef f(x): return [os.listdir('.'), math.pi > 3]", "assert f(1) == [[], True]").verdict
        == "passed"
    )


def test_the_order_of_sets_is_the_same_in_every_sandbox():
    one = runner.ForkServer("namespaces")
    other = runner.ForkServer("namespaces")
    checks = Checks("print(f('a b c d e f g h'))", "f", setup="import sys")
    asked = "def f(x):\n    print(list(set(x.split())))"
    try:
        assert one.trial(asked, checks, QUICK).output == other.trial(asked, checks, QUICK).output != ""
    finally:
        one.close()
        other.close()


def test_a_fork_server_that_was_killed_between_trials_is_replaced():
    assert judged("def f(x): return 1", "assert f(1) == 1").verdict == "passed"
    for server in runner._pool().idle["namespaces"]:
        server.process.kill()
        server.process.wait()
    assert judged("def f(x): return 1", "assert f(1) == 1").verdict == "passed"


def test_a_machine_that_offers_less_than_the_job_demands_is_refused(monkeypatch):
    monkeypatch.setattr(runner, "_the_pool", runner.ServerPool(refused={"namespaces": "EPERM-1"}, offered={"landlock"}))
    with pytest.raises(runner.SandboxRefusedError, match=r"sandbox\.min_tier = 'namespaces'.*EPERM-1"):
        runner.run("", Checks("", "f"), min_tier="namespaces")
    assert runner.strongest("landlock") == "landlock"


def test_a_job_that_names_bubblewrap_demands_namespaces(monkeypatch):
    assert SandboxSettings(min_tier="bubblewrap").min_tier == "bubblewrap"
    assert judged("def f(x): return 1", "assert f(1) == 1", min_tier="bubblewrap").level == "namespaces"
    monkeypatch.setattr(runner, "_the_pool", runner.ServerPool(refused={"namespaces": "EPERM-1"}, offered={"landlock"}))
    with pytest.raises(runner.SandboxRefusedError, match=r"sandbox\.min_tier = 'bubblewrap'.*EPERM-1"):
        runner.strongest("bubblewrap")


def test_an_unknown_isolation_level_is_refused():
    with pytest.raises(ConfigError, match=r"sandbox\.min_tier.*'docker'"):
        runner.strongest("docker")


def test_nothing_is_left_when_the_grader_closes():
    server = runner.ForkServer("namespaces")
    folder = server.folder
    server.close()
    assert not os.path.exists(folder) and server.process.poll() is not None


def test_too_deep_and_too_large_values_are_refused():
    deep: list = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(TooLarge):
        Writer(lambda value: None).write(deep)
    with pytest.raises(TooLarge):
        Writer(lambda value: None).write([0] * 600_000)


@pytest.mark.parametrize(
    "value", [{"no such": 1}, {"tuple": 5}, {"set": [[1]]}, {}, {"int": "zz"}, {"builtin": "eval"}]
)
def test_a_malformed_value_is_refused(value):
    with pytest.raises(Gone):
        Reader(lambda content: None).read(value)
