"""Critiques and revisions: the supervised half of constitutional AI (Bai et al. 2022, arXiv:2212.08073).

    answer ~ policy(prompt);  N times:  principle drawn,  critique ~ reviser(answer),  revision ~ reviser(.., critique)

The reviser reads the principle's own examples, the question, the answer and `critique_request`; then its critique and
`revision_request`. The last revision, or the best by a judge, becomes a demonstration.

What differs from the paper: the principle is drawn from those that the prompt is about (``principles: any`` draws from
all, as the paper does); the examples are the principle's own; and unusable revisions are dropped and counted by reason:
empty, a copy, cut off, a meta comment, a repeated example, or worse by the judge than the answer that they revise.
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
from steersman.constitution.judges import Judge, JudgeQuestion, in_order
from steersman.errors import DataError
from steersman.lm.endpoint.settings import RemoteConfig
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import SamplingConfig
from steersman.lm.transcript import Transcript
from steersman.store import StageFolder, write_jsonl
from steersman.terminal import Progress
from steersman.types import Demonstration, Message, Prompt, Record, Request, Seed, Slug, Text, plain_text

VERSION = 3
REVISIONS, DEMONSTRATIONS, TEXTS = "revisions.jsonl", "demonstrations.jsonl", "texts.partial.jsonl"
COPY_RATIO = 0.95  # least share of matching text that makes a revision a copy of its answer or of an example

Fault = Literal["empty", "meta comment", "cut off", "copy", "example"]


class RevisionsConfig(Record):
    """Critiques and revisions of the policy's own answers, the training data of `cai_sft`."""

    prompts: int | None = Field(
        default=None, ge=1, description="Prompts to answer, spread evenly over the file; null for all."
    )
    rounds: int = Field(default=1, ge=1, description="Critiques and revisions of each answer.")
    reviser: Literal["policy", "base", "remote"] = Field(
        default="policy",
        description="Model that criticises and revises: the fine-tuned `policy`, the raw `base` model as in the paper, "
        "or the model at the endpoint `remote`.",
    )
    remote: RemoteConfig | None = Field(default=None, description="Endpoint of `reviser: remote`; null without it.")
    principles: Literal["own", "any"] = Field(
        default="own", description="Draw each round's principle from the prompt's `own` principles or from `any`."
    )
    keep: Literal["last", "best"] = Field(
        default="best", description="Revision to learn from: the `last`, or the `best` of all by the judge."
    )
    drop: tuple[Fault, ...] = Field(
        default=("empty", "meta comment", "cut off", "copy", "example"),
        description="Faults for which a revision is dropped, beside losing to the answer by the judge.",
    )
    sampling: SamplingConfig = Field(
        default=SamplingConfig(temperature=0.7, max_new_tokens=72),
        description="Sampling of answers, critiques and revisions.",
    )
    seed: Seed = Field(default=0, description="Random seed of the drawn principles and of the critiques and revisions.")

    @model_validator(mode="after")
    def _remote_reviser_needs_an_endpoint(self) -> RevisionsConfig:
        if (self.reviser == "remote") != (self.remote is not None):
            raise ValueError("revisions.reviser: remote and revisions.remote: {base_url: ..., model: ...} go together")
        return self


class RevisionRound(Record):
    """One critique and the revision that followed it."""

    principle: Slug
    critique: str
    revision: str
    ended: bool  # the revision ends with the end token
    seed: Seed  # of the critique; the revision's is the next one


class RevisedAnswer(Record):
    """An answer with its whole history. ``kept`` is the revision to learn from, ``dropped`` the reason without one."""

    prompt: Request
    principles: tuple[Slug, ...]
    topic: Slug | None
    tags: tuple[str, ...]
    answer: str
    rounds: tuple[RevisionRound, ...]
    answerer: str  # digests of the models; the name of one at an endpoint
    reviser: str
    kept: str = ""
    dropped: str = ""


# ── prompts of the reviser ───────────────────────────────────────────────────────────────────────────────────────────
def critique_message(prompt: Text, answer: str, principle: Principle) -> Message:
    """The question, its answer and the principle's critique request."""
    content = f"Question: {plain_text(prompt)}\nAnswer: {answer}\n\n{principle.critique_request}"
    return Message(role="user", content=content)


