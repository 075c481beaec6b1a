"""What a rating round consists of: its settings, its questions, and what a rater's browser may post.

A *round* puts *questions* (a prompt and two to nine answers) to raters. An *assignment* is one question in the hands of
one rater, with the order in which the answers stand on the page. A *vote* is what the rater said of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from steersman.store import canonical, sha256_text
from steersman.types import Comparison, NonEmpty, Ranking, Record, Request, Seed, Slug

LONGEST_ANSWER = 60_000  # characters
LONGEST_RATIONALE = 4_000
CONSENT = (
    "What you choose and write here is stored with the time that it took, under a number and not under your name. It "
    "is used to train and to measure language models. You may stop at any time, and withdraw: from then on nothing "
    "that you said is handed on."
)

Arm = Literal["informed", "random", "gold", "repeat"]
# Given the open questions and what was said so far: how much each of them would tell.
Scorer = Callable[[Sequence["Question"], Sequence[Comparison]], Sequence[float]]


class Round(Record):
    """The settings of a round, fixed when it begins.

    ``gold_share`` of a rater's questions have a known answer (what is left of those comes last; with 0 none is asked),
    ``repeat_share`` were put to the same rater before. ``per_rater`` counts what a rater answers or skips.
    Where a scorer chooses the questions, ``random_share`` of them are drawn at random all the same, as its control.
    ``lease_s`` is how long a question stays reserved for the rater who has it on the screen. ``source`` says what the
    questions were made of.
    """

    title: str = "Which answer is better?"
    instructions: str = "Choose the answer that you would rather have been given."
    consent: str = CONSENT
    seed: Seed = 0
    principles: dict[Slug, str] = Field(default={})
    ask_principles: bool = False
    per_rater: int | None = Field(default=None, ge=1)
    gold_share: float = Field(default=0.1, ge=0, le=0.5)
    repeat_share: float = Field(default=0.05, ge=0, le=0.5)
    random_share: float = Field(default=0.2, gt=0, le=1)
    lease_s: float = Field(default=1200.0, gt=0)
    source: dict[str, Any] = Field(default={})


class Question(Record):
    """A prompt with two to nine answers, for ``raters`` different raters.

    ``origins`` says who wrote each answer; no rater is told. ``gold`` is the known ranking of a question that measures
    the raters; it is put to everyone.
    """

    prompt: Request
    options: tuple[NonEmpty, ...]
    origins: tuple[str, ...] = ()
    gold: Ranking | None = None
    principles: tuple[Slug, ...] = ()
    topic: Slug | None = None
    raters: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _is_a_comparison(self) -> Self:
        Comparison(prompt=self.prompt, options=self.options, ranking=self.gold, both_bad=True)
        if self.origins and len(self.origins) != len(self.options):
            raise ValueError(f"'origins' has {len(self.origins)} names for {len(self.options)} options")
        if (longest := max(map(len, self.options))) > LONGEST_ANSWER:
            raise ValueError(f"an answer has {longest} characters, and a page shows at most {LONGEST_ANSWER}")
        return self

    @property
    def key(self) -> str:
        """Equal questions have equal keys, so that a round can be opened again with the same file."""
        return sha256_text(canonical(self.model_dump(mode="json", include={"prompt", "options", "gold"})))


def order_shown(seed: int, question: str, rater: int, count: int, *, repeat: bool = False) -> tuple[int, ...]:
    """The indices of the answers from left to right: a fair draw that is the same whenever it is made again."""
    order = list(range(count))
    random.Random(f"{seed} {question} {rater} {repeat}").shuffle(order)
    return tuple(order)


def arm_of(settings: Round, rater: int, number: int, *, informed: bool) -> Arm:
    """How a rater's question is chosen, by its number from 0.

    Gold questions come one to a block of ``1 / gold_share`` questions, at a drawn place, so that everyone gets his
    share early; the others are drawn one by one.
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
    """Without half characters and NUL, which the databases refuse."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")


Written = Annotated[str, AfterValidator(_clean)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]


class Edit(Record):
    """An answer that the rater made better; ``position`` counts from the left, from 0."""

    position: int = Field(ge=0, le=8)
    text: Annotated[NonEmpty, AfterValidator(_clean), Field(max_length=LONGEST_ANSWER)]


class Submission(Record):
    """What a rater says of an assignment. Ranks are by place on the page; the store turns them back.

    ``submission`` is drawn by the browser and names this act: sent twice, it counts once.
    """

    submission: Id
    assignment: Id
    skip: bool = False
    ranking: Ranking | None = None
    both_bad: bool = False
    per_principle: dict[Slug, Ranking] = Field(default={}, max_length=40)
    rationale: Annotated[Written, Field(max_length=LONGEST_RATIONALE)] = ""
    edit: Edit | None = None
    visible_s: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.skip == bool(self.ranking or self.both_bad):
            raise ValueError("a vote has a 'ranking' or 'both_bad', or it is a 'skip'")
        return self

    def fits(self, count: int, principles: Sequence[str]) -> bool:
        """Whether it can be about this many answers, and about these principles."""
        ranks: list[Any] = [self.ranking, *self.per_principle.values()]
        return (
            all(r is None or (len(r) == count and max(r) <= count) for r in ranks)
            and set(self.per_principle) <= set(principles)
            and (self.edit is None or self.edit.position < count)
        )

    @property
    def digest(self) -> str:
        """What tells a repeated sending from a different vote under the same name."""
        return sha256_text(canonical(self.model_dump(mode="json", exclude={"visible_s"})))
