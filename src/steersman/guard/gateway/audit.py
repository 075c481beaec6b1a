"""The audit log: one record for each ruling, written before the answer is sent, chained to the one before.

    log = AuditLog(Path("audit.jsonl"))
    await log.record(log.entry(ruling, request="req_1", tenant="acme", model="m", side="input", text="...", ms=3.1))

A thread of its own takes all records that wait, writes them, calls fsync once, and renews the signed head
(`audit_chain.py`): a *group commit*, so that a slow disk makes answers wait together and never holds up the event loop.
A record counts only after that. What cannot be recorded is refused (`AuditFailed`: 503, and nothing is sent), or, with
``on_failure="continue"``, goes on without its record; then it is counted, `status` and the answer say so, and the next
record that can be written holds how many are lost.

Of prompts and answers the log holds an HMAC by default, keyed by the log's own key and the tenant's name: equal texts
of one tenant can be found, but nobody without the key can try a dictionary of prompts on it, as one could on a plain
digest, or on a digest with its salt stored beside it. ``texts="redacted"`` keeps the text, cut, after the rails have
taken secrets and personal data out; ``texts="none"`` keeps neither.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from steersman.errors import SteersmanError, UserError
from steersman.guard.gateway.audit_chain import Head, key_file
from steersman.guard.gateway.audit_file import AuditFailed, LogFile, Record, now
from steersman.guard.verdict import STRICTNESS, Ruling, Side

LOG = logging.getLogger("steersman.guard")
Texts = Literal["digest", "redacted", "none"]

SEGMENT_BYTES = 64 * 2**20  # a full file is put aside
BATCH = 512  # records in one commit
WAITING = 10_000  # records that may wait for the disk
PATIENCE_S = 30.0  # for the disk, which other work may keep busy
TEXT_CHARACTERS = 4000  # of one text
NAME_CHARACTERS = 200  # of what the client named: a model, a request


class AuditLog:
    """The log, held by one process.

    Args:
        path: the file that is written; its key, its signed head and its full files are beside it.
        key: the file with the key, made if the log is new; None: beside the log.
        texts: what is kept of prompts and answers.
        on_failure: what happens when a record cannot be written.
        redact: takes secrets and personal data out of a text; needed for ``texts="redacted"``.

    Raises:
        UserError: the log cannot be written, was changed, or has lost its key or its end.
        AuditFailed: another process writes it.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: Path | None = None,
        texts: Texts = "digest",
        on_failure: Literal["refuse", "continue"] = "refuse",
        redact: Callable[[str], str] | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if texts == "redacted" and redact is None:
            raise UserError("texts can be kept only where something redacts them", where="audit.texts")
        self.path, self._texts, self._on_failure, self._redact = path, texts, on_failure, redact
        self._patience_s = patience_s
        self._file = LogFile(path, key or key_file(path), segment_bytes)
        self._waiting: list[tuple[Record, Future[bool]]] = []
        self._wake, self._ending = threading.Condition(), False
        self._why, self._lost, self._unsaid = "", 0, 0
        try:
            self._file.open()
        except SteersmanError:
            self._file.release()
            raise
        except OSError as error:
            self._file.release()
            if on_failure == "refuse":
                raise UserError(
                    f"the audit log cannot be written ({_reason(error)})",
                    where=str(path),
                    do="give another file; or audit.on_failure: continue, to serve without a log",
                ) from None
            self._why = _reason(error)
        self._thread = threading.Thread(target=self._write_batches, name="audit-log", daemon=True)
        self._thread.start()

    # ── for the gateway ──────────────────────────────────────────────────────────────────────────────────────────────
    def entry(
        self,
        ruling: Ruling,
        *,
        request: str,
        tenant: str,
        model: str,
        side: Side,
        ms: float,
        text: str = "",
        degraded: Sequence[str] = (),
        **more: Any,
    ) -> Record:
        """The record of a ruling.

        Args:
            text: what was judged on this side, as one text.
            degraded: what did not work and was allowed not to, such as ``audit`` or a rail's name.
            more: further plain values, such as ``status=200`` or ``streamed=True``.
        """
        decided = ruling.verdict
        record: Record = {
            "event": "ruling",
            "request": _short(request),
            "tenant": tenant,
            "model": _short(model),
            "side": side,
            "decision": ruling.decision,
            "principle": decided.principle if decided else None,
            "rail": decided.rail if decided else None,
            "scores": {f"{v.rail}/{v.principle}": round(v.score, 6) for v in ruling.verdicts if v.score is not None},
            "views": sorted({view for found in (decided.evidence if decided else ()) for view in found.views}),
            "ms": round(ms, 3),
            "ms_by_rail": _milliseconds(ruling),
            "shadow": [
                {"rail": v.rail, "principle": v.principle, "decision": v.decision}
                for v in ruling.verdicts
                if v.rail in ruling.shadowed and STRICTNESS[v.decision] > STRICTNESS["allow"]
            ],
            "not_run": [list(item) for item in ruling.not_run],
            "failed": sorted({v.rail for v in ruling.verdicts if v.decision == "failed"}),
            "degraded": list(degraded),
            **more,
        }
        return record | self._kept_of(text, tenant)

    async def record(self, record: Mapping[str, Any]) -> bool:
        """Write a record and wait until it is on the disk.

        Returns:
            Whether it is; False only with ``on_failure="continue"``.

        Raises:
            AuditFailed: it is not.
        """
        return await self._until(asyncio.wrap_future(self._submit(dict(record))))

    async def _until(self, written: asyncio.Future[bool]) -> bool:
        try:
            async with asyncio.timeout(self._patience_s):  # wait_for of Python 3.11 can lose a cancellation
                return await written
        except TimeoutError:
            return self._given_up(f"the disk did not answer within {self._patience_s:g} seconds")

    def record_now(self, record: Mapping[str, Any]) -> bool:
        """As `record`, for callers without an event loop."""
        try:
            return self._submit(dict(record)).result(self._patience_s)
        except TimeoutError:
            return self._given_up(f"the disk did not answer within {self._patience_s:g} seconds")

    @property
    def head(self) -> Head:
        """The last record that is on the disk."""
        return self._file.head

    def status(self) -> dict[str, Any]:
        """For ``/health``: the state, the head to keep elsewhere, and how many records are lost."""
        failed = "degraded" if self._on_failure == "continue" else "failed"
        return {
            "state": failed if self._why else "ok",
            "why": self._why or None,
            "head": str(self.head),
            "lost": self._lost,
        }

    def close(self) -> Head:
        """Write what waits and sign the end; the head to keep elsewhere."""
        with self._wake:
            self._ending = True
            self._wake.notify_all()
        self._thread.join(self._patience_s)
        return self.head

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _submit(self, record: Record) -> Future[bool]:
        future: Future[bool] = Future()
        future.set_running_or_notify_cancel()  # a client that goes away takes no record with it
        record.setdefault("time", now())
        with self._wake:
            if self._ending or not self._thread.is_alive():
                raise AuditFailed("the audit log is closed")
            if len(self._waiting) < WAITING:
                self._waiting.append((record, future))
                self._wake.notify()
                return future
        self._settle([future], self._given_up, f"{WAITING} records wait for the disk")
        return future

    def _write_batches(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._ending)
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if not batch:
                break
            futures = [future for _, future in batch]
            try:
                gap = [{"event": "gap", "time": now(), "lost": self._unsaid}] if self._unsaid else []
                self._file.append([*gap, *(record for record, _ in batch)])
            except Exception as error:  # of the disk, or a record that is no JSON: no caller may wait for ever
                self._settle(futures, self._given_up, _reason(error))
            else:
                self._why, self._unsaid = "", 0
                self._settle(futures, lambda _: True, "")
        with suppress(Exception):
            self._file.close()

    def _settle(self, futures: Sequence[Future[bool]], outcome: Callable[[str], bool], why: str) -> None:
        for future in futures:
            try:
                future.set_result(outcome(why))
            except AuditFailed as error:
                future.set_exception(error)

    def _given_up(self, why: str) -> bool:
        with self._wake:
            first, self._why = not self._why, why
            self._lost, self._unsaid = self._lost + 1, self._unsaid + 1
        if first:
            LOG.warning("the audit log %s cannot be written: %s", self.path, why)
        if self._on_failure == "refuse":
            raise AuditFailed(f"the audit log cannot be written ({why})", where=str(self.path))
        return False

    def _kept_of(self, text: str, tenant: str) -> dict[str, Any]:
        if self._texts == "none" or not text:
            return {}
        kept: dict[str, Any] = {"characters": len(text), "text_hmac": self._file.digest_of(f"{tenant}\0{text}")}
        if self._texts == "redacted" and self._redact is not None:
            try:
                kept["text"] = self._redact(text[: 2 * TEXT_CHARACTERS])[:TEXT_CHARACTERS]  # no half secret at the cut
            except Exception as error:  # rather no text than one that nobody has redacted
                kept["text_left_out"] = f"redaction failed ({type(error).__name__})"
        return kept


def _reason(error: Exception) -> str:
    if isinstance(error, SteersmanError):
        return error.found
    return (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else type(error).__name__


def _short(text: str) -> str:
    return text if len(text) <= NAME_CHARACTERS else text[: NAME_CHARACTERS - 1] + "…"


def _milliseconds(ruling: Ruling) -> dict[str, float]:
    """Milliseconds of each rail; its verdicts come from one check."""
    found: dict[str, float] = {}
    for verdict in ruling.verdicts:
        found[verdict.rail] = max(found.get(verdict.rail, 0.0), round(verdict.ms, 3))
    return found
