"""Critiques and revisions: the supervised half of constitutional AI (Bai et al. 2022, arXiv:2212.08073).

    answer ~ policy(prompt);  N times:  principle drawn,  critique ~ reviser(answer),  revision ~ reviser(.., critique)

The reviser reads the principle's own examples, then the question, the answer and `critique_request`; then
`revision_request` after its critique. The last revision, or the best by a judge, becomes a demonstration.

What differs from the paper: the principle is drawn from those that the prompt is about (``principles: any`` draws from
all, as the paper does); the examples are the principle's own and not the same for all; and revisions that nobody should
learn from are dropped, and counted by reason: those that are empty, a copy, cut off, talk about themselves, repeat an
example, or are worse by the judge than the answer they revise.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from pydantic import Field, model_validator

from steersman.constitution.document import Constitution, Principle
from steersman.constitution.judges import Judge, Question, all_of
from steersman.errors import DataError
from steersman.lm.endpoint.client import RemoteConfig
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import SamplingConfig
from steersman.lm.transcript import Transcript
from steersman.store import StageFolder, write_jsonl
from steersman.terminal import Progress
from steersman.types import Demonstration, Message, Prompt, Record, Request, Seed, Slug, Text, plain_text

VERSION = 2
REVISIONS, DEMONSTRATIONS, TEXTS = "revisions.jsonl", "demonstrations.jsonl", "texts.partial.jsonl"
SAME = 0.95  # share of matching text from which a revision is a copy of what it revises, or of an example


Fault = Literal["empty", "meta comment", "cut off", "copy", "example"]


class RevisionsConfig(Record):
    """``prompts``: how many, spread evenly over the training prompts; None for all.

    ``reviser``: who criticises and revises, the fine-tuned policy, the raw ``base`` model as in the paper, or the model
    at the endpoint ``remote``.
    ``principles``: each round's is drawn from the prompt's ``own``, or from ``any``. ``keep``: the ``last`` revision,
    or the ``best`` of all by the judge. ``drop``: the faults for which a revision is not learnt from, beside being
    worse than the answer by the judge.
    """

    prompts: int | None = Field(default=None, ge=1)
    rounds: int = Field(default=1, ge=1)
    reviser: Literal["policy", "base", "remote"] = "policy"
    remote: RemoteConfig | None = None
    principles: Literal["own", "any"] = "own"
    keep: Literal["last", "best"] = "best"
    drop: tuple[Fault, ...] = ("empty", "meta comment", "cut off", "copy", "example")
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, max_new_tokens=72)
    seed: Seed = 0

    @model_validator(mode="after")
    def _an_endpoint_is_named(self) -> RevisionsConfig:
        if (self.reviser == "remote") != (self.remote is not None):
            raise ValueError("revisions.reviser: remote and revisions.remote: {base_url: ..., model: ...} go together")
        return self


class Round(Record):
    """One critique and the revision that followed it."""

    principle: Slug
    critique: str
    revision: str
    ended: bool  # the revision ended by itself
    seed: Seed  # of the critique; the revision's is the next one


class Revised(Record):
    """An answer with its whole history. ``kept`` is the text to learn from, ``dropped`` why there is none."""

    prompt: Request
    principles: tuple[Slug, ...]
    topic: Slug | None
    tags: tuple[str, ...]
    answer: str
    rounds: tuple[Round, ...]
    answerer: str  # digests of the models; of one at an endpoint, its name
    reviser: str
    kept: str = ""
    dropped: str = ""


# ── what the reviser reads ───────────────────────────────────────────────────────────────────────────────────────────
def asks_for_critique(prompt: Text, answer: str, principle: Principle) -> Message:
    """The question, its answer and the principle's request."""
    content = f"Question: {plain_text(prompt)}\nAnswer: {answer}\n\n{principle.critique_request}"
    return Message(role="user", content=content)


def examples_of(principle: Principle) -> tuple[Message, ...]:
    """The principle's examples as conversations: answer, critique, revision. The same for all rows: it is read once."""
    messages: list[Message] = []
    for example in principle.examples:
        messages.append(asks_for_critique(example.prompt, example.answer, principle))
        messages.append(Message(role="assistant", content=example.critique))
        messages.append(Message(role="user", content=principle.revision_request))
        messages.append(Message(role="assistant", content=example.revision))
    return tuple(messages)


