"""A Modelfile for Ollama, whose own template language writes what the model's chat template writes.

Ollama's Modelfile has Go templates, and a GGUF file without one is answered by a guess among the templates that Ollama
knows, or, since 2026, by the file's own. So the model's template is written in Go: its text between two messages is
read off a rendered conversation, and the result is compared with it on others. Where a template does more than put text
between messages (dates, messages that are moved), there is no Go template, and the Modelfile says so.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from steersman.errors import DataError
from steersman.lm import pretrained
from steersman.lm.chat_format import SPELLED_OUT, ChatFormat, chat_format
from steersman.types import Message

NO_TEMPLATE = (
    "# The model's chat template cannot be written in Go. It is in the GGUF file: an Ollama that renders it needs no\n"
    "# TEMPLATE here; an older one takes one that it knows, or none: compare its prompt with apply_chat_template.\n"
)
WHOLE = ("system", "user", "assistant", "user")
MARKS = ("first mark", "second mark", "third mark", "fourth mark")
CONTENTS = ("How do I boil an egg?", "two\n\nlines", "x")  # without spaces around them: some templates strip those


class Frame(NamedTuple):
    """The text that stands before a message; ``end`` stands after the last one, which is the user's."""

    system: str
    after_system: str
    first_user: str
    user: str
    assistant: str
    end: str

    def render(self, messages: Sequence[Message]) -> str:
        """What the Go template writes."""
        parts, system = [], messages[0].role == "system"
        for i, message in enumerate(messages):
            user = self.first_user if i == 0 else self.after_system if system and i == 1 else self.user
            parts += [{"system": self.system, "assistant": self.assistant, "user": user}[message.role], message.content]
        return "".join(parts) + self.end

    def go(self) -> str:
        """The Go template."""
        return (
            '{{ range $i, $m := .Messages }}{{ if eq $m.Role "system" }}' + self.system
            + '{{ else if eq $m.Role "assistant" }}' + self.assistant
            + "{{ else if eq $i 0 }}" + self.first_user
            + "{{ else if and $.System (eq $i 1) }}" + self.after_system
            + "{{ else }}" + self.user + "{{ end }}{{ $m.Content }}{{ end }}" + self.end
        )  # fmt: skip


def modelfile(merged: Path, gguf: Path, adds_bos: bool) -> str:
    """What ``ollama create NAME -f FILE`` reads.

    Args:
        merged: the model in Hub format that the file was made of.
        adds_bos: whether the file says that every text begins with BOS, which Ollama then puts there itself.
    """
    tokenizer, generation = pretrained.load_tokenizer(merged), pretrained.generation_config(merged)
    chat = chat_format(tokenizer, generation)
    frame = frame_of(chat, adds_bos)
    stops = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(chat.stop_ids)]
    if tokenizer.chat_template == SPELLED_OUT:
        stops += ChatFormat(tokenizer, chat.stop_ids, None).stop_strings
    return "".join(
        [
            f"FROM ./{gguf.name}\nPARAMETER temperature 0\n",
            *(f'PARAMETER stop "{stop}"\n' for stop in stops if '"' not in stop),  # Ollama reads no escapes
            f'TEMPLATE """{frame.go()}"""\n' if frame else NO_TEMPLATE,
        ]
    )


def frame_of(chat: ChatFormat, adds_bos: bool) -> Frame | None:
    """The text that a chat template puts between messages; None if it does anything else."""
    template, tokenizer = chat.template, chat.tokenizer
    if template is None or "strftime_now" in str(tokenizer.chat_template):
        return None

    def rendered(roles: Sequence[str], contents: Iterable[str]) -> tuple[list[Message], str]:
        messages = [Message(role=role, content=text) for role, text in zip(roles, contents, strict=False)]  # type: ignore[arg-type]
        text = template.prompt_text(messages)
        return messages, text.removeprefix(tokenizer.bos_token) if adds_bos and tokenizer.bos_token else text

    try:
        first_user, *_ = _between(rendered(("user",), MARKS)[1])
        system, after_system, assistant, user, end = _between(rendered(WHOLE, MARKS)[1])
        frame = Frame(system, after_system, first_user, user, assistant, end)
        same = all(
            frame.render(messages) == text
            for shape in (WHOLE[:2], WHOLE, WHOLE + WHOLE[2:])
            for start in (0, 1)
            for shift in range(len(CONTENTS))
            for messages, text in [rendered(shape[start:], itertools.cycle(CONTENTS[shift:] + CONTENTS[:shift]))]
        )
    except (DataError, ValueError):  # the template refuses a conversation, or leaves a message out
        return None
    return frame if same and not any(sign in part for part in frame for sign in ("{{", "}}", '"""')) else None


def _between(text: str) -> list[str]:
    """The text before each mark, and after the last."""
    return re.split("|".join(MARKS), text)
