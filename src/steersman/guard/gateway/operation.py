"""Operation: tenants, limits, the audit log, metrics and traces around every request of the gateway.

A call is let in by its key; then it takes one of the places of the house (answered at once, or waiting), then pays from
its tenant's limits. Its rulings are on the disk before anything that follows from them is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from steersman.constitution.document import GuardSettings
from steersman.guard.gateway.audit import PATIENCE_S, AuditLog, Texts
from steersman.guard.gateway.audit_file import AuditFailed
from steersman.guard.gateway.limits import Gate, Refused, Ticket, Usage, estimate
from steersman.guard.gateway.metrics import Metrics
from steersman.guard.gateway.state import Call, GatewayState, Hooks
from steersman.guard.gateway.tenants import LoadGuard, Reloader, Tenant, Tenants, load_tenants
from steersman.guard.gateway.tracing import Tracer, tracing
from steersman.guard.gateway.upstream import Upstream
from steersman.guard.normalise import views
from steersman.guard.rails.personal_data import PersonalDataRail
from steersman.guard.rails.secrets import SecretRail
from steersman.guard.spans import redacted
from steersman.guard.verdict import ANSWER, STRICTNESS, Exchange, Ruling, Side, Verdict
from steersman.types import Record

SAVE_S = 5.0  # between two looks at what is to be saved
KEY_HEADERS = ("authorization", "api-key", "x-api-key")
UNKNOWN = "unknown"  # the tenant of a call that was not let in, in metrics

MakeUpstream = Callable[[str, str | None], Upstream]  # from an address, and the variable with its key


class OperationSettings(Record):
    """How the gateway is operated."""

    tenants: Path | None = Field(default=None, description="File of tenants; without it, this machine alone may ask.")
    usage: Path | None = Field(default=None, description="File that keeps the budgets used over a restart.")
    audit: Path | None = Field(default=None, description="File of the audit log; without it, nothing is written down.")
    audit_key: Path | None = Field(default=None, description="File with the log's key; beside the log if left out.")
    audit_texts: Texts = Field(default="digest", description="What the log keeps of texts: digest, redacted or none.")
    audit_on_failure: Literal["refuse", "continue"] = Field(
        default="refuse", description="When a record cannot be written: refuse (503), or continue without it."
    )
    audit_wait_s: float = Field(default=PATIENCE_S, gt=0, description="For the disk, before that is a failure.")
    at_once: int = Field(default=64, ge=1, description="Requests that are answered at once.")
    waiting: int = Field(default=128, ge=0, description="Requests that may wait for a place; more get 429.")
    wait_s: float = Field(default=30.0, gt=0, description="For a place; then 503.")
    traces: str | None = Field(default=None, description="Address that OpenTelemetry traces go to.")


@dataclass
class _Stay:
    """What a call holds while it is in the house."""

    tenant: Tenant | None = None
    key: str = ""
    ticket: Ticket | None = None
    place: bool = False
    characters: int = 0  # of prompt and answer
    asked: bool = False  # the upstream may have worked for it
    span: Any = None
    spans: contextlib.ExitStack | None = None


def _stay(call: Call) -> _Stay:
    return call.kept if isinstance(call.kept, _Stay) else _Stay()


class Operation(Hooks):
    """The hooks of a gateway in operation.

    Args:
        guard: of the single tenant where there is no file of tenants.
        load: makes a tenant's guard.
        make_upstream: makes the upstream of a tenant that has its own.

    Raises:
        UserError: a file of the settings is wrong.
    """

    def __init__(
        self,
        settings: OperationSettings,
        guard: Any,
        *,
        load: LoadGuard,
        make_upstream: MakeUpstream | None = None,
    ) -> None:
        self.settings, self._load, self._make_upstream = settings, load, make_upstream
        self.usage = Usage(settings.usage)
        first = Tenants.single(guard, self.usage) if settings.tenants is None else self._tenants(None)
        self.reloader = Reloader(first, self._tenants, on_change=self._changed)
        self.gate = Gate(settings.at_once, settings.waiting, settings.wait_s)
        self.tracer: Tracer = tracing(settings.traces)
        self.count = Metrics()
        self._inside = 0
        self._upstreams: dict[tuple[str, str | None], Upstream] = {}
        self.state: GatewayState | None = None
        self.log: AuditLog | None = None
        if settings.audit is not None:
            self.log = AuditLog(
                settings.audit,
                key=settings.audit_key,
                texts=settings.audit_texts,
                on_failure=settings.audit_on_failure,
                redact=redacted_text,
                patience_s=settings.audit_wait_s,
            )
        self._gauges()

    def _tenants(self, before: Tenants | None) -> Tenants:
        assert self.settings.tenants is not None
        return load_tenants(self.settings.tenants, self.usage, guard=self._load, before=before)

    def _gauges(self) -> None:
        add = partial(self.count.gauge)
        add("steersman_guard_inside", "Requests that are answered or wait.", lambda: self._inside)
        add("steersman_guard_waiting", "Requests that wait for a place.", lambda: self.gate.waiting)
        add("steersman_guard_config_wrong", "1: changed files cannot be loaded.", lambda: bool(self.reloader.problem))
        add("steersman_guard_audit_lost", "Records that could not be written.", lambda: self._audit()["lost"])
        if log := self.log:
            add("steersman_guard_audit_seq", "Number of the log's last record.", lambda: log.head.seq)

    @property
    def first_guard(self) -> Any:
        """The guard of the first tenant, which ``/health`` describes."""
        return self.reloader.now.tenants[0].guard

    # ── the life of the server ───────────────────────────────────────────────────────────────────────────────────────
    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `Hooks`. SIGHUP loads the tenants' file at once."""
        loop, tasks = asyncio.get_running_loop(), [asyncio.create_task(self._save_now_and_then())]
        if self.settings.tenants is not None:
            tasks.append(asyncio.create_task(self.reloader.watch()))
            with suppress(NotImplementedError, RuntimeError, ValueError):  # no main thread, or no such signal
                loop.add_signal_handler(signal.SIGHUP, self.reloader.soon)
        try:
            yield
        finally:
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(signal.SIGHUP)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for upstream in self._upstreams.values():
                await upstream.close()
            await asyncio.to_thread(self.close)

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await asyncio.to_thread(self.usage.save)

    def close(self) -> None:
        """Write down what is to be kept."""
        self.usage.save()
        self.tracer.close()
        if self.log is not None:
            self.log.close()

    def _changed(self, problem: str) -> None:
        if self.state is not None:
            self.state.guard = self.first_guard
        self.count.reloads.add(outcome="failed" if problem else "loaded")

    # ── one call ─────────────────────────────────────────────────────────────────────────────────────────────────────
    @asynccontextmanager
    async def admitted(self, call: Call) -> AsyncIterator[None]:
        """See `Hooks`."""
        stay = call.kept = _Stay()
        now = self.reloader.now  # for the whole call, whatever is loaded meanwhile
        stay.tenant, stay.key = now.of(key_of(call.headers))
        if now.needs_keys:  # the gateway's keys are no business of the upstream
            call.headers = {name: value for name, value in call.headers.items() if name not in KEY_HEADERS}
        call.tenant, call.guard = stay.tenant.name, stay.tenant.guard
        call.upstream = self._upstream_of(stay.tenant)
        house = self.settings.at_once + self.settings.waiting
        if self._inside >= house:  # before its body is read: so many bodies at most are in memory
            raise Refused(429, "queue_full", f"{self._inside} requests are here already", retry_after_s=1)
        self._inside += 1
        stay.spans = contextlib.ExitStack()
        try:
            with stay.spans:
                stay.span = stay.spans.enter_context(self.tracer.span("guard.request", tenant=call.tenant))
                yield
        finally:
            self._inside -= 1

    def _upstream_of(self, tenant: Tenant) -> Upstream | None:
        """The tenant's own upstream, made when it is first asked; its connections are shared from then on."""
        if tenant.upstream is None or self._make_upstream is None:
            return None
        which = (tenant.upstream, tenant.upstream_key_env)
        if which not in self._upstreams:
            self._upstreams[which] = self._make_upstream(*which)
        return self._upstreams[which]

    async def before(self, call: Call, body: Mapping[str, Any], characters: int) -> None:
        """See `Hooks`."""
        stay = _stay(call)
        assert stay.tenant is not None
        if call.model and not stay.tenant.allows(call.model):
            raise Refused(404, "model_not_found", "there is no model of that name for this key")
        stay.characters = characters
        stay.ticket = stay.tenant.limiter.admit(stay.key, tokens=estimate(characters, _most_tokens(body)))
        await self.gate.enter()
        stay.place = True

    async def ruled(self, call: Call, side: Side, ruling: Ruling, text: str, ms: float) -> None:
        """See `Hooks`."""
        stay = _stay(call)
        stay.asked = stay.asked or side == "output"
        stay.characters += len(text) if side == "output" else 0
        self._count(call, side, ruling, ms)
        if self.log is None:
            return
        make = partial(
            self.log.entry,
            ruling,
            request=call.id,
            tenant=call.tenant,
            model=call.model,
            side=side,
            ms=ms,
            text=text,
            degraded=[*call.degraded, *getattr(call.guard, "degraded", {})],
            path=call.path,
            streamed=call.streamed,
        )
        try:
            # Rails read the text once more to redact it: not in the event loop.
            record = await asyncio.to_thread(make) if self.settings.audit_texts == "redacted" else make()
            written = await self.log.record(record)
        except AuditFailed as error:
            self.count.audit_records.add(outcome="refused")
            raise Refused(503, "audit_unavailable", error.found, retry_after_s=1) from None
        self.count.audit_records.add(outcome="written" if written else "lost")
        if not written and "audit" not in call.degraded:
            call.degraded.append("audit")
            call.response_headers["x-guard-degraded"] = ", ".join(call.degraded)
            self.count.degraded.add(what="audit")

    def _count(self, call: Call, side: Side, ruling: Ruling, ms: float) -> None:
        tenant, decided = call.tenant, ruling.verdict
        self.count.rulings.add(
            tenant=tenant,
            side=side,
            decision=ruling.decision,
            principle=decided.principle if decided else "",
            rail=decided.rail if decided else "",
        )
        self.count.ruling_ms.observe(ms, side=side)
        for rail, spent in {verdict.rail: verdict.ms for verdict in ruling.verdicts}.items():
            self.count.rail_ms.observe(spent, rail=rail)
        for verdict in ruling.verdicts:
            if verdict.decision == "failed":
                self.count.failures.add(rail=verdict.rail)
            if verdict.rail in ruling.shadowed and STRICTNESS[verdict.decision] > STRICTNESS["allow"]:
                self.count.shadow.add(
                    tenant=tenant,
                    side=side,
                    decision=verdict.decision,
                    principle=verdict.principle,
                    rail=verdict.rail,
                )
        with self.tracer.span(f"guard.{side}", decision=ruling.decision, milliseconds=ms) as span:
            if decided:
                span.set(principle=decided.principle, rail=decided.rail)

    async def ended(self, call: Call) -> None:
        """See `Hooks`. Nothing here waits: it also runs when the call's task is cancelled."""
        stay = _stay(call)
        if stay.place:
            self.gate.leave()
        if stay.ticket is not None:
            total = call.usage.get("total_tokens")
            known = total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None
            used = known if known is not None else estimate(stay.characters) if stay.asked else 0
            stay.ticket.settle(used)
            self.count.tokens.add(used, tenant=call.tenant)
        tenant = call.tenant or UNKNOWN
        self.count.requests.add(tenant=tenant, path=call.path, status=call.status)
        if call.upstream_status:
            self.count.upstream.add(status=call.upstream_status)
        if call.status in (401, 429) or (call.status == 503 and not call.upstream_status):
            self.count.refused.add(tenant=tenant, status=call.status, code=call.error_code)
        self.count.request_s.observe(time.monotonic() - call.started, streamed=call.streamed)
        if call.streamed and call.sent_s is not None:
            self.count.first_token_s.observe(call.sent_s)
            self.count.held_back.observe(call.held_back)

    # ── what operators see ───────────────────────────────────────────────────────────────────────────────────────────
    def allows(self, call: Call, model: str) -> bool:
        """See `Hooks`."""
        tenant = _stay(call).tenant
        return tenant is None or tenant.allows(model)

    def knows(self, headers: Mapping[str, str]) -> bool:
        """See `Hooks`."""
        try:
            self.reloader.now.of(key_of(headers))
        except Refused:
            return False
        return True

    def metrics(self) -> str:
        """See `Hooks`."""
        return self.count.text()

    def _audit(self) -> dict[str, Any]:
        return {"state": "off", "lost": 0} if self.log is None else self.log.status()

    def health(self) -> dict[str, Any]:
        """See `Hooks`."""
        audit = self._audit()
        degraded = ["audit"] if audit["state"] in ("failed", "degraded") else []
        degraded += ["configuration"] if self.reloader.problem else []
        return {
            "degraded": degraded,
            "audit": audit,
            "configuration": {"reloads": self.reloader.reloads, "problem": self.reloader.problem or None},
            "load": {"inside": self._inside, "answered": self.gate.active, "waiting": self.gate.waiting},
            **({"ready": False} if audit["state"] == "failed" else {}),
        }


