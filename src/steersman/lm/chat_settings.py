"""What a chat template reads beside the conversation: its own arguments, and the day.

Both are written into the template's text, in front of it: `enable_thinking` gets the recipe's value where a program
passes none, and `strftime_now`, by which a template writes the day, answers with the recipe's day and not with that of
the machine's clock. So training, sampling, evaluation and every program that an exported model goes to render the same
text, a run that goes on tomorrow goes on with the same ids, and the template in the model's folder says how.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from steersman.errors import ModelError, closest
from steersman.store import canonical
from steersman.types import Record

CLOCK = "strftime_now"
_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "additional_chat_templates/*.jinja")
_DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", *"aAbBdmyYjUWuwGVFDxHIMSpfcXZz")  # of `strftime`
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt"}  # by what renders a template
_GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")
_PINNED_DAY = re.compile(rf"{{% macro {CLOCK}\(format\) %}}.*?{{% endmacro %}}\n")


class ChatConfig(Record):
    """How conversations are written for the model: what its chat template reads beside them."""

    template_arguments: dict[str, Any] = Field(
        default={}, description="Arguments of the model's chat template, such as `{enable_thinking: false}`."
    )
    date: str = Field(
        default="2024-07-26",
        description="The day that a template writes which asks for today's (Llama 3.1's own default).",
    )

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            raise ValueError(f"{value!r} is no day such as 2024-07-26") from None

    @field_validator("date", mode="before")
    @classmethod
    def _as_yaml_reads_it(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value


_current = ChatConfig()


@contextmanager
def chatting(config: ChatConfig) -> Iterator[None]:
    """Within it, tokenizers are loaded with these settings in their chat templates. It holds for all threads."""
    global _current
    before, _current = _current, config
    try:
        yield
    finally:
        _current = before


def configure(tokenizer: Any) -> None:
    """Write the current settings into a tokenizer's chat template, or into each of its templates."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: settled(text, _current) for name, text in template.items()}
    elif template:
        tokenizer.chat_template = settled(template, _current)


def settled(template: str, config: ChatConfig) -> str:
    """The template with its arguments' values and its day written in front; as it is where it reads neither."""
    template = _PINNED_DAY.sub("", template)  # of a model that was exported
    # Each line ends as `trim_blocks` wants it: the template's own first character stays its first.
    lines = [f"{{% set {name} = {name} | default({_literal(v)}) %}}\n" for name, v in config.template_arguments.items()]
    if CLOCK in template:
        day = date.fromisoformat(config.date)
        values = {f"%{kind}": day.strftime(f"%{kind}") for kind in _DIRECTIVES} | {"%%": "%"}
        replaced = "".join(f" | replace({_literal(name)}, {_literal(value)})" for name, value in values.items())
        lines.append(f"{{% macro {CLOCK}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n")
    return "".join(lines) + template


def check(tokenizer: Any, config: ChatConfig, model: str) -> None:
    """Refuse arguments that would change nothing.

    Raises:
        ModelError: the model has no chat template, or it reads no such argument.
    """
    if not config.template_arguments:
        return
    where, template = "chat.template_arguments", tokenizer.chat_template
    if not template:
        raise ModelError(f"{model} has no chat template to give arguments to", where=where, do="leave them out")
    texts = list(template.values()) if isinstance(template, dict) else [template]
    known = set().union(*map(_read_by, texts)) - _GIVEN - set(tokenizer.special_tokens_map) - {CLOCK}
    for name in config.template_arguments:
        if name not in known:
            names = sorted(known - {"raise_exception", "range", "namespace", "dict", "cycler", "joiner", "lipsum"})
            raise ModelError(
                f"the chat template of {model} does not read {name!r}",
                where=where,
                expected=", ".join(names) or "no arguments: it reads none",
                do=closest(name, names) if names else "leave it out",
            )


def identity(base: Path, config: ChatConfig) -> str:
    """What of the settings changes the ids of a model's conversations, as a part of stage keys; often nothing."""
    parts = [f" with {canonical(config.template_arguments)}"] if config.template_arguments else []
    files = [file for pattern in _FILES for file in base.glob(pattern)]
    if any(CLOCK in file.read_text(encoding="utf-8") for file in files):
        parts.append(f" on {config.date}")
    return "".join(parts)


def _read_by(template: str) -> set[str]:
    """The names that a template reads and does not define."""
    from jinja2 import Environment, TemplateError, meta

    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))
    except TemplateError as error:
        raise ModelError(f"the chat template cannot be read: {error}") from error
    return set(meta.find_undeclared_variables(parsed))


def _literal(value: Any) -> str:
    """A value as Jinja writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(name)}: {_literal(own)}" for name, own in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, str):
        return "'" + "".join(f"\\{c}" if c in "\\'" else {"\n": "\\n", "\r": "\\r"}.get(c, c) for c in value) + "'"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
