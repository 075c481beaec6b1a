"""Requests of the OpenAI API as exchanges: every text of every role and part, with its path, and writing texts back.

Messages are read one by one: text, lists of parts, refusals, reasoning, names, calls of tools and their arguments,
results. A message of several text parts is also read as one text, since a model reads it so. Whatever else the body
holds (tools, formats, unknown fields) is read as one text for each field; fields that nobody knows with their names.
Pictures, sound, files, token ids, embeddings and parts of unknown types are `unscannable`.

System and developer messages are read like all others: whoever can call the API can write them. An operator whose own
server writes them sets ``trust_system``; then they are forwarded unread.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from steersman.guard.gateway.json_text import JsonText, NotStrict, is_name, key_path, parse_strict
from steersman.guard.spans import Span, merged, replaced, replacements
from steersman.guard.verdict import Exchange, Part, Ruling

Kind = Literal["chat", "completion"]
MOST_CHOICES = 128
MOST_MESSAGES = 10_000
TEXT_PARTS = ("text", "input_text", "output_text")
# Fields of the body that hold no text for the model, only one word of a fixed list or a name of the upstream's.
PLAIN_FIELDS = frozenset({"model", "reasoning_effort", "service_tier", "verbosity", "stream", "n"})
PLAIN_OF_CALLS = frozenset({"id", "type", "index"})
# Fields that clients of the OpenAI API send. Only their values are read; of any other field its name is read, too.
KNOWN_FIELDS = PLAIN_FIELDS | {"stream_options", "tools", "tool_choice", "functions", "function_call", "stop", "user"}
KNOWN_FIELDS |= {"max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "logprobs"}
KNOWN_FIELDS |= {"top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "store"}
KNOWN_FIELDS |= {"response_format", "metadata", "modalities", "prediction", "parallel_tool_calls", "web_search_options"}
KNOWN_FIELDS |= {"best_of", "echo", "suffix", "prompt_cache_key", "safety_identifier", "chat_template_kwargs"}
KNOWN_OF_MESSAGES = frozenset({"name", "tool_call_id", "refusal", "function_call", "function", "custom", "audio"})
KNOWN_OF_MESSAGES |= {"reasoning_content", "reasoning", "annotations", "cache_control"}
# What servers take beside the texts and no rail can read: ids of tokens, embeddings, pictures, sound.
UNREAD_FIELDS = frozenset({"prompt_token_ids", "input_ids", "prompt_embeds", "input_embeds", "multi_modal_data"})
UNREAD_FIELDS |= {"image_data", "audio_data", "video_data"}
UNREAD_OF_MESSAGES = frozenset({"image", "images", "video", "videos", "file", "files", "input_audio"})
MOST_PLAIN = 64  # characters of a word of a fixed list, or of a call's id
OPERATORS = ("system", "developer")  # roles that `trust_system` is about


class BadRequest(Exception):
    """A request that has one right answer: this error."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        self.message, self.param, self.code, self.status = message, param, code, status
        super().__init__(message)


@dataclass
class ApiRequest:
    """A request, taken apart.

    Attributes:
        body: what is forwarded.
        exchange: its texts.
        before: the text of a last turn of the assistant, which the answer may continue; empty if there is none.
    """

    kind: Kind
    body: dict[str, Any]
    exchange: Exchange
    before: str = ""
    _slots: dict[str, _Slot] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The name of the model in the request."""
        return str(self.body["model"])

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted in pieces."""
        return bool(self.body.get("stream"))

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        options = self.body.get("stream_options")
        return isinstance(options, Mapping) and bool(options.get("include_usage"))

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        prompt = self.body.get("prompt")
        prompts = len(prompt) if isinstance(prompt, list) and not all(isinstance(i, int) for i in prompt) else 1
        return int(self.body.get("n") or 1) * max(1, prompts)

    def parts_of(self, choice: int) -> tuple[Part, ...]:
        """The texts that one choice answers: of several prompts its own is the last."""
        parts = self.exchange.parts
        own = f"prompt[{choice // int(self.body.get('n') or 1)}]"
        return tuple(sorted(parts, key=lambda part: part.where == own)) if self.kind == "completion" else parts

    def redacted(self, ruling: Ruling) -> bool:
        """Replace what the ruling redacts in the body; False if it cannot be replaced."""
        spans: dict[str, list[Span]] = {}
        for part in self.exchange.parts:
            found = replacements(ruling, len(part.text), part.where)
            if found is None:
                return False
            for where, own in self._slots[part.where].share(part.where, found):
                spans.setdefault(where, []).extend(own)
        if not spans:
            return False
        for where, found in spans.items():
            self._slots[where].write(merged(found))
        return True