def redacted_text(text: str) -> str:
    """A text for the audit log, without the secrets and the personal data that the rails find, in any of its views.

    Raises:
        ValueError: it could not be read to its end, or a rail did not say where something is.
    """
    settings = GuardSettings(secrets="redact", personal_data="redact")
    seen = views(text)
    if seen.unread:
        raise ValueError("there is more in the text than could be read")
    exchange, found = Exchange((), answer=text), list[Verdict]()
    for rail in (SecretRail(settings), PersonalDataRail(settings)):
        found += rail.check(exchange, {ANSWER: seen})
    shown = redacted(text, Ruling("redact", None, tuple(found)))
    if shown is None:
        raise ValueError("a rail does not say where it found something")
    return shown


def key_of(headers: Mapping[str, str]) -> str | None:
    """The key of a request: ``Authorization: Bearer``, or the headers of other dialects."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("api-key") or headers.get("x-api-key")


def _most_tokens(body: Mapping[str, Any]) -> int:
    """The bound of the answer's tokens that a request names, over all its answers; 0 without one."""
    found = next((body[key] for key in ("max_completion_tokens", "max_tokens") if key in body), 0)
    n = body.get("n", 1)
    fine = all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in (found, n))
    return min(found * n, 10**9) if fine else 0


def with_operation(state: GatewayState, operation: Operation) -> GatewayState:
    """The state of a gateway that is operated so."""
    operation.state = state
    state.hooks, state.guard = operation, operation.first_guard
    return state
