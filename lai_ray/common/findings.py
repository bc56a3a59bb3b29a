"""What a look at a job shows before it starts.  each check makes some; `lai check` and the start of a run show them"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was wrong, what was there, and what to do, in words."""

    text: str
    refuses: bool = True
    """Whether a run would be refused or fail; otherwise it is worth knowing."""
