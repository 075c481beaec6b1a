"""A Modelfile's Go template writes what the chat template writes, and is left out where it would not.

The Go that we write was executed by Go 1's text/template on these templates, with equal texts; here it is read by the
few lines of `go`, which know no more of the language than we use.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from steersman.lm.chat_format import SPELLED_OUT, ChatFormat, chat_format
from steersman.lm.ollama import NO_TEMPLATE, frame_of, modelfile
from steersman.types import Message

CHATML = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
WRITTEN = {
    "spelled out": SPELLED_OUT,
    "ChatML": CHATML,
    "a system text of its own": "{% if messages[0].role != 'system' %}<|turn|>system\nBe kind.<|end|>\n{% endif %}"
    + CHATML,
    "no system role": "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHATML,
    "begins with BOS, trims": "{{ bos_token }}" + CHATML.replace("m.content", "m.content | trim"),
    "opens a thought": CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
    "every turn begins anew": "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }}"
    " [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
}
NOT_WRITTEN = {
    "writes the date": "{{ strftime_now('%d') }}" + CHATML,
    "counts": CHATML.replace("m.content }}", "m.content }}{{ m.content | length }}"),
    "moves the system text": "{% for m in messages if m.role != 'system' %}<|turn|>{% if loop.last and messages[0].role"
    " == 'system' %}{{ messages[0].content }}{% endif %}{{ m.content }}<|end|>{% endfor %}",
    "holds braces": "{{ '{{' }}" + CHATML,
}
SHAPES = (("user",), ("system", "user"), ("user", "assistant", "user"), ("system", *("user", "assistant") * 2, "user"))


def go(template: str, messages: list[Message]) -> str:
    """`{{ range }}` over messages with one chain of conditions in it, executed."""
    body, _, end = template.removeprefix("{{ range $i, $m := .Messages }}").partition(
        "{{ end }}{{ $m.Content }}{{ end }}"
    )
    branches = re.findall(r"\{\{ (?:else )?(if [^}]*|else) ?\}\}([^{]*)", body)
    system = any(m.role == "system" for m in messages)

    def holds(condition: str, i: int, role: str) -> bool:
        if found := re.fullmatch(r'if eq \$m.Role "(\w+)" ?', condition):
            return role == found[1]
        return {"if eq $i 0 ": i == 0, "if and $.System (eq $i 1) ": system and i == 1, "else": True}[condition]

    written = (next(t for c, t in branches if holds(c, i, m.role)) + m.content for i, m in enumerate(messages))
    return "".join(written) + end


def chat_of(tokenizer: Any, template: str) -> ChatFormat:
    own = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    own.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    own.chat_template = template
    return chat_format(own)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_go_template_writes_what_the_chat_template_writes(name: str, adds_bos: bool, tokenizer: Any) -> None:
    chat = chat_of(tokenizer, WRITTEN[name])
    frame = frame_of(chat, adds_bos)
    assert frame
    assert chat.template
    for shape in SHAPES:
        messages = [Message(role=role, content=f"text {i}:\n\n1 < 2") for i, role in enumerate(shape)]  # type: ignore[arg-type]
        wanted = chat.template.prompt_text(messages)
        assert go(frame.go(), messages) == (wanted.removeprefix("<bos>") if adds_bos else wanted)


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_what_is_more_than_text_between_messages_is_not_written(name: str, tokenizer: Any) -> None:
    assert frame_of(chat_of(tokenizer, NOT_WRITTEN[name]), True) is None


def test_a_modelfile_stops_where_training_did(tiny_base: Path, tmp_path: Path) -> None:
    """Ollama reads no escapes: a stop text with a line break has a real one."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = SPELLED_OUT
    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(tmp_path)
    text = modelfile(tmp_path, Path("x/my.gguf"), True)
    assert text.startswith("FROM ./my.gguf\n")
    assert 'PARAMETER stop "<eos>"\n' in text
    assert 'PARAMETER stop "\nUser:"\n' in text
    assert text.endswith('{{ end }}\nAssistant:"""\n')
    tokenizer.chat_template = NOT_WRITTEN["counts"]
    tokenizer.save_pretrained(tmp_path)
    text = modelfile(tmp_path, Path("my.gguf"), True)
    assert NO_TEMPLATE in text
    assert 'TEMPLATE "' not in text
    assert "User:" not in text