# ── places of texts ──────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class _Slot:
    """Where a text stands in the body: a string, the strings of a value, or (``pieces``) several strings in a row."""

    holder: Any
    key: str | int
    json: JsonText | None = None
    named: bool = False  # ``json`` is of the field with its name
    pieces: tuple[tuple[str, int], ...] = ()  # path and length

    def share(self, where: str, spans: Sequence[Span]) -> list[tuple[str, list[Span]]]:
        """Spans of this text as spans of the strings that it is made of."""
        if not spans:
            return []
        if not self.pieces:
            return [(where, list(spans))]
        shared, start = [], 0
        for path, length in self.pieces:
            own = [Span(max(s.start - start, 0), min(s.end - start, length), s.by) for s in spans]
            if own := [span for span in own if span.start < span.end]:
                shared.append((path, own))
            start += length
        return shared

    def write(self, spans: Sequence[Span]) -> None:
        if self.json is not None and self.named:
            del self.holder[self.key]
            self.holder.update(self.json.replaced(spans))
        elif self.json is not None:
            self.holder[self.key] = self.json.replaced(spans)
        else:
            self.holder[self.key] = replaced(self.holder[self.key], spans)


class _Reader:
    """Collects the texts of a body."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.slots: dict[str, _Slot] = {}
        self.unscannable: list[str] = []

    def text(self, holder: Any, key: str | int, where: str, role: str) -> None:
        if holder[key]:
            self.parts.append(Part(where, role, holder[key]))
            self.slots[where] = _Slot(holder, key)

    def value(self, holder: Any, key: str | int, where: str, role: str, *, named: bool = False) -> None:
        """All strings below a key, as one text; ``named``: with the key itself."""
        text = JsonText({key: holder[key]} if named else holder[key])
        if not text.text:
            return
        self.parts.append(Part(where, role, text.text))
        self.slots[where] = _Slot(holder, key, text, named)

    def unread(self, holder: Any, key: str, where: str, role: str) -> None:
        """A value that no rail can read; short texts in it are read all the same, in case it may pass."""
        self.unscannable.append(where)
        if not _is_media(holder[key]):
            self.value(holder, key, where, role)

    def several(self, pieces: Sequence[tuple[str, str]], where: str, role: str) -> None:
        """Several texts in a row, as a model reads them."""
        if len(pieces) > 1:
            self.parts.append(Part(where, role, "".join(text for _, text in pieces)))
            self.slots[where] = _Slot(None, 0, pieces=tuple((path, len(text)) for path, text in pieces))


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def parse_body(raw: bytes) -> dict[str, Any]:
    """The object in the body of a request.

    Raises:
        BadRequest: it is none.
    """
    try:
        body = parse_strict(raw)
    except NotStrict as error:
        raise BadRequest(str(error), code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest(f"the body is {_named(body)}, not an object")
    return body


def read_chat(body: dict[str, Any], *, trust_system: bool = False, model: bool = True) -> ApiRequest:
    """A request to ``/v1/chat/completions``.

    Raises:
        BadRequest: something has a wrong type.
    """
    body = copy.deepcopy(body)
    _check_common(body, model)
    messages = _need(body, "messages", list, "a list of messages")
    if not messages:
        raise BadRequest("'messages' is empty: there is nothing to answer", param="messages")
    if len(messages) > MOST_MESSAGES:
        raise BadRequest(f"'messages' has {len(messages)} messages, more than {MOST_MESSAGES}", param="messages")
    reader = _Reader()
    for number, message in enumerate(messages):
        _read_message(reader, message, f"messages[{number}]", trust_system)
    _read_others(reader, body, {"messages"})
    exchange = Exchange(tuple(reader.parts), unscannable=tuple(reader.unscannable))
    return ApiRequest("chat", body, exchange, _begun(messages[-1]), reader.slots)


def read_completion(body: dict[str, Any]) -> ApiRequest:
    """A request to ``/v1/completions``; errors as `read_chat`."""
    body = copy.deepcopy(body)
    _check_common(body, True)
    reader, prompt = _Reader(), body.get("prompt")
    if isinstance(prompt, str):
        reader.text(body, "prompt", "prompt", "user")
    elif isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt):
            for number in range(len(prompt)):
                reader.text(prompt, number, f"prompt[{number}]", "user")
        elif _ids(prompt):
            reader.unscannable.append("prompt")
        elif all(isinstance(item, list) and item and _ids(item) for item in prompt):
            reader.unscannable += [f"prompt[{number}]" for number in range(len(prompt))]
        else:
            raise BadRequest("'prompt' mixes texts and token ids, or holds neither", param="prompt")
    else:
        raise BadRequest(f"'prompt' is {_named(prompt)}; expected a text, or a list of texts", param="prompt")
    _read_others(reader, body, {"prompt"})
    exchange = Exchange(tuple(reader.parts), unscannable=tuple(reader.unscannable))
    return ApiRequest("completion", body, exchange, _slots=reader.slots)


def read_inputs(body: dict[str, Any]) -> list[Exchange]:
    """The inputs of a request to ``/v1/moderations``: a text, a list of texts, or parts that are judged together.

    Raises:
        BadRequest: something has a wrong type.
    """
    given = body.get("input")
    if isinstance(given, str):
        return [Exchange((Part("input", "user", given),))]
    if not isinstance(given, list) or not given:
        raise BadRequest(f"'input' is {_named(given)}; expected a text, or a list of texts or parts", param="input")
    if all(isinstance(item, str) for item in given):
        return [Exchange((Part(f"input[{number}]", "user", item),)) for number, item in enumerate(given)]
    reader = _Reader()
    _read_parts(reader, copy.deepcopy(given), "input", "user")
    return [Exchange(tuple(reader.parts), unscannable=tuple(reader.unscannable))]


def _check_common(body: Mapping[str, Any], model: bool) -> None:
    if model and not (isinstance(body.get("model"), str) and body["model"]):
        raise BadRequest(f"'model' is {_named(body.get('model'))}; expected the name of a model", param="model")
    if model and not is_name(body["model"]):
        raise BadRequest("'model' is too long, or has spaces; expected the name of a model", param="model")
    stream, n, options = body.get("stream"), body.get("n"), body.get("stream_options")
    if not (stream is None or isinstance(stream, bool)):
        raise BadRequest(f"'stream' is {_named(stream)}; expected true or false", param="stream")
    if not (n is None or (isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= MOST_CHOICES)):
        raise BadRequest(f"'n' is {_named(n)}; expected a whole number from 1 to {MOST_CHOICES}", param="n")
    for key in ("max_tokens", "max_completion_tokens"):  # -1: no bound, with llama.cpp and LM Studio
        bound = body.get(key)
        if not (bound is None or (isinstance(bound, int) and not isinstance(bound, bool) and bound >= -1)):
            raise BadRequest(f"'{key}' is {_named(bound)}; expected a whole number", param=key)
    if not (options is None or isinstance(options, dict)):
        raise BadRequest(f"'stream_options' is {_named(options)}; expected an object", param="stream_options")
    usage = (options or {}).get("include_usage")
    if not (usage is None or isinstance(usage, bool)):
        where = "stream_options.include_usage"
        raise BadRequest(f"'{where}' is {_named(usage)}; expected true or false", param=where)


def _read_others(reader: _Reader, body: dict[str, Any], done: set[str]) -> None:
    """Every other field of the body: what upstreams put before the model, known or not."""
    for key in body:
        if key in UNREAD_FIELDS and body[key]:
            reader.unread(body, key, key_path("body", key), "request")
        elif key not in done and not (key in PLAIN_FIELDS and _plain(body[key])):
            reader.value(body, key, key_path("body", key), "request", named=key not in KNOWN_FIELDS)


def _begun(message: Mapping[str, Any]) -> str:
    """The text of a last turn of the assistant."""
    if message["role"] != "assistant":
        return ""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return content or ""


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _read_message(reader: _Reader, message: Any, where: str, trust_system: bool) -> None:
    if not isinstance(message, dict):
        raise BadRequest(f"'{where}' is {_named(message)}; expected a message with a role and content", param=where)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise BadRequest(f"'{where}.role' is {_named(role)}; expected a role, such as \"user\"", param=f"{where}.role")
    begun = len(reader.parts)
    content = message.get("content")
    if isinstance(content, str):
        reader.text(message, "content", f"{where}.content", role)
    elif isinstance(content, list):
        _read_parts(reader, content, f"{where}.content", role)
    elif content is not None:
        raise BadRequest(
            f"'{where}.content' is {_named(content)}; expected a text, or a list of parts", param=f"{where}.content"
        )
    elif not any(message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio")):
        raise BadRequest(f"'{where}.content' is null, and the message has nothing else", param=f"{where}.content")
    for number, call in enumerate(_calls(message, where)):
        _read_call(reader, call, f"{where}.tool_calls[{number}]", role)
    for key in message:
        if key not in ("role", "content", "tool_calls"):
            sound = key == "audio" and isinstance(message[key], dict) and "data" in message[key]
            if sound or (key in UNREAD_OF_MESSAGES and message[key]):
                reader.unread(message, key, key_path(where, key), role)
            else:
                reader.value(message, key, key_path(where, key), role, named=key not in KNOWN_OF_MESSAGES)
    if trust_system and role in OPERATORS:
        for part in reader.parts[begun:]:
            del reader.slots[part.where]
        del reader.parts[begun:]


def _calls(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    if calls is None:
        return []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRequest(f"'{where}.tool_calls' is no list of calls", param=f"{where}.tool_calls")
    return calls


def _read_call(reader: _Reader, call: dict[str, Any], where: str, role: str) -> None:
    """A call as one text: its function's name and arguments, and whatever else it has but its id and type."""
    for key in call:
        if not (key in PLAIN_OF_CALLS and _plain(call[key])):
            named = key not in KNOWN_OF_MESSAGES and key not in PLAIN_OF_CALLS
            reader.value(call, key, key_path(where, key), role, named=named)


