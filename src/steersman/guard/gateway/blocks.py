"""Shapes that clients know: answers that the guard gives in the model's place, pieces of streams, errors, headers.

A block is an answer with status 200 and ``finish_reason: content_filter``; the refusal is in ``content``, which every
client shows, and in ``refusal``, by which the OpenAI client and Inspect know it. Beside ``choices`` stands the object
``guardrail``. With ``blocks: error`` it is a 400 with the code ``content_filter``, as Azure sends it.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from steersman.guard.gateway.chat_api import ApiRequest
from steersman.guard.gateway.json_text import dumped
from steersman.guard.verdict import Ruling, Side, Verdict

OBJECTS = {"chat": "chat.completion", "completion": "text_completion"}
PREFIXES = {"chat": "chatcmpl", "completion": "cmpl"}
DONE = b"data: [DONE]\n\n"
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
}
TYPES |= {405: "invalid_request_error", 413: "invalid_request_error", 415: "invalid_request_error"}
TYPES |= {429: "rate_limit_error", 502: "upstream_error", 503: "overloaded_error", 504: "upstream_error"}
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
MOST_VERDICTS = 20  # in the object `guardrail`


def error_body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def guardrail(ruling: Ruling, side: Side, shown: bool = True) -> dict[str, Any]:
    """What the guard did, for the client: no text of the exchange is in it.

    Args:
        shown: whether all verdicts are shown, with their scores and the places of their evidence.
    """
    decided = ruling.verdict
    told = [v for v in ruling.verdicts if v.decision != "allow"] if shown else []
    return {
        "decision": ruling.decision,
        "side": side,
        "principle": decided.principle if decided else None,
        "rail": decided.rail if decided else None,
        "score": decided.score if decided and shown else None,
        "failed": decided is not None and decided.decision == "failed",
        "verdicts": [verdict_json(verdict, verdict.rail in ruling.shadowed) for verdict in told[:MOST_VERDICTS]],
    }


def verdict_json(verdict: Verdict, shadowed: bool) -> dict[str, Any]:
    """A verdict as JSON values."""
    return {**verdict.model_dump(mode="json", exclude={"ms"}), "ms": round(verdict.ms, 3), "shadow": shadowed}


def headers_of(ruling: Ruling, request_id: str) -> dict[str, str]:
    """The headers that say what the guard did."""
    headers = {"x-request-id": request_id, "x-guard-decision": ruling.decision}
    if ruling.verdict is not None and ruling.decision != "allow":
        headers["x-guard-principle"] = re.sub(r"[^\w.-]", "-", ruling.verdict.principle, flags=re.ASCII)
    return headers


# ── answers in the model's place ─────────────────────────────────────────────────────────────────────────────────────
def blocked_choice(kind: str, index: int, text: str) -> dict[str, Any]:
    """A choice that holds the refusal."""
    choice: dict[str, Any] = {"index": index, "finish_reason": "content_filter", "logprobs": None}
    if kind == "completion":
        return {**choice, "text": text}
    return {**choice, "message": {"role": "assistant", "content": text, "refusal": text}}


def blocked_answer(request: ApiRequest, text: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request that was stopped before the upstream saw it. ``told``: of `guardrail`."""
    return {
        **head_of(request),
        "choices": [blocked_choice(request.kind, index, text) for index in range(request.choices)],
        "usage": NO_USAGE,
        "guardrail": dict(told),
    }


def head_of(request: ApiRequest, stream: bool = False) -> dict[str, Any]:
    """The first fields of an answer of our own."""
    named = "chat.completion.chunk" if stream and request.kind == "chat" else OBJECTS[request.kind]
    return {
        "id": f"{PREFIXES[request.kind]}-guard-{uuid.uuid4().hex[:24]}",
        "object": named,
        "created": int(time.time()),
        "model": request.model,
    }


def blocked_error(text: str, told: Mapping[str, Any], side: Side) -> dict[str, Any]:
    """The body of a 400 in the place of an answer, in Azure's shape."""
    error = error_body(400, text, code="content_filter", param="prompt" if side == "input" else None)
    return {**error, "guardrail": dict(told)}


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + dumped(value) + b"\n\n"


def piece(kind: str, index: int, delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One choice of a chunk. ``delta``: of a chat; a completion has its text alone."""
    choice: dict[str, Any] = {"index": index}
    if kind == "completion":
        choice |= {"text": delta.get("content") or "", "logprobs": None}
    else:
        choice |= {"delta": dict(delta), "logprobs": None}
    return {**choice, **more, "finish_reason": finish}


def blocked_piece(kind: str, index: int, text: str, *, begun: bool) -> dict[str, Any]:
    """The last piece of a choice that was stopped. ``begun``: some of its text was sent before."""
    if kind == "completion":
        return piece(kind, index, {"content": f"\n\n{text}" if begun else text}, "content_filter")
    delta = {"content": f"\n\n{text}" if begun else text, "refusal": text}
    return piece(kind, index, delta if begun else {"role": "assistant", **delta}, "content_filter")


def as_chunk(request: ApiRequest, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer as the one chunk of a stream."""
    chunk = {**answer, **({"object": "chat.completion.chunk"} if request.kind == "chat" else {})}
    if request.kind == "chat":
        chunk["choices"] = [{**choice, "delta": _numbered(choice["message"])} for choice in answer["choices"]]
        for choice in chunk["choices"]:
            del choice["message"]
    return chunk


def _numbered(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as a delta: its calls of tools have numbers."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [{"index": n, **call} for n, call in enumerate(calls) if isinstance(call, dict)]}
