"""A trained model's folder is the same model to vLLM as to transformers."""

from __future__ import annotations

import pytest

from tests.perf.exported import NEAR, PROMPTS, compare


@pytest.mark.soak
def test_a_trained_model_answers_alike_in_vllm_and_transformers():
    found = compare()
    assert found["prompts"] == PROMPTS and found["distinct"] > PROMPTS / 2
    assert all(gap <= NEAR for gap in found["gaps"]), found
