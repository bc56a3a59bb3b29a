"""On a GPU: the memory estimate is within 15% of the peak, and the training learns."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.training import SIZE, measured

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


def test_memory_is_within_15_percent_of_the_estimate_and_mfu_is_measured(tmp_path):
    figures = measured(*SIZE, tmp_path)
    print(figures)
    assert figures["parameters"] > 1e9
    assert figures["reserved_gib"] == pytest.approx(figures["preflight_gib"], rel=0.15)
    assert 0 < figures["mfu"] < 1
    assert figures["loss"][1] < figures["loss"][0]
