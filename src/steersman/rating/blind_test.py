"""A blind test of two models from votes: the win rate, its interval, and the number of votes still needed.

A vote is a win (1), a tie (1/2) or a loss (0) of the first model. Votes about one prompt resemble one another, and so
do a rater's, so they are fewer than they look: the interval is `stats.clustered_mean`'s, by prompt and by rater at
once. Votes that call all answers unacceptable without ordering them are no ties; they are counted separately.

The rate is over prompts on which the models' answers differ, and over raters such as these, each weighed by the number
of their votes. It says nothing about prompts on which both models answer the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.data.rater_model import places
from steersman.errors import DataError
from steersman.stats import Clustered, Estimate, clustered_mean, observations_for, wilson
from steersman.types import Comparison

MARGIN = 0.05


def blind_test(
    votes: Sequence[Comparison],
    origins: Sequence[Sequence[str]],
    models: tuple[str, str],
    margin: float = MARGIN,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The figures of a blind test as JSON values, for the report.

    ``win_rate`` is the first model's; ``decided`` names the better one if the interval excludes one half.
    ``votes_needed`` are those still missing, on new prompts as on these: ``for_margin``, until the interval's half
    width is at most ``margin``, and ``to_decide``, until it excludes one half, if the rate stays the same (None at one
    half itself). ``shown_first_won`` is a check: the win rate of the answer shown first, one half but for chance.

    Args:
        votes: of two answers each; rows with ``gold`` are left out.
        origins: of each vote, the models that wrote its options, in their order.

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
        _check_authors(authors, models)
        both_bad += vote.both_bad
        if not (ranks := vote.ranks()):
            unordered += 1
            continue
        first = list(authors).index(models[0])
        better = ranks[1 - first] - ranks[first]
        outcomes.append((0.5 + 0.5 * ((better > 0) - (better < 0)), vote))
        if better and vote.order_shown:
            first_won.append((ranks[0] < ranks[1]) == (places(vote)[0] > 0))
    scores = [score for score, _ in outcomes]
    prompts = [vote.prompt for _, vote in outcomes]
    raters = [vote.rater or f"vote {i}" for i, (_, vote) in enumerate(outcomes)]
    rate = clustered_mean(scores, prompts, raters, confidence=confidence, rate=True)
    return {
        "models": list(models),
        "wins": scores.count(1.0),
        "ties": scores.count(0.5),
        "losses": scores.count(0.0),
        "both_bad": both_bad,
        "without_order": unordered,
        "prompts": len(set(prompts)),
        "raters": len(set(raters)),
        "win_rate": rate.estimate._asdict() if rate.estimate.n else None,
        "design_effect": rate.design_effect,
        "decided": _decided(rate, models),
        "votes_needed": {"margin": margin, **_votes_needed(rate, margin)},
        "shown_first_won": wilson(sum(first_won), len(first_won))._asdict() if first_won else None,
    }


def _check_authors(authors: Sequence[str], models: tuple[str, str]) -> None:
    if sorted(authors) != sorted(models) or models[0] == models[1]:
        raise DataError(
            f"a vote about answers of {', '.join(authors) or 'nobody'}", expected=f"one each of {' and '.join(models)}"
        )


def _decided(rate: Clustered, models: tuple[str, str]) -> str | None:
    value, low, high, n = rate.estimate
    return None if not n or low <= 0.5 <= high else models[value < 0.5]


def _votes_needed(rate: Clustered, margin: float) -> dict[str, int | None]:
    """Votes that are still missing; without any votes, those of a rate of one half with independent votes."""
    value, _, _, n = rate.estimate
    missing = rate.design_effect * observations_for(value if n else 0.5, margin, rate.quantile) - n
    needed: dict[str, int | None] = {"for_margin": max(0, math.ceil(missing)), "to_decide": None}
    if n and value != 0.5:
        # The score test that Wilson's interval inverts rejects one half where |p - 1/2| > z / (2 sqrt(n)).
        enough = rate.quantile**2 * 0.25 / (value - 0.5) ** 2
        needed["to_decide"] = max(0, math.ceil(rate.design_effect * enough - n))
    return needed


def in_words(figures: Mapping[str, Any]) -> list[str]:
    """The figures of `blind_test` as lines for the console."""
    first, second = figures["models"]
    if figures["win_rate"] is None:
        return [f"{first} against {second}: no vote orders their answers yet"]
    needed = figures["votes_needed"]
    decide = "no number" if needed["to_decide"] is None else needed["to_decide"]
    rate = Estimate(**figures["win_rate"]).percent()
    return [
        f"{first} wins against {second}: {rate} votes (wins {figures['wins']}, ties {figures['ties']}, "
        f"losses {figures['losses']}); {figures['prompts']} prompts, {figures['raters']} raters",
        f"better: {figures['decided'] or 'not decided'}; votes still needed: {decide} to decide if the rate stays, "
        f"{needed['for_margin']} for +-{100 * needed['margin']:.0f} points",
    ]
