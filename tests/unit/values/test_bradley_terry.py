"""Pooled Bradley-Terry: against choix and finite differences, and the theorem that it is Borda's count."""

from __future__ import annotations

import choix
import numpy as np
import pytest

from known_elections import BORDA_PARADOX, TENNESSEE, election, random_election
from steersman.errors import DataError
from steersman.values.aggregate import Pairwise, Votes, by_score, pairwise
from steersman.values.bradley_terry import bradley_terry, log_likelihood
from steersman.values.elections import borda, condorcet_loser, condorcet_winner


def test_it_is_the_maximum_that_choix_finds() -> None:
    generator = np.random.default_rng(0)
    wins = generator.integers(1, 9, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    found = bradley_terry(Pairwise(tuple("ABCDE"), wins), ridge=0.0).scores
    pairs = [(i, j) for i in range(5) for j in range(5) for _ in range(int(wins[i, j]))]
    assert found == pytest.approx(choix.ilsr_pairwise(5, pairs, alpha=0.0), abs=1e-6)
    assert found.mean() == pytest.approx(0, abs=1e-9)


def test_two_alternatives_by_hand() -> None:
    found = bradley_terry(Pairwise(("A", "B"), np.array([[0.0, 3.0], [1.0, 0.0]])), ridge=0.0).scores
    assert found[0] - found[1] == pytest.approx(np.log(3))


def test_it_stands_at_the_top_with_the_ridge() -> None:
    votes, ridge = election(TENNESSEE), 2.0
    found = bradley_terry(votes, ridge).scores

    def height(at: np.ndarray) -> float:
        return log_likelihood(votes.weights, at) - ridge / 2 * float(at @ at)

    for i in range(4):
        nudge = np.eye(4)[i] * 1e-5
        slope = (height(found + nudge) - height(found - nudge)) / 2e-5
        assert slope == pytest.approx(0, abs=1e-3)


def test_without_a_ridge_it_refuses_who_never_lost() -> None:
    with pytest.raises(DataError, match="infinite"):
        bradley_terry(election("3 AB"), ridge=0.0)
    assert bradley_terry(election("3 AB")).winners == ("A",)


# ── theorems ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("ridge", [0.01, 5.0])
def test_over_full_ballots_its_order_is_bordas(ridge: float) -> None:
    generator = np.random.default_rng(1)
    for _ in range(40):
        votes, _ = random_election(generator, 5, int(generator.integers(3, 12)))
        ours, theirs = bradley_terry(votes, ridge), by_score("borda", votes.alternatives, votes.weights.sum(1))
        assert ours.order == theirs.order
        assert ours.order == borda(votes).order


def test_the_paradox_is_built_and_found() -> None:
    """51 of 100 people say A > B > C and have most to lose, 49 say B > C > A. The majority and the mean utility choose
    A, Borda chooses B, and so does a pooled reward model: the more single comparisons it sees, the surer.

    In 20 of 20 samples of 20,000 comparisons; with 60 it is still a matter of luck.
    """
    population = election(BORDA_PARADOX)
    ranks = np.array([[1, 2, 3]] * 51 + [[3, 1, 2]] * 49)
    utilities = np.array([[1.0, 0.2, 0.0]] * 51 + [[0.0, 0.5, 0.2]] * 49)
    assert condorcet_winner(population) == "A"
    assert utilities.mean(0).argmax() == 0
    assert borda(population).winners == ("B",)

    def drawn(count: int, seed: int) -> Votes:
        generator = np.random.default_rng(seed)
        person, first = generator.integers(0, 100, count), generator.integers(0, 3, count)
        second = (first + generator.integers(1, 3, count)) % 3
        share = (ranks[person, first] < ranks[person, second]).astype(float)
        rater = np.arange(count)  # each vote by a person of their own
        return Votes(tuple("ABC"), (), np.full(count, -1), rater, first, second, share, np.ones(count))

    def agreeing(count: int) -> int:
        return sum(bradley_terry(pairwise(drawn(count, s))).order == borda(population).order for s in range(20))

    few, many = agreeing(60), agreeing(20_000)
    assert many == 20
    assert few < 20
    assert bradley_terry(pairwise(drawn(20_000, 0))).winners == ("B",)


def test_whatever_was_asked_a_condorcet_loser_never_comes_first() -> None:
    """Pairs are compared unequally often: the order is no longer Borda's, but the worst does not win."""
    generator = np.random.default_rng(2)
    losers = unlike_borda = 0
    for _ in range(200):
        asked = generator.integers(1, 200, (4, 4))
        wins = np.triu(np.floor(asked * generator.random((4, 4))), 1)
        votes = Pairwise(tuple("ABCD"), wins + np.tril((asked.T - wins.T), -1))
        found = bradley_terry(votes)
        unlike_borda += found.order != borda(votes).order
        if (loser := condorcet_loser(votes)) is not None:
            losers += 1
            assert loser not in found.winners
    assert losers >= 20
    assert unlike_borda >= 10


def test_it_fails_pareto_if_different_people_were_asked() -> None:
    """Half say C > A > B and were mostly asked about A and C, half A > B > C and were mostly asked about B and C."""
    wins = np.zeros((3, 3))
    wins[2, 0], wins[1, 2], wins[0, 1] = 100, 100, 2  # nobody prefers B to A
    assert bradley_terry(Pairwise(tuple("ABC"), wins)).winners == ("B",)
