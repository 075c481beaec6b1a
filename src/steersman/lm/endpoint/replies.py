"""What comes back from an OpenAI-compatible endpoint: replies, and what they cost.

Endpoints agree on little beyond the names of the fields, so nothing in a response is trusted. One that cannot be parsed
is a `RetryableError`; one that can is stored, whatever its outcome. What an error response means is in `refusals.py`,
which option a reply chooses in `verdicts.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Literal, get_args

from steersman.reasoning import without_reasoning

Outcome = Literal["answered", "cut_off", "filtered", "too_long", "refused", "empty", "failed"]
Alternatives = dict[str, float]  # token -> log-probability, at one position

KEPT_POSITIONS = 32  # log-probs are kept of an answer's first 32 and last 32 tokens: a verdict is at one of its ends
IN_REASONING = "its reasoning was cut off"
_LENGTHS = ("length", "max_tokens", "model_length", "max_output_tokens")
_FILTERS = (
    "content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii",
    "guardrail_intervened", "refusal", "sensitive",
)  # fmt: skip
_REASONING_FIELDS = ("reasoning", "reasoning_content", "reasoning_details", "thinking", "thinking_blocks")


@dataclass(frozen=True)
class Usage:
    """Tokens charged, from the response's ``usage``.

    ``unstated`` counts attempts that may have been charged as well: responses without a ``usage``, unreadable ones, and
    requests that were sent and broke off.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    unstated: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


UNSTATED = Usage(unstated=1)


class RetryableError(Exception):
    """An attempt that failed and may succeed when it is retried; never raised to callers."""

    def __init__(
        self, reason: str, usage: Usage = UNSTATED, *, retry_after_s: float = 0.0, unreachable: bool = False
    ) -> None:
        self.reason, self.usage, self.retry_after_s, self.unreachable = reason, usage, retry_after_s, unreachable
        super().__init__(reason)


@dataclass(frozen=True)
class Reply:
    """The reply to one request.

    ``text`` is the answer without reasoning. ``outcome``: ``cut_off`` by ``max_tokens`` (finish_reason ``length``);
    ``filtered`` by a content filter, or a text in the field ``refusal``; ``too_long`` for the model; ``refused``: this
    request and not others, for another reason; ``empty``: no text; ``failed``: no reply after the last attempt.
    ``detail`` says why, in the endpoint's words where it gave any. ``refused`` and ``failed`` are not stored, so that
    they are sent again. ``alternatives``: for the positions of the answer, the sampled token and the likeliest ones
    with their log-probs; None where the endpoint sent none. ``reused``: not paid for by this request, because the reply
    was in the cache or an equal request was sent at once.
    """

    text: str
    outcome: Outcome
    usage: Usage = field(default_factory=Usage)
    alternatives: tuple[tuple[str, Alternatives], ...] | None = None
    detail: str = ""
    reused: bool = False

    @property
    def is_unusable(self) -> bool:
        """Whether there is no answer, or only the beginning of one behind unfinished reasoning."""
        return self.outcome not in ("answered", "cut_off") or self.detail == IN_REASONING

    def to_json(self) -> dict[str, Any]:
        """The cached fields, without the usage."""
        return {"text": self.text, "outcome": self.outcome, "alternatives": self.alternatives, "detail": self.detail}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], usage: Usage) -> Reply:
        """The inverse of `to_json`.

        Raises:
            ValueError, KeyError, TypeError: not what `to_json` wrote.
        """
        if row["outcome"] not in get_args(Outcome):
            raise ValueError(row["outcome"])
        stored = row["alternatives"]
        alternatives = None if stored is None else tuple((str(token), dict(likely)) for token, likely in stored)
        text, _ = without_reasoning(row["text"])  # of a cache from before it was left out
        return cls(text, row["outcome"], usage, alternatives, row["detail"], reused=True)


def by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """How many there are of each reason (``n``), and the ``words`` that came with the first, as JSON values."""
    found: dict[str, dict[str, Any]] = {}
    for reason, words in reasons:
        found.setdefault(reason, {"n": 0, "words": words})["n"] += 1
    return found


def reasons_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """ "2 too long for the model (maximum context length ...), 1 names no option", from `by_reason`."""
    return ", ".join(
        f"{own['n']} {reason}" + (f" ({own['words']})" if own["words"] else "") for reason, own in found.items()
    )


# ── reading a response ───────────────────────────────────────────────────────────────────────────────────────────────
def parsed(body: str) -> dict[str, Any] | None:
    """The JSON object of a response, or None. An event stream becomes the object that it would have been without."""
    body = body.lstrip("\ufeff \t\r\n")
    while body.startswith(":"):  # comments that keep a connection alive
        body = body.partition("\n")[2].lstrip()
    if body.startswith(("data:", "event:", "id:")):
        return _of_stream(body)
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(payload, list) and len(payload) == 1:
        payload = payload[0]
    return payload if isinstance(payload, dict) else None


