"""What an error response means: wait, leave this request out, or stop with one sentence.

Statuses say little: a gateway's 400 may be an exhausted balance, a 403 a parameter, a 429 a quota that no wait refills.
So the words count as well. In order:

1. the account is exhausted: stop, because each further request would fail alike;
2. a filter refused the prompt, or it is too long for the model: the outcome of this request, stored with its reason;
3. 408, 409, 425, 429 and 5xx: retried;
4. a key, a model, an address or a parameter is wrong: stop, with the setting to change;
5. anything else: a `Refusal`. It is the request's own if others are answered, else it stops the work.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from steersman.errors import ModelError
from steersman.lm.endpoint.replies import Reply, RetryableError, Usage, encodable, parsed, usage_in
from steersman.lm.endpoint.settings import REASONING_TOKENS, RemoteConfig

NOTHING = Usage()
SHOWN = 300  # characters of an endpoint's words

_TRANSIENT = (408, 409, 425, 429)
_QUOTA_CODES = re.compile(
    r"insufficient_(quota|balance|credits|funds)|exceeded_current_quota|billing_(hard_limit_reached|not_active)"
    r"|credit_balance|budget_exceeded|arrearage|accountoverdue|payment_required|freetieronly|out_of_credits",
    re.IGNORECASE,
)
_QUOTA_WORDS = re.compile(
    r"insufficient\s+(?:\w+\s+){0,2}(balance|credits?|quota|funds)|(balance|credits?)\W+(?:\w+\s+){0,3}"
    r"(too low|exhausted|insufficient|depleted|exceeded|used up)|(exceeded|reached|over|used all)\W+(?:\w+\W+){0,5}"
    r"(quota|credits?|budget|spend(ing)? limit|key limit|monthly limit)|(spend(ing)?|billing|budget|key|credit)\W+"
    r"(?:\w+\s+)?(limit|cap)\b|budget has been exceeded|plan and billing|out of (credits?|funds)|(no|add|purchase|buy) "
    r"(more )?credits|not enough (credits?|funds|balance)|payment required|account (is|has been|was)? ?(not active"
    r"|overdue|suspended|in arrears)|good standing|余额不足|欠费|请充值",
    re.IGNORECASE,
)
_RATE_WORDS = re.compile(
    r"rate.?limit|per[ -]?(second|min|minute|hour)|[rt]pm\b|(try again|retry) (in|after)|retrydelay|too many requests"
    r"|concurren",
    re.IGNORECASE,
)
_DAY_WORDS = re.compile(r"per[ -]?(day|month)|(daily|monthly) (limit|quota|cap)|free-models-per-day", re.IGNORECASE)
_FILTER_CODES = re.compile(
    r"content_?filter|content_policy|responsibleaipolicyviolation|data_?inspection|moderation|safety_check|invalid_prompt"
    r"|prohibited_content|contentfilter|sensitive_?content|risk_control",
    re.IGNORECASE,
)
_FILTER_WORDS = re.compile(
    r"content (management )?policy|was (flagged|filtered|blocked)|flagged (as|by|for)|usage (polic|guidelines)"
    r"|inappropriate content|responsible ai|content filter|safety (filter|system|check|polic)|moderation"
    r"|sensitive content|content exists risk|considered high risk|不安全|敏感",
    re.IGNORECASE,
)
_LENGTH_CODES = re.compile(
    r"context_(length|window)|string_above_max|request_too_large|prompt_too_long|input_too_long|max_prompt_tokens"
    r"|exceed_context",
    re.IGNORECASE,
)
_SURE_LENGTH_WORDS = re.compile(
    r"context[ _](length|window|size)|too many (input |prompt )?tokens|prompt is too long", re.IGNORECASE
)
_LENGTH_WORDS = re.compile(
    r"context[ _](length|window|size|limit)|(available|maximum|supported|model'?s?) context|too many"
    r" (input |prompt )?tokens|request too large|(prompt|inputs?`?|messages?)\b.{0,60}\b(too (long|large)"
    r"|exceed\w*|longer than|greater than|over the (limit|maximum)|must (be|have) (<|less|at most))"
    r"|exceed\w*.{0,40}(max\w*|limit).{0,30}(tokens|input|length|prompt)|reduce the (length|size) of"
    r"|(sequence|token|prompt|input) (length|count|limit)|max_(model|seq\w*|input|prompt)_?(len|length|tokens)"
    r"|entity too large|超长|超过.{0,12}(长度|限制)",
    re.IGNORECASE,
)
_BUDGET_TOO_LARGE = re.compile(
    r"max_(completion_)?tokens.{0,80}(too large|at most|less than|supports|exceed|range)", re.I
)
_PARAMETER_WORDS = re.compile(
    r"(un|not )support|not (allowed|permitted|available|enabled)|unknown|unrecogni[sz]ed|unexpected|invalid|extra"
    r"|must be|should be|only|cannot|no longer|does not|doesn't|has no|requires?|less than|greater than|at most|maximum"
    r"|forbidden|disabled|between|range|exceed|deprecated|use '",
    re.IGNORECASE,
)


class Refusal(Exception):
    """An error that a retry does not mend, and that may be about this request alone."""

    def __init__(self, reason: str, stops: ModelError, usage: Usage) -> None:
        self.reason, self.stops, self.usage = reason, stops, usage
        super().__init__(reason)


class WrongSetting(ModelError):
    """A field of the request that the endpoint refuses, by its name; no request will be accepted with it."""

    setting = ""


class RefusedRequest(ModelError):
    """A request that was refused for a reason of its own or for a general one: no other has been answered yet."""


class WantsStream(Exception):
    """The endpoint answers only requests for a stream."""


# ── an error response ────────────────────────────────────────────────────────────────────────────────────────────────
def outcome_of_error(
    status: int,
    headers: Mapping[str, str],
    body: str,
    request: Mapping[str, Any],
    config: RemoteConfig,
    unstated: Usage = NOTHING,
) -> Reply:
    """The reply that an error response amounts to: ``filtered`` or ``too_long``.

    Args:
        headers: of the response, by lower-case name.
        body: without keys.
        unstated: the usage if the response states none.

    Raises:
        RetryableError, WantsStream, Refusal: see the module.
        ModelError: nothing will succeed before the account or a setting is changed.
    """
    payload = parsed(body) or {}
    words, codes, wait_s = words_in(body), " ".join(_codes(payload)), seconds_to_wait(headers, body)
    usage = usage_in(payload) or unstated
    said = f"the endpoint answers {status}: {words or 'nothing'}"
    if _is_exhausted(status, codes, words, body, wait_s):
        raise ModelError(
            f"the account at the endpoint is exhausted ({status}: {words})",
            where=config.place,
            do="top it up, raise its limit or name another key, and run the same again; replies that arrived are kept",
        )
    filtered = _FILTER_CODES.search(codes) or (status in (400, 403, 422, 451) and _FILTER_WORDS.search(words))
    if filtered and 400 <= status < 500 and status != 429:
        return Reply("", "filtered", usage, detail=words)
    if _is_too_long(status, codes, words):
        return Reply("", "too_long", usage, detail=words)
    if status in _TRANSIENT or status >= 500 or (status == 403 and wait_s):
        raise RetryableError(f"{status}: {words or 'nothing'}", usage, retry_after_s=wait_s)
    if "stream" not in request and re.search(r"\bstream", words) and re.search(r"only|must|require|enable", words):
        raise WantsStream
    setting = _setting(payload, words, request)
    expected, do = _remedy(status, setting, request, config)
    if setting:
        wrong = WrongSetting(said, where=config.place, expected=expected, do=do)
        wrong.setting = setting
        raise wrong
    if status in (401, 402, 403, 404, 405) or status < 400:
        raise ModelError(said, where=config.place, expected=expected, do=do)
    stops = RefusedRequest(said, where=config.place, expected=expected, do=do)
    raise Refusal(f"{status}: {words or 'nothing'}", stops, usage)


def _is_exhausted(status: int, codes: str, words: str, body: str, wait_s: float) -> bool:
    """Whether no wait of a run's length helps. Google says "exceeded your current quota" for a minute's limit too."""
    if status == 402 or _QUOTA_CODES.search(codes):
        return True
    if status not in (400, 401, 403, 412, 429) and status < 500:
        return False
    by_day = bool(_DAY_WORDS.search(words)) and status == 429
    waits = wait_s > 0 or re.search(r"(try again|retry) (in|after)", words, re.IGNORECASE)
    return not waits and (by_day or bool(_QUOTA_WORDS.search(words) and not _RATE_WORDS.search(body)))


def _is_too_long(status: int, codes: str, words: str) -> bool:
    """Whether the prompt is too long: a wait would not help, nor another try."""
    if status == 413 or (status == 429 and re.search("request too large", words, re.IGNORECASE)):
        return True
    if status in (401, 402, 404, *_TRANSIENT):
        return False
    if _BUDGET_TOO_LARGE.search(words) and not re.search(r"\b(input|prompt|message|context)", words):
        return False
    found = _SURE_LENGTH_WORDS if status >= 500 else _LENGTH_WORDS
    return bool(_LENGTH_CODES.search(codes) or found.search(words))


# ── which setting ────────────────────────────────────────────────────────────────────────────────────────────────────
def _setting(payload: Mapping[str, Any], words: str, request: Mapping[str, Any]) -> str:
    """The field of the request that the endpoint complains about, or ""."""
    error = payload.get("error")
    named = [error.get("param")] if isinstance(error, dict) else []
    for detail in payload["detail"] if isinstance(payload.get("detail"), list) else ():
        loc = detail.get("loc") if isinstance(detail, dict) else None
        named += [part for part in loc if part != "body"][:1] if isinstance(loc, list) else []
    fields = sorted({*request} - {"model", "messages"}, key=len)
    for name in named:
        first = re.split(r"[.\[]", str(name))[0]
        if first in fields:
            return first
    if not _PARAMETER_WORDS.search(words):
        return ""
    if re.search(r"json.?schema|json.?mode|structured|guided|grammar", words, re.IGNORECASE):
        return "response_format" if "response_format" in request else ""
    for name in [*reversed(fields), "log_?probs?", "log probabilities"]:  # top_logprobs before logprobs
        if re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", words, re.IGNORECASE):
            return "logprobs" if name.startswith("log") else name
    if re.search(r"\bsystem\b.{0,20}\b(role|message|prompt|instruction)|alternat", words, re.IGNORECASE):
        return "messages"
    return ""


def _remedy(status: int, setting: str, request: Mapping[str, Any], config: RemoteConfig) -> tuple[str, str]:
    """What was expected, and what to do."""
    budget = max(request.get("max_tokens", 0), REASONING_TOKENS)  # models that want the other name reason
    known = {
        "max_tokens": f"set extra_body: {{max_tokens: null, max_completion_tokens: {budget}}} if it wants the other "
        "name (reasoning counts into it), or a smaller limit (max_tokens, reasoning_tokens)",
        "max_completion_tokens": "set a smaller extra_body.max_completion_tokens, or remove it",
        "temperature": "set extra_body: {temperature: null}, or the temperature that it names",
        "seed": "set seed: null",
        "logprobs": "set top_logprobs: 0; choices are then read from the text",
        "top_logprobs": "set top_logprobs to the most that it names, or to 0: choices are then read from the text",
        "response_format": "set structured: false",
        "messages": "use a model whose chat template takes a system message and earlier turns, or principles without "
        "examples",
    }
    if setting:
        own = f"change or remove extra_body.{setting}" if setting in config.extra_body else ""
        other = f"set extra_body: {{{setting}: null}} to leave the field out"
        return "a request that this endpoint accepts", own or known.get(setting, other)
    variable = config.key_variable
    if status in (401, 403):
        expected = f"a valid key in the environment variable {variable}" if variable else "a key, and none is sent"
        do = f"set {variable} to a key that may use this model" if variable else "name its variable in key_variable"
        return expected, do
    if status in (404, 405):
        return "a model that this endpoint has", "check base_url (it often ends in /v1) and the model's name"
    if 300 <= status < 400:
        return "", "write the address that it leads to; redirections are not followed, because the key would go along"
    return "a request that this endpoint accepts", "change what it complains about"


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────────
def words_in(body: str) -> str:
    """The endpoint's own words on one line: its message, in whichever field, a page's title, or else the beginning."""
    text = _message(parsed(body) or {})
    if not text and (title := re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)):
        text = html.unescape(title[1])
    return one_line(text or body)


def one_line(text: str) -> str:
    """Somebody else's words for a message of ours: on one line, printable, at most `SHOWN` characters."""
    line = " ".join(encodable(text).split())
    return "".join(c for c in line if c.isprintable())[:SHOWN]


