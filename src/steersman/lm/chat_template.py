"""A model's own chat template: the real conversation rendered, and the places in it that training and sampling need.

Templates compute with what people wrote: they trim it, ask for its length, take reasoning out of old turns and write
think tags around new ones. So the real conversation is rendered, never a placeholder, and the ids are those of
`apply_chat_template`, with two exceptions that are decided here:

- Control tokens that a person typed stay ordinary characters.
- A template that opens a thought in the generation prompt (``<think>``) and leaves it out of a finished turn would
  train on another text than it asks. An answer without thoughts closes the thought first.

Tools, calls and what tools answered are given to the template as `transformers` gives them. Templates want a call's
arguments as an object (most) or as its JSON (DeepSeek), and a call without text as a message with no content or with an
empty one; each template is asked once. What it leaves out, it could not teach: such a conversation is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from steersman.errors import DataError, ModelError
from steersman.types import Message, ToolCall, calling, calls_of

_PROBE = "steersman probe"
_TOOL, _ID = "probe_of_a_tool", "probeid01"  # Mistral wants ids of nine letters or digits
_PARAMETERS = {"type": "object", "properties": {"probe_key": {"type": "string", "description": "?"}}}
_PROBE_TOOLS = [
    {"type": "function", "function": {"name": _TOOL, "description": _PROBE, "parameters": _PARAMETERS}},
]
_PROBE_CALL = ToolCall(name=_TOOL, arguments=json.dumps({"probe_key": "probe_value"}), id=_ID)
_OPEN_THOUGHT = re.compile(r"<think>\s*$")
_CLOSED = "</think>"
_PRIVATE_USE = range(0xE000, 0xF8FF)


class Turn(NamedTuple):
    """What a template writes after the generation prompt, around the answer ``steersman probe``."""

    before: str
    after: str


class CallForm(NamedTuple):
    """How a template wants a call: its arguments as an object or as JSON, and the content of a call without text."""

    as_object: bool
    no_text: str | None


class Knows(NamedTuple):
    """What a template writes of tools: how it wants calls, and what it leaves out."""

    form: CallForm
    leaves_out: tuple[str, ...]


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer. Build it with `chat_template`.

    Attributes:
        folds_system: the template has no system role, so that system text is put before the next user turn.
    """

    tokenizer: Any
    folds_system: bool = False

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to the place where the assistant's answer starts.

        Raises:
            DataError: the template refuses the conversation.
        """
        guard = self._guard(messages)
        return self._encode(self._render(messages, guard), guard)

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """What `prompt_ids` encodes, of messages without control tokens."""
        return self._render(messages, "")

    def answer_ids(self, messages: Sequence[Message], answer: str) -> list[int]:
        """Ids of an answer and of what the template writes around it, as they follow `prompt_ids`.

        Raises:
            ModelError: the template writes a finished turn in another way than its generation prompt begins.
        """
        whole = [*messages, Message(role="assistant", content=answer)]
        guard = self._guard(whole)
        prompt, rendered = self._render(messages, guard), self._render(whole, guard)
        self._check_calls(messages, answer, rendered, guard)
        written = self._after_prompt(prompt, rendered, self._guarded(calls_of(answer)[0], whole[-1], guard))
        head, ids = self._encode(prompt, guard), self._encode(prompt + written, guard)
        # Where a token would span the border, the answer is tokenised on its own: the sampler never sees such a token.
        return ids[len(head) :] if ids[: len(head)] == head else self._encode(written, guard)

    @cached_property
    def turn(self) -> Turn:
        """What the template writes before and after an answer, the generation prompt aside."""
        question = Message(role="user", content="?")
        prompt, whole = (
            self._render(some, "") for some in ([question], [question, Message(role="assistant", content=_PROBE)])
        )
        before, found, after = self._after_prompt(prompt, whole, _PROBE).partition(_PROBE)
        if not found:
            raise ModelError(
                "the chat template does not write the assistant's answer",
                expected="a template that renders user and assistant turns",
                do="set another chat_template in tokenizer_config.json, or remove it: roles are spelled out then",
            )
        return Turn(before, after)

    def closing_id(self) -> int | None:
        """The first added token after an answer: it ends a turn. None where a template writes none."""
        added = set(self._added_ids.values())
        return next((i for i in self._encode(self.turn.after, "") if i in added), None)

    def without_empty_thought(self, text: str) -> str:
        """The answer without the tags that the template writes before every answer."""
        tags = self.turn.before.split()
        for tag in tags if _CLOSED in tags else ():
            text = text.lstrip().removeprefix(tag)
        return text

    # internals ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _render(self, messages: Sequence[Message], guard: str, form: CallForm | None = None) -> str:
        """The template's text. ``guard`` stands inside typed control tokens, so that none is one."""
        tools = [self._guarded(tool, m, guard) for m in messages if m.role == "tools" for tool in json.loads(m.content)]
        messages = [m for m in messages if m.role != "tools"]
        messages = _folded(messages) if self.folds_system else messages
        if form is None and (tools or any(m.role == "tool" or calls_of(m.content)[1] for m in messages)):
            form = self._form(messages, bool(tools))
        rows = [self._row(message, guard, form or CallForm(True, None)) for message in messages]
        options = {"tools": tools} if tools else {}
        try:
            text: str = self.tokenizer.apply_chat_template(
                rows, tokenize=False, add_generation_prompt=rows[-1]["role"] != "assistant", **options
            )
        except Exception as error:  # jinja raises the template's own complaints as bare exceptions
            raise DataError(f"the model's chat template refuses this conversation: {error}") from error
        return text

    def _row(self, message: Message, guard: str, form: CallForm) -> dict[str, Any]:
        """A message as the template reads it."""
        text, calls = calls_of(message.content) if message.role == "assistant" else (message.content, ())
        row = {"role": message.role, "content": self._guarded(text, message, guard)}
        if calls:
            row["content"] = row["content"] or form.no_text
            row["tool_calls"] = [
                {
                    **({"id": call.id} if call.id else {}),
                    "type": "function",
                    "function": {
                        "name": self._guarded(call.name, message, guard),
                        "arguments": self._guarded(
                            json.loads(call.arguments) if form.as_object else call.arguments, message, guard
                        ),
                    },
                }
                for call in calls
            ]
        return row | {name: value for name in ("tool_call_id", "name") if (value := getattr(message, name))}

    # tools ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _form(self, messages: Sequence[Message], tools: bool) -> CallForm:
        """How calls are written in a conversation with, or without, a list of tools.

        Raises:
            DataError: the template leaves out something that the conversation has.
        """
        form, leaves_out = self._knows[tools]
        has = {
            "tools": tools,
            "calls of tools": any(m.role == "assistant" and calls_of(m.content)[1] for m in messages),
            "answers of tools": any(m.role == "tool" for m in messages),
        }
        if missing := [name for name in leaves_out if has[name]]:
            raise DataError(
                f"the model's chat template leaves out {' and '.join(missing)}",
                expected="a template that writes all of the conversation",
                do="use a model whose chat template has tools, or leave these rows out",
            )
        return form

    @cached_property
    def _knows(self) -> dict[bool, Knows]:
        """What the template writes of tools, with a list of tools and without: it may be another template."""
        return {tools: self._asked(tools) for tools in (True, False)}

    def _asked(self, tools: bool) -> Knows:
        user = Message(role="user", content="?")
        offered = [Message(role="tools", content=json.dumps(_PROBE_TOOLS))] if tools else []
        called = [*offered, user, Message(role="assistant", content=calling("", [_PROBE_CALL]))]
        forms = [CallForm(*form) for form in product((True, False), (None, ""))]
        form = next((form for form in forms if _writes_call(self._try(called, form), form)), None)
        last = Message(role="assistant", content=".")
        answered = [*called, Message(role="tool", content=_PROBE, tool_call_id=_ID, name=_TOOL), last]
        said = [*called, Message(role="assistant", content=_PROBE), last]
        result = self._try(answered, form or forms[0])
        written = {
            "tools": _TOOL in self._try([*offered, user], forms[0]),
            "calls of tools": form is not None,
            # without a role of its own it would pass for the assistant's text
            "answers of tools": _PROBE in result.rpartition("probe_value")[2]
            and result != self._try(said, form or forms[0]),
        }
        return Knows(form or forms[0], tuple(name for name, there in written.items() if not there))

    def _try(self, messages: Sequence[Message], form: CallForm) -> str:
        """The template's text, or nothing where it refuses."""
        try:
            return self._render(messages, "", form)
        except DataError:
            return ""

    def _check_calls(self, messages: Sequence[Message], answer: str, rendered: str, guard: str) -> None:
        """Every call of a learnt answer is written: without it the text is another one.

        Raises:
            DataError: the template leaves one out.
        """
        text, calls = calls_of(answer)
        for left_out in range(len(calls)):
            less = calling(text, [*calls[:left_out], *calls[left_out + 1 :]])
            rows = [*messages, Message(role="assistant", content=less)]
            try:
                same = self._render(rows, guard) == rendered
            except DataError:
                continue
            if same:
                raise DataError(
                    f"the model's chat template leaves out the call of {calls[left_out].name!r}",
                    expected="a template that writes every call",
                    do="write one call in a message, or leave the row out",
                )

    # text ───────────────────────────────────────────────────────────────────────────────────────────────────────────
    @staticmethod
    def _after_prompt(prompt: str, whole: str, answer: str) -> str:
        """The part of a finished conversation's text that follows its generation prompt."""
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        opened = _OPEN_THOUGHT.search(prompt)
        if opened and whole.startswith(prompt[: opened.start()]):  # finished turns are written without their thoughts
            thoughts = answer.rpartition(_CLOSED)[0].rpartition("<think>")[2].lstrip("\n") or "\n"
            return f"{thoughts}{_CLOSED}\n\n{whole[opened.start() :]}"
        raise ModelError(
            "the chat template writes an answer's prompt differently once the answer is there",
            expected="a prefix-preserving chat template",
            do="set a chat template whose generation prompt is a prefix of the finished turn",
        )

    def _encode(self, text: str, guard: str) -> list[int]:
        if not guard:
            return self._ids(text)
        ids: list[int] = []  # rare: someone typed a control token, so the template's own are looked up one by one
        for part in self._added.split(text):
            if part in self._added_ids:
                ids.append(self._added_ids[part])
            elif part:
                ids += self._ids(part.replace(guard, ""), split_special_tokens=True)
        return ids

    def _ids(self, text: str, **options: Any) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, **options)["input_ids"]
        return ids

    @cached_property
    def _added_ids(self) -> dict[str, int]:
        return {token: i for token, i in self.tokenizer.get_added_vocab().items() if token.strip()}

    @cached_property
    def _added(self) -> re.Pattern[str]:
        return _any_of(self._added_ids)

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Added tokens that an assistant's text cannot hold; others, such as ``<think>``, are its own."""
        return _any_of(set(self.tokenizer.all_special_tokens) & set(self._added_ids))

    def _guard(self, messages: Sequence[Message]) -> str:
        """A character that no message has, if one of them holds a control token; otherwise empty."""
        if not any(self._forbidden(m).search(m.content) for m in messages):
            return ""
        used = set().union(*(m.content for m in messages))
        return next(chr(code) for code in _PRIVATE_USE if chr(code) not in used)

    def _guarded(self, value: Any, message: Message, guard: str) -> Any:
        """A text of the message, or all texts of a JSON value in it."""
        if isinstance(value, dict):
            return {self._guarded(k, message, guard): self._guarded(v, message, guard) for k, v in value.items()}
        if isinstance(value, list):
            return [self._guarded(item, message, guard) for item in value]
        if not isinstance(value, str):
            return value
        text = encodable(value)
        if not guard:
            return text
        return self._forbidden(message).sub(lambda found: found[0][0] + guard + found[0][1:], text)

    def _forbidden(self, message: Message) -> re.Pattern[str]:
        return self._control if message.role == "assistant" else self._added


