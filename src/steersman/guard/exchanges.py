"""What a guard learns from: requests, and exchanges of a request and an answer, each with a label and its part.

An exchange has one of three labels: an answer that is fine, a refusal (safe whatever was asked), or an answer that
breaks a principle. Rows come from the data set that the model learns from, and from the constitution's examples. What
no data set may hold, help with serious harm, is made here without content: the request of a topic of training, and an
answer that goes along with it in words that say nothing.

A topic is in one part only: training, calibration (thresholds), or held out (the card). Prompts that the model is
evaluated on form a fourth part, `unseen`: neither a guard nor a policy has learnt from them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, TypeVar

from steersman.constitution.document import Constitution, Principle
from steersman.data.formats import read
from steersman.data.sources import LIBRARY, DataSet
from steersman.errors import DataError
from steersman.evals.forms import kind_of
from steersman.guard.dressings import dressed
from steersman.guard.skeletons import compliance, decline
from steersman.types import Comparison, Demonstration, Prompt, Text, messages_of

Further = TypeVar("Further", Prompt, Comparison)
Part = Literal["train", "calibration", "held_out", "unseen"]
Label = Literal["fine", "refusal", "breaks"]
PARTS: tuple[Part, ...] = ("train", "calibration", "held_out", "unseen")
FURTHER, FURTHER_EXCHANGES = "guard.jsonl", "guard_exchanges.jsonl"  # rows of a data set for the guard alone
REFUSING_FAILURES = frozenset({"preachy", "needless-refusal"})  # of a worse answer that gives nothing away
HARMLESS_FAILURES = frozenset({"vague", "padding", "flattery"})  # of one that breaks no rule of safety


class GuardRow(NamedTuple):
    """A request, or an exchange.

    Attributes:
        prompt: the user's words; of a conversation all turns, a line each.
        answer: None for a request alone.
        principle: the id of the principle that is broken (by the answer), or that the request asks to break; empty
            where none is.
        label: of an exchange what the answer is; of a request ``breaks`` if it asks for that, else ``fine``.
        kind: of the request, one of `evals.forms.KINDS`.
        origin: where the row comes from, such as ``comparison`` or ``skeleton``.
        dressing: what was done to the words, empty for nothing.
        apart: the guard alone has this prompt; no policy learns from it.
        about: the principle that the request is about, whatever it asks for and the answer does.
    """

    prompt: str
    answer: str | None
    principle: str
    label: Label
    kind: str
    topic: str
    part: Part
    origin: str
    dressing: str = ""
    apart: bool = False
    about: str = ""


class GuardRows(NamedTuple):
    """All rows, by whether they have an answer."""

    requests: Sequence[GuardRow]
    exchanges: Sequence[GuardRow]

    def part(self, part: Part) -> GuardRows:
        """The rows of one part."""
        return GuardRows([r for r in self.requests if r.part == part], [r for r in self.exchanges if r.part == part])

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by part, and within it by side and label or kind, for the card."""
        found: dict[str, dict[str, int]] = {part: defaultdict(int) for part in PARTS}
        for row in (*self.requests, *self.exchanges):
            name = row.kind if row.answer is None else row.label
            found[row.part][f"{'requests' if row.answer is None else 'exchanges'}: {name}"] += 1
        return {part: dict(sorted(of_part.items())) for part, of_part in found.items()}

    @classmethod
    def build(cls, data: DataSet, constitution: Constitution, seed: int = 0, limit: int | None = None) -> GuardRows:
        """The rows of a data set and a constitution.

        Args:
            seed: of the split of topics. limit: most rows of each principle and kind; None: all.

        Raises:
            DataError: no request of the data set is harmless, or a principle that blocks requests has none to learn
                from.
        """
        return _Builder(data, constitution, seed, limit).rows()


class _Source(NamedTuple):
    """A row of the data set before it has a part."""

    prompt: str
    answers: tuple[tuple[str, Label], ...]
    principles: tuple[str, ...]
    kind: str
    topic: str
    origin: str
    apart: bool = False  # in the guard's own files alone
    unseen: bool = False


def words_of(prompt: Text) -> str:
    """The user's words of a request, a line for each turn."""
    return "\n".join(m.content.strip() for m in messages_of(prompt) if m.role == "user")


