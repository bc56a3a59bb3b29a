"""Shows that an engine answers with a trained model's weights.  log-probabilities of a few texts -> those, or a fault

A training measures a few of its own sequences before and after it and writes both beside the weights. An engine that
has loaded them must find the values after. Those of texts that were learned move furthest, so weights that are out of
date show. Greedy texts would not do: rounding changes them where two tokens tie.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean

FILE = "canaries.json"
TOLERANCE = 0.1
"""Mean absolute difference of log-probabilities, in nats, that another precision or kernel may make."""
SHARE = 0.1
"""Or this share of what the training changed, if that is more."""


@dataclass(frozen=True)
class Canary:
    """A sequence of token ids and the log-probabilities of all but the first, by the base and by the trained model."""

    ids: list[int]
    before: list[float]
    after: list[float]


LogProbabilities = Callable[[list[list[int]]], Sequence[Sequence[float]]]
"""Of each sequence of token ids: the natural logarithms of its tokens' probabilities, all but the first's."""


def write(folder: Path, canaries: Sequence[Canary]) -> None:
    """Beside the weights in `folder`."""
    (folder / FILE).write_text(json.dumps([asdict(canary) for canary in canaries]), encoding="utf-8")


def read(folder: str) -> list[Canary]:
    """Those of the model in a folder; none for one that no training of this package wrote, or on a hub."""
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    return [Canary(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def fault(canaries: Sequence[Canary], measure: LogProbabilities) -> str | None:
    """Why what `measure` finds is not of the trained weights, in words; None where it is, or where nothing is known."""
    if not canaries:
        return None
    found = list(chain(*measure([canary.ids for canary in canaries])))
    before = list(chain(*(canary.before for canary in canaries)))
    after = list(chain(*(canary.after for canary in canaries)))
    off, to_base, moved = _apart(found, after), _apart(found, before), _apart(before, after)
    allowed = max(TOLERANCE, SHARE * moved)
    if off <= allowed and not to_base < off / 2:  # Also false where a value is not a number.
        return None
    nearer = f", and {to_base:.3g} from those of its base model" if to_base < off else ""
    return (
        f"log-probabilities of {len(found)} tokens differ by {off:.3g} in the mean from those that its training "
        f"measured (at most {allowed:.3g} is rounding){nearer}"
    )


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return fmean(abs(a - b) for a, b in zip(one, other, strict=True))