def critique_examples(principle: Principle) -> tuple[Message, ...]:
    """The principle's examples as conversations: answer, critique, revision. A prefix that all rows share."""
    messages: list[Message] = []
    for example in principle.examples:
        messages.append(critique_message(example.prompt, example.answer, principle))
        messages.append(Message(role="assistant", content=example.critique))
        messages.append(Message(role="user", content=principle.revision_request))
        messages.append(Message(role="assistant", content=example.revision))
    return tuple(messages)


def draw_principles(config: RevisionsConfig, constitution: Constitution, row: Prompt, number: int) -> list[Principle]:
    """The principle of every round, drawn by the prompt's number.

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


# ── unusable revisions ───────────────────────────────────────────────────────────────────────────────────────────────
_META = re.compile(
    r"^(?:sure|okay|certainly|of course)?[,.! ]*(?:here(?:'s| is| are)|this is|below is|the following is)"
    r" (?:the|a|my|an) (?:\w+ )?(?:revis|rewrit|improv|correct|new|updat|better)\w*"
    r"|^(?:\*\*)?(?:the )?(?:revis|rewrit|improv|correct|updat)\w* (?:answer|response|reply|version)\b"
    r"|\b(?:the|this|my|your) (?:previous|original|earlier|above|revised|rewritten) (?:answer|response|reply)\b"
    r"|\bcritique\b|\b(?:critique|revision)[ _]?request",
    re.IGNORECASE,
)


def faults(revision: str, ended: bool, answer: str, principle: Principle) -> Iterator[Fault]:
    """The faults of a revision of an answer."""
    if not revision.strip():
        yield "empty"
    if _META.search(revision):
        yield "meta comment"
    if not ended:
        yield "cut off"
    if near_copy(revision, answer):
        yield "copy"
    if any(near_copy(revision, example.revision) for example in principle.examples):
        yield "example"


def near_copy(one: str, other: str) -> bool:
    """Whether two texts are nearly equal, ignoring case and spaces."""
    first, second = (" ".join(text.casefold().split()) for text in (one, other))
    if first == second:
        return True
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.quick_ratio() >= COPY_RATIO and matcher.ratio() >= COPY_RATIO


# ── the stage ────────────────────────────────────────────────────────────────────────────────────────────────────────
def write(
    config: RevisionsConfig,
    policy: LanguageModel,
    reviser: LanguageModel,
    digests: tuple[str, str],
    prompts: Sequence[Prompt],
    constitution: Constitution,
    out: StageFolder,
) -> list[RevisedAnswer]:
    """Answers with their critiques and revisions. A killed run resumes where it stopped.

    Args:
        digests: of the policy and the reviser.

    Raises:
        DataError: a prompt without a known principle.
    """
    principles = [draw_principles(config, constitution, row, number) for number, row in enumerate(prompts)]
    transcript = Transcript(out.file(TEXTS))
    total = len(prompts) * (1 + 2 * config.rounds)
    with Progress(out.stage, total, len(transcript.rows)) as progress:
        requests = {number: row.prompt for number, row in enumerate(prompts)}
        first = transcript.answers("answer", policy, requests, config.sampling, advance=progress.advance)
        current = {number: row["answer"] for number, row in first.items()}
        rounds: dict[int, list[RevisionRound]] = {number: [] for number in requests}
        runner = RoundRunner(config, reviser, prompts, transcript, progress.advance)
        for turn in range(config.rounds):
            for principle in constitution.principles:
                own = {n: current[n] for n in requests if principles[n][turn] is principle}
                for number, done in runner.round(turn, principle, own):
                    rounds[number].append(done)
                    current[number] = done.revision
    return [
        RevisedAnswer(
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
    rows: Sequence[RevisedAnswer],
    prompts: Sequence[Prompt],
    constitution: Constitution,
    judge: Judge | None,
    out: StageFolder,
) -> None:
    """Write ``revisions.jsonl`` and, from the usable revisions, ``demonstrations.jsonl``.

    Args:
        rows: the result of `write` for the prompts.
        judge: None if there is none; then nothing is dropped as worse, and the last revision is the best.

    Raises:
        DataError: no revision is usable.
    """
    chosen = _chosen(config, rows, prompts, constitution, judge)
    write_jsonl(out.file(REVISIONS), [row.model_dump(mode="json") for row in chosen])
    write_jsonl(out.file(DEMONSTRATIONS), [_demonstration(row).model_dump(mode="json") for row in chosen if row.kept])
    dropped = Counter(row.dropped for row in chosen if row.dropped)
    if dropped.total() == len(chosen):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise DataError(
            f"none of {len(chosen)} revisions is usable: {reasons}",
            do="use another reviser (revisions.reviser), allow longer revisions (revisions.sampling.max_new_tokens), "
            "or write better examples under the constitution's principles",
        )
    out.file(TEXTS).unlink(missing_ok=True)
    out.emit(event="revisions", rows=len(chosen), kept=len(chosen) - dropped.total(), dropped=dict(dropped))


@dataclass(frozen=True)
class RoundRunner:
    """Runs the rounds; holds what is the same in each."""

    config: RevisionsConfig
    reviser: LanguageModel
    prompts: Sequence[Prompt]
    transcript: Transcript
    advance: Callable[[], object]

    def round(self, turn: int, principle: Principle, answers: Mapping[int, str]) -> Iterator[tuple[int, RevisionRound]]:
        """A critique and a revision of answers under one principle; ``answers`` by the numbers of their prompts."""
        seed = (self.config.seed + 1 + 2 * turn) % 2**32
        requests = {n: (critique_message(self.prompts[n].prompt, text, principle),) for n, text in answers.items()}
        critiques = self._sample("critique", turn, principle, requests, seed)
        then = Message(role="user", content=principle.revision_request)
        critical = {n: Message(role="assistant", content=row["answer"]) for n, row in critiques.items()}
        texts = {n: (*requests[n], critical[n], then) for n in answers}
        revisions = self._sample("revision", turn, principle, texts, seed + 1)
        for n in answers:
            ended = revisions[n]["finish_reason"] != "length"
            critique, revision = critiques[n]["answer"], revisions[n]["answer"]
            yield n, RevisionRound(principle=principle.id, critique=critique, revision=revision, ended=ended, seed=seed)

    def _sample(
        self, kind: str, turn: int, principle: Principle, texts: Mapping[int, Text], seed: int
    ) -> dict[int, dict[str, Any]]:
        sampling = self.config.sampling.model_copy(update={"seed": seed % 2**32})
        step, examples = f"{kind} {turn + 1}, {principle.id}", critique_examples(principle) or None
        return self.transcript.answers(step, self.reviser, texts, sampling, preamble=examples, advance=self.advance)


def _chosen(
    config: RevisionsConfig,
    rows: Sequence[RevisedAnswer],
    prompts: Sequence[Prompt],
    constitution: Constitution,
    judge: Judge | None,
) -> list[RevisedAnswer]:
    """The rows with the revision to learn from, or with the reason why there is none."""
    dropped = []
    for row in rows:
        named = (
            faults(each.revision, each.ended, row.answer, constitution.principle(each.principle)) for each in row.rounds
        )
        dropped.append([next((fault for fault in own if fault in config.drop), "") for own in named])
    wanted = [
        [turn for turn, fault in enumerate(own) if not fault and (config.keep == "best" or turn == len(own) - 1)]
        for own in dropped
    ]
    questions, places = [], []
    for number, (row, turns) in enumerate(zip(rows, wanted, strict=True)):
        for turn in turns:
            principle = constitution.principle(row.rounds[turn].principle)
            expect = prompts[number].expect
            questions.append(JudgeQuestion(row.prompt, row.rounds[turn].revision, row.answer, principle, expect))
            places.append((number, turn))
    better = dict.fromkeys(places, 1.0)
    if judge is not None:
        judged = in_order(judge.judge(questions), len(questions))
        better = {place: j.probability for place, j in zip(places, judged, strict=True) if j}
    chosen = []
    for number, (row, turns) in enumerate(zip(rows, wanted, strict=True)):
        answered = [turn for turn in turns if (number, turn) in better]
        best = max(answered, key=lambda turn: (better[number, turn], turn), default=None)
        if best is None:
            chosen.append(row.model_copy(update={"dropped": "unanswered" if turns else dropped[number][-1]}))
        elif better[number, best] <= 0.5:
            chosen.append(row.model_copy(update={"dropped": "not better by the judge"}))
        else:
            chosen.append(row.model_copy(update={"kept": row.rounds[best].revision}))
    return chosen


def _demonstration(row: RevisedAnswer) -> Demonstration:
    return Demonstration(
        prompt=row.prompt,
        completion=row.kept,
        principles=row.principles,
        topic=row.topic,
        tags=row.tags,
        author="model",
        source="revision",
    )
