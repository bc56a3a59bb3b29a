"""One small request to the instructor's server, before anything is paid for.  settings -> findings

It is sent as every later one is: a wrong address, key or model, and a parameter that the server refuses, show now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from lai_ray.common import plugins
from lai_ray.common.findings import Finding
from lai_ray.config.settings import InstructorSettings
from lai_ray.contracts import Answered, ApiEngine, Fatal, Outcome, Retry
from lai_ray.errors import ConfigError, LaiError
from lai_ray.instructor.provider.parameters import described
from lai_ray.instructor.spending.budget import price_of
from lai_ray.instructor.spending.tokens import amount_used
from lai_ray.instructor.structure import ShortProblem, structure_of
from lai_ray.records import Answer, Completion, Request
from lai_ray.storage.keys import key_of

PROMPT = "This is a test of the connection. Reply with the one word: yes"
STRUCTURE = structure_of(ShortProblem)
"""Sent too where a job asks for JSON."""
SECONDS = 30.0
"""Longest wait for the reply."""
TRIES = 3
"""Attempts, where one failed that may succeed a moment later and is not billed."""
PAUSE = 1.0
SKIP = "--no-probe, or probe = false in [instructor], leaves this request out."


@dataclass(frozen=True)
class Probed:
    """What a probe found, and its answer."""

    findings: list[Finding]
    answer: Answer
    parameters: dict[str, str] = field(default_factory=dict)
    """The names under which the server takes parameters that it refused."""


def refuse(found: Sequence[Finding]) -> None:
    """Raises ConfigError with every finding by which a run would fail; none is nothing."""
    if refused := [each.text for each in found if each.refuses]:
        raise ConfigError("\n".join(refused) + f"\nThis was asked before anything is paid for; {SKIP}")


def askable(settings: InstructorSettings) -> bool:
    """Whether there is a server that may be asked now: none in the cluster, and none that the run itself starts."""
    return settings.probe and not settings.in_cluster and (settings.base_url is None or "://" in settings.base_url)


def request_of(settings: InstructorSettings) -> Request:
    """The request, with the parameters of all later ones. Its key holds how the server is reached."""
    messages = [{"role": "user", "content": PROMPT}]
    reached = settings.model_dump(include={"engine", "model", "base_url", "api_key_env", "parameters", "max_tokens"})
    form = None
    if settings.format != "text":
        messages, form = [{"role": "user", "content": f"{PROMPT}\n\n{STRUCTURE.brief}"}], STRUCTURE.response_format
    key = key_of("probe", reached, *filter(None, [form]))
    return Request("probe", key, messages, settings.max_tokens, settings.temperature, 0, form)


def probe(settings: InstructorSettings) -> Probed:
    """Ask the server of these settings, which is `askable`, once; a few times where it fails for the moment."""
    short = settings.model_copy(update={"timeout": min(settings.timeout, SECONDS)})
    try:
        return asyncio.run(_probed(request_of(settings), short))
    except LaiError as error:  # Of the engine as it is made: no key, no package.
        return _result(request_of(settings), Fatal(str(error), free=True), settings)


async def _probed(request: Request, settings: InstructorSettings) -> Probed:
    names: dict[str, str] = {}
    notes: list[Finding] = []
    left = TRIES
    outcome: Outcome = Retry("not asked", free=True)
    while left:
        outcome = await _engine(settings).call(request)
        left -= 1
        if isinstance(outcome, Retry) and outcome.parameters and not outcome.parameters.items() <= names.items():
            names |= outcome.parameters
            settings, left = settings.taking(outcome.parameters), TRIES
            text = f"the instructor's server refuses a parameter; a run sends {described(outcome.parameters)}"
            notes.append(Finding(f"{text}: {outcome.why}", refuses=False))
        elif isinstance(outcome, Retry) and outcome.reached and outcome.free and not outcome.limited:
            await asyncio.sleep(PAUSE if left else 0.0)
        else:
            break
    result = _result(request, outcome, settings)
    return Probed([*notes, *result.findings], result.answer, names)


def _engine(settings: InstructorSettings) -> ApiEngine:
    engine: ApiEngine = plugins.load("engines", settings.engine)(settings, settings.base_url)
    return engine


def _result(request: Request, outcome: Outcome, settings: InstructorSettings) -> Probed:
    if isinstance(outcome, Answered):
        completion, free = outcome.completion, outcome.free
    else:
        words = outcome.message if isinstance(outcome, Fatal) else outcome.why
        completion, free = Completion("", "error", error=words), outcome.free
    return Probed([_finding(outcome, settings)], Answer(request.id, request.key, completion, free))


def _finding(outcome: Outcome, settings: InstructorSettings) -> Finding:
    address = settings.base_url or "its default address"
    who = f"the instructor {settings.model} at {address}"
    match outcome:
        case Answered(completion=completion, free=free) if completion.error is not None:
            verb = "refuses the requests of this job" if free else "answers, but"
            return Finding(f"{who} {verb}: {completion.error}", refuses=free)
        case Answered():
            return Finding(f"{who} answered {_cost(outcome, settings)}. {SKIP}", refuses=False)
        case Fatal():
            return Finding(f"{who} refuses every request: {outcome.message}")
        case Retry(limited=True):
            return Finding(f"{who} is at its rate limit ({outcome.why}); a run waits as it asks", refuses=False)
    if not outcome.reached or "no connection" in outcome.why:
        advice = "Is the server running, is instructor.base_url right, and can this machine reach it?"
        return Finding(f"no server answers at {address}: {outcome.why}. {advice}")
    return Finding(f"{who} did not answer: {outcome.why}. A run tries each request again, with pauses", refuses=False)


def _cost(outcome: Answered, settings: InstructorSettings) -> str:
    used, price = amount_used(outcome.completion), price_of(settings.model_dump())
    cost = f"{used.input} + {used.output} tokens" if used else "without a count of tokens"
    money = f", {price.usd(used):,.6f} US$" if price and used else ""
    return f"in {outcome.seconds or 0.0:.1f} s ({cost}{money})"
