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