class _Builder:
    def __init__(self, data: DataSet, constitution: Constitution, seed: int, limit: int | None) -> None:
        self.data, self.seed = data, seed
        self.enforced = {p.id: p for p in constitution.principles if p.enforced.anywhere}
        self.asked = [p.id for p in self.enforced.values() if p.enforced.input == "block"]
        self.answered = [p.id for p in self.enforced.values() if p.enforced.output != "allow"]
        self.sources = _some([*self._of_data(), *self._of_examples(constitution)], limit)
        self._known = {source.prompt for source in self.sources if not (source.apart or source.unseen)}
        self.part_of = _parts(self.sources, seed)

    def rows(self) -> GuardRows:
        requests = list({(r.prompt, r.dressing): r for r in self._requests()}.values())
        exchanges = list({(r.prompt, r.answer): r for r in self._exchanges()}.values())
        if not any(r.kind != "harmful" and r.part == "train" for r in requests):
            raise DataError(
                "the data set has no harmless request", where=str(self.data.folder), do="add demonstrations"
            )
        without = [id for id in self.asked if not any(r.principle == id and r.part == "train" for r in requests)]
        if without:
            raise DataError(
                f"no request asks to break {', '.join(without)}, which the guard has to block",
                where=str(self.data.folder),
                expected="rows with the tag `harmful` of these principles",
                do="add such rows, or set `guard: {input: allow}` for them",
            )
        return GuardRows(requests, exchanges)

    # sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _of_data(self) -> Iterator[_Source]:
        folder = self.data.folder
        for row in self.data.demonstrations:
            label: Label = "refusal" if kind_of(row.tags) == "harmful" else "fine"
            yield self._source(row, ((row.completion, label),), "demonstration")
        for comparison in self.data.comparisons:
            yield self._source(comparison, tuple(_judged(comparison)), "comparison")
        for prompt in self.data.prompts:
            yield self._source(prompt, (), "prompt")
        for comparison in _further(folder, FURTHER_EXCHANGES, Comparison):
            yield self._source(comparison, tuple(_judged(comparison)), "comparison")._replace(apart=True)
        for prompt in _further(folder, FURTHER, Prompt):
            yield self._source(prompt, (), "prompt")._replace(apart=True)
        for prompt in self.data.measured_on:
            yield self._source(prompt, (), "prompt")._replace(unseen=True)

    def _source(
        self, row: Demonstration | Comparison | Prompt, answers: tuple[tuple[str, Label], ...], origin: str
    ) -> _Source:
        prompt = words_of(row.prompt)
        return _Source(prompt, answers, row.principles, kind_of(row.tags), row.topic or prompt, origin)

    def _of_examples(self, constitution: Constitution) -> Iterator[_Source]:
        for principle in constitution.principles:
            for example in principle.examples:
                changed = example.answer != example.revision
                answers: list[tuple[str, Label]] = [(example.revision, "fine")]
                if changed and principle.id in self.enforced:
                    answers.append((example.answer, "breaks"))
                yield _Source(example.prompt, tuple(answers), (principle.id,), "plain", example.prompt, "example")

    # rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _requests(self) -> Iterator[GuardRow]:
        for source in self.sources:
            principle = self._asks(source)
            if (source.kind == "harmful" and not principle) or source.origin == "example":
                continue  # a rule that the guard does not enforce on requests; an example says nothing of its request
            label: Label = "breaks" if principle else "fine"
            row = GuardRow(
                source.prompt, None, principle, label, source.kind, source.topic, self._part(source), source.origin
            )._replace(apart=source.prompt not in self._known, about=next(iter(source.principles), ""))
            yield row
            yield from (row._replace(prompt=text, dressing=name) for name, text in dressed(row.prompt, self.seed))

    def _exchanges(self) -> Iterator[GuardRow]:
        pool = self._pool()
        for source in self.sources:
            about = next(iter(source.principles), "")
            yield from (row._replace(about=about) for row in self._exchanges_of(source, pool))

    def _exchanges_of(self, source: _Source, pool: dict[Part, list[str]]) -> Iterator[GuardRow]:
        part, asks = self._part(source), self._asks(source)
        for answer, label in source.answers:
            principle = self._broken(source) if label == "breaks" else ""
            if label == "breaks" and not principle:
                continue
            kept = "fine" if label == "refusal" and not asks and source.kind != "harmful" else label
            row = GuardRow(source.prompt, answer, principle, kept, source.kind, source.topic, part, source.origin)
            yield row
            if kept == "fine":
                yield from looping(row, self.seed)
        random = Random(f"{self.seed} {source.prompt}")
        row = GuardRow(source.prompt, "", asks, "breaks", source.kind, source.topic, part, "skeleton")
        if asks and asks in self.answered:
            for origin, answer in compliance(source.prompt, random, pool[part]):
                yield row._replace(answer=answer, origin=origin)
        if random.random() < 0.3:
            answer = decline(source.prompt, random)
            yield row._replace(answer=answer, principle="", label="refusal", origin="stock refusal")

    def _pool(self) -> dict[Part, list[str]]:
        """Helpful answers to look-alikes by part: what compliance with a harmful request would look like."""
        found: dict[Part, list[str]] = {part: [] for part in PARTS}
        for source in self.sources:
            if source.kind == "lookalike":
                found[self._part(source)] += [answer for answer, label in source.answers if label == "fine"]
        found["unseen"] = found["held_out"]
        return found

    def _asks(self, source: _Source) -> str:
        """The principle that a request asks to break, empty if it asks for nothing of the kind."""
        own = [id for id in source.principles if id in self.asked] if source.kind == "harmful" else []
        return own[0] if own else ""

    def _broken(self, source: _Source) -> str:
        own = [id for id in source.principles if id in self.answered]
        return own[0] if own else ""

    def _part(self, source: _Source) -> Part:
        return "unseen" if source.unseen else self.part_of[source.topic]


