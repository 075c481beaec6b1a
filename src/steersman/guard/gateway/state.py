"""What all requests share: the guard, the upstream, the settings, and the hooks of operation around a request.

`Hooks` says where tenants, limits, the audit log, metrics and traces come in; as it stands here everybody may ask,
nothing is limited and nothing is written down. Operation derives from it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import Field

from steersman.constitution.document import Constitution
from steersman.guard.gateway.upstream import Upstream
from steersman.guard.streaming import Checks, ajudged
from steersman.guard.verdict import Exchange, Ruling, Side
from steersman.types import Record


class GatewaySettings(Record):
    """How the gateway answers."""

    blocks: Literal["message", "error"] = Field(
        default="message", description="A stopped request gets a refusal as an answer, or a 400 (`content_filter`)."
    )
    trust_system: bool = Field(
        default=False, description="System and developer messages are the operator's own, and are not read by rails."
    )
    body_bytes: int = Field(default=8 * 2**20, ge=1024, description="Of a request's body; more gets 413.")
    body_s: float = Field(default=60.0, gt=0, description="For a request's body to arrive.")
    models: tuple[str, ...] = Field(default=(), description="Names that /v1/models lists; none: those of the upstream.")
    evidence: bool = Field(default=True, description="Answers say which rail objected, to what and where.")


class Guarded(Checks, Protocol):
    """A guard with its constitution."""

    @property
    def constitution(self) -> Constitution:
        """What it enforces."""
        ...


@dataclass
class Call:
    """One request of a client on its way.

    Attributes:
        id: ``x-request-id``, the client's own if it is one word.
        path: of the endpoint.
        headers: of the client's request, lower case.
        tenant: who asks; `Hooks.admitted` may set it.
        guard: what judges this call, for as long as it lasts: a reload changes the next call's.
        degraded: what did not work and was allowed not to.
    """

    id: str
    path: str
    headers: Mapping[str, str]
    guard: Guarded
    tenant: str = ""
    model: str = ""
    streamed: bool = False
    upstream: Upstream | None = None  # the caller's own; None: the gateway's
    started: float = field(default_factory=time.monotonic)
    sent_s: float | None = None  # from the start to the first byte of the answer
    held_back: int = 0  # the most characters that waited for a ruling
    upstream_status: str = ""  # "ok", or the code of its error; empty: it was not asked
    error_code: str = ""  # of an answer that is an error
    kept: Any = None  # the hooks' own
    status: int = 200
    rulings: list[tuple[Side, Ruling]] = field(default_factory=list)
    usage: Mapping[str, Any] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    response_headers: dict[str, str] = field(default_factory=dict)  # for every answer to this call


class Hooks:
    """What happens around a request beside judging and answering. Every method may be overridden."""

    @asynccontextmanager
    async def admitted(self, call: Call) -> AsyncIterator[None]:
        """Let a call in for as long as the context lasts.

        Raises:
            Refused: no key (401), too many requests (429), too many at once (503).
        """
        yield

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Around the whole life of the server."""
        yield

    async def before(self, call: Call, body: Mapping[str, Any], characters: int) -> None:
        """The body is read and its texts have so many characters; nothing is judged yet. Raises as `admitted`.

        It is cancelled when the client goes away meanwhile.
        """
        return

    async def ruled(self, call: Call, side: Side, ruling: Ruling, text: str, ms: float) -> None:
        """A ruling, before anything that follows from it is sent. Raises ``Refused`` (503) if it must not be sent."""
        return

    async def ended(self, call: Call) -> None:
        """The call is over, or its client is gone."""
        return

    def allows(self, call: Call, model: str) -> bool:
        """Whether the caller may ask, and see, this model."""
        return True

    def knows(self, headers: Mapping[str, str]) -> bool:
        """Whether who asks with these headers may see ``/metrics`` and all of ``/health``."""
        return True

    def metrics(self) -> str:
        """The text of ``/metrics``, in Prometheus' format."""
        return ""

    def health(self) -> dict[str, Any]:
        """More for ``/health``: ``degraded`` names what does not work, beside whatever else there is to say."""
        return {}


@dataclass
class GatewayState:
    """What all requests share. ``guard`` may be replaced at any time; calls under way keep theirs."""

    guard: Guarded
    upstream: Upstream
    settings: GatewaySettings = field(default_factory=GatewaySettings)
    hooks: Hooks = field(default_factory=Hooks)
    last_upstream_error: str = ""

    def upstream_of(self, call: Call) -> Upstream:
        """The upstream of this call."""
        return call.upstream or self.upstream

    async def judge(self, call: Call, exchange: Exchange) -> Ruling:
        """The ruling on one side of a finished exchange, written down by the hooks."""
        began = time.monotonic()
        ruling = await ajudged(call.guard, exchange)
        await self.note(call, exchange.side, ruling, text_of(exchange), 1000 * (time.monotonic() - began))
        return ruling

    async def note(self, call: Call, side: Side, ruling: Ruling, text: str, ms: float) -> None:
        """Write a ruling down before anything that follows from it is sent."""
        call.rulings.append((side, ruling))
        await self.hooks.ruled(call, side, ruling, text, ms)


def text_of(exchange: Exchange) -> str:
    """What was judged, as one text."""
    return exchange.answer if exchange.answer is not None else "\n".join(part.text for part in exchange.parts)
