"""An answer of the upstream in pieces: every text is held back until no rail can change its mind, then sent on.

Each choice stands for itself, and in it the text, the reasoning and the refusal are streams of their own
(`StreamGuard`). Calls of tools are held until they are complete, judged, and sent as one piece; so are fields that
nobody knows. Log-probabilities come in step with the text that they spell, and no more after a span was replaced.

Where a choice is stopped, its last piece has ``finish_reason: content_filter`` and the refusal; where all are, the
upstream's work is ended, and the usage that a client asked for is estimated (``estimated: true``) where the upstream
has not told it yet. A stream that breaks ends with an error event: what was still held back is not sent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

from steersman.guard.gateway import blocks
from steersman.guard.gateway.answers import ALLOWED, HEAD, MEDIA, OF_CALLS, head_of, numbers_of, spelling, unread_of
from steersman.guard.gateway.chat_api import ApiRequest
from steersman.guard.gateway.json_text import JsonText, is_name
from steersman.guard.gateway.limits import estimate
from steersman.guard.gateway.state import Call, GatewayState
from steersman.guard.gateway.upstream import ACTIVATION, Reply, UpstreamError
from steersman.guard.refusals import refusal_of
from steersman.guard.spans import replacements
from steersman.guard.streaming import StreamGuard, stricter
from steersman.guard.verdict import Exchange, Part, Ruling

LANES = ("content", "text", "reasoning_content", "reasoning", "refusal")
MAIN = {"chat": "content", "completion": "text"}
REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")
NOTED_CHARACTERS = 65_536  # of an answer, for the audit log
HELD_BYTES = 4 * 2**20  # of calls and unknown fields of one answer, counted as characters
Piece = dict[str, Any]


class Relay:
    """One streamed answer, with its choices."""

    def __init__(self, state: GatewayState, call: Call, request: ApiRequest) -> None:
        self.state, self.call, self.request = state, call, request
        self.choices: dict[int, _Choice] = {}
        self.head: dict[str, Any] = {}
        self.ruling = ALLOWED  # the strictest so far
        self._others: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None

    async def events(self, reply: Reply) -> AsyncIterator[Piece]:
        """The chunks that may be sent, in order.

        Raises:
            UpstreamError: the stream broke, or what came was no stream.
        """
        assert reply.events is not None
        try:
            async for chunk in reply.events:
                for event in await self._chunk(chunk):
                    yield event
                if self.stopped:
                    break
        except UpstreamError as error:
            if error.code != "upstream_cut" or not self.choices or not all(c.ended for c in self.choices.values()):
                raise
        for choice in self.choices.values():
            if not choice.ended:
                for event in await self._pieces(choice, await choice.end("stop")):
                    yield event
        usage = self._usage or (self._estimated() if self.stopped else None)
        if self.request.include_usage and usage is not None:
            yield self._event([], **({} if self.stopped else await self._rest()), usage=usage)

    def _estimated(self) -> dict[str, Any]:
        """The usage of an answer that was stopped before the upstream could count it."""
        prompt = estimate(sum(len(part.text) for part in self.request.exchange.parts))
        answers = sum(estimate(choice.read) for choice in self.choices.values())
        counts = {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}
        return {**counts, "estimated": True}

    @property
    def stopped(self) -> bool:
        """Whether every choice was stopped."""
        return len(self.choices) >= self.request.choices and all(c.stopped for c in self.choices.values())

    async def _chunk(self, chunk: Mapping[str, Any]) -> list[Piece]:
        self.head = self.head or head_of(chunk)
        if (usage := numbers_of(chunk.get("usage"))) is not None:
            self._usage = self.call.usage = usage
        known = (*HEAD, "choices", "usage", "guardrail", "obfuscation")
        self._others |= {key: value for key, value in chunk.items() if key not in known and value}
        events = list[Piece]()
        choices = chunk.get("choices") or ()
        if not isinstance(choices, list | tuple) or not all(isinstance(choice, dict) for choice in choices):
            raise UpstreamError(502, "an event of the upstream's stream has no list of choices", "upstream_reply")
        for number, given in enumerate(choices):
            index = given["index"] if isinstance(given.get("index"), int) else number
            if not 0 <= index < self.request.choices:
                raise UpstreamError(502, "the upstream's stream has a choice that was not asked for", "upstream_reply")
            if index not in self.choices:
                self.choices[index] = _Choice(self, index)
            choice = self.choices[index]
            if not choice.ended:
                events += await self._pieces(choice, await choice.feed(given))
        return events

    async def _pieces(self, choice: _Choice, pieces: list[Piece]) -> list[Piece]:
        if not choice.ended:
            return [self._event([piece]) for piece in pieces]
        self.ruling = stricter(self.ruling, choice.ruling)
        more: dict[str, Any] = await self._rest()
        if choice.ruling.decision != "allow":
            more["guardrail"] = blocks.guardrail(choice.ruling, "output", self.state.settings.evidence)
        if self._usage is not None and not self.request.include_usage:
            more["usage"] = self._usage
        return [self._event([piece]) for piece in pieces[:-1]] + [self._event(pieces[-1:], **more)]

    async def _rest(self) -> dict[str, Any]:
        """Fields beside the choices, once they are judged; they are left out where a rail objects."""
        if not self._others:
            return {}
        others, self._others = self._others, {}
        text = JsonText(others)
        ruling = await self.state.judge(self.call, Exchange(self.request.exchange.parts, answer=text.text))
        spans = replacements(ruling, len(text.text))
        kept: dict[str, Any] = {} if spans is None else text.replaced(spans)
        return kept

    def _event(self, choices: list[Piece], **more: Any) -> Piece:
        self.head = self.head or blocks.head_of(self.request, stream=True)
        return {**self.head, "choices": choices, **more}


class _Choice:
    """One of the answers."""

    def __init__(self, relay: Relay, index: int) -> None:
        self.relay, self.index = relay, index
        self.parts: tuple[Part, ...] = relay.request.parts_of(index)
        self.kind = relay.request.kind
        self.ended = self.stopped = False
        self.ruling = ALLOWED
        self._lanes: dict[str, StreamGuard] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._held: list[Piece] = []
        self._size, self._ms = 0, 0.0
        self._sent = list[str]()  # of the text, for the audit log
        self._begun = self._role = False
        self._activation: float | None = None
        self._logprobs: list[tuple[int, dict[str, list[Any]]]] = []

    @property
    def read(self) -> int:
        """Characters of its texts that have arrived."""
        return sum(lane.read for lane in self._lanes.values())

    async def feed(self, given: Mapping[str, Any]) -> list[Piece]:
        """The pieces that may be sent after one piece of the upstream."""
        delta = given if self.kind == "completion" else given.get("delta") or {}
        if not isinstance(delta, dict):
            raise UpstreamError(502, "a piece of the upstream's stream has no delta", "upstream_reply")
        self._hold(delta)
        if isinstance(read := given.get(ACTIVATION), float):
            self._activation = read
        began, sent = time.monotonic(), dict[str, str]()
        for name in LANES:
            if isinstance(text := delta.get(name), str) and text:
                if name == MAIN[self.kind]:
                    self._note(text, given.get("logprobs"))
                if released := await self._lane(name).afeed(text):
                    sent[name] = released
                if self._lanes[name].stopped:
                    return await self._stop(self._lanes[name].ruling, 1000 * (time.monotonic() - began))
        self._ms += 1000 * (time.monotonic() - began)
        waits = sum(lane.read - lane.passed for lane in self._lanes.values())
        self.relay.call.held_back = max(self.relay.call.held_back, waits)
        pieces = self._released(sent)
        if given.get("finish_reason"):
            return pieces + await self.end(given["finish_reason"])
        return pieces

    def _lane(self, name: str) -> StreamGuard:
        if name not in self._lanes:
            before = self.relay.request.before if name == MAIN[self.kind] else ""
            self._lanes[name] = StreamGuard(self.relay.call.guard, self.parts, before=before)
        self._lanes[name].activation = self._activation
        return self._lanes[name]

    def _note(self, text: str, logprobs: Any) -> None:
        lane = self._lane(MAIN[self.kind])
        if (spelt := _lists(logprobs, text)) is not None:
            self._logprobs.append((lane.read + len(text), spelt))
        if sum(map(len, self._sent)) < NOTED_CHARACTERS:
            self._sent.append(text)

    def _released(self, sent: Mapping[str, str]) -> list[Piece]:
        """The piece with so much text, and the log-probabilities of what has passed; none without text."""
        if not sent:
            return []
        main = self._lanes.get(MAIN[self.kind])
        more: dict[str, list[Any]] = {}
        if main is not None and main.redacted:
            self._logprobs = []
        while main is not None and self._logprobs and self._logprobs[0][0] <= main.passed:
            for key, values in self._logprobs.pop(0)[1].items():
                more.setdefault(key, []).extend(values)
        self._begun = self._begun or MAIN[self.kind] in sent
        delta = {"content": sent["text"]} if "text" in sent else dict(sent)
        return [self._piece(delta, None, {"logprobs": more} if more else {})]

    def _piece(self, delta: Mapping[str, Any], finish: str | None, more: Mapping[str, Any] | None = None) -> Piece:
        role, self._role = {} if self._role else {"role": "assistant"}, True
        return blocks.piece(self.kind, self.index, {**role, **delta}, finish, **(more or {}))

    # ── what is held ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _hold(self, delta: Mapping[str, Any]) -> None:
        """Keep what is judged when it is complete: calls of tools, and fields that nobody knows."""
        known = {*LANES, "role", "tool_calls", "index", "finish_reason", "logprobs"}
        for key, value in delta.items():
            if (key in LANES and not isinstance(value, str | None)) or (key not in known and value):
                self._held.append({key: value})
            else:
                continue
            self._grow(JsonText(value).text)
        calls = delta.get("tool_calls")
        for number, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                place = call["index"] if isinstance(call.get("index"), int) else number
                _join(self._calls.setdefault(place, {"index": place}), call)
                self._grow(JsonText(call).text)

    def _grow(self, text: str) -> None:
        self._size += len(text)
        if self._size > HELD_BYTES:
            raise UpstreamError(502, "the upstream's calls of tools are too long to be judged", "upstream_too_large")

    async def end(self, reason: Any) -> list[Piece]:
        """The last pieces: the rest of the texts, complete calls, and the reason of the end."""
        began, sent = time.monotonic(), dict[str, str]()
        for name, lane in self._lanes.items():
            lane.activation = self._activation
            if released := await lane.afinish():
                sent[name] = released
            if lane.stopped:
                return await self._stop(lane.ruling, 1000 * (time.monotonic() - began))
            self.ruling = stricter(self.ruling, lane.worst)
        held = list(self._held)
        if self._calls:
            held.append({"tool_calls": [self._calls[place] for place in sorted(self._calls)]})
        unread = tuple(path for piece in held for path in unread_of(piece, f"choices[{self.index}]"))
        if held:
            text = JsonText([{k: v for k, v in piece.items() if k not in MEDIA} for piece in held], skip=OF_CALLS)
            ruling = await self._judged(text.text, unread)
            if (spans := replacements(ruling, len(text.text))) is None:
                return await self._stop(ruling, 1000 * (time.monotonic() - began), noted=True)
            self.ruling = stricter(self.ruling, ruling)
            held = [{**piece, **new} for piece, new in zip(held, text.replaced(spans), strict=True)] if spans else held
        if lines := _glued(self._held):
            glued = "\n".join(line for _, line in lines)
            ruling = await self._judged(glued)
            if (spans := replacements(ruling, len(glued))) is None:
                return await self._stop(ruling, 1000 * (time.monotonic() - began), noted=True)
            self.ruling = stricter(self.ruling, ruling)
            # Of a text that is cut into pieces nobody can say which to change: the field is left out.
            changed = {lines[glued.count("\n", 0, span.start)][0] for span in spans}
            held = [piece for piece in held if not piece.keys() & changed]
        self.ended, self._ms = True, self._ms + 1000 * (time.monotonic() - began)
        await self._write_down(self.ruling)
        if any(lane.redacted for lane in self._lanes.values()):
            held = [piece for piece in held if "token_ids" not in piece]
        finish = reason if reason in REASONS or (isinstance(reason, str) and is_name(reason)) else "stop"
        pieces = self._released(sent)
        pieces += [
            self._piece(piece, None) if self.kind == "chat" else {**self._piece({}, None), **piece} for piece in held
        ]
        return [*pieces, self._piece({}, finish)]

    async def _judged(self, text: str, unread: tuple[str, ...] = ()) -> Ruling:
        exchange = Exchange(self.parts, answer=text, unscannable=unread, activation=self._activation)
        return await self.relay.state.judge(self.relay.call, exchange)

    async def _stop(self, ruling: Ruling, ms: float, noted: bool = False) -> list[Piece]:
        """The last piece of a stopped answer."""
        self.ended = self.stopped = True
        self.ruling, self._ms = ruling, self._ms + ms
        self._held, self._calls, self._logprobs = [], {}, []
        if not noted:
            await self._write_down(ruling)
        exchange = Exchange(self.parts, answer="")
        text = refusal_of(ruling, exchange, self.relay.call.guard.constitution)
        return [blocks.blocked_piece(self.kind, self.index, text, begun=self._begun)]

    async def _write_down(self, ruling: Ruling) -> None:
        await self.relay.state.note(self.relay.call, "output", ruling, "".join(self._sent), self._ms)


def _lists(logprobs: Any, text: str) -> dict[str, list[Any]] | None:
    """The lists of a piece's log-probabilities, where their tokens spell its text; else None."""
    if not isinstance(logprobs, dict) or (spelling(logprobs) or "").strip() != text.strip():
        return None
    return {key: value for key, value in logprobs.items() if isinstance(value, list)}


def _glued(held: list[Piece]) -> list[tuple[str, str]]:
    """Texts of fields that came in more than one piece, put together: the field and one line for each name in it.

    A text is cut anywhere, also inside objects (such as `reasoning_details`): what its pieces say only together must
    be judged together.
    """
    counts = Counter(key for piece in held for key in piece)
    texts: dict[tuple[str, str], list[str]] = {}

    def walk(field: str, name: str, value: Any) -> None:
        if isinstance(value, str):
            texts.setdefault((field, name), []).append(value.replace("\n", " "))
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(field, key, inner)
        elif isinstance(value, list):
            for inner in value:
                walk(field, name, inner)

    for piece in held:
        for field, value in piece.items():
            if counts[field] > 1:
                walk(field, field, value)
    return [(field, "".join(pieces)) for (field, _), pieces in texts.items()]


def _join(call: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add a piece of a call to what has come of it: texts go on, all else is as it came last."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(call.get(key), dict):
            _join(call[key], value)
        elif key in ("name", "arguments", "input") and isinstance(call.get(key), str) and isinstance(value, str):
            call[key] += value
        elif value is not None or key not in call:
            call[key] = dict(value) if isinstance(value, dict) else value
