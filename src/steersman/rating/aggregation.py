"""The votes on a question made into one training row: what people did not distinguish, the row does not distinguish.

The qualities of `raters.fit` pool all votes of a round, and hardly ever tie: a side bias, or one vote elsewhere, orders
two answers that everybody called equally good. So an order has to be in the votes on the question itself (`sees_order`,
an absolute majority of the reliable raters, beyond doubt of one vote) and in the qualities.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence, Set
from typing import Any

from scipy.special import betaincc

from steersman.data.rater_model import gold_scores, question_key
from steersman.rating.raters import REPEATED, Fit, fit
from steersman.rating.response_times import hasty
from steersman.types import Comparison

MIN_PROBABILITY = 0.6  # that the better of two answers is better, below which an export leaves them unordered
KNOWN_VOTES, KNOWN_GOLD = 10, 3  # of a rater, below which nobody weighs less than another
MIN_WEIGHT = 1e-3  # of an exported question that no reliable rater answered


def aggregate(votes: Sequence[Comparison]) -> list[Comparison]:
    """One training row for each question, from its votes weighed by the reliability of their raters.

    Of two answers the row has a ``soft_label``, the probability that a typical rater prefers the first; of more, a
    ranking. **What people did not distinguish stays a tie**: two answers are ordered where `sees_order` finds the order
    in the votes on this question and the fitted qualities do not contradict it. Of two others the label is 0.5; a
    ranking has the fewest ties with which every strict pair is such an order (`ranks_of`). Rankings by principle follow
    the same rule, without a fit.

    ``both_bad`` is the majority of the raters of positive reliability; a vote of both bad without a ranking orders
    nothing, and where no two answers are ordered such a row has neither a label nor a ranking, so that it trains
    nothing. ``weight`` is the sum over the votes of |reliability| over the typical one, 1 at most: a liar's vote is
    evidence for the opposite. Fields on which all votes of a question agree stay. Gold rows come first, unchanged, and
    replace all votes on the same question. Hasty votes (`response_times.hasty`) are not counted, nor are votes on
    repeated questions.
    """
    return aggregate_and_fit(votes)[0]


def aggregate_and_fit(votes: Sequence[Comparison]) -> tuple[list[Comparison], Fit]:
    """The rows of `aggregate`, and the fit behind them."""
    in_haste = hasty(votes)
    counted = [vote for i, vote in enumerate(votes) if i not in in_haste and REPEATED not in vote.tags]
    fitted = fit(counted)
    gold = {question_key(vote) for vote in counted if vote.gold}
    by_question: dict[Any, list[Comparison]] = {}
    for vote in counted:
        if question_key(vote) not in gold:
            by_question.setdefault(question_key(vote), []).append(vote)
    known = _known(counted)
    rows = [_row(fitted, own, known) for own in by_question.values()]
    return [vote for vote in counted if vote.gold] + rows, fitted


def _row(fitted: Fit, votes: Sequence[Comparison], known: Set[str]) -> Comparison:
    """The row of one question from its votes."""
    first = votes[0]
    reliabilities = [fitted.reliability(vote.rater) for vote in votes]
    both = list(zip(votes, reliabilities, strict=True))
    weights = [min(1.0, abs(own) / fitted.typical_reliability) * vote.weight for vote, own in both]
    signed = [_voice(fitted, vote, known) for vote in votes]
    credible = [(vote.both_bad, own) for vote, own in both if own > 0]
    both_bad = sum(own for bad, own in credible if bad) > 0.5 * sum(own for _, own in credible)
    alike = ("group", "principles", "topic", "failure", "tags", "source")
    row: dict[str, Any] = {
        name: getattr(first, name) for name in alike if len({getattr(vote, name) for vote in votes}) == 1
    }
    overall = [(vote, own) for vote, own in zip(votes, signed, strict=True) if vote.ranks() or vote.both_bad]
    ordered = any(vote.ranks() for vote, _ in overall)
    by_principle = _by_principle(first.options, votes, signed)
    if ordered:
        row |= _order(fitted, overall, tie_is_known=not both_bad)
    return Comparison(
        id=",".join(dict.fromkeys(vote.id for vote in votes if vote.id)),
        prompt=first.prompt,
        options=first.options,
        both_bad=both_bad or not (ordered or by_principle),
        per_principle=by_principle,
        weight=max(MIN_WEIGHT, sum([own for vote, own in zip(votes, weights, strict=True) if vote.ranks()] or weights)),
        author=f"{len({vote.rater for vote in votes})} raters",
        **row,
    )


def _known(votes: Sequence[Comparison]) -> frozenset[str]:
    """The raters with enough votes, or gold questions, to estimate how reliable they are.

    Of few votes on their own questions the fit learns that who disagrees lies, and breaks every draw: 11 raters against
    10 with one vote each are fitted as 98 %.
    """
    cast = Counter(vote.rater for vote in votes if not vote.gold)
    gold = gold_scores(votes)
    return frozenset(
        name for name, count in cast.items() if count >= KNOWN_VOTES or len(gold.get(name, ())) >= KNOWN_GOLD
    )


def _voice(fitted: Fit, vote: Comparison, known: Set[str]) -> float:
    """What a vote counts for when an order is looked for: 1 of a typical rater, below 0 of one who says the opposite.

    A known rater counts for less as far as the votes show it beyond one standard error of the reliability.
    """
    if vote.rater not in known:
        return vote.weight
    reliability = fitted.raters[vote.rater].reliability + fitted.raters[vote.rater].reliability_error
    return math.copysign(min(1.0, abs(reliability) / fitted.typical_reliability) * vote.weight, reliability)


def _order(
    fitted: Fit, votes: Sequence[tuple[Comparison, float]], *, tie_is_known: bool
) -> dict[str, tuple[int, ...] | float]:
    """The label or the ranking of a question's answers; nothing where all tie and that is no finding."""
    prompt, options = votes[0][0].prompt, votes[0][0].options
    said = [(*_certain_ranks(vote, options), weight) for vote, weight in votes]
    above = {
        (i, j)
        for i, j in sees_order(len(options), said)
        if fitted.margin(prompt, options[i], options[j])[0] > 0  # a fit that contradicts leaves them undecided
    }
    if not (above or tie_is_known):
        return {}
    if len(options) > 2:
        return {"ranking": ranks_of(len(options), above)}
    return {"soft_label": fitted.probability(prompt, *options) if above else 0.5}


