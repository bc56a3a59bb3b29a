"""On a GPU: the preflight is within 15% of the peak, and the training learns."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.training import SIZE, measured

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


def test_memory_is_within_15_percent_of_the_preflight_and_mfu_is_measured():
    said = measured(*SIZE)
    print(said)
    assert said["parameters"] > 1e9
    assert said["reserved_gib"] == pytest.approx(said["preflight_gib"], rel=0.15)
    assert 0 < said["mfu"] < 1
    assert said["loss"][1] < said["loss"][0]
