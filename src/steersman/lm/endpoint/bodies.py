"""The JSON of a request: what the protocol names, what a recipe sets, and what the recipe adds or removes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steersman.errors import DataError
from steersman.lm.endpoint.replies import encodable
from steersman.lm.endpoint.settings import RemoteConfig
from steersman.types import Text, messages_of, uses_tools

MAX_CHOICE_TOKENS = 16  # enough for "The better answer is (B)." and for {"answer": "B"}


def body_of(config: RemoteConfig, request: Text, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A request's JSON; ``own`` overrides the configuration. All of it identifies the request in the cache.

    Raises:
        DataError: the conversation has tools, or ends with an assistant message.
    """
    if uses_tools(messages_of(request)):
        raise DataError("a conversation with tools is not sent to an endpoint", do="leave these rows out")
    messages = [{"role": m.role, "content": encodable(m.content)} for m in messages_of(request)]
    if not messages or messages[-1]["role"] == "assistant":
        raise DataError("the request ends with an assistant message", expected="a last message by the user")
    limit = config.max_tokens + (config.reasoning_tokens or 0)
    options = {"max_tokens": limit, "temperature": config.temperature, "seed": config.seed}
    body = {"model": config.model, "messages": messages, **options, **(own or {}), **config.extra_body}
    return {name: value for name, value in body.items() if value is not None}


def choice_body(
    config: RemoteConfig, request: Text, options: Sequence[str], extra_tokens: int, structured: bool
) -> dict[str, Any]:
    """The JSON of a request to choose an option, with ``extra_tokens`` for reasoning; ``structured``: as JSON."""
    own: dict[str, Any] = {"max_tokens": MAX_CHOICE_TOKENS + extra_tokens}
    own |= {"logprobs": True, "top_logprobs": config.top_logprobs} if config.top_logprobs else {}
    if structured:
        schema = {
            "type": "object",
            "properties": {"answer": {"type": "string", "enum": list(options)}},
            "required": ["answer"],
            "additionalProperties": False,
        }
        form = {"name": "verdict", "strict": True, "schema": schema}
        own["response_format"] = {"type": "json_schema", "json_schema": form}
    return body_of(config, request, own)


def limits_tokens(config: RemoteConfig) -> bool:
    """Whether the recipe sets the token limit by itself, past ``max_tokens`` and ``reasoning_tokens``."""
    return any(config.extra_body.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))
