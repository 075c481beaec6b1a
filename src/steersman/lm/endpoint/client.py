"""Any OpenAI-compatible endpoint as a model: the only file that opens a connection of its own.

Ten thousand requests must all come back, and be paid for once. At most ``concurrency`` are in flight. Failed attempts
are retried with exponential backoff and full jitter (a random wait of at most 0.5, 1, 2, ... seconds), or after the
``Retry-After`` of a rate limit, which holds for all workers. Each reply is in the cache (`lm/endpoint/cache.py`) before
a caller sees it. What a retry cannot mend (`lm/endpoint/refusals.py`) is the outcome of one request, or ends the work
after the requests in flight.

Keys are read from the environment for as long as requests are sent. They are in no record, file or message.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from rich.markup import escape

from steersman.errors import DataError, ModelError, RunError, SteersmanError
from steersman.lm.endpoint import refusals
from steersman.lm.endpoint.bodies import MAX_CHOICE_TOKENS, body_of, choice_body, limits_tokens
from steersman.lm.endpoint.cache import AnswerCache
from steersman.lm.endpoint.event_loop import run_to_end
from steersman.lm.endpoint.replies import (
    UNSTATED,
    Bill,
    Cost,
    Reply,
    RetryableError,
    Usage,
    by_reason,
    error_status,
    parsed,
    read_reply,
    reasons_text,
)
from steersman.lm.endpoint.settings import (
    REASONING_TOKENS,
    RemoteConfig,
    chat_address,
    headers_of,
    host_of,
    is_loopback,
    proxies_for,
    secret,
)
from steersman.lm.endpoint.verdicts import Choice, choice_of
from steersman.store import canonical, sha256_text
from steersman.terminal import console
from steersman.types import Text, messages_of

if TYPE_CHECKING:  # torch comes with it, and a judge at an endpoint needs none
    from steersman.lm.sampling import Completion, FinishReason, Request

BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
MAX_RETRY_AFTER_S = 600.0
MAX_CONSECUTIVE_FAILURES = 8  # without a reply: then it is the endpoint that is down, not the requests
MAX_HELD = 3  # refused requests, when none was answered: then it is not about these requests
MIN_KEY_LENGTH = 12  # characters; a shorter one ("EMPTY") is a placeholder for servers that need no key
MIN_MASKED_LENGTH = 4  # characters of a key or header that are masked in an error message

OnReply = Callable[[int, Reply], None]  # called with a request's index and its reply, in order of arrival


@dataclass
class _Manner:
    """What was learnt about an endpoint while it was asked."""

    stream: bool = False  # it answers only with streams
    structured: bool = True  # it has not refused a response_format
    extra_tokens: int = 0  # its model needs so many more before a verdict
    tried: bool = False  # one choice was asked for, to see how it is answered
    answered: bool = False  # it has answered some request
    told: bool = False  # that choices were cut off


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────
class RemoteModel:
    """A model at an endpoint, with its cache and its bill. Works in scripts and notebooks; one thread at a time.

    Args:
        cache: the file in which every reply is kept. Several models, and several processes, may share one.

    Raises:
        UserError: the cache cannot be written there.
    """

    def __init__(self, config: RemoteConfig, cache: Path) -> None:
        self.config, self.cache, self.bill = config, AnswerCache(cache), Bill(config.usd)
        self._manner = _Manner(structured=config.structured, extra_tokens=config.reasoning_tokens or 0)
        if config.base_url.startswith("http:") and not is_loopback(host_of(config.base_url)):
            console.print(
                f"[bold]warning:[/bold] {escape(config.base_url)} has no TLS: others on the network can read the "
                "prompts, the answers and the key.\n  to do: use an https address"
            )

    def complete(
        self, requests: Sequence[Text], *, own: Sequence[Mapping[str, Any]] = (), on_reply: OnReply | None = None
    ) -> list[Reply]:
        """Answer every request in free text; replies in the requests' order.

        Equal requests are sent once, also at a temperature: `answers` samples several. ``own``: fields of each request.

        Raises:
            UserError: the endpoint refuses key, model or request; a request ends with an assistant message.
            RunError: the endpoint is down. Replies that arrived are kept.
        """
        fields = own or [{}] * len(requests)
        return self._send([body_of(self.config, *pair) for pair in zip(requests, fields, strict=True)], on_reply)

    def choices(self, requests: Sequence[Text], options: Sequence[str] = ("A", "B")) -> list[Choice]:
        """The probability of each option as the answer to every request; see `Choice`.

        One request goes first, to see how this model answers: one whose choice is cut off is asked again with
        `REASONING_TOKENS` more unless ``reasoning_tokens`` is set, and the others are then asked so at once.

        Raises:
            DataError: the options are not two or more different words. And as `complete`.
        """
        folded = {option.casefold() for option in options}
        if len(options) < 2 or len(folded) < len(options) or not all(re.fullmatch(r"\w+", o) for o in options):
            raise DataError(f"cannot choose among {list(options)}", expected="two or more different words")
        found: dict[int, Choice] = {}
        if not self._manner.tried and len(requests) > 1:
            with suppress(refusals.RefusedRequest):  # the others show whether it is this request alone
                found |= self._decided(requests, [0], options)
        found |= self._decided(requests, [place for place in range(len(requests)) if place not in found], options)
        self._manner.tried = True
        return [found[place] for place in range(len(requests))]

    def _decided(self, requests: Sequence[Text], places: Sequence[int], options: Sequence[str]) -> dict[int, Choice]:
        """The choices of some requests; those that were cut off are asked again with more tokens."""
        own, manner = self.config, self._manner
        asked = [requests[place] for place in places]
        try:
            replies = self._send([self._choice_body(request, options) for request in asked], None)
        except refusals.WrongSetting as error:
            if error.setting != "response_format" or not manner.structured:
                raise
            manner.structured = False
            console.print(f"{error.found}\n  so choices are asked for without response_format", markup=False)
            return self._decided(requests, places, options)
        found = {place: choice_of(reply, options) for place, reply in zip(places, replies, strict=True)}
        cut = [place for place in places if found[place].outcome == "cut_off"]
        if not cut or manner.extra_tokens or limits_tokens(own) or own.reasoning_tokens is not None:
            return found
        manner.extra_tokens = REASONING_TOKENS
        again = [requests[place] for place in (cut if manner.tried else range(len(requests)))]
        if not manner.told:
            console.print(
                f"the judge was cut off before its verdict after {MAX_CHOICE_TOKENS} tokens; it is asked again with "
                f"{REASONING_TOKENS:,} more, for its reasoning (reasoning_tokens: {REASONING_TOKENS} does so from the "
                f"start, 0 forbids it): {self.estimate(again, options)}",
                markup=False,
            )
        manner.told = True
        found |= self._decided(requests, cut, options)
        if 2 * len(cut) < len(places):  # it is not its habit
            manner.extra_tokens = 0
        return found

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """See `LanguageModel`; from `choices`, and minus infinity for the others where there was only a hard choice."""
        before = messages_of(preamble) if preamble is not None else ()
        choices = self.choices([(*before, *messages_of(prompt)) for prompt in prompts], options)
        probabilities = [choice.probabilities for choice in choices]
        return [tuple(math.log(p) if p else -math.inf for p in some) if some else None for some in probabilities]

    def answers(self, request: Request) -> Iterator[Completion]:
        """See `LanguageModel`; the request's config sets tokens, temperature, top-p, top-k and seed.

        An endpoint sends no token ids: ``token_ids`` only count them, and ``logprobs`` are not requested.
        ``max_prompt_tokens`` and ``batch_size`` are ignored. An answer that was filtered, or whose prompt was refused,
        has the finish reason ``filtered``. ``reasoning_tokens`` come on top of the limit.

        Raises:
            RunError: a prompt got no answer. And as `complete`.
            ModelError: ``no_repeat_ngram`` is set.
        """
        from steersman.lm.sampling import Completion

        config, numbers, on_text = request.config, request.numbers, request.on_text
        if config.no_repeat_ngram:
            raise ModelError(
                "an endpoint cannot keep an answer from repeating an n-gram: its protocol has no such setting",
                where="sampling.no_repeat_ngram",
                expected="0",
                do="remove the setting, or use a local model",
            )
        preamble = messages_of(request.preamble) if request.preamble is not None else ()
        bodies = []
        for number, prompt in zip(numbers, request.prompts, strict=True):
            seed = _own_seed(config.seed, number) if config.temperature else config.seed
            limit = config.max_new_tokens + (self.config.reasoning_tokens or 0)
            options = {"max_tokens": limit, "temperature": config.temperature, "seed": seed}
            options |= {"top_p": config.top_p} if config.top_p < 1 else {}
            options |= {"top_k": config.top_k} if config.top_k else {}
            bodies.append(body_of(self.config, (*preamble, *messages_of(prompt)), options))
        on_reply = None if on_text is None else lambda place, reply: on_text(numbers[place], reply.text)
        replies = self._send(bodies, on_reply)
        if failed := [reply.detail for reply in replies if reply.outcome == "failed"]:
            text = f"{len(failed)} of {len(replies)} prompts got no answer (the last: {failed[-1]})"
            raise _down(text, self.config)
        if why := by_reason((r.outcome.replace("_", " "), r.detail) for r in replies if r.is_unusable):
            console.print(f"without a whole answer from the endpoint: {reasons_text(why)}", markup=False)
        reasons: dict[str, FinishReason] = {"cut_off": "length"}
        reasons |= dict.fromkeys(("filtered", "too_long", "refused"), "filtered")
        for number, reply in zip(numbers, replies, strict=True):
            ids, reason = list(range(reply.usage.completion_tokens)), reasons.get(reply.outcome, "stop")
            yield Completion(number, reply.text.strip(), ids, [], reason, reply.usage.prompt_tokens, 0)

    def estimate(self, requests: Sequence[Text], options: Sequence[str] = (), *, choose: bool = False) -> Cost:
        """What `complete`, or `choices` (``choose``, or its options), will cost at most. Nothing is sent."""
        options = options or (("A", "B") if choose else ())
        prompt_tokens, completion_tokens, seen, reused = 0, 0, set[str](), 0
        for request in requests:
            body = self._choice_body(request, options) if options else body_of(self.config, request)
            key = self._key(body)
            if key in seen or self.cache.get(key) is not None:
                reused += 1
                continue
            seen.add(key)
            prompt_tokens += sum(4 + math.ceil(len(m["content"].encode()) / 4) for m in body["messages"])
            completion_tokens += body.get("max_completion_tokens", body.get("max_tokens", self.config.max_tokens))
        usage = Usage(prompt_tokens, completion_tokens)
        return Cost(len(requests), reused, usage, self.config.usd(usage))

    # requests ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _choice_body(self, request: Text, options: Sequence[str]) -> dict[str, Any]:
        return choice_body(self.config, request, options, self._manner.extra_tokens, self._manner.structured)

    def _key(self, body: Mapping[str, Any]) -> str:
        return sha256_text(canonical({"base_url": self.config.base_url, "body": body}))

    def _send(self, bodies: Sequence[dict[str, Any]], on_reply: OnReply | None) -> list[Reply]:
        """Replies in order, from the cache or else from the endpoint; equal requests are sent once."""
        places: dict[str, list[int]] = {}
        for place, body in enumerate(bodies):
            places.setdefault(self._key(body), []).append(place)
        replies: dict[int, Reply] = {}
        self.bill.requests += len(bodies)

        def arrived(key: str, reply: Reply) -> None:
            for place in places[key]:
                replies[place] = reply
                self.bill.reused += reply.reused
                self.bill.failed += reply.outcome == "failed"
                if on_reply is not None:
                    on_reply(place, reply)
                reply = replace(reply, reused=True)  # the first one pays

        missing = {}
        for key, equal in places.items():
            if (stored := self.cache.get(key)) is not None:
                self._manner.answered = True
                arrived(key, stored)
            else:
                missing[key] = bodies[equal[0]]
        if missing:
            try:
                run_to_end(_Workers(self.config, self.cache, self.bill, self._manner, arrived).run(missing))
            finally:
                self.cache.sync()
        return [replies[place] for place in range(len(bodies))]


# ── sending requests ─────────────────────────────────────────────────────────────────────────────────────────────────
class _Workers:
    """``concurrency`` workers with one queue, one rate limit and one reason to stop."""

    def __init__(
        self,
        config: RemoteConfig,
        cache: AnswerCache,
        bill: Bill,
        manner: _Manner,
        arrived: Callable[[str, Reply], None],
    ) -> None:
        self.config, self.cache, self.bill, self.manner, self.arrived = config, cache, bill, manner, arrived
        self.url = chat_address(config.base_url)
        key, others = secret(config), headers_of(config)
        self.headers = (
            {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}) | others
        )
        self.secrets = sorted(filter(None, [key, *others.values()]), key=len, reverse=True)
        self.stop = asyncio.Event()
        self.reason: SteersmanError | None = None
        self.held: dict[str, refusals.Refusal] = {}  # refused, and nothing else answered so far
        self.not_before = 0.0  # of time.monotonic(), from a Retry-After
        self.consecutive_failures = 0

    async def run(self, missing: Mapping[str, dict[str, Any]]) -> None:
        queue = iter(missing.items())
        trusted = _certificates(self.config)  # 0.1 s of reading them
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self.config.concurrency, len(missing))):
                workers.create_task(self._work(queue, trusted))
        if self.held and self.reason is None:
            self.reason = next(iter(self.held.values())).stops
        if self.reason is not None:
            raise self.reason

    async def _work(self, queue: Iterator[tuple[str, dict[str, Any]]], trusted: ssl.SSLContext) -> None:
        """Send requests until none is left. Each worker has a client: a shared pool would search all connections."""
        try:
            async with _connection(self.config, self.headers, trusted) as client:
                for key, body in queue:
                    reply = self.cache.get(key) or await self._with_retries(client, key, body)
                    if reply is not None:
                        self.arrived(key, reply)
                    if self.stop.is_set():
                        return
        except SteersmanError as error:  # the others finish the requests that they have in flight
            self.reason = self.reason or error
            self.stop.set()

    async def _with_retries(self, client: httpx2.AsyncClient, key: str, body: Mapping[str, Any]) -> Reply | None:
        """The reply of the first attempt that succeeds, stored; None if it is held, or the work stops before."""
        attempts, failure = self.config.retries + 1, RetryableError("")
        for attempt in range(attempts):
            backoff_s = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1)) * random.random() if attempt else 0.0
            await self._wait(backoff_s)
            if self.stop.is_set():
                return None
            try:
                reply = await self._attempt(client, body)
            except RetryableError as error:
                failure = error
                self._charge(key, error.usage)
                if error.retry_after_s > MAX_RETRY_AFTER_S:
                    minutes = f"{error.retry_after_s / 60:,.0f} minutes"
                    raise _down(f"the endpoint asks to wait for {minutes} ({error.reason})", self.config) from None
                self.not_before = max(self.not_before, time.monotonic() + error.retry_after_s)
                continue
            except refusals.Refusal as refusal:
                self._charge(key, refusal.usage)
                return self._refused(key, refusal)
            self.bill.usage += reply.usage
            self.consecutive_failures = 0
            if reply.outcome not in ("filtered", "too_long"):
                self._settle()
            return replace(self.cache.put(key, reply), reused=False)
        self.consecutive_failures += 1
        if failure.unreachable or self.consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
            raise _down(f"no answer after {attempts} attempts: {failure.reason}", self.config)
        return Reply("", "failed", detail=f"{failure.reason} ({attempts} attempts)")

    def _charge(self, key: str, usage: Usage) -> None:
        if usage != Usage():
            self.cache.charge(key, usage)
            self.bill.usage += usage

    def _refused(self, key: str, refusal: refusals.Refusal) -> Reply | None:
        """The outcome of a request that was refused for no known reason, if others are answered; else it is held."""
        self.consecutive_failures = 0
        if self.manner.answered:
            return Reply("", "refused", detail=refusal.reason)
        self.held[key] = refusal
        if len(self.held) >= MAX_HELD:
            raise refusal.stops
        return None

    def _settle(self) -> None:
        """A request was answered: those that are held were refused for reasons of their own."""
        self.manner.answered = True
        while self.held:
            key, refusal = self.held.popitem()
            self.arrived(key, Reply("", "refused", detail=refusal.reason))

    async def _attempt(self, client: httpx2.AsyncClient, body: Mapping[str, Any]) -> Reply:
        """One attempt.

        Raises:
            RetryableError: a retry may succeed. Refusal, ModelError: it will not.
        """
        self.bill.attempts += 1
        request = {"stream": True, "stream_options": {"include_usage": True}} if self.manner.stream else {}
        request = {**request, **body}
        try:
            async with asyncio.timeout(self.config.timeout_s):
                response = await client.post(self.url, content=json.dumps(request).encode())
        except TimeoutError:
            raise RetryableError(f"no answer within {self.config.timeout_s:g} s (timeout_s)") from None
        except (httpx2.ConnectError, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:  # nothing is charged
            through = f" through {proxies}" if (proxies := proxies_for(self.url)) else ""
            reason = f"no connection{through} ({self._shown(error)})"
            raise RetryableError(reason, Usage(), unreachable=True) from None
        except httpx2.RequestError as error:
            raise RetryableError(f"the connection broke ({self._shown(error)})") from None
        text = _decoded(response)
        payload, status = parsed(text) or {}, response.status_code
        stated = error_status(payload) if 200 <= status < 300 else status
        if stated is None:
            return self._read(text)
        headers = {name.lower(): value for name, value in response.headers.items()}
        unstated = Usage() if stated == status else UNSTATED
        try:
            shown = self._masked(text, MIN_MASKED_LENGTH)
            return refusals.outcome_of_error(stated, headers, shown, request, self.config, unstated)
        except refusals.WantsStream:
            self.manner.stream = True
            return await self._attempt(client, body)

    def _read(self, text: str) -> Reply:
        """The reply in a body; no key is in it, should the endpoint repeat one."""
        try:
            reply = read_reply(self._masked(text))
        except RetryableError as error:
            words = refusals.words_in(self._masked(text, MIN_MASKED_LENGTH))
            raise RetryableError(f"{error.reason} ({words or 'nothing'})", error.usage) from None
        masked = self._masked(reply.text)  # in the body it may have been escaped, or in pieces
        if masked != reply.text or any(key in _joined(reply) for key in self.secrets if len(key) >= MIN_KEY_LENGTH):
            return replace(reply, text=masked, alternatives=None)
        return reply

    async def _wait(self, backoff_s: float) -> None:
        """Wait for the backoff and for the rate limit, or until the work stops."""
        until = time.monotonic() + backoff_s
        while not self.stop.is_set() and (left_s := max(until, self.not_before) - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):  # wait_for of Python 3.11 can lose a cancellation
                    await self.stop.wait()

    def _masked(self, text: str, min_length: int = MIN_KEY_LENGTH) -> str:
        """A text in which the key and the values of headers are masked."""
        for value in self.secrets:
            text = text.replace(value, "[key]") if len(value) >= min_length else text
        return text

    def _shown(self, error: Exception) -> str:
        return refusals.one_line(self._masked(str(error) or type(error).__name__, MIN_MASKED_LENGTH))


# ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _down(problem: str, config: RemoteConfig) -> RunError:
    return RunError(
        problem,
        where=config.place,
        do="see that the endpoint is up, and run the same again; replies that arrived are kept and not paid for again",
    )


def _certificates(config: RemoteConfig) -> ssl.SSLContext:
    try:
        return httpx2.create_ssl_context(verify=config.base_url.startswith("https:"))
    except (OSError, ssl.SSLError) as error:
        names = " and ".join(name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name))
        raise ModelError(
            f"the certificates cannot be read ({error.strerror or error})",
            where=names or config.place,
            expected="a file or folder of certificates",
            do=f"unset {names}, or let it name a file that is there" if names else "reinstall the package certifi",
        ) from None


def _connection(config: RemoteConfig, headers: Mapping[str, str], trusted: ssl.SSLContext) -> httpx2.AsyncClient:
    """A client; through the environment's proxies unless the endpoint is on this machine or in NO_PROXY."""
    proxies = proxies_for(config.base_url)
    try:
        return httpx2.AsyncClient(headers=headers, verify=trusted, timeout=None, trust_env=bool(proxies))
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        socks = ": a SOCKS proxy needs a package that is not installed" if isinstance(error, ImportError) else ""
        raise ModelError(
            f"the proxy settings in the environment ({proxies}) cannot be used{socks}",
            where=config.place,
            expected="addresses such as http://proxy:3128, and in NO_PROXY names of hosts",
            do=f"use an HTTP proxy, unset them, or set NO_PROXY={host_of(config.base_url)} if none is needed",
        ) from None


def _decoded(response: httpx2.Response) -> str:
    try:
        return response.content.decode(response.charset_encoding or "utf-8", errors="replace")
    except LookupError:  # a character set that nobody knows
        return response.content.decode("utf-8", errors="replace")


def _joined(reply: Reply) -> str:
    return "".join(token for token, _ in reply.alternatives or ())


def _own_seed(seed: int, index: int) -> int:
    """A seed of 31 bits for one of several samples."""
    return int.from_bytes(hashlib.sha256(repr((seed, index)).encode()).digest()[:4], "little") >> 1
