"""What a rater, or a group of them, gains by misreporting under a rule, and what the others lose by it. Simulated.

Among three options or more, every rule that lets each of them win and is no dictatorship can be manipulated somewhere
(Gibbard 1973; Satterthwaite 1975); pooled Bradley-Terry too, because it is Borda's (Siththaranjan et al. 2023,
arXiv:2312.08358). The question here is how often it pays, how much, and who pays for it. People have true utilities,
and report utilities; the misreports searched are a small family, each stated by places in the manipulator's own order:

    compromise r   the r-th best is put on top            bury r      the r-th best is put at the bottom
    truncate m     the best m in order, the rest tied     approve m   the best m tied on top, the rest at the bottom
    stretch f      distances from the own mean times f    reverse     the whole order upside down

A group reports together: each member changes their own utilities, with the places of the group's mean utility. Two
readings of "best": **informed**, chosen in each population with all other reports known, which bounds from above what
this family can do; and **blind**, the one misreport that paid most on half of the populations, on the other half: what
somebody gains who knows the rule and nothing about the others. The family is no proof of safety: a rule without gain
here may be manipulated by a misreport outside it.

Utilities are in [0, 1], 1 for each person's best option and 0 for the worst, so that a gain is a share of the distance
between the two. Reports stay in [0, 1] too. Of tied winners each is as likely as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import DataError
from steersman.stats import Estimate, mean_estimate, wilson
from steersman.values.aggregate import Choice, Pairwise, Ratings, pairwise_of_ratings

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Rule = Callable[[Ratings], Choice]
Draw = Callable[[np.random.Generator], Ratings]  # a population: true utilities in [0, 1]
NOTHING = 1e-9  # a gain that is none


def by_pairs(rule: Callable[[Pairwise], Choice]) -> Rule:
    """A rule of who beats whom, as one of ratings, of which it reads the order alone."""
    return lambda ratings: rule(pairwise_of_ratings(ratings))


def outcome(choice: Choice) -> Array:
    """The probability of each alternative, [K]: of tied winners each is as likely as the others."""
    if choice.probabilities is not None:
        return choice.probabilities
    chances = np.zeros(len(choice.alternatives))
    chances[list(choice.order[0])] = 1 / len(choice.order[0])
    return chances


def unit_range(utilities: Array) -> Array:
    """Each person's utilities [people, K] moved and scaled to [0, 1]; of somebody to whom all are equal, 1/2."""
    low, high = utilities.min(1, keepdims=True), utilities.max(1, keepdims=True)
    return np.where(high > low, (utilities - low) / np.where(high > low, high - low, 1.0), 0.5)


def two_camps(people: int, options: int, minority: float = 0.1, likeness: float = -0.6) -> Draw:
    """Draws populations of two camps: normal utilities whose camp means have the correlation ``likeness``.

    Half of a person's variance is the camp's and half is their own.
    """
    camp = (np.arange(people) >= round((1 - minority) * people)).astype(np.int64)
    names = tuple(f"option {k + 1}" for k in range(options))

    def draw(generator: np.random.Generator) -> Ratings:
        tastes = generator.standard_normal((2, options))
        tastes[1] = likeness * tastes[0] + np.sqrt(1 - likeness**2) * tastes[1]
        own = generator.standard_normal((people, options))
        return Ratings(names, ("majority", "minority"), camp, unit_range(tastes[camp] + own), np.ones(people))

    return draw


# ── misreports ───────────────────────────────────────────────────────────────────────────────────────────────────────
class Misreport(NamedTuple):
    """A change of true utilities [m, K] into reports [m, K], given the options from the best to the worst [K]."""

    name: str
    change: Callable[[Array, Indices], Array]


def _moved(utilities: Array, option: int, to: float) -> Array:
    """One option put beyond all others, whose order stays."""
    reports = 0.01 + 0.98 * utilities
    reports[:, option] = to
    return reports


def _best(utilities: Array, count: int) -> NDArray[np.bool_]:
    """[m, K], each person's own best ``count`` options."""
    places = np.argsort(np.argsort(-utilities, axis=1, kind="stable"), axis=1)
    return np.asarray(places < count)