def _of_stream(body: str) -> dict[str, Any] | None:
    """The whole response of a stream; None where it broke off, because what was said is then only a part."""
    text, thought, positions, ended = "", "", [], False
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": None, "logprobs": None}
    for event in _events(body):
        whole |= {name: event[name] for name in ("usage", "error") if event.get(name)}
        for part in event.get("choices") or []:
            if not isinstance(part, dict) or part.get("index", 0) != 0:
                continue
            delta = part.get("delta") or part.get("message") or {}
            text += _text_of(delta.get("content"))[0]
            thought += "".join(str(delta[name]) for name in _REASONING_FIELDS if delta.get(name))
            message |= {"refusal": message.get("refusal", "") + delta["refusal"]} if delta.get("refusal") else {}
            positions += _positions_in(part)
            choice |= {name: part[name] for name in ("finish_reason", "error") if part.get(name)}
    ended = "[DONE]" in body[-64:] or bool(choice["finish_reason"]) or "error" in whole
    if not ended:
        return None
    message |= {"content": text, "reasoning": thought}
    choice["logprobs"] = {"content": positions} if positions else None
    return whole | {"choices": [choice]}


def _events(body: str) -> Iterator[dict[str, Any]]:
    for event in body.replace("\r\n", "\n").split("\n\n"):
        data = "\n".join(line[5:].strip() for line in event.split("\n") if line.startswith("data:"))
        try:
            payload = json.loads(data)
        except (ValueError, RecursionError):
            continue
        if isinstance(payload, dict):
            yield payload


def error_status(payload: Mapping[str, Any]) -> int | None:
    """The status that a response's body states, whatever that of its header; None if it states no error.

    An error that names no status is one of the server, which may be gone the next time.
    """
    first = _first_choice(payload)
    error = payload.get("error") or first.get("error")
    if not error and str(first.get("finish_reason")).lower() != "error":
        return None
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    try:
        status = int(str(code))
    except ValueError:
        status = 500
    return status if 400 <= status <= 599 else 500


def read_reply(body: str) -> Reply:
    """A reply from the body of a 200.

    Raises:
        RetryableError: it is not JSON, or has no choice with a message; with the usage, if that much could be read.
    """
    payload = parsed(body)
    if payload is None:
        page = "a web page in place of JSON" if body.lstrip("\ufeff \r\n")[:1] == "<" else ""
        raise RetryableError(page or "a reply that is not JSON, or only a part of it")
    usage = usage_in(payload) or UNSTATED
    choice = _first_choice(payload)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise RetryableError("a reply without a choice", usage)
    if not isinstance(message.get("content"), str | list | dict | None):
        raise RetryableError("a reply whose content is no text", usage)
    content, refusal, reasoned = _text_of(message.get("content"))
    refusal = refusal or _text_of(message.get("refusal"))[0]
    reasoned = reasoned or any(message.get(name) for name in _REASONING_FIELDS)
    text, unfinished = without_reasoning(encodable(content))
    reason = str(choice.get("finish_reason")).lower()
    outcome: Outcome = "answered"
    detail = ""
    if reason in _FILTERS or refusal:
        text, outcome = text or encodable(refusal), "filtered"
    elif reason in _LENGTHS:
        outcome = "cut_off"
        detail = IN_REASONING if unfinished or (reasoned and not text.strip()) else ""
    elif not text.strip():
        outcome = "empty"
        detail = "there is only reasoning" if unfinished or reasoned or content.strip() else ""
    return Reply(text, outcome, usage, _kept(_positions_in(choice), text), detail)


def _first_choice(payload: Mapping[str, Any]) -> dict[str, Any]:
    choices = payload.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _text_of(content: Any) -> tuple[str, str, bool]:
    """Text, refusal, and whether there is reasoning, of content as a text or as a list of parts."""
    text, refusal, reasoned = "", "", False
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            text += part
        elif isinstance(part, dict):
            kind = str(part.get("type", "text"))
            said = part.get("text", part.get("content", ""))
            said = said.get("value") if isinstance(said, dict) else said
            if "think" in kind or "reason" in kind:
                reasoned = True
            elif kind == "refusal":
                refusal += str(part.get("refusal") or "")
            elif isinstance(said, str) and "text" in kind:
                text += said
    return text, refusal, reasoned


def usage_in(payload: Mapping[str, Any]) -> Usage | None:
    """The tokens charged, if the response states them as whole numbers.

    Reasoning is charged as completion. Some endpoints count it apart: then the total, or the larger count, shows it.
    """
    stated = payload.get("usage")
    if not isinstance(stated, dict):
        return None
    details = stated.get("completion_tokens_details") or stated.get("output_tokens_details") or {}
    details = details if isinstance(details, dict) else {}
    prompt = _count(stated.get("prompt_tokens", stated.get("input_tokens")))
    completion = _count(stated.get("completion_tokens", stated.get("output_tokens", 0)))
    reasoning = _count(details.get("reasoning_tokens", stated.get("reasoning_tokens", 0))) or 0
    if prompt is None or stated.get("prompt_tokens", stated.get("input_tokens")) is None:
        return None
    completion = completion or 0
    total = _count(stated.get("total_tokens")) or 0
    if reasoning and total >= prompt + completion + reasoning:
        completion = total - prompt
    elif reasoning > completion:
        completion += reasoning
    return Usage(prompt, completion)


