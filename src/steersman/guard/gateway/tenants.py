"""Who may use the gateway, under which guard, and how a changed file takes effect without a pause.

    # tenants.yaml
    tenants:
      - name: acme
        keys: [sha256:9f86...]          # lines that `steersman guard key acme` prints; the keys themselves are nowhere
        guard: guards/acme              # the folder of a trained guard; or `constitution: acme.yaml`
        limits: {requests_per_minute: 60, tokens_per_day: 1000000}
        shadow: [classifier]            # rails that only log
        models: ["gemma-*"]             # all if left out

`Tenants` is an immutable snapshot: a request takes it once and keeps it to its end, whatever is loaded meanwhile.
`Reloader` exchanges the snapshot in one assignment, after everything in the new one has been loaded. What cannot be
loaded changes nothing; ``problem`` says why.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from steersman.errors import SteersmanError, UserError
from steersman.guard.gateway.limits import Limiter, Limits, Refused, Usage
from steersman.http_server import Address
from steersman.store import sha256_file
from steersman.types import NonEmpty, Record, Slug
from steersman.yaml_lines import LineOf, load_yaml, validate

LOG = logging.getLogger("steersman.guard")
KEY_PREFIX = "sg-"
POLL_S = 2.0  # between two looks at the files
SETTLED_S = 2.0  # a file that was written so long ago would by now have another time stamp
RETRY_S = 15.0  # what could not be loaded is tried again
OPEN = "local"  # the tenant of a gateway without a tenants' file


def _no_key(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):  # what was found may be a key itself: it is not repeated
        raise ValueError("this is no digest of a key; expected sha256:... as `steersman guard key NAME` prints it")
    return text


KeyDigest = Annotated[str, AfterValidator(_no_key)]


class TenantRow(Record):
    """One tenant, as its file describes it. Paths are relative to the file."""

    name: Slug = Field(description="In the audit log, in metrics, and in messages.")
    keys: tuple[KeyDigest, ...] = Field(description="Digests of its keys (`steersman guard key NAME`).")
    guard: NonEmpty | None = Field(default=None, description="Folder of its trained guard.")
    constitution: NonEmpty | None = Field(default=None, description="File or name of its constitution.")
    shadow: tuple[NonEmpty, ...] = Field(default=(), description="Rails that only log.")
    limits: Limits = Field(default=Limits(), description="Rates and budgets.")
    models: tuple[NonEmpty, ...] = Field(
        default=("*",), min_length=1, description="Models it may ask; * is a wildcard."
    )
    upstream: NonEmpty | None = Field(default=None, description="URL of its upstream; the gateway's own if left out.")
    upstream_key_env: NonEmpty | None = Field(
        default=None, description="Environment variable that holds the key for its upstream."
    )


class TenantList(Record):
    """The whole file."""

    tenants: tuple[TenantRow, ...] = Field(min_length=1, description="Everybody who may use the gateway.")


@dataclass(frozen=True)
class Tenant:
    """A tenant, ready to be served. ``guard``: as `guard.Guard`."""

    name: str
    guard: Any
    limiter: Limiter
    models: tuple[str, ...] = ("*",)
    upstream: str | None = None
    upstream_key_env: str | None = None
    made_from: Any = field(default=None, compare=False, repr=False)  # equal: the guard need not be loaded again

    def allows(self, model: str) -> bool:
        """Whether it may ask this model."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


class Caller(NamedTuple):
    """Who asks: the tenant, and which of its keys, as logs and limits name it (never the key)."""

    tenant: Tenant
    key: str


# What makes a guard from a row: the folder (or None), the constitution (or None), the rails in shadow mode.
LoadGuard = Callable[[Path | None, str | None, tuple[str, ...]], Any]


