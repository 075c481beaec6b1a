"""The guard: every rail over an exchange, each under its deadline, and one ruling from what they say.

It fails closed. A rail that raises, hangs, runs out of memory or recursion, or says what is no verdict is `failed`, and
`failed` blocks, unless that rail is in shadow mode. So does a text whose views could not all be made.

    guard = Guard.from_constitution(load("assistant"))
    ruling = guard.check(Exchange((Part("messages[0].content", "user", "..."),)))
    if ruling.stops: ...

Threads may share a guard. In an event loop, `acheck` waits without blocking it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from steersman.constitution.document import Constitution
from steersman.guard import normalise
from steersman.guard.cache import TextCache
from steersman.guard.lexicon import WORD
from steersman.guard.normalise import Views
from steersman.guard.rails.judge import JudgeRail
from steersman.guard.rails.patterns import AllowedWords, PatternRail
from steersman.guard.rails.personal_data import PersonalDataRail
from steersman.guard.rails.secrets import SecretRail
from steersman.guard.verdict import ANSWER, STRICTNESS, Decision, Exchange, Part, Rail, Ruling, Verdict
from steersman.guard.workers import Job, Outcome, Workers
from steersman.types import Record

SEVERITY = {"low": 0, "medium": 1, "high": 2, "critical": 3}
WARM_MS = 600_000.0
SAMPLE = "How do I boil an egg? SG93IGRvIEkgYm9pbCBhbiBlZ2c/ H0w d0 1 bo1l \u0430n e\u200bgg, ggE na liob I od woH?"
UNSCANNABLE = "unscannable"  # in the place of a principle, where nothing can be said of one


class Limits(Record):
    """How long the guard waits, and how much it remembers."""

    rail_ms: float = Field(default=1000.0, gt=0, description="Processor time of one rail at most, in milliseconds.")
    ms_per_1000_characters: float = Field(default=20.0, ge=0, description="Added to it for what is to be read.")
    by_clock: float = Field(default=10.0, ge=1, description="A rail may take so many times as long by the clock.")
    judge_ms: float = Field(default=10_000.0, gt=0, description="Deadline of the judge, by the clock.")
    queue_ms: float = Field(default=30_000.0, gt=0, description="A call waits at most so long for a thread.")
    threads: int = Field(default=4, ge=1, description="Calls of rails at once.")
    hung: int = Field(default=4, ge=1, description="Calls of one rail that may hang before it is called no more.")
    cached_characters: int = Field(default=1_000_000, ge=0, description="Of texts whose views are remembered.")


class Guard:
    """A constitution's rails. Use `from_constitution` or `load`.

    Args:
        constitution: whose priorities and severities settle a tie, and whose settings hold for what is no principle.
        rails: asked about every exchange.
        judge: asked about what they escalate; None: an escalated text passes, and the ruling says so.
        shadow: names of rails that only log.
        off: names of rails that are not asked, with the reason.
    """

    def __init__(
        self,
        constitution: Constitution,
        rails: Sequence[Rail],
        *,
        judge: JudgeRail | None = None,
        shadow: Collection[str] = (),
        off: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.constitution, self.limits = constitution, limits or Limits()
        self.off = dict(off or {})
        self.rails = tuple(rail for rail in rails if rail.name not in self.off)
        self.judge = None if "judge" in self.off else judge
        self.shadow = frozenset(shadow)
        self._own = _own_words(constitution)
        self._allowed = AllowedWords(constitution.guard.allowed)
        self._views: TextCache[Views] = TextCache(self.limits.cached_characters)
        self._workers = Workers(self.limits.threads, self.limits.hung, self.limits.queue_ms / 1000)
        weakref.finalize(self, self._workers.close)

    @classmethod
    def from_constitution(
        cls,
        constitution: Constitution,
        *,
        classifier: Path | None = None,
        base: Path | None = None,
        policy: Path | None = None,
        judge: JudgeRail | None = None,
        rails: Sequence[Rail] = (),
        shadow: Collection[str] = (),
        off: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> Guard:
        """The guard that a constitution describes.

        Args:
            classifier: folder of a trained guard; None: words, patterns, secrets and personal data alone.
            base, policy: the model whose activations its probe reads, if it is elsewhere than at training.
            rails: further ones.

        Raises:
            ConstitutionError: a pattern of the constitution cannot be enforced.
            ModelError: the folder holds no guard, or that of another constitution.
        """
        own: list[Rail] = [
            PatternRail(constitution),
            SecretRail(constitution.guard),
            PersonalDataRail(constitution.guard),
        ]
        away = dict(off or {})
        if classifier is not None:
            rail = import_module("steersman.guard.rails.classifier").ClassifierRail  # brings numpy
            own.append(rail.load(classifier, constitution, base=base, policy=policy))
        else:
            away.setdefault("classifier", "this guard has no trained classifier")
        return cls(constitution, [*own, *rails], judge=judge, shadow=shadow, off=away, limits=limits)

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Guard:
        """A trained guard from its folder; ``settings`` as of `from_constitution`.

        Raises:
            ModelError: the folder holds no guard, or a damaged one.
        """
        of_folder = import_module("steersman.guard.rails.classifier").constitution_of
        return cls.from_constitution(of_folder(folder), classifier=folder, **settings)

    # ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def check(self, exchange: Exchange, shadow: Collection[str] = ()) -> Ruling:
        """What to do with one side of an exchange. ``shadow``: further rails that only log, this time."""
        steps = self._steps(exchange, self.shadow | set(shadow))
        try:
            jobs = next(steps)
            while True:
                jobs = steps.send([self._workers.wait(job) for job in jobs])
        except StopIteration as end:
            ruling: Ruling = end.value
            return ruling

    async def acheck(self, exchange: Exchange, shadow: Collection[str] = ()) -> Ruling:
        """`check` without blocking the event loop."""
        steps = self._steps(exchange, self.shadow | set(shadow))
        try:
            jobs = next(steps)
            while True:
                jobs = steps.send([await self._workers.wait_async(job) for job in jobs])
        except StopIteration as end:
            ruling: Ruling = end.value
            return ruling

    def warm(self) -> Ruling:
        """Load what is loaded when it is first used, such as the decoders' tables, before a request has to wait for it.

        There are no deadlines. The `failed` verdicts of the ruling, on a text about eggs, say what does not work.
        """
        patient = self.limits.model_copy(update={"rail_ms": WARM_MS, "queue_ms": WARM_MS})
        with closing(Guard(self.constitution, self.rails, shadow=self.shadow, limits=patient)) as guard:
            return guard.check(Exchange((Part("messages[0].content", "user", SAMPLE),), answer=SAMPLE))

    @property
    def reach(self) -> int | None:
        """Characters of an answer that streaming holds back; None: a rail judges finished answers only.

        Rails in shadow mode hold nothing back, and the judge holds back what is escalated to it, no more.
        """
        reaches = [rail.reach for rail in self.rails if rail.name not in self.shadow]
        known = [reach for reach in reaches if reach is not None]
        return max(known, default=0) if len(known) == len(reaches) else None

    @property
    def degraded(self) -> dict[str, int]:
        """Rails with calls that hang now, and how many."""
        return self._workers.hung

    def close(self) -> None:
        """End its threads; further checks are blocked."""
        self._workers.close()

    # ── one check ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _steps(self, exchange: Exchange, shadow: frozenset[str]) -> Generator[list[Job], list[Outcome], Ruling]:
        """Yields the calls of each step and receives their outcomes: the views, the rails, the judge."""
        away = dict(self.off)
        texts = {part.where: part.text for part in exchange.parts}
        if len(texts) < len(exchange.parts) or ANSWER in texts:
            return self._ruling([_failed("guard", "two texts of the request have one path")], shadow, away)
        if exchange.answer is not None:
            texts[ANSWER] = exchange.answer
        views, wrong = yield from self._all_views(texts, exchange.finished)
        verdicts = [*self._unscannable(exchange), *wrong]
        if not all(where in views for where in texts):
            away |= {rail.name: "the text has no views" for rail in self.rails}
            return self._ruling(verdicts, shadow, away)
        not_asked = {rail.name: why for rail in self.rails if (why := _not_asked(rail, exchange))}
        asked, away = [rail for rail in self.rails if rail.name not in not_asked], away | not_asked
        limit = self._limit_s(sum(map(len, texts.values())))
        jobs = [self._job(rail.name, partial(_verdicts, rail, exchange, views), limit) for rail in asked]
        waiting = [job for rail, job in zip(asked, jobs, strict=True) if getattr(rail, "waits", True)]
        for row in ([job for job in jobs if job not in waiting], *([job] for job in waiting)):
            if row:
                self._workers.submit(*row)
        outcomes = yield jobs
        settled = None if exchange.answer is None or exchange.finished else len(exchange.answer)
        for rail, outcome in zip(asked, outcomes, strict=True):
            verdicts += self._read(rail.name, outcome)
            if settled is not None and rail.name not in shadow and not _why(outcome):
                settled = min(settled, outcome.value.settled)
        verdicts = [kept for verdict in verdicts for kept in self._without_allowed(verdict, texts)]
        open_questions = [v for v in verdicts if v.decision == "escalate" and v.rail not in shadow]
        if self.judge is None:
            away.setdefault("judge", "the guard has none, and a text was escalated" if open_questions else "none")
        elif not open_questions:
            away["judge"] = "nothing was escalated"
        else:
            ids = list(dict.fromkeys(verdict.principle for verdict in open_questions))
            work = partial(_judged, self.judge, exchange, ids)
            limit = self.limits.judge_ms / 1000
            (outcome,) = yield [self._workers.submit(Job("judge", work, limit, clock_s=limit))]
            verdicts += self._read("judge", outcome)
        return replace(self._ruling(verdicts, shadow, away), settled=settled)

    def _all_views(
        self, texts: Mapping[str, str], finished: bool
    ) -> Generator[list[Job], list[Outcome], tuple[dict[str, Views], list[Verdict]]]:
        """The views of every text by its path, those not remembered made in a thread, and verdicts of `failed`."""
        known = {text: self._views.get(text) for text in texts.values()}
        new = [text for text, views in known.items() if views is None]
        if new:
            limit = self._limit_s(sum(map(len, new)))
            (outcome,) = yield [self._workers.submit(self._job("normalise", partial(_views_of, new, self._own), limit))]
            if why := _why(outcome):
                return {}, [_failed("normalise", why, outcome.ms)]
            known |= outcome.value
            for text, views in outcome.value.items():
                if finished or text != texts.get(ANSWER):  # one that goes on is never asked for again
                    self._views.put(text, views)
        found = {where: views for where, text in texts.items() if (views := known[text]) is not None}
        unread = [f"{where}: {views.unread}" for where, views in found.items() if views.unread]
        return found, [_failed("normalise", why) for why in unread]

    def _limit_s(self, characters: int) -> float:
        return (self.limits.rail_ms + self.limits.ms_per_1000_characters * characters / 1000) / 1000

    def _job(self, owner: str, work: Any, limit_s: float) -> Job:
        return Job(owner, work, limit_s, limit_s * self.limits.by_clock)

    def _read(self, rail: str, outcome: Outcome) -> list[Verdict]:
        """A rail's verdicts, or that it failed."""
        if why := _why(outcome):
            return [_failed(rail, why, outcome.ms)]
        return [verdict.model_copy(update={"ms": outcome.ms}) for verdict in outcome.value.verdicts]

    def _unscannable(self, exchange: Exchange) -> list[Verdict]:
        decision: Decision = self.constitution.guard.unscannable
        return [
            Verdict(rail="guard", principle=UNSCANNABLE, decision=decision, note=f"{where} cannot be read")
            for where in exchange.unscannable
        ]

    def _without_allowed(self, verdict: Verdict, texts: Mapping[str, str]) -> Iterable[Verdict]:
        """The verdict without evidence that lies in allowed words; nothing if that was all of it."""
        kept = tuple(e for e in verdict.evidence if not self._allowed.cover(texts[e.where], e.start, e.end))
        if len(kept) == len(verdict.evidence):
            yield verdict
        elif kept:
            yield verdict.model_copy(update={"evidence": kept})

    def _ruling(self, verdicts: Sequence[Verdict], shadow: frozenset[str], away: Mapping[str, str]) -> Ruling:
        judged = {v.principle for v in verdicts if v.rail == "judge" and v.decision not in ("escalate", "failed")}
        counts = [
            v
            for v in verdicts
            if v.rail not in shadow
            and v.decision != "allow"
            and not (v.decision == "escalate" and v.principle in judged)
        ]
        deciding: Verdict | None = None
        for verdict in counts:
            if deciding is None or self._before(verdict, deciding):
                deciding = verdict
        decision: Decision = deciding.decision if deciding else "allow"
        return Ruling(
            decision="block" if decision == "failed" else decision,
            verdict=deciding,
            verdicts=tuple(verdicts),
            shadowed=tuple(sorted(shadow)),
            not_run=tuple(away.items()),
        )

    def _before(self, one: Verdict, other: Verdict) -> bool:
        """Whether one verdict decides rather than another: the stricter; by priority; by severity; the surer."""
        if (mine := _rank(one)) != (theirs := _rank(other)):
            return mine > theirs
        if one.principle != other.principle and (winner := self.constitution.winner(one.principle, other.principle)):
            return winner == one.principle
        return self._weight(one) > self._weight(other)

    def _weight(self, verdict: Verdict) -> tuple[int, float]:
        severity = {principle.id: SEVERITY[principle.severity] for principle in self.constitution.principles}
        return severity.get(verdict.principle, -1), 1.0 if verdict.score is None else verdict.score


