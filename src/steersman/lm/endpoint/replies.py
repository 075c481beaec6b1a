"""What comes back from an OpenAI-compatible endpoint: replies, choices between options, and what they cost.

Endpoints agree on little beyond the names of the fields, so nothing in a response is trusted. One that cannot be parsed
is a `RetryableError`; one that can is stored, whatever its outcome.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, get_args

Outcome = Literal["answered", "cut_off", "filtered", "empty", "failed"]
Alternatives = dict[str, float]  # token -> log-probability, at one position

FLOOR = 1e-9  # of an option's probability, so that its logarithm exists
_AROUND = " \t\r\n\u2581\u0120\"'`*_()[]{}.,:;"  # what tokens put around an option; U+2581 and U+0120 are BPE's spaces
_FILTERS = ("content_filter", "content_policy_violation")


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

    ``outcome``: ``cut_off`` by ``max_tokens`` (finish_reason ``length``); ``filtered`` by a content filter, or a text
    in the field ``refusal``; ``empty``: no text; ``failed``: no reply after the last attempt, ``detail`` says why, and
    it is not stored, so that it is sent again. ``alternatives``: for the first few positions, the sampled token and the
    likeliest ones with their log-probs; None where the endpoint sent none. ``reused``: not paid for by this request,
    because the reply was in the cache or an equal request was sent at once.
    """

    text: str
    outcome: Outcome
    usage: Usage = field(default_factory=Usage)
    alternatives: tuple[tuple[str, Alternatives], ...] | None = None
    detail: str = ""
    reused: bool = False

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
        return cls(row["text"], row["outcome"], usage, alternatives, row["detail"], reused=True)


@dataclass(frozen=True)
class Choice:
    """The probabilities of several options as the answer.

    ``probabilities`` are in the options' order and sum to 1; None unless ``outcome`` is ``chosen``. ``source``:
    ``logprobs`` of the first token, or the ``text`` where no log-prob names an option: then the choice is hard (1 and
    0). ``mass`` is the options' total probability before normalisation: if it is small, the model preferred to answer
    something else.
    """

    probabilities: tuple[float, ...] | None
    outcome: Literal["chosen", "no_option", "filtered", "empty", "failed"]
    source: Literal["logprobs", "text"] | None
    mass: float | None
    reply: Reply


