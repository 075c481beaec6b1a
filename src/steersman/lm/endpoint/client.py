"""Any OpenAI-compatible endpoint as a model: the only file that opens a connection of its own.

Ten thousand requests must all come back, and be paid for once. At most ``concurrency`` are in flight. Failed attempts
are retried with exponential backoff and full jitter (a random wait of at most 0.5, 1, 2, ... seconds), or after the
``Retry-After`` of a rate limit, which holds for all workers. Each reply is in the cache (`lm/endpoint/cache.py`) before
a caller sees it. What a retry cannot mend (400, 401, 403, 404) ends the work, after the requests in flight.

The key is read from the environment for as long as requests are sent. It is in no record, file or message.
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
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx2
from pydantic import AfterValidator, Field
from rich.markup import escape

from steersman.errors import DataError, ModelError, RecipeError, RunError, SteersmanError
from steersman.lm.endpoint.cache import AnswerCache
from steersman.lm.endpoint.replies import (
    Bill,
    Choice,
    Cost,
    Reply,
    RetryableError,
    Usage,
    choice_of,
    encodable,
    filtered_request,
    parsed,
    read_reply,
    seconds_in,
    usage_in,
)
from steersman.store import canonical, sha256_text
from steersman.terminal import console
from steersman.types import NonEmpty, Record, Seed, Text, messages_of, transport, uses_tools

if TYPE_CHECKING:  # torch comes with it, and a judge at an endpoint needs none
    from steersman.lm.sampling import Completion, FinishReason, Request

MAX_CHOICE_TOKENS = 4  # enough for "(A)" and a space before it
BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
MAX_RETRY_AFTER_S = 600.0
MAX_CONSECUTIVE_FAILURES = 8  # without a reply: then it is the endpoint that is down, not the requests
RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
MIN_KEY_LENGTH = 12  # characters; a shorter one ("EMPTY") is a placeholder for servers that need no key

OnReply = Callable[[int, Reply], None]  # called with a request's index and its reply, in order of arrival


# ── configuration ────────────────────────────────────────────────────────────────────────────────────────────────────
def _address(text: str) -> str:
    """An http(s) address without a key in it. The error does not repeat the address: it may hold one."""
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise RecipeError(
            "not an address of an endpoint, or one with a name, a password or a question mark in it",
            where="base_url",
            expected="an address such as http://127.0.0.1:8000/v1",
            do="if the endpoint wants a key, put it into an environment variable and name that in `key_variable`",
        )
    return text.rstrip("/")


def _variable(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise RecipeError(
            "not the name of an environment variable; if it is a key, it is now in a file where it should not be",
            where="key_variable",
            expected="a name in capital letters, such as JUDGE_API_KEY",
            do="export the key under such a name, and write the name here",
        )
    return name


Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RemoteConfig(Record):
    """A model behind an endpoint."""

    base_url: Annotated[str, AfterValidator(_address)] = Field(
        description="The address that /chat/completions follows, such as http://127.0.0.1:8000/v1."
    )
    model: NonEmpty = Field(description="The model's name at the endpoint.")
    key_variable: Annotated[str | None, AfterValidator(_variable)] = transport(
        None, description="The environment variable that holds the key; null: no key is sent."
    )
    concurrency: int = transport(16, ge=1, le=1024, description="Most requests in flight at once.")
    timeout_s: float = transport(120.0, gt=0, allow_inf_nan=False, description="Time limit of one attempt, in seconds.")
    retries: int = transport(6, ge=0, description="Most attempts after a failed first one.")
    usd_per_million_prompt_tokens: Usd | None = transport(None, description="Price in US dollars; null: unknown.")
    usd_per_million_completion_tokens: Usd | None = transport(None, description="Price in US dollars; null: unknown.")
    max_tokens: int = Field(default=512, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Sampling temperature; 0: greedy.")
    seed: Seed | None = Field(default=0, description="The seed that is sent; null: none.")
    top_logprobs: int = Field(
        default=10, ge=0, le=20, description="Log-probs requested per token; 0: none, choices are read from the text."
    )
    extra_body: dict[str, Any] = Field(default={}, description="Added to a request's JSON; null removes a field.")

    def usd(self, usage: Usage) -> float | None:
        """What these tokens cost; None unless both prices are given."""
        prompt, completion = self.usd_per_million_prompt_tokens, self.usd_per_million_completion_tokens
        if prompt is None or completion is None:
            return None
        return (usage.prompt_tokens * prompt + usage.completion_tokens * completion) / 1e6


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
        url = httpx2.URL(config.base_url)
        if url.scheme == "http" and not _is_loopback(url.host):
            console.print(
                f"[bold]warning:[/bold] {escape(config.base_url)} has no TLS: others on the network can read the "
                "prompts, the answers and the key.\n  to do: use an https address"
            )

    def complete(self, requests: Sequence[Text], *, on_reply: OnReply | None = None) -> list[Reply]:
        """Answer every request in free text; replies in the requests' order.

        Equal requests are sent once, also at a temperature: `answers` samples several.

        Raises:
            UserError: the endpoint refuses key, model or request; a request ends with an assistant message.
            RunError: the endpoint is down. Replies that arrived are kept.
        """
        return self._send([self._body(request) for request in requests], on_reply)

    def choices(
        self, requests: Sequence[Text], options: Sequence[str] = ("A", "B"), *, on_reply: OnReply | None = None
    ) -> list[Choice]:
        """The probability of each option as the answer to every request; see `Choice`.

        Raises:
            DataError: the options are not two or more different words. And as `complete`.
        """
        folded = {option.casefold() for option in options}
        if len(options) < 2 or len(folded) < len(options) or not all(re.fullmatch(r"\w+", o) for o in options):
            raise DataError(f"cannot choose among {list(options)}", expected="two or more different words")
        replies = self._send([self._choice_body(request) for request in requests], on_reply)
        return [choice_of(reply, options) for reply in replies]

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
        ``max_prompt_tokens`` and ``batch_size`` are ignored. A filtered answer has the finish reason ``filtered``.

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
            options = {"max_tokens": config.max_new_tokens, "temperature": config.temperature, "seed": seed}
            options |= {"top_p": config.top_p} if config.top_p < 1 else {}
            options |= {"top_k": config.top_k} if config.top_k else {}
            bodies.append(self._body((*preamble, *messages_of(prompt)), options))
        on_reply = None if on_text is None else lambda place, reply: on_text(numbers[place], reply.text)
        replies = self._send(bodies, on_reply)
        if failed := [reply.detail for reply in replies if reply.outcome == "failed"]:
            text = f"{len(failed)} of {len(replies)} prompts got no answer (the last: {failed[-1]})"
            raise _down(text, self.config)
        reasons: dict[str, FinishReason] = {"cut_off": "length", "filtered": "filtered"}
        for number, reply in zip(numbers, replies, strict=True):
            ids, reason = list(range(reply.usage.completion_tokens)), reasons.get(reply.outcome, "stop")
            yield Completion(number, reply.text.strip(), ids, [], reason, reply.usage.prompt_tokens, 0)

    def estimate(self, requests: Sequence[Text], *, choose: bool = False) -> Cost:
        """What `complete`, or `choices`, will cost at most. Nothing is sent."""
        prompt_tokens, completion_tokens, seen, reused = 0, 0, set[str](), 0
        for request in requests:
            body = self._choice_body(request) if choose else self._body(request)
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
    def _body(self, request: Text, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A request's JSON; ``own`` overrides the configuration. All of it identifies the request in the cache."""
        if uses_tools(messages_of(request)):
            raise DataError("a conversation with tools is not sent to an endpoint", do="leave these rows out")
        messages = [{"role": m.role, "content": encodable(m.content)} for m in messages_of(request)]
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError("the request ends with an assistant message", expected="a last message by the user")
        config = self.config
        options = {"max_tokens": config.max_tokens, "temperature": config.temperature, "seed": config.seed}
        body = {"model": config.model, "messages": messages, **options, **(own or {}), **config.extra_body}
        return {name: value for name, value in body.items() if value is not None}

    def _choice_body(self, request: Text) -> dict[str, Any]:
        logprobs = {"logprobs": True, "top_logprobs": self.config.top_logprobs} if self.config.top_logprobs else {}
        return self._body(request, {"max_tokens": MAX_CHOICE_TOKENS, **logprobs})

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
                arrived(key, stored)
            else:
                missing[key] = bodies[equal[0]]
        if missing:
            try:
                _run_to_end(_Workers(self.config, self.cache, self.bill, arrived).run(missing))
            finally:
                self.cache.sync()
        return [replies[place] for place in range(len(bodies))]


