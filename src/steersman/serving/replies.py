"""Answers in OpenAI's shapes: whole ones, and streams of chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from steersman.serving.sequences import Delta, Token
from steersman.serving.token_text import TokenText
from steersman.serving.tool_calls import CallForm, calls_in, first_sign
from steersman.types import ToolCall

PROBE = "probe"  # the field of a choice that has the probe's score: it leaves this process nowhere
FINISH = {"stop": "stop", "stop_string": "stop", "length": "length", "filtered": "content_filter"}


@dataclass
class Choice:
    """One answer as it grows.

    Attributes:
        prompt: which prompt it answers, for the count of tokens.
        text: all of it so far; ``sent``: how much of it the client has, if it streams.
        score: of the guard's probe, for all of it so far.
    """

    index: int
    prompt: int = 0
    text: str = ""
    sent: int = 0
    tokens: list[Token] = field(default_factory=list)
    sampled: int = 0
    finish: str | None = None
    calls: list[ToolCall] = field(default_factory=list)
    score: float | None = None

    def add(self, delta: Delta, form: CallForm | None) -> str:
        """Take new text; returns what may be shown of it: nothing that may be a call of a tool."""
        self.text += delta.text
        self.tokens += delta.tokens
        self.sampled = delta.sampled
        self.score = delta.score
        if delta.finish is not None:
            self.finish = FINISH[delta.finish]
        if form is not None and self.finish is not None:
            self.text, self.calls = calls_in(form, self.text)
            self.finish = "tool_calls" if self.calls else self.finish
        end = len(self.text) if form is None or self.finish else len(self.text[: first_sign(form, self.text)].rstrip())
        new = self.text[self.sent : end]
        self.sent = max(self.sent, end)
        return new


@dataclass
class Reply:
    """What all chunks of an answer share, and its shape.

    Attributes:
        chat: of a conversation, or of a text completion.
        prompts: how many tokens each prompt has.
        top: how many alternatives are reported; None for no log-probabilities.
        usage: whether a stream ends with the count of tokens.
    """

    model: str
    chat: bool
    prompts: Sequence[int]
    token_text: TokenText
    top: int | None = None
    usage: bool = False
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"

    # ── whole ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The answer at once."""
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [self._choice(c) for c in choices], "usage": self.count(choices)}

    def _choice(self, choice: Choice) -> dict[str, Any]:
        common = {
            "index": choice.index,
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish,
            **_probed(choice.score),
        }
        if not self.chat:
            return {"text": choice.text, **common}
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": [_call(call) for call in choice.calls]}
        return {"message": message, **common}

    def count(self, choices: Sequence[Choice]) -> dict[str, int]:
        """The usage: each prompt once, and every token that was sampled."""
        prompt, completion = sum(self.prompts), sum(choice.sampled for choice in choices)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    # ── streamed ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def first(self, choices: Sequence[Choice]) -> Iterator[dict[str, Any]]:
        """Of a chat, a chunk with the role for each choice."""
        if self.chat:
            for choice in choices:
                yield self._chunk(choice.index, {"role": "assistant", "content": "", "refusal": None})

    def deltas(self, choice: Choice, new: str, delta: Delta) -> Iterator[dict[str, Any]]:
        """Chunks of new text, and the last one of the choice.

        Args:
            new: what `Choice.add` returned for this delta.
        """
        logprobs, probed = self._logprobs(delta.tokens), _probed(delta.score)
        if new or (delta.tokens and self.top is not None):
            yield self._chunk(choice.index, {"content": new} if self.chat else new, logprobs, **probed)
        if choice.finish is not None:
            if choice.calls:
                calls = [{"index": i, **_call(call)} for i, call in enumerate(choice.calls)]
                yield self._chunk(choice.index, {"tool_calls": calls})
            yield self._chunk(choice.index, {} if self.chat else "", finish=choice.finish, **probed)

    def last(self, choices: Sequence[Choice]) -> Iterator[dict[str, Any]]:
        """The count of tokens, if it was asked for."""
        if self.usage:
            yield {**self._head(self._kind), "choices": [], "usage": self.count(choices)}

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(
        self, index: int, new: Any, logprobs: Any = None, finish: str | None = None, **more: Any
    ) -> dict[str, Any]:
        content = {"delta": new} if self.chat else {"text": new}
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": finish, **more}
        return {**self._head(self._kind), "choices": [choice], **({"usage": None} if self.usage else {})}

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "system_fingerprint": None}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.top is None:
            return None
        if not self.chat:
            return {
                "tokens": [self.token_text(token.id) for token in tokens],
                "token_logprobs": [token.logprob for token in tokens],
                "top_logprobs": [{self.token_text(i): p for i, p in token.top} for token in tokens],
                "text_offset": [token.start for token in tokens],
            }
        content = [
            {**self._likely(token.id, token.logprob), "top_logprobs": [self._likely(*top) for top in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _likely(self, token: int, logprob: float) -> dict[str, Any]:
        content = self.token_text.bytes_of(token)
        return {"token": content.decode("utf-8", errors="replace"), "logprob": logprob, "bytes": list(content)}


def _probed(score: float | None) -> dict[str, Any]:
    """The probe's score, for the gateway in this process."""
    return {} if score is None else {PROBE: score}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
