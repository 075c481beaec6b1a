"""A request's messages and prompts as our conversations and token ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.lm.chat_format import ChatFormat
from steersman.lm.chat_template import encodable
from steersman.serving.api import ChatMessage
from steersman.serving.errors import ApiError
from steersman.types import Message, ToolCall, calling


def messages_of_request(messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The conversation, with the tools in front.

    Raises:
        ApiError: a part is no text, a call is none, or the last message is the assistant's.
    """
    found = [tools_message(tools)] if tools else []
    names: dict[str, str] = {}  # of the tools that were called, by the call's id
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        text = _text(message, where)
        if message.role == "assistant":
            calls = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)]
            names |= {call.id: call.name for call in calls}
            found.append(Message(role="assistant", content=calling(text or message.refusal or "", calls)))
            continue
        if message.tool_calls:
            raise ApiError("Only the assistant calls tools.", param=f"{where}.tool_calls")
        if message.role == "tool":
            called = message.tool_call_id or ""
            if not called:
                raise ApiError("A tool's message needs the 'tool_call_id' that it answers.", param=where)
            found.append(Message(role="tool", content=text, tool_call_id=called, name=names.get(called, "")))
        else:
            role = "user" if message.role == "user" else "system"
            found.append(Message(role=role, content=text))  # type: ignore[arg-type]
    if found[-1].role not in ("user", "tool"):
        raise ApiError(
            f"The last message is of role {messages[-1].role!r}: a conversation ends with a user's or a tool's.",
            param="messages",
        )
    return tuple(found)


def below(system: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with the publisher's system text before the client's own, which it does not replace."""
    tools = [message for message in messages if message.role == "tools"]
    rest = [message for message in messages if message.role != "tools"]
    own = f"\n\n{rest.pop(0).content}" if rest[0].role == "system" else ""
    return (*tools, Message(role="system", content=system + own), *rest)


def tools_message(tools: Sequence[Mapping[str, Any]]) -> Message:
    """The tools as a message of our own form.

    Raises:
        ApiError: one is no function with a name.
    """
    for number, tool in enumerate(tools):
        function = tool.get("function")
        if (
            tool.get("type") != "function"
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
        ):
            raise ApiError(
                'A tool is {"type": "function", "function": {"name": ..., "parameters": ...}}.',
                param=f"tools[{number}]",
            )
    return Message(role="tools", content=json.dumps(list(tools), ensure_ascii=False))


def prompt_ids(chat: ChatFormat, prompt: str | list[int], size: int) -> list[int]:
    """Ids of a text to be continued, from BOS on; ids stay as they are.

    Raises:
        ApiError: an id that the model does not know, or nothing to be continued.
    """
    if isinstance(prompt, str):
        ids: list[int] = chat.tokenizer(encodable(prompt), add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        bos = chat.tokenizer.bos_token_id
        ids = ids if bos is None else [bos, *ids]
    else:
        ids = prompt
        if foreign := next((i for i in ids if not 0 <= i < size), None):
            raise ApiError(f"The model has no token {foreign}; it has {size}.", param="prompt")
    if not ids:
        raise ApiError("The prompt is empty, and this model has no token that begins a text.", param="prompt")
    return ids


def _text(message: ChatMessage, where: str) -> str:
    """The content of a message as one text."""
    if message.content is None:
        if message.role == "assistant" and (message.tool_calls or message.refusal):
            return ""
        raise ApiError("Missing required parameter: 'content'.", code="missing_required_parameter", param=where)
    if isinstance(message.content, str):
        return message.content
    texts = []
    for number, part in enumerate(message.content):
        kind = part.get("type")
        text = part.get(kind) if kind in ("text", "refusal") else None
        if not isinstance(text, str):
            raise ApiError(
                f'This server reads text alone: a part of type {str(kind)[:40]!r} is not {{"type": "text", '
                '"text": ...}.',
                code="unsupported_content",
                param=f"{where}.content[{number}]",
            )
        texts.append(text)
    return "".join(texts)


def _call(call: Mapping[str, Any], where: str) -> ToolCall:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise ApiError("A call of a tool has 'id', 'type' and 'function' with 'name' and 'arguments'.", param=where)
    arguments = function.get("arguments", "{}") or "{}"
    try:
        if not isinstance(json.loads(arguments), dict):
            raise TypeError
    except (ValueError, TypeError, RecursionError):
        raise ApiError("'arguments' of a call is a JSON object, as text.", param=f"{where}.function") from None
    return ToolCall(name=function["name"], arguments=arguments, id=str(call.get("id") or ""))