@dataclass(frozen=True)
class Tenants:
    """Everybody who may use the gateway, at one moment.

    Attributes:
        seen: digests of the files that this was made from, taken before they were read.
    """

    tenants: tuple[Tenant, ...]
    by_digest: Mapping[str, int] = field(default_factory=dict)  # sha256:... -> position of the tenant
    seen: Mapping[Path, str] = field(default_factory=dict)

    @classmethod
    def single(cls, guard: Any, usage: Usage | None = None, seen: Mapping[Path, str] | None = None) -> Tenants:
        """One tenant for everybody who can reach the gateway; for loopback alone (`check_reachable`)."""
        limiter = (usage or Usage()).limiter(OPEN, Limits())
        return cls((Tenant(OPEN, guard, limiter),), seen=seen or {})

    @property
    def needs_keys(self) -> bool:
        """Whether a request needs a key."""
        return bool(self.by_digest)

    def of(self, key: str | None) -> Caller:
        """Who asks with this key.

        Raises:
            Refused: 401.
        """
        if not self.needs_keys:
            return Caller(self.tenants[0], OPEN)
        if not key:
            raise Refused(401, "invalid_api_key", "no key came with the request", do="send Authorization: Bearer KEY")
        digest, found = digest_of_key(key), None
        for known, position in self.by_digest.items():  # all of them, each in constant time
            if hmac.compare_digest(known, digest):
                found = Caller(self.tenants[position], f"{self.tenants[position].name}/{known[7:15]}")
        if found is None:
            raise Refused(401, "invalid_api_key", "the key is not known here")
        return found


def check_reachable(address: Address, tenants: Tenants) -> None:
    """Nobody else's machine may ask without a key.

    Raises:
        UserError: the address is not loopback, and there is no tenants' file.
    """
    if not address.loopback and not tenants.needs_keys:
        raise UserError(
            f"other machines can reach {address.host}, and this gateway asks for no key",
            where="--host",
            do="name a file of tenants with --tenants (`steersman guard key NAME` makes a key), or listen on 127.0.0.1",
        )


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def digest_of_key(key: str) -> str:
    """What a tenants' file holds of a key: 256 random bits need no salt and no slow hash."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key() -> tuple[str, str]:
    """A new key, which is shown once, and its digest."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, digest_of_key(key)


def key_lines(name: str) -> str:
    """What `steersman guard key NAME` prints."""
    key, digest = new_key()
    return f"key of {name}, shown only now:  {key}\nline of the tenants' file:     keys: [{digest}]"


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def load_tenants(path: Path, usage: Usage, *, guard: LoadGuard, before: Tenants | None = None) -> Tenants:
    """Everybody in the file, each with a guard that is ready.

    Args:
        guard: makes a guard ready, or raises ``UserError``.
        usage: keeps what tenants have used; only changed when all is loaded.
        before: the snapshot that this one replaces; its guards are kept where nothing about them has changed.

    Raises:
        UserError: a mistake in the file, or in a guard or constitution that it names; all those of the file itself
            are listed, one per line.
    """
    seen = digests((path,))
    data, line_of = load_yaml(path, UserError)
    rows = validate(TenantList, data, path, line_of, UserError).tenants
    problems = [f"{path}:{line}: {what}" for line, what in sorted(_problems(rows, path, line_of))]
    if problems:
        raise UserError("\n".join(problems))
    known = {tenant.made_from: tenant.guard for tenant in (before.tenants if before else ())}
    made: list[tuple[TenantRow, Any, Any]] = []
    for position, row in enumerate(rows):
        folder = path.parent / row.guard if row.guard else None
        constitution = _constitution(path, row.constitution)
        read = digests(_files_of(folder, constitution))
        made_from = (folder, constitution, row.shadow, tuple(read.items()))
        try:
            ready = known[made_from] if made_from in known else guard(folder, constitution, row.shadow)
        except SteersmanError as error:
            raise UserError(str(error), where=f"{path}:{line_of(('tenants', position))} ({row.name})") from None
        made.append((row, ready, made_from))
        seen |= read
    tenants = tuple(
        Tenant(
            row.name,
            ready,
            usage.limiter(row.name, row.limits),
            row.models,
            row.upstream,
            row.upstream_key_env,
            made_from,
        )
        for row, ready, made_from in made
    )
    return Tenants(tenants, {digest: position for position, row in enumerate(rows) for digest in row.keys}, seen)


def _problems(rows: tuple[TenantRow, ...], path: Path, line_of: LineOf) -> Iterator[tuple[int, str]]:
    """What no row can see alone: doubled names and keys, and guards that are not there."""
    names: dict[str, int] = {}
    digests: dict[str, str] = {}
    for position, row in enumerate(rows):
        line = partial(line_of_row, line_of, position)
        if row.name in names:
            yield line("name"), f'found the tenant "{row.name}" a second time (first on line {names[row.name]})'
        names.setdefault(row.name, line("name"))
        for name in ("keys", "models"):
            if not getattr(row, name):
                yield line(name), f"{row.name}: found no {name}; expected at least one"
        for place, digest in enumerate(row.keys):
            if digest in digests:
                yield line("keys", place), f"found a key of {digests[digest]} a second time; expected each key once"
            digests.setdefault(digest, row.name)
        if (row.guard is None) == (row.constitution is None):
            found = "neither" if row.guard is None else "both"
            yield line(), f"{row.name}: found {found} of guard and constitution; expected one of them"
        elif row.guard is not None and not (path.parent / row.guard).is_dir():
            yield line("guard"), f"{row.name}: there is no folder {row.guard}; expected that of a trained guard"