# ── what rails return ────────────────────────────────────────────────────────────────────────────────────────────────
def _rank(verdict: Verdict) -> tuple[int, bool]:
    """`failed` blocks as `block` does; where both are there, the one that knows why speaks."""
    failed = verdict.decision == "failed"
    return STRICTNESS["block"] if failed else STRICTNESS[verdict.decision], not failed


def _not_asked(rail: Rail, exchange: Exchange) -> str:
    """Why a rail has nothing to judge; empty where it has."""
    if rail.reach is None and not exchange.finished:
        return "it judges finished answers only"
    if exchange.activation is None and getattr(rail, "along", False):
        return "nothing read the model's activations"
    return ""


def _failed(rail: str, why: str, ms: float = 0.0) -> Verdict:
    return Verdict(rail=rail, principle=UNSCANNABLE, decision="failed", note=why, ms=ms)


def _why(outcome: Outcome) -> str:
    """Why a call has no value; empty if it has one.

    A rail that calls for the end of the process must not end a server: only the user's own interrupt goes on.
    """
    if isinstance(outcome.error, KeyboardInterrupt):
        raise outcome.error
    if outcome.error is not None:
        return f"it raised {type(outcome.error).__name__}"  # the error's text may quote the request
    return outcome.late


def _own_words(constitution: Constitution) -> frozenset[str]:
    """Words of the constitution's phrases, which no list of words has: they are looked for in every dress."""
    phrases = (phrase for principle in constitution.principles for phrase in principle.guard.words)
    return frozenset(word for phrase in phrases for word in WORD.findall(phrase.casefold()) if len(word) > 2)


