"""Rules that read who beats whom: Borda, Copeland, Kemeny, Schulze, maximal lotteries; who beats everybody.

All read one `Pairwise` matrix W, in which W[i, j] is the weight of the people who prefer i to j. Pooled Bradley-Terry,
which every reward model is, has a file of its own (`bradley_terry.py`).

Each docstring says which axioms the rule meets and which it fails, for full ballots: *Condorcet*: who beats each other
alternative wins. *Smith*: the winner is in the smallest set whose members beat everybody outside. *Monotone*: being
ranked higher on a ballot does not harm. *Clones*: to add an alternative that everybody ranks next to another does not
change which of the others wins. *Pareto*: what everybody likes less does not win. *Participation*: no one is better off
by staying away. No rule meets both Condorcet and participation (Moulin 1988), except in lotteries. Sources: Brandt et
al., Handbook of Computational Social Choice (2016), ch. 2-5; Schulze 2018 (arXiv:1804.02973).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from steersman.errors import RunError, UserError
from steersman.values.aggregate import TIE, Array, Choice, Pairwise, by_score

KEMENY_MOST = 16  # alternatives: time and memory double with each
LOTTERY_SLACK = 1e-10  # of a margin, relative to the largest
Flags = NDArray[np.bool_]


def condorcet_winner(pairwise: Pairwise) -> str | None:
    """The alternative that a majority prefers to each other one, if there is one."""
    wins = (pairwise.margins > 0).sum(1)
    best = int(wins.argmax())
    return pairwise.alternatives[best] if wins[best] == len(wins) - 1 else None


def condorcet_loser(pairwise: Pairwise) -> str | None:
    """The alternative to which a majority prefers each other one, if there is one."""
    return condorcet_winner(Pairwise(pairwise.alternatives, pairwise.weights.T))


def smith_set(pairwise: Pairwise) -> tuple[str, ...]:
    """The smallest set whose members all beat everybody outside; of one member if that is the Condorcet winner.

    By Copeland's scores: the set is a prefix of their order, for a member has more wins than anybody outside.
    """
    return tuple(pairwise.alternatives[i] for i in _smith(pairwise.margins))


def _smith(margins: Array) -> list[int]:
    scores = (margins > 0).sum(1) + 0.5 * (margins == 0).sum(1)
    order = np.argsort(-scores, kind="stable")
    size = 1
    while not (margins[np.ix_(order[:size], order[size:])] > 0).all():
        size += 1
    return sorted(order[:size].tolist())


def borda(pairwise: Pairwise) -> Choice:
    """Borda 1781: the average share of people who prefer an alternative to another one, over the others.

    For full ballots of one weight it is Borda's count, divided by the number of people and of others. A pair that
    nobody compared is left out of the average.

    Fails Condorcet (but a Condorcet loser never wins), Smith and clones: more of one's own kind help. Meets monotone,
    Pareto and participation. Read by nobody on purpose, and by everybody who fits one reward model: `bradley_terry`.
    """
    total = pairwise.weights + pairwise.weights.T
    seen = total > 0
    shares = np.where(seen, pairwise.weights / np.where(seen, total, 1.0), 0.0)
    return by_score("borda", pairwise.alternatives, shares.sum(1) / np.maximum(1, seen.sum(1)))


def copeland(pairwise: Pairwise) -> Choice:
    """Copeland 1951: majorities won, a tie as half. The rule of the plain majority; the score is out of K - 1.

    Meets Condorcet, Smith, monotone and Pareto. Fails clones (they crowd the winner out) and participation. It ignores
    by how much: scores tie often. A pair that nobody compared counts as a tie (`Pairwise.unseen`).
    """
    margins = pairwise.margins
    scores = (margins > 0).sum(1) + 0.5 * ((margins == 0).sum(1) - 1)
    return by_score("copeland", pairwise.alternatives, scores.astype(np.float64))


def kemeny(pairwise: Pairwise) -> Choice:
    """Kemeny 1959: the ranking with which people disagree on the fewest pairs. Exact, for up to 16 alternatives.

    By dynamic programming over the sets that may come first, 2^K K steps. Where several rankings are best, the scores
    are the negative mean place over all of them, so that no name is favoured; those that tie share a place. For a
    single best ranking the scores are its places, and the order is the ranking.

    Meets Condorcet, Smith, monotone and Pareto; it is the only rule that is neutral, meets Condorcet, and stands by
    what two halves of the people both say (Young & Levenglick 1978). Fails clones and participation.

    Raises:
        UserError: there are more alternatives.
    """
    count = len(pairwise.alternatives)
    if count > KEMENY_MOST:
        raise UserError(
            f"Kemeny's rule over {count} alternatives would need 2^{count} steps",
            expected=f"up to {KEMENY_MOST}",
            do="use `schulze`, or apply Kemeny's to the alternatives of `smith_set`, where its winner is",
        )
    weights, members, full = pairwise.weights, _members(count), (1 << count) - 1
    against = members @ weights.T  # [2^K, K]: for j above a member of the set, if j comes right after it
    best, ways = _least_disagreement(against, members)
    near = TIE * max(1e-300, float(weights.sum()))
    places = np.zeros(count)
    for j in range(count):  # all best rankings in which a set comes first, then j, then the rest
        before = np.flatnonzero(~members[:, j])
        after = before + (1 << j)
        inside, rest = members[after], full - after
        across = ((inside @ weights.T) * ~inside).sum(1)
        optimal = best[before] + against[before, j] + across + best[rest] <= best[full] + near
        many = np.where(optimal, ways[before] * ways[rest], 0.0)
        places[j] = many @ (members[before].sum(1) + 1) / ways[full]
    return by_score("kemeny", pairwise.alternatives, -places)


def _members(count: int) -> Flags:
    """[2^K, K], which alternatives each set has."""
    return (np.arange(1 << count)[:, None] >> np.arange(count) & 1).astype(bool)


def _least_disagreement(against: Array, members: Flags) -> tuple[Array, Array]:
    """For each set alone: the disagreement with its best rankings, and how many there are; both [2^K]."""
    size, count = members.shape
    best, ways = np.full(size, np.inf), np.zeros(size)
    best[0], ways[0] = 0.0, 1.0
    near = TIE * max(1e-300, float(against[-1].sum()))
    for many in range(1, count + 1):
        sets = np.flatnonzero(members.sum(1) == many)
        last = np.full((len(sets), count), np.inf)  # the cost if j is the set's last
        for j in range(count):
            has = members[sets, j]
            before = sets[has] - (1 << j)
            last[has, j] = best[before] + against[before, j]
        best[sets] = last.min(1)
        for j in range(count):
            reached = sets[last[:, j] <= best[sets] + near]
            ways[reached] += ways[reached - (1 << j)]
    return best, ways


def schulze(pairwise: Pairwise) -> Choice:
    """Schulze 1997, beatpaths: i beats j if the strongest chain of majorities from i to j is stronger than any back.

    A majority is as strong as the weight of those who are for it, with ties as half: over full ballots the order is
    that of the margins. Schulze's own "winning votes" count a tie for neither: without ties it is the same, and W
    without the halves gives it. The score is the negative number of alternatives that beat one: 0 for all winners.
    Beating is transitive, so who is beaten always has a lower score than who beats; two of which neither beats the
    other may differ in it further down.

    Meets Condorcet, Smith, monotone, clones and Pareto. Fails participation.
    """
    weights = pairwise.weights
    strongest = np.where(pairwise.margins > 0, weights, 0.0)
    for through in range(len(weights)):  # the widest paths, Floyd and Warshall
        strongest = np.maximum(strongest, np.minimum(strongest[:, [through]], strongest[[through], :]))
    np.fill_diagonal(strongest, 0.0)
    beats = strongest > strongest.T + TIE * float(weights.max(initial=0.0))
    return by_score("schulze", pairwise.alternatives, -beats.sum(0).astype(np.float64))


def maximal_lottery(pairwise: Pairwise) -> Choice:
    """Kreweras 1965, Fishburn 1984: a lottery that no other is preferred to by an expected majority.

        p >= 0    sum p = 1    sum_i p_i (W_ij - W_ji) >= 0 for every j

    An optimal strategy of the symmetric game of margins, by linear programmes. The optimum is unique if all margins
    are odd numbers (Laffond, Laslier & Le Breton 1997). Otherwise, of all optimal lotteries the one whose smallest
    probabilities are as large as possible, smallest first: it favours no name and keeps all that could win alive.

    Meets Condorcet (with probability 1), Smith, clones, and participation and consistency in the sense of lotteries
    (Brandl, Brandt & Seedig 2016, doi:10.3982/ECTA13337; Brandl, Brandt & Hofbauer 2019); no lottery is preferred to
    it by everybody. Fails monotone: more support may lower a probability. The score is the probability.
    """
    inside = _smith(pairwise.margins)  # whoever is outside loses to each of them, and has no chance
    margins = pairwise.margins[np.ix_(inside, inside)]
    margins = margins / (float(np.abs(margins).max()) or 1.0)
    fixed = np.zeros(len(inside))
    free = np.ones(len(inside), dtype=bool)
    while free.any():  # each round settles the smallest probability that can still grow, and all that cannot
        lowest, stuck = _lift(margins, fixed, free)
        fixed[stuck] = lowest
        free &= ~stuck
    chances = np.zeros(len(pairwise.alternatives))
    chances[inside] = np.where(fixed < 1e-8, 0.0, fixed) / fixed[fixed >= 1e-8].sum()
    return by_score("maximal_lottery", pairwise.alternatives, chances, ties=1e-7, probabilities=chances)


def _lift(margins: Array, fixed: Array, free: Flags) -> tuple[float, Flags]:
    """Raise the smallest free probability as far as it goes: its value, and which are stuck at it.

    A constraint with a positive price is tight in every optimum, so whoever has one cannot have more.
    """
    count = len(margins)
    places = np.flatnonzero(free)
    above = np.zeros((len(places), count + 1))  # t - p_i <= 0
    above[np.arange(len(places)), places], above[:, -1] = -1.0, 1.0
    majority = np.hstack([-margins.T, np.zeros((count, 1))])  # -(margins^T p) <= slack
    total = np.append(np.ones(count), 0.0)[None]
    slack = LOTTERY_SLACK
    bounds = [(0.0, 1.0) if free[i] else (max(0.0, fixed[i] - slack), fixed[i] + slack) for i in range(count)]
    found = linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.vstack([above, majority]),
        b_ub=np.append(np.zeros(len(places)), np.full(count, slack)),
        A_eq=total,
        b_eq=[1.0],
        bounds=[*bounds, (0.0, 1.0)],
        method="highs",
    )
    if found.x is None:
        raise RunError(f"the linear programme of the lottery failed: {found.message}")
    prices = -found.ineqlin.marginals[: len(places)]
    stuck = np.zeros(count, dtype=bool)
    stuck[places[prices > 1e-9]] = True
    if not stuck.any():  # the prices are lost to rounding: whoever has the least is settled
        stuck[places[found.x[places] <= found.x[-1] + 1e-9]] = True
    return max(0.0, float(found.x[-1])), stuck
