"""The parameters of a request under the names that a server takes.  request, refusal -> what is sent

Servers differ: newer models want `max_completion_tokens` and no `temperature`, some know no `seed`. The first refusal
that names one is learned from: the next requests go without it, or under its other name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lai_ray.instructor.provider.errors import ProviderError
from lai_ray.records import Request

FORMS = {
    "max_tokens": ("max_tokens", "max_completion_tokens"),
    "temperature": ("temperature", ""),
    "seed": ("seed", ""),
    "response_format": ("response_format", "json_object", ""),
}
"""By parameter, the names under which it is tried in turn; "" leaves it out. "json_object" is JSON of any form."""
CODES = {"unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden", "unrecognized_parameter"}
_REFUSING = re.compile(
    r"unsupported|(?:not|n't|no longer) support|not supported|unknown|unrecogni[sz]ed|unexpected|extra|forbidden"
    r"|not (?:be )?(?:permitted|allowed|accepted|available|implemented|recogni[sz]ed|valid|a valid|used)|deprecated"
    r"|cannot find|only (?:the )?(?:default|1\b|supports?)|be (?:set to |equal to )?1(?:\.0+)?(?![.\d]*\d)|invalid"
    r"|instead|no such|remove",
    re.I,
)
_OF_FORMAT = re.compile(r"response_?format|json_?(?:schema|object)|structured[ _-]outputs?|guided_|grammar", re.I)
_RANGE = re.compile(
    r"between|\brange|(?:less|greater|lower|higher|more|larger|smaller) than|at (?:most|least)|too (?:large|high|big|"
    r"small|low|long|many)|maximum|minimum|exceed|positive|negative|[<>≤≥]|context|\[\s*0",
    re.I,
)
"""Of a value, not of the parameter: that is the user's setting to change."""
_BEFORE = (
    r"(?:parameters?|arguments?|fields?|propert(?:y|ies)|names?|options?|keys?|inputs?|supplied|support|supports|"
    r"invalid|unsupported|unknown|unexpected|unrecogni[sz]ed|extraneous)"
)


def body_of(request: Request, names: Mapping[str, str]) -> dict[str, Any]:
    """The parameters as they are sent. names: of a parameter, the name that this server takes; "" for none."""
    values = {"max_tokens": request.max_tokens, "temperature": request.temperature, "seed": request.seed}
    body: dict[str, Any] = {
        name: value for key, value in values.items() if value is not None and (name := names.get(key, key))
    }
    form = names.get("response_format", "response_format") if request.response_format else ""
    if form:
        body["response_format"] = {"type": "json_object"} if form == "json_object" else request.response_format
    return body


def learned(error: ProviderError, names: Mapping[str, str]) -> dict[str, str]:
    """The other names to try for the parameters that an error refuses; none where it is about something else."""
    other: dict[str, str] = {}
    if error.filtered:  # It may quote the prompt.
        return other
    for parameter, forms in FORMS.items():
        name = names.get(parameter, parameter)
        if name in forms[:-1] and _refuses(error, name):
            other[parameter] = forms[forms.index(name) + 1]
    return other


def named(error: ProviderError, names: Mapping[str, str]) -> list[str]:
    """The parameters that were sent and that an error names."""
    return [p for p in FORMS if not error.filtered and (name := names.get(p, p)) and _names(error, name)]


def described(names: Mapping[str, str]) -> str:
    """For a message: what is sent from now on."""
    return ", ".join(f"{name} instead of {key}" if name else f"no {key}" for key, name in names.items())


def _names(error: ProviderError, name: str) -> bool:
    if name in FORMS["response_format"]:  # Servers name it, its type, or the library that would enforce it.
        return _OF_FORMAT.search(" ".join([error.message, *error.parameters])) is not None
    if name in error.parameters:
        return True
    plain, message = re.escape(name), error.message
    return bool(
        re.search(rf"[\"'`\[(]{plain}[\"'`\])=:]|\b{_BEFORE}\b[\s:]*(?:is |are )?[\"'`\[(]?{plain}\b", message, re.I)
        or re.search(rf"(?:^|[:.,]\s?){plain}\b|\b{plain}\b[\"'`\])]?\s?(?::|=|is|must|should|are|was|not|does|can)",
                     message, re.I)
    )  # fmt: skip


def _refuses(error: ProviderError, name: str) -> bool:
    if not _names(error, name):
        return False
    if name in FORMS["response_format"]:
        return True
    if error.codes & CODES and (name in error.parameters or len(error.parameters) == 0):
        return True
    return not _RANGE.search(error.message) and (
        name in error.parameters or _REFUSING.search(error.message) is not None
    )
