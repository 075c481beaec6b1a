"""A whole answer of the upstream: every text in it is judged, and it is passed on, redacted, rewritten or replaced.

Each choice stands for itself. Its text is judged as the answer to the request. Everything else that it says (reasoning,
refusals, calls of tools with their arguments, fields that nobody knows yet) is judged as one further text. Sounds and
pictures are `unscannable`. Log-probabilities pass only beside exactly the text that they spell: they are dropped where
that was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steersman.guard.gateway import blocks
from steersman.guard.gateway.chat_api import ApiRequest
from steersman.guard.gateway.json_text import JsonText, is_name
from steersman.guard.gateway.state import Call, GatewayState
from steersman.guard.gateway.upstream import ACTIVATION, UpstreamError
from steersman.guard.refusals import refusal_of
from steersman.guard.spans import Span, replaced, replacements
from steersman.guard.streaming import stricter
from steersman.guard.verdict import Exchange, Part, Ruling

ALLOWED = Ruling("allow", None)
# Fields that hold names, numbers and words of fixed lists. They are cut to such lengths as those have.
HEAD = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
OF_CHOICES = frozenset({"index", "finish_reason", "stop_reason", "matched_stop", "logprobs"})
OF_CALLS = frozenset({"id", "type", "index"})
READABLE = ("text", "output_text", "refusal", "thinking", "reasoning")  # parts of an answer
MEDIA = ("audio", "images", "image", "video")


class Answers:
    """Judges the answers to one request."""

    def __init__(self, state: GatewayState, call: Call, request: ApiRequest) -> None:
        self.state, self.call, self.request = state, call, request

    async def screened(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], Ruling]:
        """The answer that may be sent, and the strictest ruling on it.

        Raises:
            UpstreamError: the body is no answer.
        """
        choices = body.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise UpstreamError(502, "the upstream's reply has no list of choices", "upstream_reply")
        sent, strictest = list[dict[str, Any]](), ALLOWED
        for number, choice in enumerate(choices):
            screened, ruling = await self._choice(choice, number)
            sent.append(screened)
            strictest = stricter(strictest, ruling)
        answer = head_of(body) | {"choices": sent}
        rest, ruling = await self._rest({k: v for k, v in body.items() if k not in (*answer, "usage", "guardrail")})
        strictest = stricter(strictest, ruling)
        answer |= rest
        if (usage := numbers_of(body.get("usage"))) is not None:
            answer["usage"] = self.call.usage = usage
        return answer, strictest

    # ── one choice ───────────────────────────────────────────────────────────────────────────────────────────────────
    async def _choice(self, choice: dict[str, Any], number: int) -> tuple[dict[str, Any], Ruling]:
        index = choice["index"] if isinstance(choice.get("index"), int) else number
        parts = self.request.parts_of(index)
        chat = self.request.kind == "chat"
        holder = choice.get("message") if chat else choice
        if not isinstance(holder, dict):
            raise UpstreamError(502, "a choice of the upstream's reply has no message", "upstream_reply")
        key = "content" if chat else "text"
        given, read = holder.get(key), _read_of(choice)
        text = given if isinstance(given, str) else ""
        own, ruling = await self._text(parts, text, unread_of(holder, f"choices[{index}]"), read)
        others = {k: v for k, v in holder.items() if v and k not in (key, "role", *MEDIA, *OF_CHOICES, ACTIVATION)}
        others |= {key: given} if isinstance(given, list) else {}
        if own is None and ruling.decision == "rewrite" and chat:
            own, ruling = await self._rewritten(parts, text, ruling)
            others = {}  # what came with the first answer
        extra = {k: v for k, v in choice.items() if chat and k not in (*OF_CHOICES, "message", ACTIVATION)}
        rest, ruled = await self._value(parts, {"holder": others, "choice": extra}, read)
        ruling = stricter(ruling, ruled)
        if own is None or rest is None:
            refusal = refusal_of(ruling, Exchange(parts, answer=""), self.call.guard.constitution)
            return blocks.blocked_choice(self.request.kind, index, refusal), ruling
        others, extra = rest.get("holder", {}), rest.get("choice", {})
        if own != text:
            others.pop("token_ids", None)
        sent = {
            k: v
            for k, v in holder.items()
            if k not in (*OF_CHOICES, ACTIVATION) and (not v or k in MEDIA or k == "role")
        }
        sent |= {key: own} if isinstance(given, str) else {}
        fixed = {"index": index, "finish_reason": finish_of(choice)}
        fixed |= {k: v for k, v in choice.items() if k in ("stop_reason", "matched_stop") and is_name(v)}
        fixed |= {"logprobs": _logprobs(choice.get("logprobs"), own)} if "logprobs" in choice else {}
        return ({**fixed, "message": sent | others, **extra} if chat else {**sent, **others, **fixed}), ruling

    async def _text(
        self, parts: tuple[Part, ...], text: str, unread: tuple[str, ...] = (), read: float | None = None
    ) -> tuple[str | None, Ruling]:
        """A text as it may be sent, None if it may not; and the ruling on it."""
        if not text and not unread:
            return text, ALLOWED
        before = self.request.before
        exchange = Exchange(parts, answer=before + text, unscannable=unread, activation=read)
        ruling = await self.state.judge(self.call, exchange)
        spans = replacements(ruling, len(before) + len(text))
        if spans is None:
            return None, ruling
        own = [Span(max(0, s.start - len(before)), s.end - len(before), s.by) for s in spans if s.end > len(before)]
        return replaced(text, own), ruling

    async def _value(
        self, parts: tuple[Part, ...], value: dict[str, Any], read: float | None = None
    ) -> tuple[dict[str, Any] | None, Ruling]:
        """A JSON object as it may be sent, None if it may not; all its strings are judged as one text."""
        text = JsonText(value, skip=OF_CALLS)
        if not any(value.values()) or not text.text:
            return value, ALLOWED
        ruling = await self.state.judge(self.call, Exchange(parts, answer=text.text, activation=read))
        spans = replacements(ruling, len(text.text))
        if spans is None:
            return None, ruling
        return (text.replaced(spans) if spans else value), ruling

    async def _rest(self, value: dict[str, Any]) -> tuple[dict[str, Any], Ruling]:
        """The fields beside the choices; they are left out where a rail objects."""
        kept, ruling = await self._value(self.request.exchange.parts, value)
        return kept or {}, ruling

    async def _rewritten(self, parts: tuple[Part, ...], text: str, ruling: Ruling) -> tuple[str | None, Ruling]:
        """The upstream's second answer, asked for with the principle's request for a revision; None if none is fine."""
        principles = {p.id: p for p in self.call.guard.constitution.principles}
        principle = principles.get(ruling.verdict.principle) if ruling.verdict else None
        if principle is None:
            return None, ruling
        asked = f"{principle.revision_request}\n\nReply with the rewritten answer alone."
        messages = [{"role": "assistant", "content": text}, {"role": "user", "content": asked}]
        dropped = ("stream", "stream_options", "n", "tools", "tool_choice", "functions", "function_call", "logprobs")
        body = {k: v for k, v in self.request.body.items() if k not in (*dropped, "top_logprobs")}
        body["messages"] = [*self.request.body["messages"], *messages]
        try:
            reply = await self.state.upstream_of(self.call).complete("chat/completions", body, self.call.headers)
            choice = reply.body["choices"][0]
            second = choice["message"]["content"]
        except (UpstreamError, LookupError, TypeError):
            return None, ruling
        if not isinstance(second, str) or not second:
            return None, ruling
        own, again = await self._text(parts, second, read=_read_of(choice))
        return own, (ruling if own is not None else stricter(again, ruling))


# ── fields ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def head_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an answer that name it."""
    return {key: body[key] for key in HEAD if key in body and is_name(body[key])}