def _read_parts(reader: _Reader, parts: list[Any], where: str, role: str) -> None:
    texts: list[tuple[str, str]] = []
    for number, part in enumerate(parts):
        path = f"{where}[{number}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise BadRequest(f"'{path}' is {_named(part)}; expected a part with a type", param=path)
        kind = part["type"]
        key = "refusal" if kind == "refusal" else "text" if kind in TEXT_PARTS else None
        if key is None:
            reader.unscannable.append(path)
        elif not isinstance(part.get(key), str):
            raise BadRequest(f"'{path}.{key}' is {_named(part.get(key))}; expected a text", param=f"{path}.{key}")
        else:
            reader.text(part, key, f"{path}.{key}", role)
            texts.append((f"{path}.{key}", part[key]))
        for other in part:
            if other not in ("type", key):
                if not _is_media(part[other]):
                    reader.value(part, other, key_path(path, other), role, named=other not in KNOWN_OF_MESSAGES)
                elif key is not None:
                    reader.unscannable.append(key_path(path, other))
    reader.several([(path, text) for path, text in texts if text], where, role)


def _is_media(value: Any) -> bool:
    """Whether a value of a part is a picture, a sound or a file in base64: it is unscannable as a whole."""
    inner = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(text, str) and (text[:5].lower() == "data:" or len(text) > 4096) for text in inner)


# ── types ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _need(body: Mapping[str, Any], key: str, kind: type, expected: str) -> Any:
    value = body.get(key)
    if not isinstance(value, kind):
        raise BadRequest(f"'{key}' is {_named(value)}; expected {expected}", param=key)
    return value


def _plain(value: Any) -> bool:
    """Whether a value is a number, null, or one short word."""
    return is_name(value) and (not isinstance(value, str) or len(value) <= MOST_PLAIN)


def _ids(items: Sequence[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _named(value: Any) -> str:
    """A JSON value in words."""
    if value is None:
        return "null or missing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"[:40]
    if isinstance(value, str):
        return f'the text "{value[:30]}"' if value else "an empty text"
    return ("an empty list" if not value else "a list") if isinstance(value, list) else "an object"
