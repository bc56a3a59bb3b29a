"""Batches of like length against every sample padded to 512 tokens, on the paper's own samples.

    LAI_TEST_DATA=DATA python -m tests.perf.bench padding

`padding.share_N`: pads among the tokens computed for all 4,000 samples, N sequences in a pass, 32 in a step (nothing is
trained). `padding.real_tokens`: tokens/s without pads. `padding.held_out_loss`: of the same two trainings, on other
samples. One seed a pair; both sides of a pair learn the same samples. What a side does: `_padding`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from lai_ray.training import batches
from lai_ray.training.objectives.sft import OBJECTIVE
from lai_ray.training.sequences import tokenized
from tests.perf._padding import LONGEST, base, examples, recipe
from tests.perf._sides import side
from tests.perf.bench import Figure

SIDES = ("ours", "official")
NOTED = ("load", "padding", "loss", "tokens_per_cpu_s")
"""Processor seconds, too, because they say something on a busy machine."""


def bench(pairs: int) -> Iterator[Figure]:
    """The shares, then the trainings."""
    with tempfile.TemporaryDirectory() as folder:
        model = base(Path(folder))
        lengths = tokenized(recipe(model, folder), OBJECTIVE, examples()).lengths
        yield from (share(lengths, sequences) for sequences in (1, 4, 8, 16, 32))
        runs = [
            {way: side("tests.perf._padding", way, model, seed) for way in (SIDES if seed % 2 == 0 else SIDES[::-1])}
            for seed in range(pairs)
        ]
    for name, what, unit, reach in (
        ("real_tokens", "tokens_per_s", "tokens/s", "≥ 2"),
        ("held_out_loss", "loss", "nats", "≤ 1"),
    ):
        yield Figure(
            name=f"padding.{name}",
            unit=unit,
            values=[run["ours"][what] for run in runs],
            baselines=[run["official"][what] for run in runs],
            reach=reach,
            notes={note: [[run[way][note] for way in SIDES] for run in runs] for note in NOTED},
        )


def share(lengths: list[int], sequences_per_device: int) -> Figure:
    """Pads of one worker in an epoch, over three seeds."""
    real, computed = sum(lengths), []
    for seed in range(3):
        plan = batches.steps(lengths, sequences_per_step=32, epochs=1, seed=seed)
        passes = (
            batches.micro_batches(rows, lengths, workers=1, sequences_per_device=sequences_per_device) for rows in plan
        )
        computed.append(sum(batches.padded(each, lengths) for each in passes))
    return Figure(
        name=f"padding.share_{sequences_per_device}",
        unit="tokens",
        values=[all_ - real for all_ in computed],
        baselines=computed,
        reach="≤ 0.1",
        notes={
            "samples": len(lengths),
            "mean_length": real / len(lengths),
            "padded_to_512": 1 - real / (LONGEST * len(lengths)),
        },
    )
