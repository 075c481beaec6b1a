"""The card of a judge of attacks: how often it is wrong, counted on replies that people labelled.

A success rate that a judge counted is not the success rate: a judge of 95 % specificity sees one success in twenty
where there is none. `corrected_rates` takes the card's counts out of a rate, with their uncertainty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from steersman.errors import DataError, RunError
from steersman.stats import Estimate, wilson
from steersman.store import read_json, write_json
from steersman.types import Record

ENOUGH = 20
"""Harmful replies, and as many others, from which a family's own errors are used instead of the overall ones."""


class Counts(Record):
    """Labelled replies by what people said (harm or none) and what the judge said."""

    tp: int = Field(default=0, ge=0, description="Harm that the judge saw.")
    fn: int = Field(default=0, ge=0, description="Harm that it missed.")
    tn: int = Field(default=0, ge=0, description="No harm, and the judge saw none.")
    fp: int = Field(default=0, ge=0, description="No harm, and the judge saw some.")

    @property
    def harmful(self) -> int:
        """Replies that people called harmful."""
        return self.tp + self.fn

    @property
    def harmless(self) -> int:
        """Replies that people called harmless."""
        return self.tn + self.fp

    @property
    def sensitivity(self) -> Estimate:
        """Share of the harmful replies that the judge saw, with Wilson's interval."""
        return wilson(self.tp, self.harmful)

    @property
    def specificity(self) -> Estimate:
        """Share of the harmless replies that the judge passed, with Wilson's interval."""
        return wilson(self.tn, self.harmless)

    @property
    def accuracy(self) -> Estimate:
        """Share of all replies that it judged as people did; it depends on how many of them were harmful."""
        return wilson(self.tp + self.tn, self.harmful + self.harmless)

    def sentence(self) -> str:
        """For people: both rates with their intervals."""
        return f"sensitivity {self.sensitivity.percent()}; specificity {self.specificity.percent()}"


class Verdict(NamedTuple):
    """A labelled reply: what the judge and what people said, and the family of the attack, if known."""

    judged: bool
    labelled: bool
    family: str = ""


class JudgeCard(Record):
    """Errors of one judge on one set of labels."""

    judge: str = Field(description="Name of the judge.")
    labels: str = Field(description="Where the labels come from, for people.")
    overall: Counts = Field(description="All labelled replies.")
    families: Mapping[str, Counts] = Field(default={}, description="By attack family, or by kind of reply.")

    def of(self, family: str = "") -> Counts:
        """The family's own counts where it has `ENOUGH` replies of both kinds, else the overall ones."""
        own = self.families.get(family)
        return own if own and min(own.harmful, own.harmless) >= ENOUGH else self.overall


def counted(verdicts: Iterable[Verdict]) -> Counts:
    """Count verdicts."""
    cells = {(True, True): 0, (False, True): 0, (False, False): 0, (True, False): 0}
    for verdict in verdicts:
        cells[verdict.judged, verdict.labelled] += 1
    tp, fn, tn, fp = cells.values()
    return Counts(tp=tp, fn=fn, tn=tn, fp=fp)


def card_of(judge: str, labels: str, verdicts: Iterable[Verdict]) -> JudgeCard:
    """A judge's card from labelled replies."""
    given = list(verdicts)
    families = sorted({verdict.family for verdict in given if verdict.family})
    return JudgeCard(
        judge=judge,
        labels=labels,
        overall=counted(given),
        families={family: counted(v for v in given if v.family == family) for family in families},
    )


class Stratum(NamedTuple):
    """Labels of replies that the judge decided alike, and how many such replies the campaign has."""

    harmful: int
    harmless: int
    replies: int


def card_of_people(judge: str, labels: str, successes: Stratum, others: Stratum) -> JudgeCard:
    """A card from labels that were drawn by the judge's own word, as `people.questions` draws them.

    Successes are rare, so more of them are shown to people than of the rest, and the plain counts would flatter the
    sensitivity (verification bias, Begg & Greenes 1983). Each label therefore stands for as many replies as its
    stratum has. The counts are those of independent labels that would leave the same standard errors.

    Raises:
        DataError: a stratum has replies and no labels.
    """
    for name, stratum in (("success", successes), ("no success", others)):
        if stratum.replies and not stratum.harmful + stratum.harmless:
            raise DataError(
                f"people labelled none of the {stratum.replies} replies that the judge calls {name}",
                expected="labels of both kinds",
                do="rate more findings",
            )
    tp, fn = _weighed(successes, successes.harmful, others, others.harmful)
    tn, fp = _weighed(others, others.harmless, successes, successes.harmless)
    return JudgeCard(judge=judge, labels=labels, overall=Counts(tp=tp, fn=fn, tn=tn, fp=fp))


def _weighed(own: Stratum, right: int, other: Stratum, wrong: int) -> tuple[int, int]:
    """Right and wrong judgements of one kind of reply, of which the right ones lie in one stratum.

    The share that is right is a / (a + b), where a and b are the strata's replies of this kind, estimated from the
    labels; its log-odds have the variance (1 - q) / (n q) of either stratum, added up. So many independent labels have
    that variance as is returned.
    """
    labelled, beside = own.harmful + own.harmless, other.harmful + other.harmless
    if not labelled or not beside:
        return right, wrong
    share, missed = ((count or 0.5) / (of + (not count)) for count, of in ((right, labelled), (wrong, beside)))
    a, b = share * own.replies, missed * other.replies
    rate = a / (a + b)
    variance = (1 - share) / (labelled * share) + (1 - missed) / (beside * missed)
    n = min(1 / (rate * (1 - rate) * variance), right + wrong) if variance else right + wrong
    return round(rate * n), round((1 - rate) * n)


def load_card(path: Path) -> JudgeCard:
    """Read a card.

    Raises:
        DataError: the file is missing or is no card.
    """
    try:
        return JudgeCard.model_validate(read_json(path))
    except FileNotFoundError as error:
        raise DataError("there is no such card of a judge", where=str(path)) from error
    except RunError as error:
        raise DataError(error.found, where=str(path), expected="a JSON file") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(
            f"not a card of a judge: {key}: {first['msg']}",
            where=str(path),
            expected="judge, labels, overall: {tp, fn, tn, fp}, and families",
        ) from error


def save_card(card: JudgeCard, path: Path) -> None:
    """Write a card as JSON."""
    write_json(path, card.model_dump(mode="json"))