def family(options: int) -> list[Misreport]:
    """The misreports about so many options that the module describes; places count from 1."""
    found = [Misreport("reverse", lambda u, order: 1 - u)]
    for r in range(2, options + 1):
        found.append(Misreport(f"compromise {r}", lambda u, order, r=r: _moved(u, order[r - 1], 1.0)))  # type: ignore[misc]
    for r in range(1, options):
        found.append(Misreport(f"bury {r}", lambda u, order, r=r: _moved(u, order[r - 1], 0.0)))  # type: ignore[misc]
    for m in range(1, options):
        found.append(Misreport(f"truncate {m}", lambda u, order, m=m: np.where(_best(u, m), 0.5 + 0.5 * u, 0.0)))  # type: ignore[misc]
        found.append(Misreport(f"approve {m}", lambda u, order, m=m: _best(u, m).astype(np.float64)))  # type: ignore[misc]
    for f in (2, 4):
        found.append(
            Misreport(
                f"stretch {f}",
                lambda u, order, f=f: np.clip(u.mean(1, keepdims=True) * (1 - f) + f * u, 0, 1),  # type: ignore[misc]
            )
        )
    return found


# ── gains ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Gain(NamedTuple):
    """What a misreport does: to the mean true utility of those who make it, and of the others."""

    misreport: str
    own: float
    others: float


def gains(rule: Rule, truth: Ratings, members: Sequence[int], misreports: Sequence[Misreport]) -> list[Gain]:
    """Of each misreport by ``members``, together, while all others report the truth.

    Raises:
        DataError: nobody misreports, or everybody does; or utilities are not all in [0, 1].
    """
    utilities = truth.values
    inside = np.zeros(len(utilities), dtype=bool)
    inside[list(members)] = True
    if not inside.any() or inside.all():
        raise DataError(f"{int(inside.sum())} of {len(utilities)} people misreport", expected="some, and not all")
    if not ((utilities >= 0) & (utilities <= 1)).all():
        raise DataError("utilities outside [0, 1], or missing", do="scale them, for example by `unit_range`")
    own, others = utilities[inside].mean(0), utilities[~inside].mean(0)
    order = np.argsort(-own, kind="stable")
    honest = outcome(rule(truth))
    found = []
    for misreport in misreports:
        reports = utilities.copy()
        reports[inside] = misreport.change(utilities[inside], order)
        change = outcome(rule(truth._replace(values=reports))) - honest
        found.append(Gain(misreport.name, float(own @ change), float(others @ change)))
    return found


class Strategy(NamedTuple):
    """What misreporting is worth under a rule, over populations; all in shares of best minus worst option.

    ``pays``: in how many populations some misreport gains anything; ``informed`` and ``others``: the mean gain of the
    best one where honesty is one of the choices, and what the others lose (below 0) or gain by it. ``blind_choice`` is
    the misreport, or honesty, that gained most on half of the populations; ``blind`` and ``blind_others``, on the rest.
    """

    rule: str
    pays: Estimate
    informed: Estimate
    others: Estimate
    blind_choice: str
    blind: Estimate
    blind_others: Estimate


HONEST = Gain("honest", 0.0, 0.0)


def strategy(
    name: str,
    rule: Rule,
    draw: Draw,
    members: Callable[[Ratings], Sequence[int]],
    populations: int = 100,
    seed: int = 0,
) -> Strategy:
    """Search and measure over seeded populations; the same ones for every rule.

    Args:
        members: who misreports together, in a population.

    Raises:
        DataError: fewer than 4 populations: half of them choose, half of them measure.
    """
    if populations < 4:
        raise DataError(f"{populations} populations", expected="4 or more, for an interval")
    table: list[list[Gain]] = []
    for number in range(populations):
        truth = draw(np.random.default_rng([seed, number]))
        table.append([HONEST, *gains(rule, truth, members(truth), family(len(truth.alternatives)))])
    best = [max(row, key=lambda gain: gain.own) for row in table]
    half = populations // 2
    sums = [sum(row[i].own for row in table[:half]) for i in range(len(table[0]))]
    chosen = int(np.argmax(sums))  # of equally good ones the first: honesty, if nothing gains
    rest = [row[chosen] for row in table[half:]]
    return Strategy(
        name,
        wilson(sum(gain.own > NOTHING for gain in best), populations),
        mean_estimate([gain.own for gain in best]),
        mean_estimate([gain.others for gain in best]),
        table[0][chosen].misreport,
        mean_estimate([gain.own for gain in rest]),
        mean_estimate([gain.others for gain in rest]),
    )
