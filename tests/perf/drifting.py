"""The figures of docs/results/checks.md for replies that drift.  python -m tests.perf.drifting"""

from __future__ import annotations

from collections.abc import Iterable

from tests import drift, drift_dressed
from tests.unit.test_drift import judged


def show(name: str, replies: Iterable[drift.Drifted], *, reported: bool = True) -> None:
    """One line of counts, and what went wrong."""
    counts, wrong = judged(list(replies), reported=reported)
    print(f"{name}: {counts['replies']} replies, {counts['read']} of {counts['wanted']} read, {counts['false']} false")
    for line in wrong:
        print("   ", line)


def main() -> None:
    """Print every figure."""
    show("corpus, seed 0", drift.replies())
    show("corpus, seeds 1 to 4", (reply for seed in range(1, 5) for reply in drift.replies(seed)))
    show("mixed, seeds 0 to 11", (reply for seed in range(12) for reply in drift.mixed(seed)))
    show("mixed, seeds 100 to 109", (reply for seed in range(100, 110) for reply in drift.mixed(seed)))
    cut = (reply for seed in range(5) for reply in drift.replies(seed, each=6) if reply.cut)
    show("cut, not reported as such", cut, reported=False)
    for kind in drift.KINDS:
        dressed = (reply for seed in range(5) for reply in drift_dressed.replies(seed, kinds=(kind,)))
        show(f"JSON, tags, tables and other dress, {kind}, seeds 0 to 4", dressed)


if __name__ == "__main__":
    main()