def drawn(config: RevisionsConfig, constitution: Constitution, row: Prompt, number: int) -> list[Principle]:
    """The principle of every round, by the prompt's number.

    Raises:
        DataError: the prompt is about none of the constitution's principles.
    """
    pool = constitution.pool(config.principles, row.principles)
    if not pool:
        raise DataError(
            f"a prompt is about none of the constitution's principles: {plain_text(row.prompt)[:60]!r}",
            expected="'principles' with one of: " + ", ".join(constitution.texts),
            do="name one in prompts.jsonl, or set revisions.principles: any",
        )
    stream = random.Random(f"{config.seed} {number}")
    return [stream.choice(pool) for _ in range(config.rounds)]


# ── what nobody should learn from ────────────────────────────────────────────────────────────────────────────────────
_META = re.compile(
    r"^(?:sure|okay|certainly|of course)?[,.! ]*(?:here(?:'s| is| are)|this is|below is|the following is)"
    r" (?:the|a|my|an) (?:\w+ )?(?:revis|rewrit|improv|correct|new|updat|better)\w*"
    r"|^(?:\*\*)?(?:the )?(?:revis|rewrit|improv|correct|updat)\w* (?:answer|response|reply|version)\b"
    r"|\b(?:the|this|my|your) (?:previous|original|earlier|above|revised|rewritten) (?:answer|response|reply)\b"
    r"|\bcritique\b|\b(?:critique|revision)[ _]?request",
    re.IGNORECASE,
)


def faults(revision: str, ended: bool, answer: str, principle: Principle) -> Iterator[Fault]:
    """Why nobody should learn a revision of an answer."""
    if not revision.strip():
        yield "empty"
    if _META.search(revision):
        yield "meta comment"
    if not ended:
        yield "cut off"
    if alike(revision, answer):
        yield "copy"
    if any(alike(revision, example.revision) for example in principle.examples):
        yield "example"


def alike(one: str, other: str) -> bool:
    """Whether two texts are nearly the same but for case and spaces."""
    first, second = (" ".join(text.casefold().split()) for text in (one, other))
    if first == second:
        return True
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.quick_ratio() >= SAME and matcher.ratio() >= SAME


# ── the stage ────────────────────────────────────────────────────────────────────────────────────────────────────────
def write(
    config: RevisionsConfig,
    policy: LanguageModel,
    reviser: LanguageModel,
    digests: tuple[str, str],
    prompts: Sequence[Prompt],
    constitution: Constitution,
    out: StageFolder,
) -> list[Revised]:
    """Answers with their critiques and revisions; a killed run goes on where it was.

    Args:
        prompts: all of them are answered.
        digests: of the policy and the reviser.

    Raises:
        DataError: a prompt without a known principle.
    """
    principles = [drawn(config, constitution, row, number) for number, row in enumerate(prompts)]
    transcript = Transcript(out.file(TEXTS))
    total = len(prompts) * (1 + 2 * config.rounds)
    with Progress(out.stage, total, len(transcript.rows)) as progress:
        asked = {number: row.prompt for number, row in enumerate(prompts)}
        first = transcript.answers("answer", policy, asked, config.sampling, advance=progress.advance)
        current = {number: row["answer"] for number, row in first.items()}
        rounds: dict[int, list[Round]] = {number: [] for number in asked}
        revising = Revising(config, reviser, prompts, transcript, progress.advance)
        for turn in range(config.rounds):
            for principle in constitution.principles:
                own = {n: current[n] for n in asked if principles[n][turn] is principle}
                for number, found in revising.round(turn, principle, own):
                    rounds[number].append(found)
                    current[number] = found.revision
    return [
        Revised(
            **{name: getattr(row, name) for name in ("prompt", "principles", "topic", "tags")},
            answer=first[number]["answer"],
            rounds=tuple(rounds[number]),
            answerer=digests[0],
            reviser=digests[1],
        )
        for number, row in enumerate(prompts)
    ]


