"""Calls of tools in what a model wrote, found by asking its chat template how it writes one.

A template that writes a call as a JSON object with ``name`` and ``arguments`` (Hermes, Qwen 2.5 and 3: between tags),
or ``parameters`` (Llama 3), is read back; one with a form of its own is not, and tools are refused for it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from steersman.errors import DataError, SteersmanError
from steersman.lm.chat_format import ChatFormat
from steersman.types import Message, ToolCall, calling

_NAME = "name_of_a_probe"
_PROBE = ToolCall(name=_NAME, arguments='{"key": "value"}', id="probeid01")


class CallForm(NamedTuple):
    """What stands before a call and after it; either may be empty."""

    opening: str
    closing: str


def call_form(chat: ChatFormat, tools: Message) -> CallForm:
    """How a model writes calls.

    Raises:
        DataError: it has no chat template, or that has no tools, or writes calls in a form that cannot be read back.
    """
    if chat.template is None:
        raise DataError("the model has no chat template, and so no tools")
    try:
        ids = chat.template.answer_ids([tools, Message(role="user", content="?")], calling("", [_PROBE]))
    except SteersmanError as error:
        raise DataError(f"the model's chat template has no tools ({error.found})") from error
    text: str = chat.tokenizer.decode([i for i in ids if i not in chat.stop_ids], skip_special_tokens=True)
    for start, sign in enumerate(text):
        if sign in "{[":
            value, end = _value(text, start)
            if [call.name for call in _calls(value)] == [_NAME]:
                return CallForm(text[:start].strip(), text[end:].strip())
    raise DataError("the model's chat template writes calls of tools in a form that this server cannot read back")


def first_sign(form: CallForm, text: str) -> int:
    """From where on a text may be a call: its length, if it is none so far."""
    if not form.opening:
        return 0 if not text.strip() or text.lstrip()[0] in "{[" else len(text)
    at = text.find(form.opening)
    if at >= 0:
        return at
    for length in range(min(len(form.opening) - 1, len(text)), 0, -1):
        if form.opening.startswith(text[-length:]):
            return len(text) - length
    return len(text)


def calls_in(form: CallForm, text: str) -> tuple[str, list[ToolCall]]:
    """The text before the calls, and the calls. What cannot be read stays text."""
    start, calls = first_sign(form, text), list[ToolCall]()
    content, rest = text[:start], text[start:]
    while rest.startswith(form.opening) and (body := rest[len(form.opening) :].lstrip()):
        value, end = _value(body, 0)
        found = _calls(value)
        if not found:
            break
        calls += found
        rest = body[end:].lstrip().removeprefix(form.closing).lstrip() if form.closing else body[end:].lstrip(" ;,\n")
    return (content.strip(), calls) if calls and not rest else (text, [])


def _value(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins there, and its end; None if there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start


def _calls(value: Any) -> Sequence[ToolCall]:
    """A JSON value as calls; empty if it is none."""
    calls = []
    for call in value if isinstance(value, list) else [value]:
        call = call.get("function", call) if isinstance(call, dict) else {}
        arguments = call.get("arguments", call.get("parameters"))
        if not isinstance(call.get("name"), str) or not call["name"].strip() or not isinstance(arguments, dict):
            return []
        text = json.dumps(arguments, ensure_ascii=False)
        calls.append(ToolCall(name=call["name"], arguments=text, id=f"call_{secrets.token_hex(12)}"))
    return calls