def _read_of(choice: Mapping[str, Any]) -> float | None:
    """What a probe read of a choice, where the model is served in this process."""
    read = choice.get(ACTIVATION)
    return read if isinstance(read, float) else None


def finish_of(choice: Mapping[str, Any]) -> str | None:
    """Why a choice ended; a word of a fixed list."""
    reason = choice.get("finish_reason")
    return reason if reason is None or (isinstance(reason, str) and len(reason) <= 32 and is_name(reason)) else "stop"


def numbers_of(value: Any) -> dict[str, Any] | None:
    """The numbers of a ``usage``, at any depth; None if it is no object."""
    if not isinstance(value, dict):
        return None
    return {
        key: numbers_of(inner) if isinstance(inner, dict) else inner
        for key, inner in value.items()
        if is_name(key) and (inner is None or isinstance(inner, dict | int | float))
    }


def unread_of(message: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Paths of what no rail can read in a message, or in a piece of one: sounds, pictures, parts of unknown types."""
    paths = [f"{where}.{name}" for name in MEDIA if message.get(name)]
    content = message.get("content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if not (isinstance(part, dict) and part.get("type") in READABLE):
            paths.append(f"{where}.content[{number}]")
    return tuple(paths)


def spelling(logprobs: Mapping[str, Any]) -> str | None:
    """The text that log-probabilities are of, in either API's shape; None if they name no tokens."""
    tokens = logprobs.get("tokens") if "tokens" in logprobs else logprobs.get("content")
    if not isinstance(tokens, list):
        return None
    spelt = [item.get("token") if isinstance(item, dict) else item for item in tokens]
    return "".join(str(token) for token in spelt)


def _logprobs(value: Any, text: str) -> Any:
    """Log-probabilities beside exactly the text that they spell; else None."""
    if not isinstance(value, dict) or (spelling(value) or "").strip() != text.strip():  # chats lose outer spaces
        return None
    return {**value, "refusal": None} if "content" in value else value
