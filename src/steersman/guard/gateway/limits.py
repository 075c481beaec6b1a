"""How much a key and a tenant may ask for, and how much is answered at once.

Rates are token buckets: a minute's worth may come at once, then it flows back evenly. Tokens are paid for with an
estimate when a request is let in, and settled with what the upstream counted; a bucket may go below zero by that, and
then fills up before the next request is let in. Budgets count a UTC day. What is refused says when to come again.

`Gate` bounds what is answered at once, and how many may wait for it: memory does not grow with the crowd.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from steersman.errors import SteersmanError
from steersman.store import write_json
from steersman.types import Record

CHARACTERS_PER_TOKEN = 4  # where the upstream does not count
MAX_BUCKETS = 10_000  # keys that are counted
DAY_S = 86_400


class Refused(SteersmanError):
    """A request that is not let in.

    Args:
        status: the HTTP status.
        code: for programs, such as ``rate_limit_exceeded``.
        retry_after_s: whole seconds until it may be asked again; None: it makes no difference.
    """

    def __init__(self, status: int, code: str, found: str, *, retry_after_s: int | None = None, do: str = "") -> None:
        super().__init__(found, do=do)
        self.status, self.code, self.message, self.retry_after_s = status, code, found, retry_after_s


class Limits(Record):
    """What one tenant may use; null: no limit."""

    requests_per_minute: float | None = Field(default=None, gt=0, description="Of each key.")
    tokens_per_minute: float | None = Field(default=None, gt=0, description="Of each key: prompt and answer.")
    requests_per_day: int | None = Field(default=None, gt=0, description="Of all keys together, in a UTC day.")
    tokens_per_day: int | None = Field(default=None, gt=0, description="Of all keys together, in a UTC day.")
    at_once: int | None = Field(default=None, gt=0, description="Requests of all keys that are answered at once.")


@dataclass
class _Bucket:
    """Tokens of one kind of one key."""

    left: float
    when: float

    def fill(self, per_minute: float, now: float) -> None:
        """What has flowed back since; the bucket holds a minute's worth, and one at least."""
        self.left = min(max(per_minute, 1.0), self.left + max(0.0, now - self.when) * per_minute / 60)
        self.when = now

    def wait_s(self, wanted: float, per_minute: float) -> float:
        """Seconds until so much is there. What is more than the bucket holds is let in when it is full."""
        missing = min(wanted, max(per_minute, 1.0)) - self.left
        return max(0.0, missing * 60 / per_minute)


@dataclass
class _Key:
    """What is counted for one key."""

    requests: _Bucket
    tokens: _Bucket


@dataclass
class Ticket:
    """A request that was let in: `settle` it, whatever becomes of it."""

    limiter: Limiter
    key: str
    estimate: int
    settled: bool = False

    def settle(self, tokens: int | None) -> None:
        """Pay what it really used; None: the estimate was right. Only the first call counts."""
        if not self.settled:
            self.settled = True
            self.limiter._settle(self.key, self.estimate if tokens is None else max(0, tokens), self.estimate)


