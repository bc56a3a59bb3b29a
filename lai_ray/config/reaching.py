"""How the instructor is reached and what it costs: the settings of [instructor] that may change between two starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator


class ReachingSettings(BaseModel):
    """What does not change the requests, but where and how they are sent, and their price."""

    base_url: str | None = None
    """An OpenAI-compatible server, or "module:serve", a context manager that starts one and yields its address."""
    api_key_env: str | None = None
    """The NAME of the environment variable that holds the key, never the key."""
    timeout: float = Field(120.0, gt=0)
    """Seconds to wait for one reply."""
    probe: bool = True
    """One small request before anything else is paid for."""
    parameters: dict[Literal["max_tokens", "temperature", "seed", "response_format"], str] = {}
    """The server's own names for these parameters, as in { seed = "random_seed" }; "" leaves one out. What a server
    refuses by its name is renamed or left out by itself."""
    usd_per_million_input: float | None = Field(None, ge=0)
    """US$ per million prompt tokens; None when it is not known, and then no costs are reported."""
    usd_per_million_output: float | None = Field(None, ge=0)

    def taking(self, parameters: Mapping[str, str]) -> Self:
        """The same for a server that takes its parameters under these names too."""
        return self.model_copy(update={"parameters": {**self.parameters, **parameters}})

    @field_validator("parameters")
    @classmethod
    def _replies_have_an_end(cls, parameters: dict[str, str]) -> dict[str, str]:
        if parameters.get("max_tokens") == "":
            raise ValueError(
                'max_tokens = "" would leave replies without a limit, and budgets too; give its other name'
            )
        return parameters

    @model_validator(mode="after")
    def _a_name_not_a_key(self) -> Self:
        # A validator of the table: the error of a field's validator would contain its value.
        if self.api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env is not the name of an environment variable. Give the NAME, as in OPENAI_API_KEY, never "
                "the key: the variable is set in the shell that starts lai, or where the nodes start Ray"
            )
        return self