def _count(value: Any) -> int | None:
    """A number of tokens: whole and not negative, 0 for null; else None."""
    if value is None:
        return 0
    valid = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and float(value).is_integer()
    return int(value) if valid else None


def encodable(text: str) -> str:
    """A truncated answer may end in a lone surrogate (half an emoji), which UTF-8 cannot hold: it becomes ``?``."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


# ── log-probabilities ────────────────────────────────────────────────────────────────────────────────────────────────
def _positions_in(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The positions of a choice's log-probs in today's form, also where they come in the older one of four lists."""
    found = choice.get("logprobs")
    if not isinstance(found, dict):
        return []
    if isinstance(content := found.get("content"), list):
        return [position for position in content if isinstance(position, dict)]
    tokens, sampled, tops = (found.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(tokens, list) and isinstance(sampled, list) and isinstance(tops, list)):
        return []
    return [
        {
            "token": token,
            "logprob": logprob,
            "top_logprobs": [{"token": other, "logprob": p} for other, p in (top or {}).items()],
        }
        for token, logprob, top in zip(tokens, sampled, tops, strict=False)
        if isinstance(top, dict | None)
    ]


def _kept(positions: Sequence[Mapping[str, Any]], text: str) -> tuple[tuple[str, Alternatives], ...] | None:
    """The answer's positions. Log-probs of reasoning, and of an answer's middle, are not kept: they are megabytes."""
    try:
        tokens = [encodable(position["token"]) for position in positions]
    except (KeyError, TypeError, AttributeError):
        return None
    start = 0
    if len(tokens) > 2 * KEPT_POSITIONS:
        length = len(text.strip())
        while start < len(tokens) and length > 0:  # from the end, as many characters as the answer has
            length -= len(tokens[len(tokens) - 1 - start])
            start += 1
        start = max(0, len(tokens) - start - 4)
    kept, count = [], len(tokens) - start
    for place, (token, position) in enumerate(zip(tokens[start:], positions[start:], strict=True)):
        middle = KEPT_POSITIONS <= place < count - KEPT_POSITIONS
        kept.append((token, {} if middle else _likely(token, position)))
    return tuple(kept) or None


def _likely(sampled: str, position: Mapping[str, Any]) -> Alternatives:
    """The likeliest tokens by their text. Two tokens may have one text ("▁A" and "A"): their probabilities add up.

    Where they add up to more than 1, the same token was listed twice, and the larger one holds.
    """
    listed: list[tuple[str, float]] = []
    try:
        listed = [(encodable(other["token"]), _log(other["logprob"])) for other in position.get("top_logprobs") or ()]
        if sampled not in dict(listed):
            listed.append((sampled, _log(position["logprob"])))
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    largest: Alternatives = {}
    added: Alternatives = {}
    for token, logprob in listed:
        largest[token] = max(logprob, largest.get(token, logprob))
        added[token] = min(_log_sum(added[token], logprob), 0.0) if token in added else logprob
    return added if sum(math.exp(logprob) for _, logprob in listed) < 1.001 else largest


def _log_sum(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def _log(value: Any) -> float:
    """A log-probability. What is not finite becomes -9999, the figure that endpoints give for "about never"."""
    return min(float(value), 0.0) if value is not None and math.isfinite(float(value)) else -9999.0


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────
def _priced(usage: Usage, usd: float | None) -> str:
    tokens = f"{usage.prompt_tokens:,} prompt and {usage.completion_tokens:,} completion tokens"
    return tokens if usd is None else f"${usd:,.4f} ({tokens})"


@dataclass(frozen=True)
class Cost:
    """An upper bound of what requests will cost, without retries. ``reused`` of them cost nothing.

    A prompt is counted as a token for every four bytes of UTF-8, rounded up, and four for every message, which is about
    right for English; an answer as ``max_tokens``.
    """

    requests: int
    reused: int
    usage: Usage
    usd: float | None

    def __str__(self) -> str:
        return f"{self.requests:,} requests, {self.reused:,} of them answered: at most {_priced(self.usage, self.usd)}"


@dataclass
class Bill:
    """The usage of a `RemoteModel` since it was made, as stated for every attempt. ``reused`` requests cost nothing."""

    price: Callable[[Usage], float | None]
    requests: int = 0
    reused: int = 0
    attempts: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)

    @property
    def usd(self) -> float | None:
        """In dollars; None without prices."""
        return self.price(self.usage)

    def __str__(self) -> str:
        text = f"{self.requests:,} requests, {self.reused:,} of them reused, {self.attempts:,} attempts: "
        text += _priced(self.usage, self.usd)
        if self.failed:
            text += f"; {self.failed:,} requests failed"
        if self.usage.unstated:
            text += f"; {self.usage.unstated:,} attempts may have been charged on top, and the endpoint did not say"
        return text