def choose(
    config: RevisionsConfig,
    rows: Sequence[Revised],
    prompts: Sequence[Prompt],
    constitution: Constitution,
    judge: Judge | None,
    out: StageFolder,
) -> None:
    """Write ``revisions.jsonl`` and, with those to learn from, ``demonstrations.jsonl``.

    Args:
        rows: what `write` made of the prompts.
        judge: None if there is none; then nothing is dropped as worse, and the last is the best.

    Raises:
        DataError: no revision is worth learning.
    """
    chosen = _chosen(config, rows, prompts, constitution, judge)
    write_jsonl(out.file(REVISIONS), [row.model_dump(mode="json") for row in chosen])
    write_jsonl(out.file(DEMONSTRATIONS), [_demonstration(row).model_dump(mode="json") for row in chosen if row.kept])
    dropped = Counter(row.dropped for row in chosen if row.dropped)
    if dropped.total() == len(chosen):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise DataError(
            f"none of {len(chosen)} revisions is worth learning: {reasons}",
            do="let another model revise (revisions.reviser), allow longer ones (revisions.sampling.max_new_tokens), "
            "or write better examples under the constitution's principles",
        )
    out.file(TEXTS).unlink(missing_ok=True)
    out.emit(event="revisions", rows=len(chosen), kept=len(chosen) - dropped.total(), dropped=dict(dropped))


@dataclass(frozen=True)
class Revising:
    """What every round needs."""

    config: RevisionsConfig
    reviser: LanguageModel
    prompts: Sequence[Prompt]
    transcript: Transcript
    advance: Callable[[], object]

    def round(self, turn: int, principle: Principle, answers: Mapping[int, str]) -> Iterator[tuple[int, Round]]:
        """A critique and a revision of some answers, given by their prompts' numbers, under one principle."""
        seed = (self.config.seed + 1 + 2 * turn) % 2**32
        asked = {n: (asks_for_critique(self.prompts[n].prompt, text, principle),) for n, text in answers.items()}
        critiques = self._ask("critique", turn, principle, asked, seed)
        then = Message(role="user", content=principle.revision_request)
        critical = {n: Message(role="assistant", content=row["answer"]) for n, row in critiques.items()}
        texts = {n: (*asked[n], critical[n], then) for n in answers}
        revisions = self._ask("revision", turn, principle, texts, seed + 1)
        for n in answers:
            ended = revisions[n]["finish_reason"] != "length"
            said = {"critique": critiques[n]["answer"], "revision": revisions[n]["answer"]}
            yield n, Round(principle=principle.id, **said, ended=ended, seed=seed)

    def _ask(
        self, kind: str, turn: int, principle: Principle, texts: Mapping[int, Text], seed: int
    ) -> dict[int, dict[str, Any]]:
        sampling = self.config.sampling.model_copy(update={"seed": seed % 2**32})
        step, examples = f"{kind} {turn + 1}, {principle.id}", examples_of(principle) or None
        return self.transcript.answers(step, self.reviser, texts, sampling, preamble=examples, advance=self.advance)


def _chosen(
    config: RevisionsConfig,
    rows: Sequence[Revised],
    prompts: Sequence[Prompt],
    constitution: Constitution,
    judge: Judge | None,
) -> list[Revised]:
    """The rows with the revision to learn from, or why there is none."""
    found = []
    for row in rows:
        named = (
            faults(each.revision, each.ended, row.answer, constitution.principle(each.principle)) for each in row.rounds
        )
        found.append([next((fault for fault in own if fault in config.drop), "") for own in named])
    wanted = [
        [turn for turn, fault in enumerate(own) if not fault and (config.keep == "best" or turn == len(own) - 1)]
        for own in found
    ]
    questions, places = [], []
    for number, (row, turns) in enumerate(zip(rows, wanted, strict=True)):
        for turn in turns:
            principle = constitution.principle(row.rounds[turn].principle)
            expect = prompts[number].expect
            questions.append(Question(row.prompt, row.rounds[turn].revision, row.answer, principle, expect))
            places.append((number, turn))
    better = dict.fromkeys(places, 1.0)
    if judge is not None:
        judged = all_of(judge.judge(questions), len(questions))
        better = {place: said.probability for place, said in zip(places, judged, strict=True) if said}
    chosen = []
    for number, (row, turns) in enumerate(zip(rows, wanted, strict=True)):
        answered = [turn for turn in turns if (number, turn) in better]
        best = max(answered, key=lambda turn: (better[number, turn], turn), default=None)
        if best is None:
            chosen.append(row.model_copy(update={"dropped": "unanswered" if turns else found[number][-1]}))
        elif better[number, best] <= 0.5:
            chosen.append(row.model_copy(update={"dropped": "not better by the judge"}))
        else:
            chosen.append(row.model_copy(update={"kept": row.rounds[best].revision}))
    return chosen


def _demonstration(row: Revised) -> Demonstration:
    return Demonstration(
        prompt=row.prompt,
        completion=row.kept,
        principles=row.principles,
        topic=row.topic,
        tags=row.tags,
        author="model",
        source="revision",
    )
