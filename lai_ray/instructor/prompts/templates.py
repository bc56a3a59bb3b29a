"""A job's own prompts in place of the built-in ones: KIND.txt or KIND.DATASET.txt.  texts -> wordings

    [system]
    You write practice problems. {brief}
    [user]
    {question}
    The student said: {wrong_answer}
    Write {n} new problems against this mistake.

Slots are filled in one pass: their content is never read as a template. {{n}} stands for a literal {n}; all other
braces are kept as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lai_ray.common.plugins import suggestion
from lai_ray.errors import ConfigError

_ALWAYS = ("brief", "question", "n")
NEEDED: Mapping[str, tuple[str, ...]] = {
    "le": (*_ALWAYS, "wrong_answer"),
    "lec": (*_ALWAYS, "wrong_answer", "correct"),
    "untargeted": _ALWAYS,
    "auggpt": _ALWAYS,
    "llm2llm": (*_ALWAYS, "reference"),
}
"""By kind of prompt, the slots that it must have."""
FURTHER: Mapping[str, tuple[str, ...]] = {
    "le": ("reference", "explain"),
    "lec": ("reference", "explain"),
    "untargeted": (),
    "auggpt": ("reference",),
    "llm2llm": (),
}
"""Slots that a setting fills: reference (instructor.show_reference) and explain (instructor.explain)."""

_PART = re.compile(r"^[ \t]*\[(system|user)\][ \t]*$", re.M | re.I)
_SLOT = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")
_EXPLAIN_LINE = re.compile(r"^[ \t]*\{explain\}[ \t]*(?:\n+|\Z)", re.M)


@dataclass(frozen=True, slots=True)
class Wording:
    """The two messages of a prompt, with their slots."""

    system: str
    user: str

    @property
    def slots(self) -> set[str]:
        """The names of all slots in both messages."""
        return {match[2] for match in _SLOT.finditer(f"{self.system}\n{self.user}") if match[2]}


def fill(template: str, slots: Mapping[str, str]) -> str:
    """`{name}` replaced by its slot in one pass, `{{name}}` by {name}. A name that is no slot is kept."""
    if not slots.get("explain"):
        template = _EXPLAIN_LINE.sub("", template)
    return _SLOT.sub(lambda m: f"{{{m[1]}}}" if m[1] else slots.get(m[2], m[0]), template)


def own_for(texts: Mapping[str, str], dataset: str) -> dict[str, Wording]:
    """A job's own wordings by kind, for one dataset: KIND.DATASET before KIND.

    texts: by name as in the job's `instructor.prompts`.  Raises ConfigError for a text without its two parts.
    """
    names = {kind: f"{kind}.{dataset}" if f"{kind}.{dataset}" in texts else kind for kind in NEEDED}
    return {kind: wording(name, texts[name]) for kind, name in names.items() if name in texts}


@lru_cache(maxsize=256)
def wording(name: str, text: str) -> Wording:
    """The parts of one text. Raises ConfigError unless it has one [system] and one [user] part, neither empty."""
    where = f"instructor.prompts: {name}.txt"
    if not text.strip():
        raise ConfigError(f"{where} is empty; write a [system] and a [user] part, or remove the file")
    marks = list(_PART.finditer(text))
    names = [mark[1].lower() for mark in marks]
    if sorted(names) != ["system", "user"]:
        raise ConfigError(
            f"{where} has {' and '.join(f'[{part}]' for part in names) or 'no part'}; it must have one [system] "
            "and one [user], each on a line of its own above its text"
        )
    if before := text[: marks[0].start()].strip():
        raise ConfigError(f"{where}: {before.splitlines()[0][:60]!r} is above [{names[0]}]; move it into a part")
    ends = [marks[1].start(), len(text)]
    parts = {name: text[mark.end() : end].strip() for name, mark, end in zip(names, marks, ends, strict=True)}
    if empty := [name for name in names if not parts[name]]:
        raise ConfigError(f"{where}: its [{empty[0]}] part is empty")
    return Wording(**parts)


def check(texts: Mapping[str, str], datasets: Collection[str], *, show_reference: bool, explain: bool) -> None:
    """Check every text of a job. Raises ConfigError for the first that cannot be used, with what to do.

    datasets: the names allowed in KIND.DATASET.txt.
    """
    for name, text in sorted(texts.items()):
        kind, _, dataset = name.partition(".")
        where = f"instructor.prompts: {name}.txt"
        names = [("prompt", kind, list(NEEDED))] + [("dataset", dataset, sorted(datasets))] * ("." in name)
        for what, given, known in names:
            if given not in known:
                hint = suggestion(given, known)
                raise ConfigError(f"{where}: no {what} is called {given!r}. {hint}There are: {', '.join(known)}.")
        _check_slots(where, kind, wording(name, text).slots, show_reference=show_reference, explain=explain)


def _check_slots(where: str, kind: str, slots: set[str], *, show_reference: bool, explain: bool) -> None:
    known = [*NEEDED[kind], *FURTHER[kind]]
    for slot in sorted(slots - set(known)):
        raise ConfigError(
            f"{where}: no slot {{{slot}}}. {suggestion(slot, known)}A prompt of kind {kind} has "
            f"{', '.join(f'{{{name}}}' for name in known)}. Write literal braces twice: {{{{{slot}}}}}."
        )
    if missing := [slot for slot in NEEDED[kind] if slot not in slots]:
        raise ConfigError(
            f"{where}: {', '.join(f'{{{slot}}}' for slot in missing)} is missing; a prompt of kind {kind} must "
            f"have {', '.join(f'{{{name}}}' for name in NEEDED[kind])}"
        )
    if "reference" in slots and not show_reference:
        raise ConfigError(
            f"{where}: {{reference}} is empty with instructor.show_reference = false; set it to true or remove the slot"
        )
    for slot, setting, wanted in (("reference", "show_reference", show_reference), ("explain", "explain", explain)):
        if wanted and slot in FURTHER[kind] and slot not in slots:
            raise ConfigError(
                f"{where}: instructor.{setting} = true and no slot {{{slot}}}; add it, or set "
                f"instructor.{setting} = false"
            )
