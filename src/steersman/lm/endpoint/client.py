"""Any OpenAI-compatible endpoint as a model: the only file that opens a connection of its own.

Ten thousand requests are to come back whole whatever the endpoint does, and to be paid for once. So there are never
more than ``concurrency`` of them on their way; broken attempts are made again, after a random wait of at most
0.5, 1, 2, ... seconds (exponential back-off with full jitter) or what the endpoint asks for in ``Retry-After``, which
holds for all; each answer is in the cache (`lm/endpoint/cache.py`) before anybody sees it; and what cannot be mended by
trying again (400, 401, 403, 404) ends the work with one message, after the answers on their way have come in.

The key is read from the environment for as long as something is asked. It is in no record, file or message.
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
    Broken,
    Choice,
    Cost,
    Reply,
    Usage,
    choice_of,
    filtered_request,
    parsed,
    read_reply,
    seconds_in,
    usage_in,
    whole,
)
from steersman.store import canonical, sha256_text
from steersman.terminal import console
from steersman.types import NonEmpty, Record, Seed, Text, messages_of, transport

if TYPE_CHECKING:  # torch comes with it, and a judge at an endpoint needs none
    from steersman.lm.sampling import Completion, Request

CHOICE_TOKENS = 4  # enough for "(A)" and a space before it
BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
LONGEST_RETRY_AFTER_S = 600.0
FAILED_IN_A_ROW = 8  # requests without an answer: the endpoint is down, and it is not the requests
TRY_AGAIN = (429, 500, 502, 503, 504)
SHORTEST_SECRET = 12  # characters; what is shorter ("EMPTY") is a placeholder for servers that want none

OnReply = Callable[[int, Reply], None]  # called with a request's index and its reply, in the order of arrival


# ── configuration ────────────────────────────────────────────────────────────────────────────────────────────────────
def _address(text: str) -> str:
    """An http(s) address without a key in it. The refusal does not repeat what it refuses: it may hold one."""
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
    """An endpoint, a model there, and how it is asked.

    ``base_url`` is the address that ``/chat/completions`` follows. ``key_variable`` names the environment variable with
    the key; without one, no key is sent. ``usd_per_million_prompt_tokens`` and its sister turn the bill into dollars.
    ``top_logprobs`` 0 asks for none, for endpoints that refuse the question; choices are then read from the text.
    ``extra_body`` is sent along as it is, for what an endpoint has of its own; a null removes a field.
    """

    base_url: Annotated[str, AfterValidator(_address)]
    model: NonEmpty
    key_variable: Annotated[str | None, AfterValidator(_variable)] = transport(None)
    concurrency: int = transport(16, ge=1, le=1024)
    timeout_s: float = transport(120.0, gt=0, allow_inf_nan=False)
    retries: int = transport(6, ge=0)
    usd_per_million_prompt_tokens: Usd | None = transport(None)
    usd_per_million_completion_tokens: Usd | None = transport(None)
    max_tokens: int = Field(default=512, ge=1)
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    seed: Seed | None = 0
    top_logprobs: int = Field(default=10, ge=0, le=20)
    extra_body: dict[str, Any] = Field(default={})

    def usd(self, usage: Usage) -> float | None:
        """What these tokens cost; None unless both prices are given."""
        prices = (self.usd_per_million_prompt_tokens, self.usd_per_million_completion_tokens)
        if prices[0] is None or prices[1] is None:
            return None
        return (usage.prompt_tokens * prices[0] + usage.completion_tokens * prices[1]) / 1e6


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────
class RemoteModel:
    """A model at an endpoint, with its cache and its bill.

    Every method can be called from ordinary code and from a notebook. One thread at a time.

    Args:
        config: where and how to ask.
        cache: the file in which every answer is kept. Several models, and several processes, may share one.

    Raises:
        UserError: the cache cannot be kept there.
    """

    def __init__(self, config: RemoteConfig, cache: Path) -> None:
        self.config, self.cache, self.bill = config, AnswerCache(cache), Bill(config.usd)
        url = httpx2.URL(config.base_url)
        if url.scheme == "http" and not _is_loopback(url.host):
            console.print(
                f"[bold]warning:[/bold] {escape(config.base_url)} has no TLS: whoever is on the way can read the "
                "prompts, the answers and the key.\n  to do: use an https address"
            )

    def complete(self, requests: Sequence[Text], *, on_reply: OnReply | None = None) -> list[Reply]:
        """Answer every request in free text; replies in the requests' order.

        Equal requests are asked once, also at a temperature: `answers` draws several.

        Raises:
            UserError: the endpoint refuses key, model or request; a request ends with an assistant message.
            RunError: the endpoint is down. What was answered is kept.
        """
        return self._ask([self._body(request) for request in requests], on_reply)

    def choices(
        self, requests: Sequence[Text], options: Sequence[str] = ("A", "B"), *, on_reply: OnReply | None = None
    ) -> list[Choice]:
        """How probable the model finds each option as the answer to every request; see `Choice`.

        Raises:
            DataError: the options are not two or more different words. And as `complete`.
        """
        folded = {option.casefold() for option in options}
        if len(options) < 2 or len(folded) < len(options) or not all(re.fullmatch(r"\w+", o) for o in options):
            raise DataError(f"cannot choose among {list(options)}", expected="two or more different words")
        replies = self._ask([self._choice_body(request) for request in requests], on_reply)
        return [choice_of(reply, options) for reply in replies]

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """What `LanguageModel` asks for, from `choices`; minus infinity where there was only a hard choice."""
        before = messages_of(preamble) if preamble is not None else ()
        found = self.choices([(*before, *messages_of(prompt)) for prompt in prompts], options)
        return [
            tuple(math.log(p) if p else -math.inf for p in said.probabilities) if said.probabilities else None
            for said in found
        ]

    def answers(self, request: Request) -> Iterator[Completion]:
        """See `LanguageModel`; the request's config sets tokens, temperature, top-p, top-k and seed.

        The endpoint keeps its tokens to itself: ``token_ids`` only count them, and ``logprobs`` are not asked for.
        ``max_prompt_tokens`` and ``batch_size`` are the endpoint's affair. A filtered answer has the finish reason
        ``filtered``.

        Raises:
            RunError: a prompt got no answer. And as `complete`.
        """
        from steersman.lm.sampling import Completion

        config, numbers, on_text = request.config, request.numbers, request.on_text
        preamble = messages_of(request.preamble) if request.preamble is not None else ()
        bodies = []
        for number, prompt in zip(numbers, request.prompts, strict=True):
            draw = _own_seed(config.seed, number) if config.temperature else config.seed
            drawn = {"max_tokens": config.max_new_tokens, "temperature": config.temperature, "seed": draw}
            drawn |= {"top_p": config.top_p} if config.top_p < 1 else {}
            drawn |= {"top_k": config.top_k} if config.top_k else {}
            bodies.append(self._body((*preamble, *messages_of(prompt)), drawn))
        heard = None if on_text is None else lambda place, reply: on_text(numbers[place], reply.text)
        replies = self._ask(bodies, heard)
        if failed := [reply.detail for reply in replies if reply.outcome == "failed"]:
            found = f"{len(failed)} of {len(replies)} prompts got no answer (the last: {failed[-1]})"
            raise _down(found, self.config)
        reasons = {"cut_off": "length", "filtered": "filtered"}
        for number, reply in zip(numbers, replies, strict=True):
            yield Completion(
                index=number,
                text=reply.text.strip(),
                token_ids=list(range(reply.usage.completion_tokens)),
                logprobs=[],
                finish_reason=reasons.get(reply.outcome, "stop"),  # type: ignore[arg-type]
                prompt_tokens=reply.usage.prompt_tokens,
                truncated_prompt_tokens=0,
            )

    def estimate(self, requests: Sequence[Text], *, choose: bool = False) -> Cost:
        """What `complete`, or `choices`, will cost at most. Nothing is asked."""
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
        """What is sent: the whole of it affects the reply."""
        messages = [{"role": m.role, "content": whole(m.content)} for m in messages_of(request)]
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError("the request ends with an assistant message", expected="a last message by the user")
        config = self.config
        sent = {"max_tokens": config.max_tokens, "temperature": config.temperature, "seed": config.seed}
        body = {"model": config.model, "messages": messages, **sent, **(own or {}), **config.extra_body}
        return {name: value for name, value in body.items() if value is not None}

    def _choice_body(self, request: Text) -> dict[str, Any]:
        asked = {"logprobs": True, "top_logprobs": self.config.top_logprobs} if self.config.top_logprobs else {}
        return self._body(request, {"max_tokens": CHOICE_TOKENS, **asked})

    def _key(self, body: Mapping[str, Any]) -> str:
        return sha256_text(canonical({"base_url": self.config.base_url, "body": body}))

    def _ask(self, bodies: Sequence[dict[str, Any]], on_reply: OnReply | None) -> list[Reply]:
        """Replies in order: from the cache if they are there, else from the endpoint, equal ones once."""
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
        for key, found in places.items():
            if (stored := self.cache.get(key)) is not None:
                arrived(key, stored)
            else:
                missing[key] = bodies[found[0]]
        if missing:
            try:
                _finish(_Round(self.config, self.cache, self.bill, arrived).run(missing))
            finally:
                self.cache.sync()
        return [replies[place] for place in range(len(bodies))]


# ── one round of asking ──────────────────────────────────────────────────────────────────────────────────────────────
class _Round:
    """Requests on their way: as many workers as may be, one queue, one pause for all, one reason to stop."""

    def __init__(
        self, config: RemoteConfig, cache: AnswerCache, bill: Bill, arrived: Callable[[str, Reply], None]
    ) -> None:
        self.config, self.cache, self.bill, self.arrived = config, cache, bill, arrived
        self.url = f"{config.base_url}/chat/completions"
        self.key = secret(config)
        self.stop = asyncio.Event()
        self.reason: SteersmanError | None = None
        self.not_before = 0.0  # of time.monotonic(): the endpoint asked for a pause
        self.failed_in_a_row = 0

    async def run(self, missing: Mapping[str, dict[str, Any]]) -> None:
        queue = iter(missing.items())
        trusted = httpx2.create_ssl_context(verify=self.url.startswith("https:"))  # 0.1 s of reading certificates
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self.config.concurrency, len(missing))):
                workers.create_task(self._work(queue, trusted))
        if self.reason is not None:
            raise self.reason

    async def _work(self, queue: Iterator[tuple[str, dict[str, Any]]], trusted: ssl.SSLContext) -> None:
        """Answer requests until none is left. A client of its own keeps one connection: a pool would search all."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        near = _is_loopback(httpx2.URL(self.url).host)  # no proxy between this machine and itself
        async with httpx2.AsyncClient(headers=headers, verify=trusted, timeout=None, trust_env=not near) as client:
            for key, body in queue:
                try:
                    reply = self.cache.get(key) or await self._answer(client, key, body)
                    if reply is not None:
                        self.arrived(key, reply)
                except SteersmanError as error:  # the others finish what they have on its way, and it is kept
                    self.reason = self.reason or error
                    self.stop.set()
                if self.stop.is_set():
                    return

    async def _answer(self, client: httpx2.AsyncClient, key: str, body: Mapping[str, Any]) -> Reply | None:
        """The reply after as many attempts as it takes, stored; None if the round stops before it is there."""
        content = json.dumps(body).encode()
        times = self.config.retries + 1
        broken = Broken("")
        for attempt in range(times):
            backoff_s = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1)) * random.random() if attempt else 0.0
            await self._wait(backoff_s)
            if self.stop.is_set():
                return None
            try:
                self.bill.attempts += 1
                reply = await self._attempt(client, content)
            except Broken as error:
                broken = error
                self._charge(key, broken.usage)
                self._pause(broken)
                continue
            self.bill.usage += reply.usage
            self.failed_in_a_row = 0
            return replace(self.cache.put(key, reply), reused=False)
        self.failed_in_a_row += 1
        if broken.unreachable or self.failed_in_a_row >= FAILED_IN_A_ROW:
            raise _down(f"no answer after {times} attempts: {broken.reason}", self.config)
        return Reply("", "failed", detail=f"{broken.reason} ({times} attempts)")

    async def _attempt(self, client: httpx2.AsyncClient, content: bytes) -> Reply:
        """One attempt.

        Raises:
            Broken: it may go better next time. ModelError: it will not.
        """
        try:
            async with asyncio.timeout(self.config.timeout_s):
                response = await client.post(self.url, content=content)
        except TimeoutError:
            raise Broken(f"no answer within {self.config.timeout_s:g} s") from None
        except httpx2.ConnectError as error:  # nothing was sent, so nothing is charged
            raise Broken(f"no connection ({self._shown(str(error))})", Usage(), unreachable=True) from None
        except httpx2.RequestError as error:
            raise Broken(f"the connection broke ({self._shown(str(error) or type(error).__name__)})") from None
        text = self._without_key(response.content.decode("utf-8", errors="replace"))
        if response.status_code == 200:
            return read_reply(text)
        if response.status_code in TRY_AGAIN:
            usage = usage_in(parsed(text) or {}) or Usage()
            wait_s = seconds_in(response.headers.get("Retry-After"))
            raise Broken(f"{response.status_code}: {self._shown(text)}", usage, retry_after_s=wait_s)
        if response.status_code == 400 and (filtered := filtered_request(text)) is not None:
            return filtered
        raise self._refused(response.status_code, self._shown(text))

    async def _wait(self, backoff_s: float) -> None:
        """Wait for the back-off and for the pause that holds for all, or for the end of the round."""
        until = time.monotonic() + backoff_s
        while not self.stop.is_set() and (left_s := max(until, self.not_before) - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self.stop.wait(), left_s)
            except TimeoutError:
                continue

    def _pause(self, broken: Broken) -> None:
        """Make every worker wait as long as the endpoint asks for."""
        wait_s = broken.retry_after_s
        if wait_s > LONGEST_RETRY_AFTER_S:
            raise _down(f"the endpoint asks to wait for {wait_s / 60:,.0f} minutes ({broken.reason})", self.config)
        self.not_before = max(self.not_before, time.monotonic() + wait_s)

    def _charge(self, key: str, usage: Usage) -> None:
        if usage != Usage():
            self.cache.charge(key, usage)
            self.bill.usage += usage

    def _without_key(self, text: str) -> str:
        """What the endpoint says, should it repeat the key."""
        return text.replace(self.key, "[key]") if len(self.key) >= SHORTEST_SECRET else text

    def _shown(self, text: str) -> str:
        """The beginning of what the endpoint says, on one line: its error's message, if it has the usual form."""
        error = (parsed(text) or {}).get("error")
        said = error.get("message") if isinstance(error, dict) else error
        line = " ".join((said if isinstance(said, str) else text).split())
        return "".join(c for c in self._without_key(whole(line)) if c.isprintable())[:300]

    def _refused(self, status: int, said: str) -> ModelError:
        """One message for what trying again does not mend."""
        config, variable = self.config, self.config.key_variable
        where = f"{config.base_url} ({config.model})"
        found = f"the endpoint answers {status}: {said or 'nothing'}"
        if status in (401, 403):
            expected = f"a valid key in the environment variable {variable}" if variable else "a key, and none is sent"
            do = f"set {variable} to a key that may use this model" if variable else "name its variable in key_variable"
            return ModelError(found, where=where, expected=expected, do=do)
        if status == 404:
            do = "check base_url (it often ends in /v1) and the model's name"
            return ModelError(found, where=where, expected="a model that this endpoint has", do=do)
        if 300 <= status < 400:
            do = "write the address that it leads to; redirections are not followed, because the key would go along"
            return ModelError(found, where=where, do=do)
        do = "change what it complains about: shorten the prompt, or set top_logprobs: 0 or seed: null if it has none"
        return ModelError(found, where=where, expected="a request that this endpoint accepts", do=do)


# ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _down(found: str, config: RemoteConfig) -> RunError:
    return RunError(
        found,
        where=f"{config.base_url} ({config.model})",
        do="see that the endpoint is up, and run the same again; what was answered is kept and not asked again",
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
    """A seed of 31 bits for one of several draws."""
    return int.from_bytes(hashlib.sha256(repr((seed, index)).encode()).digest()[:4], "little") >> 1


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, in a thread of its own where a loop already runs in this one, as in a notebook."""
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
