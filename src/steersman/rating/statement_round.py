"""The records of a conversation in which people vote on statements: its settings, and what browsers post.

People agree with a *statement*, disagree, or pass. They may add statements, which a moderator accepts or rejects before
anybody else sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field

from steersman.rating.requests import RowId
from steersman.rating.round import CONSENT, Id, Written
from steersman.store import canonical, sha256_text
from steersman.types import Record, Seed

LONGEST_STATEMENT = 400  # characters
AGREE, PASS, DISAGREE = 1, 0, -1
SAID = {AGREE: "You agree.", DISAGREE: "You disagree.", PASS: "You passed."}

Decision = Literal["waiting", "accepted", "rejected"]


class StatementRound(Record):
    """The settings of a conversation, fixed when it begins."""

    title: str = Field(default="How should the assistant behave?", description="Heading of the participants' pages.")
    instructions: str = Field(
        default="Do you agree with this statement?", description="Question that stands above every statement."
    )
    consent: str = Field(default=CONSENT, description="Text that participants agree to before the first statement.")
    seed: Seed = Field(default=0, description="Seed of the draws of statements, and of the search for groups.")
    proposals: int = Field(default=10, ge=0, description="Maximum statements that one participant may add; 0: none.")
    min_votes: int = Field(default=7, ge=1, description="Votes from which a participant counts among the groups.")


class StatementVote(Record):
    """A vote on the statement that is shown; ``submission`` is an idempotency key, drawn by the browser.

    With ``corrects``, it takes the place of what was said about this statement before.
    """

    submission: Id
    assignment: Id
    vote: Literal[-1, 0, 1]
    corrects: bool = False
    visible_s: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)

    @property
    def digest(self) -> str:
        """Equal for a retry, and different for another vote under the same ``submission``."""
        return sha256_text(canonical(self.model_dump(mode="json", exclude={"visible_s"})))


def tidy(text: str) -> str:
    """A statement on one line, without spaces at its ends.

    Raises:
        ValueError: it is empty or too long.
    """
    text = " ".join(text.split())
    if not text:
        raise ValueError("a statement has words")
    if len(text) > LONGEST_STATEMENT:
        raise ValueError(f"a statement has at most {LONGEST_STATEMENT} characters, and this one {len(text)}")
    return text


class Proposal(Record):
    """A participant adds a statement."""

    text: Annotated[Written, AfterValidator(tidy)]


class Moderation(Record):
    """The administrator accepts or rejects a statement."""

    statement: RowId
    decision: Literal["accepted", "rejected"]


class GroupTallies(Protocol):
    """Votes by group and statement, as `values.opinion_groups.Tallies` has them: arrays [groups, statements]."""

    @property
    def agrees(self) -> Any:
        """Votes for."""

    @property
    def disagrees(self) -> Any:
        """Votes against."""

    @property
    def seen(self) -> Any:
        """Votes and passes."""

    @property
    def p_agree(self) -> Any:
        """Smoothed share that agrees."""

    @property
    def mean_consensus(self) -> Any:
        """Geometric mean of the groups' shares, [statements]."""

    @property
    def divides(self) -> Any:
        """Largest difference between two groups' shares, [statements]."""


class Opinions(Protocol):
    """What votes say of people and statements, as `values.opinion_groups.OpinionMap` has it."""

    @property
    def labels(self) -> Any:
        """The group of each participant, from 0; -1 for who does not count."""

    @property
    def silhouettes(self) -> dict[int, float]:
        """The mean silhouette by number of groups."""

    @property
    def tallies(self) -> GroupTallies:
        """The votes of the groups."""

    @property
    def priorities(self) -> Any:
        """How soon each statement should be shown."""


# Votes [participants, statements], the votes from which a participant counts, and a seed. It comes from outside, for
# the methods do not know one another; the command line gives `values.opinion_groups.opinion_map`.
Analyse = Callable[[Any, int, int], Opinions]
