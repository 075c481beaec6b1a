"""Rounds of simulated raters, honest or attacked: how often the detectors of `brigading.py` hit or give a false alarm.

    P(first) = sigmoid(reliability_r margin_q + side_bias_r side)       reliability ~ exp N(0, 0.3)    bias ~ N(0, 0.3)

Margins are normal. Honest raters may be of one taste, of two camps, or have a like-minded minority of a tenth, who
have margins of their own: these are the people whom a detector of agreement accuses first. People come evenly over
three days, in three waves of invitations, or (``community``) with the minority in one wave of its own. A rate of false
alarms is that of rounds in which *any* honest rater is suspected.

An attack's colluders follow one list of answers on a share of the questions and answer honestly elsewhere, slip
sometimes, may come all within ten minutes, and may be one script that presses the same keys whatever is shown.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit

from steersman.stats import Estimate, wilson
from steersman.types import Record
from steersman.values.brigading import LEVEL, VoteMatrix, brigades, bursts, co_agreement, same_sequence

DAYS_S, WAVE_S, WINDOW_S = 3 * 86400.0, 1800.0, 600.0
DETECTORS = ("co_agreement", "brigades", "same_sequence", "bursts")
Array = NDArray[np.float64]


class RoundShape(Record):
    """A round: its size, how hard its questions are, and what its honest raters are like."""

    raters: int = Field(default=40, ge=8, description="Raters, colluders included.")
    questions: int = Field(default=80, ge=20, description="Pairs of answers.")
    each: int = Field(default=50, ge=1, description="Questions that each rater answers, drawn at random.")
    spread: float = Field(default=1.5, gt=0, description="Standard deviation of the questions' log-odds.")
    camps: Literal["one", "two", "minority"] = Field(default="one", description="Tastes of honest raters.")
    arrival: Literal["even", "waves", "community"] = Field(default="even", description="When honest raters come.")


class Attack(Record):
    """What colluders do."""

    colluders: int = Field(ge=1, description="How many of the raters collude.")
    obeys: float = Field(default=1.0, gt=0, le=1, description="Share of questions on which they follow the list.")
    slips: float = Field(default=0.0, ge=0, lt=0.5, description="How often they miss the list's answer.")
    together: bool = Field(default=False, description="They come within ten minutes.")
    script: bool = Field(default=False, description="They press the same keys in the same order instead.")


class SimulatedRound(NamedTuple):
    """The votes, when each rater came, the place of each chosen answer in the order of voting, and who colludes."""

    votes: VoteMatrix
    arrived_s: dict[str, float]
    places: dict[str, list[int]]
    colluders: frozenset[str]


def simulated_round(shape: RoundShape, generator: np.random.Generator, attack: Attack | None = None) -> SimulatedRound:
    """Draw a round. Colluders are the last raters; a minority are the first."""
    raters, questions = shape.raters, shape.questions
    camp = np.zeros(raters, dtype=np.int64)
    camp[: {"one": 0, "two": raters // 2, "minority": round(0.1 * raters)}[shape.camps]] = 1
    margins = shape.spread * generator.standard_normal((2, questions))
    reliability = np.exp(0.3 * generator.standard_normal(raters))
    bias = 0.3 * generator.standard_normal(raters)
    names = tuple(f"rater-{r + 1:03}" for r in range(raters))
    colluding = np.arange(raters) >= raters - (attack.colluders if attack else 0)
    listed = generator.integers(0, 2, questions)
    on_list = generator.random(questions) < (attack.obeys if attack else 0.0)
    keys = generator.integers(0, 2, shape.each)
    values, places = np.full((raters, questions), np.nan), dict[str, list[int]]()
    for r in range(raters):
        asked = generator.permutation(questions)[: shape.each]
        first_shown = generator.random(len(asked)) < 0.5  # whether the first answer is shown first
        logit = reliability[r] * margins[camp[r], asked] + bias[r] * np.where(first_shown, 1, -1)
        answer = (generator.random(len(asked)) < expit(logit)).astype(np.int64)
        if attack and colluding[r] and attack.script:
            answer = np.where(first_shown, 1 - keys[: len(asked)], keys[: len(asked)])
        elif attack and colluding[r]:
            missed = generator.random(len(asked)) < attack.slips
            answer = np.where(on_list[asked], listed[asked] ^ missed, answer)
        values[r, asked] = answer
        places[names[r]] = np.where(first_shown, 1 - answer, answer).tolist()
    arrived = _arrivals(shape, camp, generator)
    if attack and attack.together:
        arrived[colluding] = generator.uniform(0, DAYS_S) + generator.uniform(0, WINDOW_S, int(colluding.sum()))
    return SimulatedRound(
        VoteMatrix(names, values),
        dict(zip(names, arrived.tolist(), strict=True)),
        places,
        frozenset(name for name, yes in zip(names, colluding, strict=True) if yes),
    )


def _arrivals(shape: RoundShape, camp: NDArray[np.int64], generator: np.random.Generator) -> Array:
    """Seconds from the beginning of the round, [R]."""
    even = generator.uniform(0, DAYS_S, len(camp))
    wave = generator.uniform(0, DAYS_S, 3)[generator.integers(0, 3, len(camp))]
    in_waves = wave + WAVE_S * generator.standard_normal(len(camp))
    own_wave = generator.uniform(0, DAYS_S) + generator.uniform(0, WINDOW_S, len(camp))
    return {"even": even, "waves": in_waves, "community": np.where(camp == 1, own_wave, even)}[shape.arrival]


# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def suspected(drawn: SimulatedRound, draws: int = 199, level: float = LEVEL) -> dict[str, frozenset[str]]:
    """Whom each of `DETECTORS` suspects; of `bursts`, everybody who came in the window."""
    found = {"co_agreement": frozenset(suspect.rater for suspect in co_agreement(drawn.votes, level).suspects)}
    brigade = brigades(drawn.votes, drawn.arrived_s, WINDOW_S, draws)
    found["brigades"] = frozenset(brigade.raters if brigade.p <= level else ())
    pairs = same_sequence(drawn.places, level)
    found["same_sequence"] = frozenset(name for pair in pairs for name in (pair.first, pair.second))
    burst = bursts(list(drawn.arrived_s.values()), WINDOW_S, draws)
    inside = (name for name, at in drawn.arrived_s.items() if burst.begins_s <= at <= burst.begins_s + WINDOW_S)
    found["bursts"] = frozenset(inside if burst.p <= level else ())
    return found


class Rates(NamedTuple):
    """Of a detector: rounds in which an honest rater is suspected; and of attacked rounds, those in which at least half
    of the colluders are, and the share of all colluders who are (n is rounds, and colluders, so that the last interval
    takes colluders of one round for independent and is too narrow)."""

    false_alarms: Estimate
    hits: Estimate
    colluders: Estimate


def rates(shape: RoundShape, attack: Attack | None = None, rounds: int = 200, seed: int = 0) -> dict[str, Rates]:
    """Rates of each detector, by name, over seeded rounds of this shape."""
    drawn = [simulated_round(shape, np.random.default_rng([seed, n]), attack) for n in range(rounds)]
    accused = [suspected(one) for one in drawn]
    found = {}
    for detector in DETECTORS:
        caught = [len(who[detector] & one.colluders) for who, one in zip(accused, drawn, strict=True)]
        total = sum(len(one.colluders) for one in drawn)
        found[detector] = Rates(
            wilson(sum(bool(who[detector] - one.colluders) for who, one in zip(accused, drawn, strict=True)), rounds),
            wilson(
                sum(count > 0 and 2 * count >= len(one.colluders) for count, one in zip(caught, drawn, strict=True)),
                rounds if total else 0,
            ),
            wilson(sum(caught), total),
        )
    return found
