"""The quickstart's effect over seeds, beside the untargeted control at equal count."""

from __future__ import annotations

import pytest

from lai_ray.report import facts
from lai_ray.storage.run import Run
from tests.conftest import lai

SEEDS = [0, 1, 2]


def lift(tmp_path, job: str, seed: int):
    done = lai("run", f"jobs/{job}.toml", f"storage={tmp_path}", f"seed={seed}", f"name={job}-{seed}", timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    first, *_, last = facts.iterations(Run.read(f"{tmp_path}/{job}-{seed}"))
    return {name: facts.change(first, last, name, 0.95) for name in ("word_problems", "word_problems_plus")}


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_learning_from_error_lifts_the_test_and_does_not_cost_transfer(tmp_path, seed):
    targeted, control = (lift(tmp_path, job, seed) for job in ("quickstart", "untargeted_cpu"))
    print(f"seed {seed}: targeted {targeted}, untargeted {control}")
    assert targeted["word_problems"].value >= 0.03
    assert targeted["word_problems"].low > 0
    assert targeted["word_problems_plus"].high > 0
