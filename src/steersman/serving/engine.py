"""Continuous batching across requests: one thread owns the models, and clients come and go between two tokens.

Every turn of the loop, in this order:

    1  receive     new jobs; cancelled ones are forgotten
    2  read        at most ``prefill_tokens`` tokens of waiting prompts, so that a long prompt delays the others' next
                   token by a bounded time; the oldest prompt and the shortest take turns, so that neither starves
    3  decode      one token for every running sequence, model by model: each model has a batch of its own, and they
                   take turns token by token

A prompt that begins like an earlier one is read from there on (`prefix_cache`). The sequences of a request have random
streams of their own, so that what is drawn does not depend on who else is served; logits do, by rounding alone.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field

from steersman.lm.fast_paths import fast_paths
from steersman.lm.frozen_trunk import blocks_of
from steersman.lm.sampling import Batch, prefill
from steersman.lm.uncached import UncachedBatch
from steersman.serving.draws import draw_each
from steersman.serving.models import Served
from steersman.serving.prefix_cache import Beginning, PrefixCache, extend
from steersman.serving.probing import Probe, Watcher
from steersman.serving.sequences import Continuation, Delta, Failure, Ticket
from steersman.serving.slots import Slots
from steersman.types import Record

IDLE_S = 0.5  # between two looks for cancelled jobs when nothing is computed


class EngineConfig(Record):
    """What the engine may use."""

    rows: int = Field(default=32, ge=1, description="Sequences that are decoded at once.")
    queue: int = Field(default=128, ge=1, description="Sequences that may wait; what comes beyond gets 429.")
    prefill_tokens: int = Field(default=256, ge=16, description="Tokens of prompts that are read between two steps.")
    context: int = Field(default=4096, ge=32, description="Most tokens of a prompt with its answer.")
    cache_gb: float = Field(default=4.0, gt=0, description="Memory for keys and values of running sequences, in GB.")
    prefix_tokens: int = Field(default=16384, ge=0, description="Tokens of earlier prompts that are kept; 0: none.")


class QueueFull(Exception):
    """More sequences wait than may."""


class Closed(Exception):
    """The engine has ended."""


@dataclass
class Counters:
    """What was done so far."""

    prompt_tokens: int = 0
    reused_tokens: int = 0  # of prompts, found in the prefix cache
    sampled_tokens: int = 0
    steps: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(eq=False)
class Lane:
    """A model with its batch."""

    served: Served
    prefixes: PrefixCache
    probe: Probe | None = None
    batch: Any = None  # Slots, or an UncachedBatch
    cached: bool = True  # whether the model allows a KV cache

    @property
    def running(self) -> list[Continuation]:
        """The sequences that are being decoded."""
        return [] if self.batch is None else [row for row in self.batch.rows if not row.finished]


@dataclass(eq=False)
class Waiting:
    """A sequence whose prompt is not read yet, or in part."""

    lane: Lane
    row: Continuation
    read: Beginning | None = None
    begun: bool = False  # whether ``read`` is its own: until then a better beginning may turn up
    looked: int = 0  # at which version of the prefix cache

    @property
    def ids(self) -> Sequence[int]:
        """Of the whole prompt."""
        return self.row.job.ids

    @property
    def done(self) -> int:
        """Tokens that are read."""
        return self.read.length if self.read else 0

    @property
    def rest(self) -> int:
        """Tokens to be read."""
        return len(self.ids) - self.done


@dataclass
class Engine:
    """Owns the models. `start` it, `submit` jobs, `close` it.

    Args:
        probes: by the name of the model that they read. Where there is one, a token's text is told once its own
            activations are read: one step later than without.
    """

    models: Mapping[str, Served]
    config: EngineConfig = field(default_factory=EngineConfig)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._lock, self._queued, self._closing = threading.Lock(), 0, False
        self._waiting: list[Waiting] = []
        own: dict[Any, Lane] = {}
        probes = {self.models[name].key: probe for name, probe in self.probes.items()}
        for model in self.models.values():
            if model.key not in own:
                own[model.key] = self._lane(model, probes.get(model.key))
        self._lane_of = {name: own[model.key] for name, model in self.models.items()}
        self._lanes = list(own.values())
        self._in_use: tuple[Lane, ExitStack] | None = None
        self._bytes_per_token, self._turn = 0, 0
        self._thread = threading.Thread(target=self._run, name="steersman-engine", daemon=True)
        self._watcher: Watcher | None = None

    def _lane(self, served: Served, probe: Probe | None) -> Lane:
        with served.in_use():
            cached = fast_paths(served.sampler.model).kv_cache
        if probe is not None and not cached:
            print(f"note: {served.name} is decoded without a KV cache, and no probe reads along", file=sys.stderr)
            probe = None
        return Lane(served, PrefixCache(self.config.prefix_tokens), probe, cached=cached)

    def start(self) -> Engine:
        """Start the engine's thread."""
        self._thread.start()
        return self

    # ── for other threads ────────────────────────────────────────────────────────────────────────────────────────────
    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Queue the sequences of one request: all of them, or none.

        Raises:
            QueueFull: too many wait.
            Closed: the engine has ended.
        """
        with self._lock:
            if self._closing:
                raise Closed
            if self._queued and self._queued + len(tickets) > self.config.queue:
                raise QueueFull
            self._queued += len(tickets)
            for ticket in tickets:
                self._inbox.put(ticket)

    def context(self, model: str) -> int:
        """The most tokens of a prompt with its answer."""
        return min(self.config.context, self.models[model].positions or self.config.context)

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive() and not self._closing

    @property
    def queued(self) -> int:
        """Sequences that wait."""
        return self._queued

    @property
    def running(self) -> int:
        """Sequences that are being decoded."""
        return sum(len(lane.running) for lane in self._lanes)

    def close(self, timeout_s: float = 30.0) -> None:
        """End the thread; what still runs fails."""
        with self._lock:
            self._closing = True
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # ── the engine's thread ──────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.inference_mode())
                for int8 in {id(m.sampler.int8): m.sampler.int8 for m in self.models.values()}.values():
                    if int8 is not None:
                        stack.enter_context(int8.in_use())
                while self._receive():
                    self._read_some()
                    for lane in self._lanes:
                        self._step(lane)
        finally:
            with self._lock:
                self._closing = True
            if self._in_use is not None:
                self._in_use[1].close()
            self._receive()
            rows = [waiting.row for waiting in self._waiting]
            self._fail([*rows, *(row for lane in self._lanes for row in lane.running)], "the server is ending")

    def _receive(self) -> bool:
        """Take what has come in, and forget what was cancelled; False at the end."""
        self._waiting, gone = _split(self._waiting)
        self._forget(len(gone))
        block = not self._waiting and not any(lane.batch for lane in self._lanes)
        while True:
            try:
                ticket = self._inbox.get(block and not self._closing, IDLE_S)
            except queue.Empty:
                return not self._closing
            block = False
            if ticket is not None:
                lane = self._lane_of[ticket.job.model]
                self._waiting.append(Waiting(lane, Continuation(ticket, lane.served.chat, lane.probe)))

    def _forget(self, count: int) -> None:
        with self._lock:
            self._queued -= count
        self.counters.cancelled += count

    def _use(self, lane: Lane) -> None:
        """Make a lane's model the one that forward passes go through."""
        if self._in_use is not None:
            if self._in_use[0] is lane:
                return
            self._in_use[1].close()
        stack = ExitStack()
        stack.enter_context(lane.served.in_use())
        self._in_use = lane, stack
        self._watcher = None
        if lane.probe is not None:
            self._watcher = Watcher(lane.probe, blocks_of(lane.served.sampler.model)[lane.probe.layer])
            stack.callback(self._watcher.close)

    # ── reading prompts ──────────────────────────────────────────────────────────────────────────────────────────────
    def _read_some(self) -> None:
        group = self._next()
        if not group:
            return
        began, first = time.perf_counter(), group[0]
        lane, budget = first.lane, self.config.prefill_tokens
        self._use(lane)
        try:
            if first.rest > budget and lane.cached:
                first.read, first.begun = self._extend(first, budget), True
            else:
                self._admit(lane, group)
        except Exception as error:
            self._drop(group)
            self._fail([waiting.row for waiting in group], _said(error))
        self.counters.prefill_s += time.perf_counter() - began

    def _next(self) -> list[Waiting]:
        """Prompts to be read now, in one pass: alike up to the same place, and within the budget."""
        if not self._waiting or not self._room([self._waiting[0]]):
            return []  # the oldest waits for room, and nobody overtakes it meanwhile
        self._turn += 1
        for waiting in self._waiting:
            prefixes = waiting.lane.prefixes
            if not waiting.begun and waiting.lane.cached and waiting.looked != prefixes.version:
                waiting.read, waiting.looked = prefixes.find(waiting.ids), prefixes.version
        first = self._waiting[0] if self._turn % 2 else min(self._waiting, key=lambda waiting: waiting.rest)
        group, prompts, width = [first], {tuple(first.ids)}, first.rest
        for other in self._waiting:
            if other is first or other.lane is not first.lane or _key(other) != _key(first):
                continue
            count, wider = len(prompts | {tuple(other.ids)}), max(width, other.rest)
            if (count > len(prompts) and count * wider > self.config.prefill_tokens) or first.begun:
                continue
            if not self._room([*group, other]):
                break
            group.append(other)
            prompts.add(tuple(other.ids))
            width = wider
        return group if self._room(group) else []

    def _room(self, group: Sequence[Waiting]) -> bool:
        """Whether these can be decoded beside what runs, to the end of all of them."""
        running = [row for lane in self._lanes for row in lane.running]
        if not running and len(group) == 1:
            return True
        unknown = group[0].lane.cached and not self._bytes_per_token  # the first prompt of all is read alone
        if unknown or len(running) + len(group) > self.config.rows:
            return False
        needed = 0
        for lane in self._lanes:
            rows = lane.running + [waiting.row for waiting in group if waiting.lane is lane]
            needed += len(rows) * max((row.job.longest for row in rows), default=0)
        return needed * self._bytes_per_token <= self.config.cache_gb * 1e9

    def _extend(self, waiting: Waiting, count: int) -> Beginning:
        """Read the next tokens of one long prompt."""
        before = waiting.read
        ids = waiting.ids[waiting.done : waiting.done + count]
        if not waiting.begun:
            self.counters.reused_tokens += waiting.done
        return extend(waiting.lane.served.sampler.model, before, ids)

    def _admit(self, lane: Lane, group: Sequence[Waiting]) -> None:
        """Read the rest of some prompts, and decode their sequences from now on."""
        sampler, start = lane.served.sampler, group[0].read
        done = start.length if start else 0
        rows: list[Any] = [waiting.row for waiting in group]
        for waiting in group:
            waiting.row.prompt = list(waiting.ids[done:])
            self.counters.prompt_tokens += len(waiting.ids)
            self.counters.reused_tokens += 0 if waiting.begun else done
        if lane.cached:
            read = prefill(sampler, rows, start.cache if start else None, done)
            new: Any = Slots(read.rows, read.cache, read.mask, read.hidden)
            self._bytes_per_token = self._bytes_per_token or _bytes_per_token(read)
            self._keep(lane, group, read, done)
        else:
            new = UncachedBatch.read(sampler.model, rows, [], sampler.chat.tokenizer.pad_token_id or 0)
        self._drop(group)
        lane.batch = new if lane.batch is None else lane.batch.admit(new)

    def _keep(self, lane: Lane, group: Sequence[Waiting], read: Batch, done: int) -> None:
        """Keep the prompts for those that begin alike."""
        for place, waiting in enumerate(group):
            if lane.prefixes.wants(waiting.ids, 0 if waiting.begun else done):
                length = len(waiting.ids)
                kept = Beginning(read.cache.row(place, length), length)
                lane.prefixes.keep(waiting.ids, kept)

    def _drop(self, group: Sequence[Waiting]) -> None:
        """These wait no longer."""
        leaving = set(map(id, group))
        before = len(self._waiting)
        self._waiting = [waiting for waiting in self._waiting if id(waiting) not in leaving]
        with self._lock:
            self._queued -= before - len(self._waiting)

    # ── decoding ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _step(self, lane: Lane) -> None:
        """One token for every sequence of a lane."""
        if lane.batch is None:
            return
        began = time.perf_counter()
        self._use(lane)
        told: list[tuple[Continuation, Delta]] = []
        try:
            told = self._sample(lane)
            if lane.probe is None:  # else the text waits for the score of its last token
                self._tell_all(told)
                told = []
            self._decode(lane, told)
            self._tell_all(told)
        except Exception as error:
            rows, lane.batch = lane.running, None
            self._fail(rows, _said(error))
        self.counters.steps += 1
        self.counters.decode_s += time.perf_counter() - began

    def _sample(self, lane: Lane) -> list[tuple[Continuation, Delta]]:
        """Draw a token for each sequence; what the clients are to be told."""
        for row in lane.running:
            if row.ticket.cancelled.is_set():
                row.finished = True
                self.counters.cancelled += 1
        places = [i for i, row in enumerate(lane.batch.rows) if not row.finished]
        if not places:
            return []
        rows = [lane.batch.rows[i] for i in places]
        hidden = lane.batch.hidden if len(places) == len(lane.batch.rows) else lane.batch.hidden[places]
        logits = lane.served.head_in_use().logits(hidden).float()
        if not bool(torch.isfinite(logits.amax(-1)).all()):
            raise ArithmeticError("the model computed something that is no number")
        drawn = draw_each(rows, logits, lane.served.vocabulary)
        self.counters.sampled_tokens += len(rows)
        deltas = [(row, row.advance(*token)) for row, token in zip(rows, drawn, strict=True)]
        return [(row, delta) for row, delta in deltas if delta is not None]

    def _decode(self, lane: Lane, untold: Sequence[tuple[Continuation, Delta]]) -> None:
        """Evict finished sequences, and read the new tokens of the others; of ``untold`` ones the last token too."""
        ended = {id(row) for row, delta in untold if delta.finish == "stop"}  # by a token without a text
        if not lane.running:
            lane.batch = None
        if all(id(row) in ended for row in lane.running):
            return
        if isinstance(lane.batch, Slots):
            lane.batch.tidy()
        else:
            lane.batch.evict([i for i, row in enumerate(lane.batch.rows) if not row.finished])
        model, rows = lane.served.sampler.model, lane.batch.rows
        lane.batch.decode(model, torch.tensor([row.tokens[-1] for row in rows], device=model.device))
        if self._watcher is not None and lane.cached:
            for row, score in zip(rows, self._watcher.take(), strict=True):
                if not row.finished and id(row) not in ended:
                    row.judge(score)

    # ── telling clients ──────────────────────────────────────────────────────────────────────────────────────────────
    def _tell_all(self, told: Sequence[tuple[Continuation, Delta]]) -> None:
        for row, delta in told:
            row.finished = delta.finish is not None
            self.counters.finished += row.finished
            self._tell(row, delta._replace(score=row.score))

    def _tell(self, row: Continuation, told: Delta | Failure) -> None:
        try:
            row.ticket.deliver(told)
        except Exception:  # nobody listens any more
            row.ticket.cancelled.set()

    def _fail(self, rows: Sequence[Continuation], message: str) -> None:
        for row in rows:
            row.finished = True
            self.counters.failed += 1
            self._tell(row, Failure(row.job.index, message))


def _split(waiting: Sequence[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """Those that are still wanted, and those that were cancelled."""
    kept = [one for one in waiting if not one.row.ticket.cancelled.is_set()]
    return kept, [one for one in waiting if one.row.ticket.cancelled.is_set()]


def _key(waiting: Waiting) -> tuple[int, int]:
    return waiting.read.key if waiting.read else (0, 0)


def _bytes_per_token(batch: Batch) -> int:
    """Memory of one sequence's keys and values for one token."""
    return sum(
        int(x.shape[1] * x.shape[3] * x.element_size())
        for layer in batch.cache.layers
        for x in (layer.keys, layer.values)
    )


def _said(error: Exception) -> str:
    """One line for the client; the rest on standard error."""
    print(f"serving: {type(error).__name__}: {str(error)[:500]}", file=sys.stderr)
    return f"the engine failed ({type(error).__name__})"