def line_of_row(line_of: LineOf, position: int, *where: int | str) -> int:
    """The line of a key of one tenant."""
    return line_of(("tenants", position, *where))


def _constitution(path: Path, named: str | None) -> str | None:
    """A constitution's file beside the tenants' file, where there is one; else a name of the library."""
    return str(path.parent / named) if named and (path.parent / named).is_file() else named


def _files_of(folder: Path | None, constitution: str | None) -> Iterator[Path]:
    if folder is not None:
        yield from sorted(file for file in folder.rglob("*") if file.is_file())
    elif constitution is not None and Path(constitution).is_file():
        yield Path(constitution)


# ── reloading ────────────────────────────────────────────────────────────────────────────────────────────────────────
def digests(files: Iterable[Path]) -> dict[Path, str]:
    """The digest of each file; ``absent`` where it cannot be read."""
    found = {}
    for file in files:
        try:
            found[file] = sha256_file(file)
        except OSError:
            found[file] = "absent"
    return found


def _stamps(files: Iterable[Path]) -> Any:
    """What changes with a write and costs no reading; None while a file is so new that it may not."""
    found: list[Any] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            found.append((file, None))
        else:
            if abs(time.time() - status.st_mtime) < SETTLED_S:
                return None
            found.append((file, status.st_mtime_ns, status.st_size, status.st_ino))
    return found


class Reloader:
    """Holds the snapshot that new requests take, and exchanges it when its files change.

    Args:
        first: the snapshot to begin with.
        load: makes a new one, given the old; runs in a thread.
        on_change: called after each attempt, with the problem or an empty text.

    Attributes:
        now: the snapshot of this moment. It is always a whole one.
        problem: why the files as they are now could not be loaded; empty if they are what is served.
        reloads: how often the snapshot was exchanged.
    """

    def __init__(
        self,
        first: Tenants,
        load: Callable[[Tenants], Tenants],
        *,
        every_s: float = POLL_S,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self.now, self._load, self._every_s, self._on_change = first, load, every_s, on_change
        self.problem, self.reloads = "", 0
        self._wake = asyncio.Event()
        self._busy = asyncio.Lock()
        self._stamps: Any = None
        self._seen, self._retry_at = first.seen, 0.0

    def soon(self) -> None:
        """Look at once, as after SIGHUP, and load even if nothing seems changed. For the event loop's own thread."""
        self._wake.set()

    async def watch(self) -> None:
        """Look every two seconds, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._wake.wait()
            told = self._wake.is_set()
            self._wake.clear()
            try:
                await self.look(force=told)
            except Exception as error:  # whatever it is, looking goes on
                self.problem = f"the files cannot be looked at ({type(error).__name__})"

    async def look(self, *, force: bool = False) -> bool:
        """Load the files anew if they have changed. Whether the snapshot was exchanged."""
        async with self._busy:
            again = bool(self.problem) and time.monotonic() >= self._retry_at
            stamps = await asyncio.to_thread(_stamps, self._seen)
            if stamps == self._stamps is not None and not (force or again):
                return False
            seen = await asyncio.to_thread(digests, self._seen)
            self._stamps = stamps
            if seen == self._seen and not (force or again):
                return False
            self._seen = seen
            return await self._exchange()

    async def _exchange(self) -> bool:
        try:
            new = await asyncio.to_thread(self._load, self.now)
        except Exception as error:
            self.problem = str(error) if isinstance(error, SteersmanError) else f"it raised {type(error).__name__}"
            self._retry_at = time.monotonic() + RETRY_S  # a file that was missing may come
            LOG.warning("the old guard stays, because the new one is wrong: %s", self.problem)
        else:
            self.now, self.problem, self._stamps, self._seen = new, "", None, new.seen
            self.reloads += 1
        if self._on_change is not None:
            self._on_change(self.problem)
        return not self.problem