# ── reading a reply ──────────────────────────────────────────────────────────────────────────────────────────────────
def read_reply(body: str) -> Reply:
    """A reply from the body of a 200.

    Raises:
        RetryableError: it is not JSON, or has no choice with a message; with the usage, if that much could be read.
    """
    payload = parsed(body)
    if payload is None:
        raise RetryableError("a reply that is not JSON, or only a part of it")
    usage = usage_in(payload) or UNSTATED
    try:
        choice = payload["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise RetryableError("a reply without a choice", usage) from None
    if not isinstance(content, str | None) or not isinstance(refusal, str | None):
        raise RetryableError("a reply whose content is no text", usage)
    text, reason = encodable(content or ""), choice.get("finish_reason")
    outcome: Outcome = "answered"
    if reason == "content_filter" or refusal:
        text, outcome = text or encodable(refusal or ""), "filtered"
    elif reason == "length":
        outcome = "cut_off"
    elif not text.strip():
        outcome = "empty"
    return Reply(text, outcome, usage, _alternatives(choice))


def parsed(body: str) -> dict[str, Any] | None:
    """A JSON object, or None."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def usage_in(payload: Mapping[str, Any]) -> Usage | None:
    """The tokens charged, if the response states them as integers."""
    stated = payload.get("usage")
    if not isinstance(stated, dict):
        return None
    counts = [stated.get(name, 0) for name in ("prompt_tokens", "completion_tokens")]
    valid = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts)
    return Usage(*counts) if valid and "prompt_tokens" in stated else None


def filtered_request(body: str) -> Reply | None:
    """The reply for a 400 by which a content filter refused the prompt; None for any other 400."""
    error = (parsed(body) or {}).get("error")
    if isinstance(error, dict) and any(error.get(name) in _FILTERS for name in ("code", "type")):
        return Reply("", "filtered", detail=encodable(str(error.get("message", "")))[:300])
    return None


def encodable(text: str) -> str:
    """A truncated answer may end in a lone surrogate (half an emoji), which UTF-8 cannot hold: it becomes ``?``."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _alternatives(choice: Mapping[str, Any]) -> tuple[tuple[str, Alternatives], ...] | None:
    try:
        positions = []
        for position in choice["logprobs"]["content"]:
            sampled = encodable(position["token"])
            likely = {encodable(other["token"]): _log(other["logprob"]) for other in position["top_logprobs"]}
            likely.setdefault(sampled, _log(position["logprob"]))
            positions.append((sampled, likely))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return tuple(positions) or None


def _log(value: Any) -> float:
    """A log-probability. What is not finite becomes -9999, the figure that endpoints give for "about never"."""
    return min(float(value), 0.0) if value is not None and math.isfinite(float(value)) else -9999.0


def seconds_in(retry_after: str | None) -> float:
    """``Retry-After`` in seconds: a number or a date; 0 if it is neither."""
    try:
        seconds = float(retry_after or "0")
    except ValueError:
        try:
            then = parsedate_to_datetime(retry_after or "")
        except ValueError:
            return 0.0
        seconds = (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


# ── choosing ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def choice_of(reply: Reply, options: Sequence[str]) -> Choice:
    """The options' probabilities in a reply: from log-probs if there are any, else from the text."""
    if reply.outcome in ("filtered", "failed", "empty"):
        return Choice(None, reply.outcome, None, None, reply)
    if (masses := _masses(reply, options)) is not None:
        total = sum(masses)
        return Choice(tuple(m / total for m in masses), "chosen", "logprobs", min(total, 1.0), reply)
    named = _named(reply.text, options)
    if named is None:
        return Choice(None, "no_option", None, None, reply)
    return Choice(tuple(float(option == named) for option in options), "chosen", "text", None, reply)


def _masses(reply: Reply, options: Sequence[str]) -> list[float] | None:
    """Each option's probability at the first position that is more than a bracket or a space; None if it names none.

    Spellings of an option ("A", " A", "(A") are different tokens, so their probabilities add up. An option that is not
    among the likeliest tokens gets its upper bound: the least of theirs, or the mass that they leave.
    """
    for sampled, likely in reply.alternatives or ():
        if not sampled.strip(_AROUND):
            continue
        masses = [0.0] * len(options)
        for token, logprob in likely.items():
            if (place := _option(token, options)) is not None:
                masses[place] += math.exp(logprob)
        if not any(masses):
            return None
        listed = [math.exp(logprob) for logprob in likely.values()]
        bound = max(FLOOR, min(*listed, 1 - sum(listed))) if len(listed) > 1 else FLOOR
        return [max(FLOOR, mass) if mass else bound for mass in masses]
    return None


def _option(token: str, options: Sequence[str]) -> int | None:
    """Which option a token spells. Case counts for single letters only: "a" is an article, "yes" is Yes."""
    spelt = token.strip(_AROUND)
    for place, option in enumerate(options):
        if spelt == option or (len(option) > 1 and spelt.casefold() == option.casefold()):
            return place
    return None


def _named(text: str, options: Sequence[str]) -> str | None:
    """The option that a text begins with and that stands alone there, as in "(B)", "B." or "B: because".

    "A better answer" begins with no option but with an article, so a word after a space is not accepted.
    """
    first = re.match(r"[\W_]*(\w+)(?=$|[^\w\s](?!\w)|\s*\n|\s+$)", text)
    place = None if first is None else _option(first[1], options)
    return None if place is None else options[place]


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
