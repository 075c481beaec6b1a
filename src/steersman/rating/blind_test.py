"""A blind test of two models from votes: the win rate, how sure it is, and how many more votes it takes.

A vote is a win (1), a tie (1/2) or a loss (0) of the first model. Votes about one prompt resemble one another, and so
do a rater's, so they are fewer than they look: the interval is `stats.clustered_mean`'s, by prompt and by rater at
once. Votes that say that no answer is acceptable, and do not order them, are no ties; they are counted apart.

The rate is that of prompts on which the models' answers differ, by raters such as these, of whom each counts as much as
he votes. It says nothing of prompts on which both answer the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from steersman.data.votes import places
from steersman.errors import DataError
from steersman.stats import Clustered, clustered_mean, observations_for, wilson
from steersman.types import Comparison

MARGIN = 0.05


def duel(
    votes: Sequence[Comparison],
    origins: Sequence[Sequence[str]],
    models: tuple[str, str],
    margin: float = MARGIN,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The figures of a blind test as JSON values, for the report.

    ``win_rate`` is the first model's; ``decided`` names the better one if the interval leaves out one half.
    ``votes_needed`` are those still missing, on new prompts as on these: ``for_margin``, until the interval reaches no
    further than ``margin`` to either side, and ``to_decide``, until it leaves out one half, if the rate stays what it
    is (None at one half itself). ``shown_first_won`` is what it should not depend on: one half but for chance.

    Args:
        votes: of two answers each; rows with ``gold`` are left out.
        origins: of each vote, the models that wrote its options, in the options' order.

    Raises:
        DataError: a vote is about other models, or there are not as many origins as votes.
    """
    if len(votes) != len(origins):
        raise DataError(f"{len(origins)} origins for {len(votes)} votes", expected="the authors of each vote's options")
    outcomes: list[tuple[float, Comparison]] = []
    first_won: list[bool] = []
    unordered = both_bad = 0
    for vote, authors in zip(votes, origins, strict=True):
        if vote.gold:
            continue
        _of_these(authors, models)
        both_bad += vote.both_bad
        if not (ranks := vote.ranks()):
            unordered += 1
            continue
        mine = list(authors).index(models[0])
        better = ranks[1 - mine] - ranks[mine]
        outcomes.append((0.5 + 0.5 * ((better > 0) - (better < 0)), vote))
        if better and vote.order_shown:
            first_won.append((ranks[0] < ranks[1]) == (places(vote)[0] > 0))
    scores = [score for score, _ in outcomes]
    prompts = [vote.prompt for _, vote in outcomes]
    raters = [vote.rater or f"vote {i}" for i, (_, vote) in enumerate(outcomes)]
    found = clustered_mean(scores, prompts, raters, confidence=confidence, rate=True)
    return {
        "models": list(models),
        "wins": scores.count(1.0),
        "ties": scores.count(0.5),
        "losses": scores.count(0.0),
        "both_bad": both_bad,
        "without_order": unordered,
        "prompts": len(set(prompts)),
        "raters": len(set(raters)),
        "win_rate": _figure(found),
        "design_effect": found.design_effect,
        "decided": _decided(found, models),
        "votes_needed": {"margin": margin, **_needed(found, margin)},
        "shown_first_won": wilson(sum(first_won), len(first_won))._asdict() if first_won else None,
    }


def _of_these(authors: Sequence[str], models: tuple[str, str]) -> None:
    if sorted(authors) != sorted(models) or models[0] == models[1]:
        found = f"a vote about answers of {', '.join(authors) or 'nobody'}"
        raise DataError(found, expected=f"one each of {' and '.join(models)}")


def _figure(found: Clustered) -> dict[str, float | int] | None:
    return found.estimate._asdict() if found.estimate.n else None


def _decided(found: Clustered, models: tuple[str, str]) -> str | None:
    value, low, high, n = found.estimate
    return None if not n or low <= 0.5 <= high else models[value < 0.5]


def _needed(found: Clustered, margin: float) -> dict[str, int | None]:
    """Votes that are still missing; of nothing yet, as many as a rate of one half needs of independent votes."""
    value, _, _, n = found.estimate
    rate, quantile = value if n else 0.5, found.quantile
    missing = found.design_effect * observations_for(rate, margin, quantile) - n
    needed: dict[str, int | None] = {"for_margin": max(0, math.ceil(missing)), "to_decide": None}
    if n and value != 0.5:
        # The score test that Wilson's interval inverts rejects one half where |p - 1/2| > z / (2 sqrt(n)).
        enough = quantile**2 * 0.25 / (value - 0.5) ** 2
        needed["to_decide"] = max(0, math.ceil(found.design_effect * enough - n))
    return needed
