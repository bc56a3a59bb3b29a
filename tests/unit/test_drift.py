"""The samples in a reply are found in whatever format, and never half of one."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from lai_ray.benchmarks import gsm8k, mbpp, mmlu
from lai_ray.contracts import Benchmark, Model, StrategySettings
from lai_ray.records import Attempt, Case, Completion, Grade, Problem, Reply, Sample
from lai_ray.strategies import le
from tests import drift
from tests.perf.official_parser import OFFICIAL

BENCHMARKS: dict[str, Benchmark] = {"math": gsm8k.BENCHMARK, "choice": mmlu.BENCHMARK, "code": mbpp.BENCHMARK}
SETTINGS = StrategySettings(0, 0, 3, 3, Model("", ""), count_cut_off=False, show_reference=False)


def samples(reply: drift.Drifted, *, reported: bool = True) -> list[Sample]:
    """As a run reads them; `reported`: the provider reports that the reply ended at its limit."""
    benchmark = BENCHMARKS[reply.kind]
    problem = Problem("x", benchmark.name, "train", "q", "1")
    case = Case("x>le", "le", Attempt("x", problem, [], Completion("", "stop"), Grade(0.0, "2", "", "graded")))
    completion = Completion(reply.text, "length" if reply.cut and reported else "stop")
    return le.STRATEGY.samples(case, [Reply("x>le#0", case.id, 0, 0, [], completion)], benchmark, SETTINGS)


def words(text: str) -> list[str]:
    return text.replace("*", " ").split()


def same(kind: str, item: drift.Item, sample: Sample) -> bool:
    """Whether the sample is the item, whole and nothing more."""
    made, response = sample.problem, sample.turns[0].text
    if kind == "code":
        tests = set(made.extra["test"].split("\n")) == set(item.tests)
        source = response.removeprefix("```python\n").removesuffix("\n```")
        return words(made.question) == words(item.question) and tests and _dump(source) == _dump(item.answer)
    if words(made.question) != words(item.question) or made.answer != item.answer:
        return False
    if kind == "choice":
        found = words(response)
        return made.extra["choices"] == item.options and found[-len(words(item.lines[0])) :] == words(item.lines[0])
    return all(" ".join(words(line)) in " ".join(words(response)) for line in item.lines)


def _dump(source: str) -> str:
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:
        return source


def judged(replies: list[drift.Drifted], *, reported: bool = True) -> tuple[Counter[str], list[str]]:
    """Counts of wanted, read and false samples, and what went wrong, by shape."""
    counts: Counter[str] = Counter()
    wrong = []
    for reply in replies:
        kept = [sample for sample in samples(reply, reported=reported) if sample.dropped is None]
        read = [item for item in reply.items if any(same(reply.kind, item, sample) for sample in kept)]
        false = [s for s in kept if not any(same(reply.kind, item, s) for item in reply.items)]
        counts.update(wanted=len(reply.items), read=len(read), false=len(false), replies=1)
        if len(read) < len(reply.items) or false:
            wrong.append(f"{reply.kind}, {reply.shape}: {len(read)} of {len(reply.items)} read, {len(false)} false")
    return counts, wrong


def test_samples_are_read_in_every_dress_and_none_by_half():
    replies = list(drift.replies())
    shapes = {(reply.kind, reply.shape) for reply in replies}
    counts, wrong = judged(replies)
    assert counts["replies"] >= 300
    assert len({shape for _, shape in shapes}) >= 25
    assert counts["read"] >= 0.99 * counts["wanted"], wrong
    assert counts["false"] == 0, wrong


@pytest.mark.parametrize("seed", range(3))
def test_dresses_put_together_at_random_are_read_too(seed):
    counts, wrong = judged(list(drift.mixed(seed)))
    assert counts["read"] >= 0.99 * counts["wanted"], wrong
    assert counts["false"] == 0, wrong


def test_a_cut_that_nobody_tells_of_gives_hardly_any_half_sample():
    counts, wrong = judged([r for r in drift.replies(0, each=6) if r.cut], reported=False)
    assert counts["read"] >= 0.99 * counts["wanted"], wrong
    assert counts["false"] <= 0.02 * counts["replies"], wrong


def test_what_is_rejected_is_kept_with_its_reason():
    for reply in drift.replies():
        dropped = [sample for sample in samples(reply) if sample.dropped is not None]
        assert all(sample.dropped and sample.reply_id == "x>le#0" for sample in dropped)
        if reply.cut and len(reply.items) + 1 == len(samples(reply)):
            assert dropped == samples(reply)[-1:]


@pytest.mark.parametrize("kind", drift.KINDS)
def test_the_requested_format_is_read_whole_by_ours_and_not_at_all_by_the_papers_parser(kind):
    replies = [r for seed in range(20) for r in drift.replies(seed) if (r.kind, r.shape) == (kind, "as asked")]
    counts, wrong = judged(replies)
    assert counts["read"] == counts["wanted"] >= 80, wrong
    official = sum(len(OFFICIAL[kind](reply.text)) for reply in replies)
    assert official == (0 if kind != "choice" else counts["wanted"])