def _message(payload: Any) -> str:
    """The words in an error's JSON; those that a gateway passes on from further up are the more exact ones."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, list):
        return "; ".join(filter(None, map(_message, payload)))
    if not isinstance(payload, dict):
        return ""
    if isinstance(payload.get("loc"), list) and isinstance(payload.get("msg"), str):  # FastAPI's
        return f"{'.'.join(str(part) for part in payload['loc'] if part != 'body')}: {payload['msg']}"
    choices = payload.get("choices")
    inner = []
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        inner = [_message(choices[0].get("error")) or "the reply ends with finish_reason: error"]
    metadata = payload.get("metadata")
    inner += [_raw(metadata["raw"])] if isinstance(metadata, dict) and metadata.get("raw") else []
    names = ("error", "message", "detail", "errors", "msg", "error_msg", "Message", "error_description", "title")
    found = list(filter(None, [*inner, *(_message(payload.get(name)) for name in names)]))
    return found[0] if found else ""


def _raw(text: Any) -> str:
    return _message(parsed(text) or text) if isinstance(text, str) else _message(text)


def _codes(payload: Any) -> list[str]:
    """All codes and types in an error's JSON, at any depth."""
    if isinstance(payload, list):
        return [code for item in payload for code in _codes(item)]
    if not isinstance(payload, dict):
        return []
    names = ("code", "type", "status", "reason", "error_type", "error_code", "error")
    own = [str(payload[name]) for name in names if isinstance(payload.get(name), str | int)]
    return own + [code for name, value in payload.items() if name != "usage" for code in _codes(value)]


def seconds_to_wait(headers: Mapping[str, str], body: str = "") -> float:
    """How long the endpoint asks to wait: ``retry-after-ms``, ``Retry-After``, or Google's ``retryDelay``."""
    milliseconds = seconds_in(headers.get("retry-after-ms")) / 1000
    delay = re.search(r'"retryDelay"\s*:\s*"([\d.]+)s"', body)
    return milliseconds or seconds_in(headers.get("retry-after")) or (float(delay[1]) if delay else 0.0)


def seconds_in(retry_after: str | None) -> float:
    """``Retry-After`` in seconds: a number or a date; 0 if it is neither."""
    text = (retry_after or "").strip()
    if number := re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*s?", text):
        return float(number[1])
    try:
        then = parsedate_to_datetime(text)
        seconds = (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, seconds)
