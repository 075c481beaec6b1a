"""The parts of other tools' rows: conversations as messages of role and text, tools, and what no record can hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.errors import DataError, closest
from steersman.types import ToolCall, calling, calls_of

Row = dict[str, Any]
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
ROLES |= {"prompter": "user", "developer": "system"} | dict.fromkeys(("model", "chatgpt", "bing", "bard"), "assistant")
ROLES |= dict.fromkeys(("tool", "function", "observation"), "tool") | {"tools": "tools", "function_call": "assistant"}
HH_TURN = re.compile(r"\n\n(Human|Assistant):(?: |(?=\n)|\Z)")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
SPOKEN = ("content", "value", "text")  # what a turn's text is called
CALLED = ("tool_calls", "function_call")
# Columns that change what a row means and that no record can hold.
UNREAD = {
    "chat_template_kwargs": "is not read row by row: write them into the recipe, as chat.template_arguments",
    "images": "is not read: only text is",
    "videos": "is not read: only text is",
    "audios": "is not read: only text is",
}


def as_object(value: Any, name: str) -> Row:
    """The value of a column that must be an object."""
    if not isinstance(value, dict):
        raise DataError(f"{name!r} must be an object {{...}}, found {str(value)[:60]!r}")
    return value


def as_objects(value: Any, name: str, what: str = "messages") -> list[Row]:
    """The value of a column that must be a list of objects."""
    if not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        raise DataError(f"{name!r} must be a list of {what} {{...}}")
    return value


def last_text(messages: list[Row], name: str) -> Any:
    """The text of a conversation that holds one assistant message and nothing else."""
    if [message.get("role") for message in messages] != ["assistant"]:
        what = "must end with an assistant message" if name == "messages" else "must be text or one assistant message"
        raise DataError(f"{name!r} {what}")
    return messages[0].get("content")


def answer_text(value: Any, name: str, prompt: Any) -> str:
    """An answer as text: it is text, one assistant message, or one after the messages of the prompt."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        messages = [as_turn(turn) for turn in as_objects(value, name)]
        if len(messages) > 1 and messages[:-1] == [
            as_turn(turn) for turn in (prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}])
        ]:
            messages = messages[-1:]
        value = last_text(messages, name)
    if not isinstance(value, str):
        raise DataError(f"{name!r} must be text or one assistant message, found {str(value)[:60]!r}")
    if not value.strip():
        raise DataError(f"{name!r} is empty")
    return value


def as_turn(turn: Mapping[str, Any]) -> Row:
    """A message as ``{role, content}``: ShareGPT's ``{from, value}`` too, OpenAI's text parts, and nothing beside them.

    Calls of tools stand behind the text (`calling`); a tool's answer keeps ``tool_call_id`` and ``name``.

    Raises:
        DataError: an unknown speaker, a call that cannot be read, or a picture.
    """
    if found := [name for name in ("images", "videos", "audios", "audio") if turn.get(name)]:
        raise DataError(f"a message with {found[0]!r}: only text is read")
    role = turn.get("role", turn.get("from"))
    content = next((turn[name] for name in SPOKEN if name in turn), None)
    if role not in ROLES:
        raise DataError(f"a turn from {role!r}, {closest(str(role), list(ROLES))}")
    if isinstance(content, list):
        if odd := [part for part in content if not (isinstance(part, dict) and part.get("type", "text") == "text")]:
            raise DataError(f"a message has a part that is no text: {str(odd[0])[:60]}")
        content = "".join(str(part.get("text", "")) for part in content)
    if role == "function_call":  # LLaMA-Factory's turn
        turn, content = {"tool_calls": content}, None
    if calls := _calls(turn):
        if ROLES[role] != "assistant":
            raise DataError(f"a call of a tool by {role!r}, where only the assistant makes some")
        content = calling(content or "", calls)
    about = {name: turn[name] for name in ("tool_call_id", "name") if turn.get(name)} if ROLES[role] == "tool" else {}
    own = {"role": ROLES[role], "content": content, **about}
    return {**own, "weight": 0} if ROLES[role] == "assistant" and not learnt(turn) else own


def _calls(turn: Mapping[str, Any]) -> list[ToolCall]:
    """The calls of a message: ``tool_calls`` of OpenAI or `transformers`, or one ``function_call``; or their JSON."""
    name = next((name for name in CALLED if turn.get(name)), None)
    if name is None:
        return []
    found = _parsed(turn[name], name)
    return [_call(call) for call in as_objects([found] if isinstance(found, dict) else found, name, "calls")]


