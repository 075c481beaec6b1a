"""Rules on pairwise matrices: known elections, brute force, and the axioms that hold or fail where they must."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import linprog

from known_elections import (
    BORDA_PARADOX,
    CYCLE,
    NO_CLONE,
    SCHULZE,
    TENNESSEE,
    UNEQUAL_CYCLE,
    WITH_CLONE,
    election,
    ordered,
    random_election,
)
from steersman.errors import UserError
from steersman.values.aggregate import Choice, Pairwise, ballots
from steersman.values.bradley_terry import bradley_terry
from steersman.values.elections import (
    borda,
    condorcet_loser,
    condorcet_winner,
    copeland,
    kemeny,
    maximal_lottery,
    schulze,
    smith_set,
)

CONDORCET = (copeland, kemeny, schulze, maximal_lottery)
ALL = (*CONDORCET, borda, bradley_terry)


def order(choice: Choice) -> str:
    return ordered(choice.alternatives, choice.order)


# ── known elections ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_capital_of_tennessee() -> None:
    """Nashville is the Condorcet winner; Memphis has the most first places and is the Condorcet loser."""
    votes = election(TENNESSEE)
    assert condorcet_winner(votes) == "N"
    assert condorcet_loser(votes) == "M"
    assert smith_set(votes) == ("N",)
    # Borda's counts 194, 173, 126, 107, here over 100 people and 3 others.
    assert borda(votes).scores * 300 == pytest.approx([173, 107, 126, 194])
    assert order(borda(votes)) == "N C M K"
    assert order(kemeny(votes)) == "N C K M"  # 393 agreeing pairs, Wikipedia's worked example
    assert order(schulze(votes)) == "N C K M"
    assert copeland(votes).scores == pytest.approx([2, 1, 0, 3])
    assert maximal_lottery(votes).probabilities == pytest.approx([0, 0, 0, 1])


def test_schulzes_own_example() -> None:
    votes = election(SCHULZE)
    assert votes.weights[0].tolist() == [0, 20, 26, 30, 22]  # as printed, A's row
    assert condorcet_winner(votes) is None
    assert order(schulze(votes)) == "E A C B D"
    assert schulze(votes).scores == pytest.approx([-1, -3, -2, -4, 0])


def test_in_condorcets_cycle_all_are_equal() -> None:
    votes = election(CYCLE)
    assert smith_set(votes) == ("A", "B", "C")
    for rule in ALL:
        assert order(rule(votes)) == "ABC", rule
    assert maximal_lottery(votes).probabilities == pytest.approx([1 / 3] * 3)


def test_an_unequal_cycle() -> None:
    """Margins A over B 4, B over C 6, C over A 2: the weakest, C over A, is given up. The lottery by hand: each has the
    margin of the two others."""
    votes = election(UNEQUAL_CYCLE)
    assert order(kemeny(votes)) == order(schulze(votes)) == "A B C"
    assert maximal_lottery(votes).probabilities == pytest.approx([6 / 12, 2 / 12, 4 / 12])
    assert order(copeland(votes)) == "ABC"


# ── brute force ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_kemeny_is_the_best_of_all_rankings() -> None:
    generator = np.random.default_rng(0)
    several = 0
    for trial in range(40):
        names = 2 + trial % 5
        votes, _ = random_election(generator, names, int(generator.integers(1, 7)))
        costs = {}
        for ranking in itertools.permutations(range(names)):
            costs[ranking] = sum(votes.weights[b, a] for a, b in itertools.combinations(ranking, 2))
        best = [ranking for ranking, cost in costs.items() if cost <= min(costs.values()) + 1e-9]
        several += len(best) > 1
        places = np.mean([[ranking.index(i) + 1 for i in range(names)] for ranking in best], axis=0)
        assert kemeny(votes).scores == pytest.approx(-places)
    assert several >= 5


def test_schulze_compares_the_strongest_of_all_paths() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        votes, _ = random_election(generator, 5, 9)
        links = np.where(votes.margins > 0, votes.weights, 0.0)

        def strength(i: int, j: int, links: np.ndarray = links) -> float:
            rest = [k for k in range(5) if k not in (i, j)]
            paths = [(i, *middle, j) for n in range(4) for middle in itertools.permutations(rest, n)]
            return float(max(min(links[a, b] for a, b in itertools.pairwise(path)) for path in paths))

        beaten_by = [sum(strength(i, j) > strength(j, i) for i in range(5) if j != i) for j in range(5)]
        assert schulze(votes).scores == pytest.approx([-number for number in beaten_by])


def test_no_lottery_is_preferred_to_a_maximal_one() -> None:
    """Its worst margin is 0, and for an odd number of people it is the only such lottery."""
    generator = np.random.default_rng(2)
    for trial in range(15):
        votes, _ = random_election(generator, 2 + trial % 5, 4 + trial % 5)
        chances = maximal_lottery(votes).scores
        count = len(chances)
        assert chances.min() >= 0
        assert chances.sum() == pytest.approx(1)
        assert (chances @ votes.margins).min() >= -1e-6
        if (4 + trial % 5) % 2:  # any other objective over the same optimum ends at the same point
            objective = generator.normal(size=count)
            found = linprog(objective, -votes.margins.T, np.zeros(count), np.ones((1, count)), [1.0])
            assert found.x == pytest.approx(chances, abs=1e-6)


def test_of_many_maximal_lotteries_it_is_the_one_without_a_favourite() -> None:
    """Two people who want opposite things: every lottery is maximal."""
    assert maximal_lottery(election("1 ABCD, 1 DCBA")).scores == pytest.approx([0.25] * 4)
    # A and B tie, both beat C: every mixture of A and B is maximal.
    assert maximal_lottery(election("1 ABC, 1 BAC")).scores == pytest.approx([0.5, 0.5, 0])


def test_lotteries_of_habermas_machine() -> None:
    """The unique maximal lotteries that habermas-machine 1.0.2 finds for random profiles (benchmarks/results/
    values_aggregate.json, where Schulze's rule and approval are compared with it too)."""
    three = [[0, 3, -1], [-3, 0, 1], [1, -1, 0]]
    six = [
        [0, -5, -3, -5, -11, -7],
        [5, 0, -1, -3, -3, -3],
        [3, 1, 0, -3, 1, -3],
        [5, 3, 3, 0, -5, -5],
        [11, 3, -1, 5, 0, 1],
        [7, 3, 3, 5, -1, 0],
    ]
    for margins, lottery in ((three, [0.2, 0.2, 0.6]), (six, [0, 0, 0.2, 0, 0.6, 0.2])):
        wins = np.maximum(np.array(margins, dtype=np.float64), 0)
        found = maximal_lottery(Pairwise(tuple("ABCDEF"[: len(wins)]), wins))
        assert found.probabilities == pytest.approx(lottery)


# ── axioms ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_condorcet_and_smith() -> None:
    generator = np.random.default_rng(3)
    missed = cycles = 0
    for _ in range(30):
        votes, _ = random_election(generator, 5, 7)
        winner, smith, loser = condorcet_winner(votes), smith_set(votes), condorcet_loser(votes)
        for rule in CONDORCET:
            assert set(rule(votes).winners) <= set(smith), rule
            assert winner is None or rule(votes).winners == (winner,)
        missed += winner is not None and borda(votes).winners != (winner,)
        cycles += winner is None
        assert loser not in borda(votes).winners
    assert missed >= 2
    assert cycles >= 2
    votes = election(BORDA_PARADOX)
    assert condorcet_winner(votes) == "A"
    assert borda(votes).winners == ("B",)


def test_pareto() -> None:
    """What everybody likes less is below: an alternative is put right after another one on each ballot."""
    generator = np.random.default_rng(4)
    for _ in range(15):
        _, ranks = random_election(generator, 4, 5)
        ranks = np.hstack([ranks, ranks[:, [1]] + 0.5])
        votes = ballots(list("ABCDE"), ranks)
        for rule in ALL:
            assert "E" not in rule(votes).winners, rule


def test_monotone() -> None:
    """To be moved to the top of a ballot does not harm the winner. Not so the probability of a lottery."""
    generator = np.random.default_rng(5)
    for _ in range(25):
        votes, ranks = random_election(generator, 4, 5)
        for rule in (borda, bradley_terry, copeland, kemeny, schulze):
            for name in rule(votes).winners:
                raised = ranks.copy()
                raised[int(generator.integers(5)), ord(name) - 65] = 0.5
                assert name in rule(ballots(list("ABCD"), raised)).winners, rule


def test_a_lottery_is_not_monotone() -> None:
    """In a cycle an alternative's chance is the margin of the two others. One voter raises A above B: the chance of A
    falls from 5 in 11 to 5 in 13, for it is C that gains."""
    before, after = election("5 ABC, 4 BCA, 3 CAB, 1 CBA"), election("5 ABC, 4 BCA, 4 CAB")
    assert maximal_lottery(before).scores == pytest.approx(np.array([5, 3, 3]) / 11)
    assert maximal_lottery(after).scores == pytest.approx(np.array([5, 3, 5]) / 13)


def test_clones() -> None:
    """A clone of B makes Borda choose B, crowds Copeland's winner out, and is nothing to Schulze and lotteries."""
    assert borda(election(NO_CLONE)).winners == ("A",)
    assert borda(election(WITH_CLONE)).winners == ("B",)
    assert bradley_terry(election(NO_CLONE)).winners == ("A",)
    assert bradley_terry(election(WITH_CLONE)).winners == ("B",)
    generator = np.random.default_rng(6)
    moved = set()
    for _ in range(15):
        votes, ranks = random_election(generator, 4, 7)
        cloned = ballots(list("ABCDb"), np.hstack([ranks, ranks[:, [1]] + 0.5]))
        for rule in (schulze, copeland, borda, kemeny):
            before = set(rule(votes).winners)
            after = {"B" if name == "b" else name for name in rule(cloned).winners}
            if before != after:
                moved.add(rule)
        chances = maximal_lottery(cloned).scores
        assert [chances[0], chances[1] + chances[4], *chances[2:4]] == pytest.approx(
            maximal_lottery(votes).scores, abs=1e-6
        )
    assert schulze not in moved
    assert {copeland, borda} <= moved


@pytest.mark.parametrize(
    ("rule", "without", "more", "loses", "wins"),
    [
        (copeland, "1 ADBC, 7 ACDB, 1 DBAC, 1 CDAB, 6 CBDA", "4 BDAC", "A", "C"),
        (kemeny, "1 ADBC, 7 ACDB, 1 DBAC, 1 CDAB, 6 CBDA", "4 BDAC", "A", "C"),
        (schulze, "2 ACDB, 4 DABC, 5 CADB, 7 BCAD, 2 BDAC", "4 DBAC", "B", "A"),
    ],
)
def test_condorcet_rules_may_harm_those_who_take_part(
    rule: Callable[[Pairwise], Choice], without: str, more: str, loses: str, wins: str
) -> None:
    """Moulin 1988: it is so for each of them. Four people more, who all prefer the old winner to the new one."""
    assert rule(election(without)).winners == (loses,)
    assert rule(election(f"{without}, {more}")).winners == (wins,)
    assert more.index(loses) < more.index(wins)


def test_bordas_rule_never_harms_those_who_take_part() -> None:
    generator = np.random.default_rng(7)
    for _ in range(100):
        votes, ranks = random_election(generator, 4, int(generator.integers(3, 9)))
        extra = generator.permutation(4) + 1.0
        before = borda(votes).order[0][0]
        after = borda(ballots(votes.alternatives, np.vstack([ranks, extra]))).order[0]
        assert all(extra[name] <= extra[before] for name in after) or before in after


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_kemeny_is_exact_for_twelve_and_refuses_more_than_sixteen() -> None:
    generator = np.random.default_rng(8)
    votes, _ = random_election(generator, 12, 9)
    start = time.process_time()
    found = kemeny(votes)
    assert time.process_time() - start < 2
    assert set(found.winners) <= set(smith_set(votes))
    with pytest.raises(UserError, match="17 alternatives") as refused:
        kemeny(Pairwise(tuple(map(str, range(17))), np.ones((17, 17))))
    assert "smith_set" in refused.value.do


def test_ties_are_half_and_unseen_pairs_are_counted() -> None:
    votes = ballots(["x", "y", "z"], np.array([[1, 1, np.nan], [1, 2, np.nan]]))
    assert votes.weights.tolist() == [[0, 1.5, 0], [0.5, 0, 0], [0, 0, 0]]
    assert votes.unseen == 2
    assert borda(votes).scores == pytest.approx([0.75, 0.25, 0])
