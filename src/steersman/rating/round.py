"""The records of a rating round: its settings, its questions, and a rater's vote as the browser posts it.

A *round* puts *questions* (a prompt and two to nine answers) to raters. An *assignment* gives one question to one
rater, with the order in which the answers stand on the page. A *vote* is the rater's answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from steersman.store import canonical, sha256_text
from steersman.types import Comparison, NonEmpty, Ranking, Record, Request, Seed, Slug, messages_of

LONGEST_ANSWER = 60_000  # characters
LONGEST_RATIONALE = 4_000
CONSENT = (
    "What you choose and write here is stored with the time that it took, under a number and not under your name. It "
    "is used to train and to test AI assistants. You may stop at any time, and withdraw: from then on nothing "
    "that you said is handed on."
)

Arm = Literal["informed", "random", "gold", "repeat"]
# Scores of open questions, given the votes so far; the highest is asked next.
Scorer = Callable[[Sequence["Question"], Sequence[Comparison]], Sequence[float]]


class Round(Record):
    """The settings of a round, fixed when it begins."""

    title: str = Field(default="Which answer is better?", description="Heading of the raters' pages.")
    instructions: str = Field(
        default="Choose the answer that you would rather have been given.",
        description="Task of the raters, shown above the answers.",
    )
    consent: str = Field(default=CONSENT, description="Text that raters agree to before the first question.")
    seed: Seed = Field(default=0, description="Seed of the order of questions, the sides and the arms.")
    principles: dict[Slug, str] = Field(default={}, description="Statements of the constitution's principles, by id.")
    ask_principles: bool = Field(default=False, description="Also ask for a ranking by each principle.")
    per_rater: int | None = Field(default=None, ge=1, description="Maximum questions per rater; null: no limit.")
    gold_share: float = Field(default=0.1, ge=0, le=0.5, description="Share of questions with a known answer; 0: none.")
    repeat_share: float = Field(default=0.05, ge=0, le=0.5, description="Share of questions repeated to a rater.")
    random_share: float = Field(default=0.2, gt=0, le=1, description="Share of questions drawn at random: the control.")
    lease_s: float = Field(default=1200.0, gt=0, description="Seconds for which an open question is reserved.")
    source: dict[str, Any] = Field(default={}, description="Origin of the questions: the fields of `Source`.")


class Question(Record):
    """A prompt with two to nine answers, for ``raters`` different raters.

    ``origins`` are the authors of the answers, which no rater sees. ``gold`` is the known ranking of a question that
    measures the raters; every rater gets it.
    """

    prompt: Request
    options: tuple[NonEmpty, ...]
    origins: tuple[str, ...] = ()
    gold: Ranking | None = None
    principles: tuple[Slug, ...] = ()
    topic: Slug | None = None
    raters: int = Field(default=1, ge=1)
    id: str = ""

    @model_validator(mode="after")
    def _is_a_comparison(self) -> Self:
        Comparison(prompt=self.prompt, options=self.options, ranking=self.gold, both_bad=True)
        asked = "\n".join(message.content for message in messages_of(self.prompt))
        if reason := unshowable({"prompt": asked, **{f"options.{i}": text for i, text in enumerate(self.options)}}):
            raise ValueError(reason)
        if self.origins and len(self.origins) != len(self.options):
            raise ValueError(f"'origins' has {len(self.origins)} names for {len(self.options)} options")
        return self

    @property
    def key(self) -> str:
        """Equal questions have equal keys, so that a round can be opened again with the same file."""
        return sha256_text(canonical(self.model_dump(mode="json", include={"prompt", "options", "gold"})))


def unshowable(texts: Mapping[str, str]) -> str:
    """Why a question's texts, by the names of their fields, cannot be put to raters; empty if they can."""
    for name, text in texts.items():
        if not text.strip():
            return f"{name!r} is empty"
        if "\0" in text:
            return f"{name!r} has a NUL character, which no page shows and no database keeps"
        if name != "prompt" and len(text) > LONGEST_ANSWER:
            return f"an answer has {len(text)} characters ({name!r}), and a page shows at most {LONGEST_ANSWER}"
    return ""


def unshowable_row(row: Any) -> str:
    """The same of a row of a file, before it is read."""
    if not isinstance(row, dict):
        return ""
    texts = {name: row[name] for name in ("prompt", "chosen", "rejected") if isinstance(row.get(name), str)}
    options = row["options"] if isinstance(row.get("options"), list) else []
    return unshowable(texts | {f"options.{i}": text for i, text in enumerate(options) if isinstance(text, str)})


def order_shown(seed: int, question: str, rater: int, count: int, *, repeat: bool = False) -> tuple[int, ...]:
    """The indices of the answers from left to right: a uniform draw, reproducible from its arguments."""
    order = list(range(count))
    random.Random(f"{seed} {question} {rater} {repeat}").shuffle(order)
    return tuple(order)


def arm_of(settings: Round, rater: int, number: int, *, informed: bool) -> Arm:
    """The arm of a rater's question, by its number from 0.

    Gold questions come one to a block of ``1 / gold_share`` questions, at a random place, so that all raters get their
    share early; the other arms are drawn one by one.
    """
    draw = random.Random(f"arm {settings.seed} {rater} {number}").random()
    if settings.gold_share:
        block = max(2, round(1 / settings.gold_share))
        if number % block == random.Random(f"gold {settings.seed} {rater} {number // block}").randrange(block):
            return "gold"
    if draw < settings.repeat_share:
        return "repeat"
    chance = random.Random(f"control {settings.seed} {rater} {number}").random()
    return "informed" if informed and chance >= settings.random_share else "random"


# ── what a browser posts ─────────────────────────────────────────────────────────────────────────────────────────────
def _clean(text: str) -> str:
    """Without lone surrogates and NUL, which the databases refuse."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")


Written = Annotated[str, AfterValidator(_clean)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]


class Edit(Record):
    """An answer that the rater improved; ``position`` counts from the left, from 0."""

    position: int = Field(ge=0, le=8)
    text: Annotated[NonEmpty, AfterValidator(_clean), Field(max_length=LONGEST_ANSWER)]


class Submission(Record):
    """A vote on an assignment, or a skip. Ranks are by place on the page; the store maps them to the options.

    ``submission`` is an idempotency key, drawn by the browser. With ``corrects``, it takes the place of what the rater
    said about this assignment before.
    """

    submission: Id
    assignment: Id
    corrects: bool = False
    skip: bool = False
    ranking: Ranking | None = None
    both_bad: bool = False
    per_principle: dict[Slug, Ranking] = Field(default={}, max_length=40)
    rationale: Annotated[Written, Field(max_length=LONGEST_RATIONALE)] = ""
    edit: Edit | None = None
    visible_s: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_a_vote_or_a_skip(self) -> Self:
        if self.skip == bool(self.ranking or self.both_bad):
            raise ValueError("a vote has a 'ranking' or 'both_bad', or it is a 'skip'")
        return self

    def fits(self, count: int, principles: Sequence[str]) -> bool:
        """Whether the ranks fit this number of answers and these principles."""
        ranks: list[Any] = [self.ranking, *self.per_principle.values()]
        return (
            all(r is None or (len(r) == count and max(r) <= count) for r in ranks)
            and set(self.per_principle) <= set(principles)
            and (self.edit is None or self.edit.position < count)
        )

    @property
    def digest(self) -> str:
        """Equal for a retry, and different for another vote under the same ``submission``."""
        outside = {"visible_s"} if self.corrects else {"visible_s", "corrects"}  # earlier versions knew no corrections
        return sha256_text(canonical(self.model_dump(mode="json", exclude=outside)))
