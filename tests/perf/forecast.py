"""The estimate of `lai check` once the mistakes are known, against what was used.  run -> ratios

    python -m tests.perf.forecast JOB [section.key=value ...]      of a run whose instruct stages are complete

Once as the provider counted tokens, and once by the rule of the tests' provider (a token for every four characters
sent), which is also taken for the replies: what a tokenizer of English text would have counted, about.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lai_ray.cli import run as cli_run
from lai_ray.cli.check.budget import KnownPool, known_pools
from lai_ray.cli.check.dry_run import replayed
from lai_ray.config import job_file
from lai_ray.instructor.spending.budget import NOTHING, Amount
from lai_ray.instructor.spending.tokens import characters
from lai_ray.records import Reply


def main() -> None:
    """One line a pool of replies and way of counting."""
    job = job_file.read(Path(sys.argv[1]), sys.argv[2:])
    run = cli_run.existing(job)
    assert run is not None, "no such run yet"
    print("iteration  counted by          estimate in, out        used in, out      estimate / used: in, out, all")
    with replayed(job, [run]) as replay:
        assert replay is not None
        for pool in known_pools(replay, run):
            if pool.stage.facts():
                show(pool)


def show(pool: KnownPool) -> None:
    """The lines of one pool."""
    replies = list(pool.stage.view("replies.jsonl", Reply))
    quarter = sum(
        (Amount(1, characters(r.messages) // 4, -(-len(r.completion.text) // 4)) for r in replies), start=NOTHING
    )
    for how, used in (("the provider", pool.so_far.known), ("four characters each", quarter)):
        found = pool.likely
        ratios = (found.input / used.input, found.output / used.output, found.tokens / used.tokens)
        shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{pool.iteration:<10} {how:<21} {found.input:>9,}, {found.output:>9,}   "
              f"{used.input:>9,}, {used.output:>9,}    {shown} ({found.calls} and {used.calls} calls)")  # fmt: skip


if __name__ == "__main__":
    main()
