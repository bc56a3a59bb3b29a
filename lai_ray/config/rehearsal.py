"""The settings of [curate] for a rehearsal: the target sits the new problems before it studies them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

SWITCHES = ("drop_solved", "own_texts", "hint", "check_keys")


class RehearsalSettings(BaseModel):
    """What a rehearsal asks, and what is done with the answers (`docs/training.md`)."""

    rehearse: Annotated[int, Field(ge=0)] = 0
    """Answers of the target to each new problem before the training: the first greedy, as in a test, the others sampled
    at temperature 1. Without a switch below they only show how many it solves already; 0: none."""
    drop_solved: bool = False
    """Leave out the problems that all of its answers solve."""
    own_texts: bool = False
    """Study the target's own right answer, where it has one, instead of the instructor's."""
    hint: bool = False
    """With own_texts: where it has none, it is shown the instructor's solution and tries again in its own words."""
    check_keys: bool = False
    """A paid check: where more than half of its answers, and at least two of several, agree on another answer than the
    sample's, the instructor solves the problem again. If that agrees with the target, the sample is dropped."""

    @model_validator(mode="after")
    def _switches_need_answers(self) -> RehearsalSettings:
        used = [name for name in SWITCHES if getattr(self, name)]
        if used and not self.rehearse:
            raise ValueError(
                f"{used[0]} = true uses the target's answers to the new problems, and rehearse = 0 asks for none. Set "
                f"curate.rehearse to 1 or more, or {used[0]} = false"
            )
        if self.hint and not self.own_texts:
            raise ValueError(
                "hint = true is for texts of the target's own, and own_texts = false learns the instructor's. Set "
                "own_texts = true, or hint = false"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The other settings of the table, on which the curated samples depend: a rehearsal comes after."""
        return self.model_dump(exclude=set(RehearsalSettings.model_fields))