def _call(call: Row) -> ToolCall:
    if call.get("type", "function") != "function":
        raise DataError(f"a call of the type {call['type']!r}: only functions are called")
    function = as_object(call.get("function", call), "function")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    if not isinstance(_parsed(text, "arguments"), dict):
        raise DataError(f"'arguments' of a call must be an object or its JSON, found {text[:60]!r}")
    if not (isinstance(function.get("name"), str) and function["name"].strip()):
        raise DataError("a call without the 'name' of a tool")
    return ToolCall(name=function["name"], arguments=text, id=str(call.get("id") or ""))


def _parsed(value: Any, name: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise DataError(f"{name!r} is no JSON, found {value[:60]!r}") from None


def tools_in(row: Row) -> list[Row]:
    """The tools that a row offers: ``tools`` or, as OpenAI called them before, ``functions``; or their JSON."""
    tools = as_objects(_parsed(row.get("tools") or [], "tools"), "tools", "tools")
    functions = as_objects(_parsed(row.get("functions") or [], "functions"), "functions", "functions")
    return tools or [{"type": "function", "function": function} for function in functions]


def offering(tools: Sequence[Row], prompt: Any) -> Any:
    """A prompt's messages with the tools before them."""
    if not tools:
        return prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": "tools", "content": json.dumps(tools, ensure_ascii=False)}, *turns]


def spoken(message: Mapping[str, Any]) -> Row:
    """A message of ours as other tools write it: the inverse of `as_turn`."""
    text, calls = calls_of(message["content"]) if message["role"] == "assistant" else (message["content"], ())
    row = {**message, "content": text}
    if calls:
        row["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return row


def learnt(turn: Mapping[str, Any]) -> bool:
    """Whether OpenAI's ``weight`` of a message lets it be learnt.

    Raises:
        DataError: a weight that is neither 0 nor 1.
    """
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise DataError(f"a message has the weight {weight!r:.60}: 1 is learnt, 0 is not, and others are not read")
    return weight != 0


def up_to_learnt(turns: list[Row]) -> list[Row]:
    """A conversation up to the last assistant message that is learnt; one without a weight of 0 there as it is.

    Raises:
        DataError: it ends with an assistant message of weight 0, and no other is learnt.
    """
    if not (turns and turns[-1].get("weight") == 0):
        return turns
    last = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and i and turn.get("weight") != 0]
    if not last:
        raise DataError("every assistant message has the weight 0: there is nothing to learn")
    return turns[: last[-1] + 1]


def refuse_unlearnt(last: Sequence[Mapping[str, Any]]) -> None:
    """What the last message says about its own learning, and a completion cannot hold."""
    for message in last:
        if not learnt(message):
            raise DataError("the completion has the weight 0: there is nothing to learn")
        if thought := message.get("reasoning_content") or message.get("thinking"):
            raise DataError(
                f"the last message has its thoughts apart ({str(thought)[:40]!r}); write them into 'content'"
            )


def as_slot(messages: list[Row]) -> Any:
    """Messages as a text slot: a single one by the user is its text."""
    single = len(messages) == 1 and messages[0].get("role") == "user"
    return messages[0].get("content") if single else messages


def first_of(options: Any, index: Any, name: str) -> list[int]:
    """A ranking with one option before all others."""
    count = len(options) if isinstance(options, list) else 0
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
        raise DataError(f"{name!r} must be the index of an option, 0 to {count - 1}, found {str(index)[:60]!r}")
    return [1 if i == index else 2 for i in range(count)]


def transcript(text: str) -> list[Row]:
    """HH-RLHF's text as messages. Turns alternate, so a speaker's own mark within a turn is a part of its text."""
    text = "\n\n" + text.lstrip("\n")
    turns: list[re.Match[str]] = []
    for mark in HH_TURN.finditer(text):
        if not turns or turns[-1][1] != mark[1]:
            turns.append(mark)
    ends = [mark.start() for mark in turns[1:]] + [len(text)]
    return [
        {"role": HH_ROLES[mark[1]], "content": text[mark.end() : end]} for mark, end in zip(turns, ends, strict=True)
    ]