def _certain_ranks(vote: Comparison, options: Sequence[str]) -> tuple[Sequence[int], float]:
    """A vote's ranks in the order of ``options``, empty without an order; and how certain it is of them."""
    rank = dict(zip(vote.options, vote.ranks(), strict=False))
    return [rank[text] for text in options] if rank else (), vote.certainty


def sees_order(count: int, votes: Sequence[tuple[Sequence[int], float, float]]) -> set[tuple[int, int]]:
    """The pairs (i, j) of ``count`` answers of which most raters, probably, see i above j.

        P(more than half of all raters see i above j) >= 0.6,  their share ~ Beta(1 + W, 1 + V)

    W is the weight of the votes that put i above j, and V that of all others: the opposite, a tie, no order. So
    [1, 1, 3] by any number of raters ties the first two; one rater's order stands (0.75), and so does two to one
    (0.69), but not one to one, nor one order beside one tie. At most one direction can pass.

    Args:
        votes: the ranks of the answers, empty without an order; the probability that they are right; and the weight,
            below 0 for a rater who says the opposite of what is right.
    """
    total = sum(abs(weight) for _, _, weight in votes)
    found = set()
    for i, j in itertools.permutations(range(count), 2):
        seen = 0.0
        for ranks, certainty, weight in votes:
            if ranks and ranks[i] != ranks[j]:
                agrees = (ranks[i] < ranks[j]) == (weight > 0)
                seen += abs(weight) * (certainty if agrees else 1 - certainty)
        if betaincc(1 + seen, 1 + total - seen, 0.5) >= MIN_PROBABILITY:
            found.add((i, j))
    return found


def ranks_of(count: int, above: Set[tuple[int, int]]) -> tuple[int, ...]:
    """The ranking with the fewest ties (1, 1, 3) of which every strict pair is in ``above``.

    A group of answers stands above the others exactly if each of its members is above each of the others. Such groups
    lie within one another, so that the ranking is unique; a circle becomes a tie.
    """
    ranks = [0] * count
    left = set(range(count))
    while left:
        # The smallest group that holds a best candidate and whoever of the rest is not below all of it.
        best = max(sorted(left), key=lambda i: sum((i, j) in above for j in left))
        group = {best}
        while missing := {j for j in left - group if any((i, j) not in above for i in group)}:
            group |= missing
        for i in group:
            ranks[i] = 1 + count - len(left)  # as in sports: 1, 1, 3
        left -= group
    return tuple(ranks)


def _by_principle(
    options: Sequence[str], votes: Sequence[Comparison], signed: Sequence[float]
) -> dict[str, tuple[int, ...]]:
    """Of each principle that a rater ranked by: the ranking of the options, from the votes that name it."""
    said: dict[str, list[tuple[Sequence[int], float, float]]] = {}
    for vote, weight in zip(votes, signed, strict=True):
        for principle, ranking in vote.per_principle.items():
            rank = dict(zip(vote.options, ranking, strict=True))
            said.setdefault(principle, []).append(([rank[text] for text in options], 1.0, weight))
    return {principle: ranks_of(len(options), sees_order(len(options), own)) for principle, own in said.items()}