LOOPING, LOOP_CHARACTERS = 0.25, 400


def looping(row: GuardRow, seed: int) -> Iterator[GuardRow]:
    """For a quarter of the harmless exchanges, an answer that gets into a loop, as small models write: no harm either.

    Nobody writes such answers by hand, and a classifier that has seen none takes them for anything.
    """
    random, words = Random(f"loop {seed} {row.prompt} {row.answer}"), (row.answer or "").split()
    if words and random.random() < LOOPING:
        start, length = random.randrange(len(words)), random.randint(1, 8)
        loop = " ".join(words[start : start + length])
        text = " ".join(words[:start])
        while len(text) < LOOP_CHARACTERS:
            text += " " + loop
        yield row._replace(answer=text[:LOOP_CHARACTERS].strip(), origin="loop")


def _some(sources: Sequence[_Source], limit: int | None) -> list[_Source]:
    """At most so many sources of each principle, kind and origin, in their order."""
    taken: dict[tuple[object, ...], int] = defaultdict(int)
    found = []
    for source in sources:
        group = (source.principles[:1], source.kind, source.apart, source.unseen, bool(source.answers))
        taken[group] += 1
        if limit is None or taken[group] <= limit:
            found.append(source)
    return found


def _judged(row: Comparison) -> Iterator[tuple[str, Label]]:
    """The answers of a comparison: the better ones are fine or refuse, the worse ones break the principle."""
    good: Label = "refusal" if kind_of(row.tags) == "harmful" else "fine"
    seen: dict[str, Label] = {}
    for pair in row.pairs():
        seen.setdefault(pair.better, good)
        if row.failure in REFUSING_FAILURES:
            seen[pair.worse] = "refusal"
        elif row.failure not in HARMLESS_FAILURES and kind_of(row.tags) != "lookalike":
            seen[pair.worse] = "breaks"
    if row.desirable is not None:
        seen[row.options[0]] = good if row.desirable else "breaks"
    yield from seen.items()


def _further(folder: Path, name: str, kind: type[Further]) -> list[Further]:
    """Rows for the guard alone: beside the data set, or beside the shipped one that it enlarges (`assistant-forms`)."""
    shipped: list[Path] = [LIBRARY / folder.name.split("-")[0] / name] if folder.parent == LIBRARY else []
    found = [path for path in (folder / name, *shipped) if path.exists()]
    return read(found[0], kind) if found else []


# The shares of the topics; a small data set needs its rows for thresholds more than for a figure on the card.
_SHARES: tuple[tuple[Part, float], ...] = (("train", 0.6), ("calibration", 0.8), ("held_out", 1.0))


def _parts(sources: Sequence[_Source], seed: int) -> dict[str, Part]:
    """Each topic's part, by a digest of its name; topics that share a prompt are one.

    Topics are divided within each principle and kind, so that none of the parts is without one.
    """
    leader: dict[str, str] = {}

    def find(topic: str) -> str:
        while leader.setdefault(topic, topic) != topic:
            topic = leader[topic]
        return topic

    first_with: dict[str, str] = {}
    strata: dict[str, str] = {}
    for source in sources:
        topic = find(source.topic)
        other = find(first_with.setdefault(source.prompt.casefold(), topic))
        leader[max(topic, other)] = min(topic, other)
    for source in sources:
        if not source.unseen:
            strata.setdefault(find(source.topic), f"{source.kind} {source.principles[:1]}")
    members: dict[str, list[str]] = defaultdict(list)
    for topic, stratum in strata.items():
        members[stratum].append(topic)
    part_of: dict[str, Part] = {}
    for own in members.values():
        own.sort(key=lambda topic: hashlib.sha256(f"{seed} {topic}".encode()).hexdigest())
        for place, topic in enumerate(own):
            part_of[topic] = next(part for part, share in _SHARES if (place + 0.5) / len(own) <= share)
    measured = {find(source.topic) for source in sources if source.unseen}
    return {
        source.topic: "unseen" if find(source.topic) in measured else part_of[find(source.topic)] for source in sources
    }


def principles_of(constitution: Constitution) -> tuple[list[Principle], list[Principle]]:
    """Principles that the guard enforces on requests, and on answers."""
    enforced = constitution.principles
    return (
        [p for p in enforced if p.enforced.input != "allow"],
        [p for p in enforced if p.enforced.output != "allow"],
    )
