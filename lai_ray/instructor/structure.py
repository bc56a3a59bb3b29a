"""The form of a reply in JSON: what the prompt says of it, and the schema that a server enforces.  kind -> Structure

One pydantic model a kind of benchmark is the source of both. Replies are read by `parsing.records`, as any other JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MathProblem(_Closed):
    """A new word problem."""

    question: str = Field(description="the question")
    solution: str = Field(description="the working, step by step")
    answer: str = Field(description="the final number alone, in digits, without a unit")


class CodeProblem(_Closed):
    """A new programming problem."""

    question: str = Field(
        description="Python: imports, if the signature needs any, the signature with types, and a docstring that says "
        "what the function must do"
    )
    answer: str = Field(description="Python: the whole function, with its imports and helpers")
    tests: list[str] = Field(
        description="assert <name>(...) == ..., of which there are at least two, on different inputs"
    )


class ShortProblem(_Closed):
    """A new question with a short answer."""

    question: str = Field(description="the question")
    answer: str = Field(description="the answer, as short as can be")


@cache
def label_problem(labels: tuple[str, ...]) -> type[BaseModel]:
    """A new text with one of these labels."""
    answer: Any = (Literal[labels], Field(description=f"one of: {', '.join(labels)}"))
    return create_model("LabelProblem", __base__=_Closed, question=(str, Field(description="the text")), answer=answer)


@cache
def choice_problem(letters: Sequence[str] = "ABCD") -> type[BaseModel]:
    """A new multiple-choice problem with these letters."""
    texts: dict[str, Any] = {letter: (str, Field(description=f"choice {letter}")) for letter in letters}
    options = create_model("Options", __base__=_Closed, **texts)
    fields: dict[str, Any] = {
        "question": (str, Field(description="the question")),
        "options": (options, Field(description="the choices")),
        "explanation": (str, Field(description="why the right choice is right, in one paragraph")),
        "answer": (Literal[tuple(letters)], Field(description="the letter of the one right choice")),
    }
    return create_model("ChoiceProblem", __base__=_Closed, **fields)


@dataclass(frozen=True)
class Structure:
    """How a benchmark's new problems are asked for in JSON."""

    brief: str
    """For the return format of a prompt, in place of the benchmark's own brief."""
    response_format: dict[str, Any]
    """The parameter of the OpenAI protocol."""


@cache
def structure_of(problem: type[BaseModel]) -> Structure:
    """The structure of a list of these problems. Every field is required, as strict schemas demand."""
    listed = cast(Any, list)[problem]
    whole = create_model("Problems", __base__=_Closed, problems=(listed, Field(description="the new problems")))
    shown = json.dumps({"problems": [_form(problem)]}, indent=2, ensure_ascii=False)
    brief = f'Return one JSON object and nothing else, with every new problem in "problems":\n{shown}'
    schema = {"name": "problems", "schema": whole.model_json_schema(), "strict": True}
    return Structure(brief, {"type": "json_schema", "json_schema": schema})


def _form(problem: type[BaseModel]) -> dict[str, Any]:
    """The fields with their descriptions in place of values."""
    form: dict[str, Any] = {}
    for name, field in problem.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            form[name] = _form(kind)
        else:
            text = f"<{field.description}>"
            form[name] = [text] if get_origin(kind) is list else text
    return form


class InStructure:
    """A benchmark as strategies see it where replies are asked for in JSON: its brief is the structure's."""

    def __init__(self, benchmark: Any, structure: Structure) -> None:
        self._benchmark, self._structure = benchmark, structure

    def __getattr__(self, name: str) -> Any:
        """Everything else is the benchmark's."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._benchmark, name)

    def brief(self) -> str:
        """The form of a reply in JSON."""
        return self._structure.brief
