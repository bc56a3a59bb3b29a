"""Model FLOPs utilisation (MFU) as PaLM (arXiv 2204.02311, appendix B) defines it. Pure.

Recomputed activations do not count: MFU measures progress, not work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

PEAK = {
    "B200": 2.25e15, "GH200": 9.89e14, "H200": 9.89e14, "H100": 9.89e14, "H100 NVL": 8.35e14, "H100 PCIE": 7.56e14,
    "A100": 3.12e14, "L40S": 3.62e14, "L40": 1.81e14, "L4": 1.21e14, "A10": 1.25e14, "A10G": 7.0e13,
    "RTX 4090": 1.65e14,
}  # fmt: skip
"""Dense bf16 operations a second, by a part of the device's name, as their makers publish them."""


def peak(device: str) -> float | None:
    """Of a device by its name ("NVIDIA H100 80GB HBM3"); None for one that is not in the table."""
    known = [name for name in PEAK if re.search(rf"\b{name}\b", device.upper())]
    return PEAK[max(known, key=len)] if known else None


@dataclass(frozen=True)
class Meter:
    """Speed of one training."""

    parameters: int
    layers: int
    width: int
    workers: int
    peak: float | None
    """Of one worker's device; None without a GPU of the table, or in another precision than bf16."""

    def of(self, tokens: int, seconds: float, *, length: float) -> dict[str, float]:
        """tokens_per_second, and mfu where the peak is known. length: tokens that attention looks over, on average."""
        per_second = tokens / seconds
        speed = {"tokens_per_second": per_second}
        if self.peak:
            speed["mfu"] = per_second * self.operations(length) / (self.workers * self.peak)
        return speed

    def operations(self, length: float) -> float:
        """Floating-point operations that a token costs, forward and backward: 6 N + 12 layers x width x length."""
        return 6.0 * self.parameters + 12.0 * self.layers * self.width * length


def meter(model: Any, *, workers: int, device: str | None) -> Meter:
    """For a Hugging Face model, before ZeRO cuts it. device: the name of its GPU; None to measure no MFU."""
    config = model.config
    return Meter(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=getattr(config, "num_hidden_layers", 0),
        width=getattr(config, "hidden_size", 0),
        workers=workers,
        peak=peak(device) if device else None,
    )
