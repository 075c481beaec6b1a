"""What a recipe says about an endpoint, and the secrets that go with its requests.

The key and the values of other headers come from the environment and from nowhere else. The configuration holds the
names of the variables.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from steersman.errors import ModelError, RecipeError
from steersman.lm.endpoint.replies import Usage
from steersman.types import NonEmpty, Record, Seed, transport

REASONING_TOKENS = 4096  # that a model which reasons gets, where `reasoning_tokens` does not say how many

_ADDRESS = re.compile(
    r"(?P<host>(?i:https?)://(?:\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(?::\d{1,5})?)(?P<path>[^\s?#@]*)(?:\?(?P<query>[^\s#]*))?"
)
# What a query may hold is a version or a region. A key there would be in files and messages.
_SECRET_NAME = re.compile(r"key|token|secret|sig|auth|passw|credential|code", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"[\w+/=.-]{20,}|sk-.*")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_OUR_HEADERS = ("content-type", "content-length", "host", "transfer-encoding", "connection")


def _address(text: str) -> str:
    """An http(s) address without a key in it. The error does not repeat the address: it may hold one."""
    url = _ADDRESS.fullmatch(text.strip())
    words = re.split("[&=;]", url["query"] or "") if url else []
    if url is None or any(_SECRET_NAME.search(word) or _SECRET_VALUE.fullmatch(word) for word in words):
        raise RecipeError(
            "not an address of an endpoint, or one with a name, a password or a key in it",
            where="base_url",
            expected="an address such as http://127.0.0.1:8000/v1, with a query such as ?api-version=... if need be",
            do="if the endpoint wants a key, put it into an environment variable and name that in `key_variable`, or "
            "in `header_variables` if it goes into a header of another name",
        )
    path = re.sub(r"(/chat/completions)?/*$", "", url["path"])
    return url["host"].lower() + path + (f"?{url['query']}" if url["query"] else "")


def chat_address(base_url: str) -> str:
    """Where chat completions are asked for: the path of the base address goes on, and its query stays at the end."""
    path, mark, query = base_url.partition("?")
    return f"{path}/chat/completions{mark}{query}"


def host_of(base_url: str) -> str:
    """The address's host, without brackets."""
    url = _ADDRESS.fullmatch(base_url)
    return re.sub(r"^https?://|:\d+$|[\[\]]", "", url["host"]) if url else ""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _variable(name: str | None, where: str = "key_variable") -> str | None:
    if name is not None and not _VARIABLE.fullmatch(name):
        raise RecipeError(
            "not the name of an environment variable; if it is a key, it is now in a file where it should not be",
            where=where,
            expected="a name in capital letters, such as JUDGE_API_KEY",
            do="export the value under such a name, and write the name here",
        )
    return name


def _headers(names: dict[str, str]) -> dict[str, str]:
    for header, variable in names.items():
        if not _HEADER.fullmatch(header) or header.lower() in _OUR_HEADERS:
            raise RecipeError(
                "not the name of a header that can be added to a request",
                where="header_variables",
                expected="a name such as api-key, and the environment variable that holds its value",
            )
        _variable(variable, "header_variables")
    return names


Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RemoteConfig(Record):
    """A model behind an endpoint."""

    base_url: Annotated[str, AfterValidator(_address)] = Field(
        description="The address that /chat/completions follows, such as http://127.0.0.1:8000/v1; a query "
        "(?api-version=...) stays at the end."
    )
    model: NonEmpty = Field(description="The model's name at the endpoint.")
    key_variable: Annotated[str | None, AfterValidator(_variable)] = transport(
        None, description="The environment variable that holds the key; null: no key is sent."
    )
    header_variables: Annotated[dict[str, str], AfterValidator(_headers)] = transport(
        {}, description="Further headers, each with the environment variable that holds its value."
    )
    concurrency: int = transport(16, ge=1, le=1024, description="Most requests in flight at once.")
    timeout_s: float = transport(120.0, gt=0, allow_inf_nan=False, description="Time limit of one attempt, in seconds.")
    retries: int = transport(6, ge=0, description="Most attempts after a failed first one.")
    usd_per_million_prompt_tokens: Usd | None = transport(None, description="Price in US dollars; null: unknown.")
    usd_per_million_completion_tokens: Usd | None = transport(None, description="Price in US dollars; null: unknown.")
    max_tokens: int = Field(default=512, ge=1, description="Most tokens of an answer.")
    reasoning_tokens: int | None = Field(
        default=None,
        ge=0,
        description="Tokens for reasoning before an answer, on top of the answer's; null: none, and a choice that is "
        "cut off before it is made is asked again with 4,096; 0: it is not asked again.",
    )
    structured: bool = Field(
        default=False, description="Ask for choices as JSON (`response_format`); without it where it is refused."
    )
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Sampling temperature; 0: greedy.")
    seed: Seed | None = Field(default=0, description="The seed that is sent; null: none.")
    top_logprobs: int = Field(
        default=10, ge=0, le=20, description="Log-probs requested per token; 0: none, choices are read from the text."
    )
    extra_body: dict[str, Any] = Field(default={}, description="Added to a request's JSON; null removes a field.")

    def usd(self, usage: Usage) -> float | None:
        """What these tokens cost; None unless both prices are given."""
        prompt, completion = self.usd_per_million_prompt_tokens, self.usd_per_million_completion_tokens
        if prompt is None or completion is None:
            return None
        return (usage.prompt_tokens * prompt + usage.completion_tokens * completion) / 1e6

    @property
    def place(self) -> str:
        """The endpoint and the model, for messages."""
        return f"{self.base_url} ({self.model})"


def secret(config: RemoteConfig) -> str:
    """The key from the environment, empty if none is to be sent.

    Raises:
        ModelError: what is wrong with the variable of the key, or with that of another header.
    """
    headers_of(config)
    return _value_of(config, config.key_variable, "the key of the endpoint") if config.key_variable else ""


def headers_of(config: RemoteConfig) -> dict[str, str]:
    """The headers of ``header_variables`` with their values from the environment; errors as `secret`."""
    return {
        header: _value_of(config, variable, f"the value of the header {header}")
        for header, variable in config.header_variables.items()
    }


def _value_of(config: RemoteConfig, variable: str, expected: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value or not value.isascii() or not value.isprintable():
        state = "holds characters that no key or header has" if value else "is not set"
        raise ModelError(
            f"the environment variable {variable} {state}",
            where=config.place,
            expected=expected,
            do=f"export {variable}=... in the shell that runs this; never write the value into a file here",
        )
    return value


def proxies_for(base_url: str) -> str:
    """The names of the environment's proxy settings for an address, "" if none; their values may hold passwords."""
    host = host_of(base_url)
    values = {name.upper(): value for name, value in os.environ.items() if value}
    direct = [name.strip().lstrip(".").lower() for name in values.get("NO_PROXY", "").split(",") if name.strip()]
    if is_loopback(host) or any(name == "*" or host == name or host.endswith(f".{name}") for name in direct):
        return ""
    return ", ".join(name for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") if name in values)