def chat_template(tokenizer: Any) -> ChatTemplate:
    """The tokenizer's chat template, asked whether it has a system role."""
    template = ChatTemplate(tokenizer)
    return ChatTemplate(tokenizer, folds_system=not _has_system_role(template))


def _has_system_role(template: ChatTemplate) -> bool:
    """Whether system text comes through, as another role than the assistant's."""
    user = Message(role="user", content="?")
    try:
        text = template._render([Message(role="system", content=_PROBE), user], "")
    except DataError:
        return False
    try:
        said = template._render([Message(role="assistant", content=_PROBE), user], "")
    except DataError:
        said = ""
    return _PROBE in text and text != said


def _writes_call(text: str, form: CallForm) -> bool:
    """Whether the probe's call is in the text as JSON or in words, and not as Python prints it or quoted twice."""
    arguments = _PROBE_CALL.arguments if not form.as_object else "probe_value"
    odd = (str(json.loads(_PROBE_CALL.arguments)), '\\"probe_key')
    return _TOOL in text.replace(_PROBE, "") and arguments in text and not any(part in text for part in odd)


def _folded(messages: Sequence[Message]) -> list[Message]:
    """The conversation with every system text put before the next user turn."""
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user" and waiting:
            folded.append(message.model_copy(update={"content": "\n\n".join([*waiting, message.content])}))
            waiting = []
        else:
            folded.append(message)
    return folded


def _any_of(tokens: Any) -> re.Pattern[str]:
    """Any of the tokens, the longest first; nothing where there are none."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if longest_first else "(?!)")


def encodable(text: str) -> str:
    """Lone surrogates ("half an emoji") cannot be encoded; a question mark says that one was there."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