def _views_of(texts: Sequence[str], own: frozenset[str]) -> dict[str, Views]:
    made = {}
    for text in texts:
        views = normalise.views(text, own=own)
        if not isinstance(views, Views) or views[0].text != text:
            raise TypeError("expected a text's views, the text as it is first")
        made[text] = views
    return made


class _Said(NamedTuple):
    """What a rail says: its verdicts, and how much of an unfinished answer is settled for it."""

    verdicts: tuple[Verdict, ...]
    settled: int = 0


def _verdicts(rail: Rail, exchange: Exchange, views: dict[str, Views]) -> _Said:
    """What a rail says, read to its end and checked, in its own thread."""
    lengths = {where: len(seen[0].text) for where, seen in views.items()}
    verdicts = _checked(rail.name, rail.check(exchange, dict(views)), lengths)
    if exchange.answer is None or exchange.finished:
        return _Said(verdicts)
    settled = len(exchange.answer) - (rail.reach or 0)
    if tells := getattr(rail, "settled", None):
        settled = max(settled, int(tells(exchange.answer, views[ANSWER])))
    return _Said(verdicts, max(0, settled))


def _judged(judge: JudgeRail, exchange: Exchange, principles: Sequence[str]) -> _Said:
    verdicts = _checked("judge", judge.ask(exchange, principles), {})
    if {verdict.principle for verdict in verdicts} != set(principles):
        raise ValueError("expected a verdict on every principle that was asked about")
    return _Said(verdicts)


def _checked(rail: str, said: Iterable[Verdict], lengths: Mapping[str, int]) -> tuple[Verdict, ...]:
    """The verdicts, if that is what they are.

    Raises:
        TypeError, ValueError: they are not: no verdicts, a score that is no probability, evidence outside its text.
    """
    if isinstance(said, str | bytes | Mapping):
        raise TypeError("expected verdicts")
    verdicts = tuple(said)
    for verdict in verdicts:
        if not isinstance(verdict, Verdict) or verdict.decision not in STRICTNESS or verdict.rail != rail:
            raise TypeError("expected verdicts of this rail")
        for number in (verdict.score, verdict.threshold):
            if number is not None and not (math.isfinite(number) and 0 <= number <= 1):
                raise ValueError("expected a probability")
        for found in verdict.evidence:
            if not 0 <= found.start <= found.end <= lengths.get(found.where, -1):
                raise ValueError("expected evidence inside a text of the exchange")
    return verdicts
