"""How many small faults in the pure modules the fast tests find.  a tree, a seed -> killed or alive, a JSON line each

    OMP_NUM_THREADS=1 LAI_TEST_DATA=DATA python tests/perf/mutants.py --out FILE --seed 1 --count 200

A mutant is one module with one change: another comparison, an integer one higher or lower, `and` for `or`, a condition
negated, another arithmetic operator, a return value None or negated, a statement removed, `break` for `continue`, a
slice without one of its bounds. Left out: docstrings, annotations, the errors raised, `__repr__` and `__str__`.

Nothing is written to the working tree: the files that git tracks are copied to FILE.tree. There every test file of
tests/unit and tests/contracts runs once without a mutant; how long each of its tests takes and which functions it calls
is kept in FILE.tests. A mutant is run with the tests that call its function (of its module, when it is outside
functions), many in a short time first, up to BUDGET seconds. Tests that take longer than SLOW seconds, or fail without
a mutant, are left out. A test that fails, and a timeout, kill only where the same tests pass without the mutant. In
FILE "killed" is the test that failed, empty for a survivor.

Started again, it continues. To try survivors again after a change of the tests, remove their lines from FILE, remove
FILE.tree and FILE.tests, and start again. For another tree give --tree and use that tree's Python; --modules names the
files to change (patterns below lai_ray), --without test files that take too long.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import functools
import gc
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from types import CodeType, FunctionType
from typing import Any

import hypothesis
import pytest

PURE = """common/chat_template.py common/intervals.py config/*.py grading/*.py instructor/**/*.py stages/curation/*.py
    distributed/neighbours/topk.py storage/store.py storage/answers.py training/batches.py training/recipe.py
    strategies/*.py"""
PRELOADED = "numpy pyarrow.parquet torch transformers openai ray datasets rapidfuzz msgspec obstore psutil rich.console"
"""Imported once: the process of each run is a fork of this one."""
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
TRUTH = ast.Compare | ast.BoolOp | ast.UnaryOp
TEXT = {str, ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp}
"""What is joined with + rather than added."""
SLOW, START, BUDGET = 20.0, 1.0, 25.0
"""Seconds: the longest test, what a file costs however few of its tests run, and all tests of a mutant."""
MEMORY = 16 << 30


def ways(node: Any, function: str) -> Iterator[tuple[str, Any]]:
    """The ways to change a node itself, each with its kind."""

    def like(**changed: Any) -> ast.AST:
        return ast.copy_location(type(node)(**{**dict(ast.iter_fields(node)), **changed}), node)

    def no(test: ast.expr) -> ast.expr:
        return test.operand if isinstance(getattr(test, "op", None), ast.Not) else ast.UnaryOp(ast.Not(), test)

    match node:
        case ast.Compare(ops=[op]):
            yield from (("comparison", like(ops=[other()])) for other in COMPARISONS[type(op)])
        case ast.Constant(value=bool()):
            return
        case ast.Constant(value=int(value)):
            yield from (("integer", ast.Constant(value + step)) for step in (1, -1))
        case ast.BoolOp(op=op):
            yield "and, or", like(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            if not isinstance(test, ast.Compare | ast.BoolOp):
                yield "not", like(test=no(test))
        case ast.BinOp(op=op) if type(op) in ARITHMETIC and not TEXT & {
            type(getattr(side, "value", side)) for side in (node.left, node.right)
        }:
            yield "arithmetic", like(op=ARITHMETIC[type(op)]())
        case ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            yield "arithmetic", like(op=ARITHMETIC[type(op)]())
            yield "statement", ast.Pass()
        case ast.Return(value=value) if value is not None and ast.unparse(value) != "None":
            truth = isinstance(value, TRUTH) or ast.unparse(value) in ("True", "False")
            yield "return", ast.Return(no(value) if truth else ast.Constant(None))
        case ast.Raise() | ast.Assign() | ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) if function:
            yield "statement", ast.Pass()
        case ast.Continue() | ast.Break():
            yield "loop", ast.Break() if isinstance(node, ast.Continue) else ast.Continue()
        case ast.Slice():
            yield from (("slice", like(**{bound: None})) for bound in ("lower", "upper") if getattr(node, bound))


def below(node: ast.AST, names: tuple[str, ...] = ()) -> Iterator[tuple[Any, str]]:
    """What stands below a node and may be changed, each with the qualified name of its function, or ""."""
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            raised = isinstance(node, ast.Raise) or getattr(child, "name", "") in ("__repr__", "__str__")
            if field in ("annotation", "returns") or raised or not isinstance(child, ast.AST):
                continue
            inner = names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = (*names, child.name, "<locals>")
            elif isinstance(child, ast.ClassDef):
                inner = (*names, child.name)
            yield child, ".".join(inner).removesuffix(".<locals>") if "<locals>" in inner else ""
            yield from below(child, inner)


def watched(module: str, source: str) -> str:
    """A module whose functions report that they are called, each with its name after that of the file."""
    for node, name in below(tree := ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            call = f"getattr(__import__('builtins'), 'called', len)('{module} {name}')"
            node.body.insert(1 if ast.get_docstring(node) else 0, ast.parse(call).body[0])
    return ast.unparse(tree)


class Swap(ast.NodeTransformer):
    """One node in place of another."""

    def __init__(self, before: ast.AST, after: ast.AST) -> None:
        self.before, self.after = before, after

    def visit(self, node: ast.AST) -> ast.AST:
        return self.after if node is self.before else self.generic_visit(node)


def sample(root: Path, files: list[str], *, seed: int, count: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Mutants in the order drawn, each with the source of its module. Every place is as likely as any other."""
    trees = {file: ast.parse((root / file).read_text()) for file in files}
    nodes = [(file, node, name) for file, tree in trees.items() for node, name in below(tree)]
    places = [(file, node, name, found) for file, node, name in nodes if (found := list(ways(node, name)))]
    print(f"{len(places)} places in {len(files)} modules")
    random = Random(seed)
    for number, (file, node, name, found) in enumerate(random.sample(places, min(count, len(places)))):
        kind, changed = random.choice(found)
        shown = (ast.unparse(one.test if kind == "not" else one) for one in (node, changed))
        before, after = (" ".join(text.split())[:150] for text in shown)
        facts = {"number": number, "file": file, "line": node.lineno, "function": name, "kind": kind}
        source = ast.unparse(Swap(node, changed).visit(trees[file]))
        Swap(changed, node).visit(trees[file])
        yield facts | {"before": before, "after": after}, source


class Recorder:
    """A pytest plugin: runs the tests wanted, and records seconds and functions called by test, and what failed."""

    def __init__(self, wanted: set[str] | None) -> None:
        self.wanted, self.test = wanted, ""
        self.seconds: dict[str, float] = defaultdict(float)
        self.shared: dict[str, float] = {}
        self.calls: dict[str, set[str]] = defaultdict(set)
        self.failed: list[str] = []

    def called(self, function: str) -> None:
        """Called by each function of a watched module; calls while files are imported stand under ""."""
        self.calls[self.test].add(function)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.wanted is not None:
            items[:] = [item for item in items if item.nodeid in self.wanted]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.test = nodeid

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        self.seconds[item.nodeid] += sum(self.shared.get(name, 0) for name in item.fixturenames)
        signal.setitimer(signal.ITIMER_REAL, 0 if self.wanted else SLOW)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        test = self.test
        self.test = test if fixturedef.scope == "function" else ""
        start = time.monotonic()
        yield
        if not self.test and (took := time.monotonic() - start) > SLOW:
            self.shared[fixturedef.argname] = took
        self.test = test

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        self.failed += [report.nodeid] if report.failed else []

    def pytest_collectreport(self, report: Any) -> None:
        self.failed += [report.nodeid] if report.failed else []


def forked(task: Callable[[], dict[str, Any]], root: Path, limit: float) -> dict[str, Any]:
    """What a task returns in a process of its own, which may end in any way within `limit` seconds."""
    out = root.with_suffix(".result")
    out.unlink(missing_ok=True)
    if not (child := os.fork()):
        with suppress(BaseException):
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, _too_slow)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            for number in (0, 1, 2):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            out.write_text(json.dumps(task()))
        os._exit(0)
    until, running = time.monotonic() + limit, True
    try:
        while running and time.monotonic() < until:
            time.sleep(0.01)
            running = os.waitpid(child, os.WNOHANG)[0] == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    if running:
        os.waitpid(child, 0)
    lost = {"failed": ["timeout" if running else "crash"], "seconds": {}, "calls": {}}
    return json.loads(out.read_text()) if out.exists() else lost


def _too_slow(*_: Any) -> None:
    raise TimeoutError


def run_files(root: Path, files: list[str], plugin: Any, *options: str) -> int:
    """Pytest in the copied tree, which this process has not imported yet."""
    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ |= {"PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    always = ["-q", "-p", "no:cacheprovider", f"--basetemp={root.with_suffix('.tmp')}"]
    return pytest.main([*always, *options, *files], plugins=[plugin])


def recorded(root: Path, files: list[str], wanted: set[str] | None) -> dict[str, Any]:
    """What failed in test files, how long their tests took, and which functions they called."""
    recorder = Recorder(wanted)
    vars(builtins)["called"] = recorder.called
    code = run_files(root, files, recorder)
    if code not in (0, 1, 5) and not recorder.failed:
        recorder.failed.append(f"pytest ended with {code!r}")
    calls = {test: sorted(names) for test, names in recorder.calls.items()}
    return {"failed": recorder.failed, "seconds": recorder.seconds, "calls": calls}


def chosen(mutant: dict[str, Any], tests: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The tests for a mutant by file, many in a short time first. What a file calls as it is imported concerns all."""
    function, files, budget = f"{mutant['file']} {mutant['function']}", [], BUDGET
    for file, seen in tests.items():
        calls = {test for test, names in seen["calls"].items() if any(name.startswith(function) for name in names)}
        quick = {test: took for test, took in seen["seconds"].items() if took <= SLOW and test not in seen["failed"]}
        if wanted := [test for test in quick if test in calls or "" in calls]:
            files.append(((sum(quick[test] for test in wanted) + START) / len(wanted), file, wanted))
    kept: list[tuple[str, list[str]]] = []
    for _, file, wanted in sorted(files):
        taken = []
        for test in sorted(wanted, key=tests[file]["seconds"].__getitem__):
            if tests[file]["seconds"][test] <= budget:
                budget -= tests[file]["seconds"][test]
                taken.append(test)
        kept += [(file, taken)] if taken else []
    return kept


@contextmanager
def written(path: Path, source: str) -> Iterator[None]:
    """A file with another content for a while."""
    before, byte_code = path.read_bytes(), Path(importlib.util.cache_from_source(path))
    byte_code.unlink(missing_ok=True)  # It would hold for another content of the same length and second.
    path.write_text(source)
    try:
        yield
    finally:
        path.write_bytes(before)
        byte_code.unlink(missing_ok=True)


def prepare(checkout: Path, root: Path, patterns: str, kept: Path, without: str) -> tuple[list[str], dict[str, Any]]:
    """Copies the tree and records its tests, once: the modules to change, and what was recorded by test file."""
    if not root.exists():
        listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=checkout, text=True)
        for name in filter(lambda name: (checkout / name).is_file(), listed.split("\0")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, root / name)
    package = root / "lai_ray"
    modules = sorted({str(path.relative_to(root)) for one in patterns.split() for path in package.glob(one)})
    tests: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    with ExitStack() as stack:
        for module in modules:  # From the syntax tree, as mutants are: a test that depends on comments fails here.
            stack.enter_context(written(root / module, watched(module, (root / module).read_text())))
        found = (path for room in ("unit", "contracts") for path in (root / "tests" / room).glob("test_*.py"))
        for file in sorted(str(path.relative_to(root)) for path in found):
            if file not in tests and Path(file).name not in without:
                tests[file] = forked(partial(recorded, root, [file], None), root, 900)
                kept.write_text(json.dumps(tests))
                print(f"{sum(tests[file]['seconds'].values()):6.1f} s  {file}  {tests[file]['failed'] or ''}")
    return modules, tests


class Mutating:
    """A pytest plugin: in place of running the tests collected, runs mutants with them, each in a fork.

    A mutant's code takes the place of its function's, so that nothing is imported anew. What stands outside functions
    is left to `imported`.
    """

    def __init__(
        self, root: Path, tests: dict[str, Any], todo: Iterator[tuple[dict[str, Any], str]], out: Path
    ) -> None:
        self.root, self.tests, self.todo, self.out = root, tests, todo, out

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.session, self.items = session, {item.nodeid: item for item in session.items}
        kinds, objects = (FunctionType, functools._lru_cache_wrapper), gc.get_objects()
        own = [one for one in objects if type(one) in kinds and str(one.__module__).startswith("lai_ray")]
        self.functions = [one for one in own if type(one) is FunctionType]
        self.caches = [one for one in own if type(one) is not FunctionType]
        gc.freeze()  # A collection in a fork would copy all memory.
        for mutant, source in self.todo:
            if targets := self.targets(mutant, source):
                keep(mutant, self.killers(mutant, source, targets), self.out)
        return True

    def targets(self, mutant: dict[str, Any], source: str) -> list[tuple[FunctionType, CodeType]]:
        """The function that a mutant changes, with its new code; none where only the import of the module does."""
        path, name = str(self.root / mutant["file"]), mutant["function"].split(".<locals>")[0]
        before, after = (code_of(text, path, name) for text in (ast.unparse(ast.parse(Path(path).read_text())), source))
        if before is None or after is None or before == after:
            return []
        functions = [one for one in self.functions if one.__code__.co_filename == path]
        return [(one, after) for one in functions if one.__code__.co_qualname == name]

    def killers(self, mutant: dict[str, Any], source: str, targets: list[Any]) -> list[str]:
        """The first test that fails with a mutant and passes without it."""
        while True:
            names = [name for _, found in chosen(mutant, self.tests) for name in found if name in self.items]
            limit = 60 + 5 * sum(self.tests[name.split("::")[0]]["seconds"][name] for name in names)
            with written(self.root / mutant["file"], source):
                failed: list[str] = forked(partial(self.attempt, names, targets), self.root, limit)["failed"]
            suspects = names if failed in (["timeout"], ["crash"]) else failed
            if not failed or not forked(partial(self.attempt, suspects, []), self.root, limit)["failed"]:
                return failed
            if suspects is names:
                return []
            self.tests[failed[0].split("::")[0]]["failed"].append(failed[0])

    def attempt(self, names: list[str], targets: list[tuple[FunctionType, CodeType]]) -> dict[str, Any]:
        """Runs tests up to the first that fails."""
        for function, code in targets:
            function.__code__ = code
        for one in self.caches:
            one.cache_clear()
        recorder = Recorder(set(names))
        self.session.config.pluginmanager.register(recorder)
        items = [self.items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            if not recorder.failed:
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return {"failed": recorder.failed}


def code_of(source: str, path: str, name: str) -> CodeType | None:
    """The code of one function of a module, by its qualified name."""
    found = [compile(source, path, "exec")]
    for code in found:
        found += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return next((code for code in found if code.co_qualname == name), None)


def imported(root: Path, mutant: dict[str, Any], source: str, tests: dict[str, Any]) -> list[str]:
    """The first test that fails where the mutant's module is imported anew."""
    wanted = chosen(mutant, tests)
    for part in filter(None, (wanted[:1], wanted[1:])):
        files, names = [test for test, _ in part], {name for _, found in part for name in found}
        limit = 60 + 5 * sum(tests[test]["seconds"][name] for test, found in part for name in found)
        with written(root / mutant["file"], source):
            failed: list[str] = forked(partial(recorded, root, files, names), root, limit)["failed"]
        if failed == ["timeout"]:  # Of the mutant, or of a busy machine?
            failed = [] if forked(partial(recorded, root, files, names), root, limit)["failed"] else failed
        if failed:
            return failed
    return []


def results(out: Path) -> list[dict[str, Any]]:
    """What was found so far."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def is_done(mutant: dict[str, Any], out: Path) -> bool:
    """Whether it was run before."""
    return any(mutant.items() <= one.items() for one in results(out))


def keep(mutant: dict[str, Any], failed: list[str], out: Path) -> None:
    """Writes and prints one result."""
    print(("killed " if failed else "ALIVE  ") + "{file}:{line}  {before}  ->  {after}".format(**mutant), flush=True)
    with out.open("a") as lines:
        lines.write(json.dumps(mutant | {"killed": failed[:1]}) + "\n")


def main() -> None:
    """Draws the mutants, runs each, and prints those alive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in {"seed": 1, "count": 200, "modules": PURE, "without": "", "tree": "."}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.path.pop(0)  # This folder, whose files would hide others of their name.
    for name in PRELOADED.split():
        importlib.import_module(name)
    out = options.out.resolve()
    root = out.with_suffix(".tree")
    modules, tests = prepare(Path(options.tree), root, options.modules, out.with_suffix(".tests"), options.without)
    drawn = list(sample(root, modules, seed=options.seed, count=options.count))
    if not (child := os.fork()):
        todo = (pair for pair in drawn if not is_done(pair[0], out))
        files = [file for file in tests if tests[file]["seconds"]]
        run_files(root, files, Mutating(root, tests, todo, out), "-s")
        os._exit(0)
    os.waitpid(child, 0)
    for mutant, source in drawn:
        if not is_done(mutant, out):
            keep(mutant, imported(root, mutant, source, tests), out)
    done = results(out)
    alive = sorted((one["file"], one["line"], one["before"], one["after"]) for one in done if not one["killed"])
    print(f"\n{len(done) - len(alive)} of {len(done)} killed; alive:")
    print(*("{}:{}  {}  ->  {}".format(*one) for one in alive), sep="\n")


if __name__ == "__main__":
    main()