# ── sending requests ─────────────────────────────────────────────────────────────────────────────────────────────────
class _Workers:
    """``concurrency`` workers with one queue, one rate limit and one reason to stop."""

    def __init__(
        self, config: RemoteConfig, cache: AnswerCache, bill: Bill, arrived: Callable[[str, Reply], None]
    ) -> None:
        self.config, self.cache, self.bill, self.arrived = config, cache, bill, arrived
        self.url = f"{config.base_url}/chat/completions"
        self.key = secret(config)
        self.stop = asyncio.Event()
        self.reason: SteersmanError | None = None
        self.not_before = 0.0  # of time.monotonic(), from a Retry-After
        self.consecutive_failures = 0

    async def run(self, missing: Mapping[str, dict[str, Any]]) -> None:
        queue = iter(missing.items())
        trusted = httpx2.create_ssl_context(verify=self.url.startswith("https:"))  # 0.1 s of reading certificates
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self.config.concurrency, len(missing))):
                workers.create_task(self._work(queue, trusted))
        if self.reason is not None:
            raise self.reason

    async def _work(self, queue: Iterator[tuple[str, dict[str, Any]]], trusted: ssl.SSLContext) -> None:
        """Send requests until none is left. Each worker has a client: a shared pool would search all connections."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        proxies = not _is_loopback(httpx2.URL(self.url).host)  # none between this machine and itself
        async with httpx2.AsyncClient(headers=headers, verify=trusted, timeout=None, trust_env=proxies) as client:
            for key, body in queue:
                try:
                    reply = self.cache.get(key) or await self._with_retries(client, key, body)
                    if reply is not None:
                        self.arrived(key, reply)
                except SteersmanError as error:  # the others finish the requests that they have in flight
                    self.reason = self.reason or error
                    self.stop.set()
                if self.stop.is_set():
                    return

    async def _with_retries(self, client: httpx2.AsyncClient, key: str, body: Mapping[str, Any]) -> Reply | None:
        """The reply of the first attempt that succeeds, stored; None if the work stops before."""
        content = json.dumps(body).encode()
        attempts, failure = self.config.retries + 1, RetryableError("")
        for attempt in range(attempts):
            backoff_s = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1)) * random.random() if attempt else 0.0
            await self._wait(backoff_s)
            if self.stop.is_set():
                return None
            try:
                self.bill.attempts += 1
                reply = await self._attempt(client, content)
            except RetryableError as error:
                failure = error
                if error.usage != Usage():
                    self.cache.charge(key, error.usage)
                    self.bill.usage += error.usage
                if error.retry_after_s > MAX_RETRY_AFTER_S:
                    minutes = f"{error.retry_after_s / 60:,.0f} minutes"
                    raise _down(f"the endpoint asks to wait for {minutes} ({error.reason})", self.config) from None
                self.not_before = max(self.not_before, time.monotonic() + error.retry_after_s)
                continue
            self.bill.usage += reply.usage
            self.consecutive_failures = 0
            return replace(self.cache.put(key, reply), reused=False)
        self.consecutive_failures += 1
        if failure.unreachable or self.consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
            raise _down(f"no answer after {attempts} attempts: {failure.reason}", self.config)
        return Reply("", "failed", detail=f"{failure.reason} ({attempts} attempts)")

    async def _attempt(self, client: httpx2.AsyncClient, content: bytes) -> Reply:
        """One attempt.

        Raises:
            RetryableError: a retry may succeed. ModelError: it will not.
        """
        try:
            async with asyncio.timeout(self.config.timeout_s):
                response = await client.post(self.url, content=content)
        except TimeoutError:
            raise RetryableError(f"no answer within {self.config.timeout_s:g} s") from None
        except httpx2.ConnectError as error:  # nothing was sent, so nothing is charged
            raise RetryableError(f"no connection ({self._shown(str(error))})", Usage(), unreachable=True) from None
        except httpx2.RequestError as error:
            raise RetryableError(f"the connection broke ({self._shown(str(error) or type(error).__name__)})") from None
        text = self._without_key(response.content.decode("utf-8", errors="replace"))
        if response.status_code == 200:
            return read_reply(text)
        if response.status_code in RETRYABLE_STATUSES:
            usage = usage_in(parsed(text) or {}) or Usage()
            wait_s = seconds_in(response.headers.get("Retry-After"))
            raise RetryableError(f"{response.status_code}: {self._shown(text)}", usage, retry_after_s=wait_s)
        if response.status_code == 400 and (filtered := filtered_request(text)) is not None:
            return filtered
        raise self._refused(response.status_code, self._shown(text))

    async def _wait(self, backoff_s: float) -> None:
        """Wait for the backoff and for the rate limit, or until the work stops."""
        until = time.monotonic() + backoff_s
        while not self.stop.is_set() and (left_s := max(until, self.not_before) - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self.stop.wait(), left_s)
            except TimeoutError:
                continue

    def _without_key(self, text: str) -> str:
        """A response in which the key is masked, should the endpoint repeat it."""
        return text.replace(self.key, "[key]") if len(self.key) >= MIN_KEY_LENGTH else text

    def _shown(self, text: str) -> str:
        """The beginning of an error response on one line: its message, if it has the usual form."""
        error = (parsed(text) or {}).get("error")
        message = error.get("message") if isinstance(error, dict) else error
        line = " ".join((message if isinstance(message, str) else text).split())
        return "".join(c for c in self._without_key(encodable(line)) if c.isprintable())[:300]

    def _refused(self, status: int, message: str) -> ModelError:
        """The error for a status that a retry does not mend."""
        variable, expected = self.config.key_variable, "a request that this endpoint accepts"
        do = "change what it complains about: shorten the prompt, or set top_logprobs: 0 or seed: null if it has none"
        if status in (401, 403):
            expected = f"a valid key in the environment variable {variable}" if variable else "a key, and none is sent"
            do = f"set {variable} to a key that may use this model" if variable else "name its variable in key_variable"
        elif status == 404:
            expected = "a model that this endpoint has"
            do = "check base_url (it often ends in /v1) and the model's name"
        elif 300 <= status < 400:
            expected = ""
            do = "write the address that it leads to; redirections are not followed, because the key would go along"
        problem, where = f"the endpoint answers {status}: {message or 'nothing'}", self.config.base_url
        return ModelError(problem, where=f"{where} ({self.config.model})", expected=expected, do=do)


# ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _down(problem: str, config: RemoteConfig) -> RunError:
    return RunError(
        problem,
        where=f"{config.base_url} ({config.model})",
        do="see that the endpoint is up, and run the same again; replies that arrived are kept and not paid for again",
    )


def secret(config: RemoteConfig) -> str:
    """The key from the environment, empty if none is to be sent; a ModelError says what is wrong with the variable."""
    if config.key_variable is None:
        return ""
    key = os.environ.get(config.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        state = "holds characters that no key has" if key else "is not set"
        raise ModelError(
            f"the environment variable {config.key_variable} {state}",
            where=f"{config.base_url} ({config.model})",
            expected="the key of the endpoint",
            do=f"export {config.key_variable}=... in the shell that runs this; never write the key into a file here",
        )
    return key


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _own_seed(seed: int, index: int) -> int:
    """A seed of 31 bits for one of several samples."""
    return int.from_bytes(hashlib.sha256(repr((seed, index)).encode()).digest()[:4], "little") >> 1


def _run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine, in a thread of its own where this one has a running event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    errors: list[BaseException] = []

    def alone() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # carried over to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