@dataclass
class Limiter:
    """The limits of one tenant, and what its keys have used. One thread.

    ``limits`` may be exchanged while it is in use: what was used stays used.
    """

    limits: Limits = field(default_factory=Limits)
    monotonic: Callable[[], float] = time.monotonic
    clock: Callable[[], float] = time.time
    used: dict[str, int] = field(default_factory=lambda: {"day": 0, "requests": 0, "tokens": 0})
    active: int = 0
    _keys: OrderedDict[str, _Key] = field(default_factory=OrderedDict)

    def admit(self, key: str, *, tokens: int) -> Ticket:
        """Let a request in.

        Args:
            key: which key asks, as the tenant's file names it; not the key itself.
            tokens: an estimate of what prompt and answer take (`estimate`).

        Raises:
            Refused: 429, with the seconds after which it can be asked again. It costs nothing.
        """
        limits, counted = self.limits, self._counted(key)
        if limits.at_once is not None and self.active >= limits.at_once:
            raise _limited(f"{self.active} requests of this tenant are being answered, which is its limit", 1)
        for bucket, rate, wanted, what in (
            (counted.requests, limits.requests_per_minute, 1.0, "requests"),
            (counted.tokens, limits.tokens_per_minute, float(tokens), "tokens"),
        ):
            if rate is not None and (wait := bucket.wait_s(wanted, rate)) > 0:
                raise _limited(f"this key has used its {rate:g} {what} of a minute", math.ceil(wait))
        self._budget(tokens)
        counted.requests.left -= 1
        counted.tokens.left -= tokens
        self.used["requests"] += 1
        self.used["tokens"] += tokens
        self.active += 1
        return Ticket(self, key, tokens)

    def _counted(self, key: str) -> _Key:
        """The buckets of a key, filled up to now."""
        now, limits = self.monotonic(), self.limits
        found = self._keys.pop(key, None)
        rates = (limits.requests_per_minute or math.inf, limits.tokens_per_minute or math.inf)
        if found is None:
            found = _Key(*(_Bucket(max(rate, 1.0), now) for rate in rates))
        self._keys[key] = found
        while len(self._keys) > MAX_BUCKETS:
            self._keys.popitem(last=False)
        for bucket, rate in zip((found.requests, found.tokens), rates, strict=True):
            bucket.fill(rate, now)
        return found

    def _budget(self, tokens: int) -> None:
        today = int(self.clock() // DAY_S)
        if today > self.used["day"]:
            self.used = {"day": today, "requests": 0, "tokens": 0}
        limits, tomorrow = self.limits, math.ceil((self.used["day"] + 1) * DAY_S - self.clock())
        if limits.requests_per_day is not None and self.used["requests"] >= limits.requests_per_day:
            raise _limited(f"the {limits.requests_per_day} requests of this day are used up", tomorrow)
        if limits.tokens_per_day is not None and self.used["tokens"] + tokens > limits.tokens_per_day:
            left = max(0, limits.tokens_per_day - self.used["tokens"])
            raise _limited(f"of the {limits.tokens_per_day} tokens of this day {left} are left", tomorrow)

    def _settle(self, key: str, tokens: int, estimate: int) -> None:
        self.active -= 1
        self.used["tokens"] += tokens - estimate
        if key in self._keys:
            self._keys[key].tokens.left -= tokens - estimate


def _limited(found: str, wait_s: int) -> Refused:
    return Refused(429, "rate_limit_exceeded", found, retry_after_s=max(1, wait_s), do=f"wait {max(1, wait_s)} seconds")


def estimate(characters: int, max_tokens: int | None = None) -> int:
    """Estimated tokens of a prompt, from its characters, plus the client's bound on the answer, if there is one."""
    return max(1, characters // CHARACTERS_PER_TOKEN) + (max_tokens or 0)


class Usage:
    """What tenants have used on this day, kept in a file, so that a restart gives no new budget.

    Args:
        path: a small JSON file; None: it is forgotten at the end.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._limiters: dict[str, Limiter] = {}
        self._found = _read_used(path)

    def limiter(self, tenant: str, limits: Limits) -> Limiter:
        """The one limiter of a tenant, with these limits from now on: a reload forgets nothing that was used."""
        limiter = self._limiters.setdefault(tenant, Limiter())
        if tenant in self._found:
            limiter.used = self._found.pop(tenant)
        limiter.limits = limits
        return limiter

    def save(self) -> None:
        """Write the file. A disk that is full loses the budgets' state, no request."""
        if self._path is not None:
            used = {name: limiter.used for name, limiter in list(self._limiters.items())}
            with suppress(OSError):
                write_json(self._path, self._found | used)


def _read_used(path: Path | None) -> dict[str, dict[str, int]]:
    """The file of `Usage`; one that is damaged counts as empty, since it only bounds."""
    try:
        found: Any = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
        names = ("day", "requests", "tokens")
        return {tenant: {name: int(used[name]) for name in names} for tenant, used in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


class Gate:
    """At most ``at_once`` requests are answered; ``waiting`` more wait in their order; the rest is refused.

    A request whose task is cancelled while it waits leaves the queue at once.
    """

    def __init__(self, at_once: int, waiting: int, wait_s: float) -> None:
        self._at_once, self._most_waiting, self._wait_s = at_once, waiting, wait_s
        self.active = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One place, for as long as the request is answered.

        Raises:
            Refused: 429, the queue is full; 503, the wait was too long.
        """
        await self.enter()
        try:
            yield
        finally:
            self.leave()

    async def enter(self) -> None:
        """Wait for a place; whoever got it must `leave`. Raises as `place`."""
        if self.active < self._at_once and not self._queue:
            self.active += 1
            return
        if len(self._queue) >= self._most_waiting:
            raise Refused(
                429, "queue_full", f"{self.active} requests are being answered and {self.waiting} wait", retry_after_s=1
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self._wait_s):  # wait_for of Python 3.11 can lose a cancellation
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()  # the place came in the same moment: it goes to the next
            with suppress(ValueError):
                self._queue.remove(turn)
            if isinstance(error, TimeoutError):
                found = f"no place came free within {self._wait_s:g} seconds"
                raise Refused(503, "overloaded", found, retry_after_s=1) from None
            raise

    def leave(self) -> None:
        """Give the place to the first that waits."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():  # else its task was cancelled, and has not run since
                turn.set_result(None)
                return
        self.active -= 1
