"""What misreporting gains: elections worked by hand, rules that cannot be manipulated, and the two readings of best."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from steersman.errors import DataError
from steersman.values.aggregate import Choice, Ratings, by_score
from steersman.values.elections import borda
from steersman.values.strategy import Gain, by_pairs, family, gains, outcome, strategy, two_camps, unit_range

BORDA = by_pairs(borda)


def ratings(*rows: list[float]) -> Ratings:
    values = np.array(rows, dtype=float)
    names = tuple("ABCDE"[: values.shape[1]])
    return Ratings(names, ("all",), np.zeros(len(values), dtype=np.int64), values, np.ones(len(values)))


def plurality(given: Ratings) -> Choice:
    first = given.values == given.values.max(1, keepdims=True)
    return by_score("plurality", given.alternatives, given.weight @ (first / first.sum(1, keepdims=True)))


def random_dictator(given: Ratings) -> Choice:
    """A person drawn by weight decides: nobody can do better than to name their favourite (Gibbard 1977)."""
    shares = plurality(given).scores / given.weight.sum()
    return by_score("random_dictator", given.alternatives, shares, probabilities=shares)


def named(found: list[Gain]) -> dict[str, Gain]:
    return {gain.misreport: gain for gain in found}


A_FIRST, B_FIRST, C_FIRST = [1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.5, 1.0]


def test_burying_under_borda_by_hand() -> None:
    """Three A > B > C and two B > A > C: A has 8 points and B 7. If the two bury A, it has 6 and B wins; if
    they name B alone, both have 7."""
    truth = ratings(A_FIRST, A_FIRST, A_FIRST, B_FIRST, B_FIRST)
    found = named(gains(BORDA, truth, [3, 4], family(3)))
    assert (found["bury 2"].own, found["bury 2"].others) == (pytest.approx(0.5), pytest.approx(-0.5))
    assert (found["truncate 1"].own, found["truncate 1"].others) == (pytest.approx(0.25), pytest.approx(-0.25))
    assert found["compromise 2"].own == 0  # A won anyway
    assert found["compromise 3"].own == 0  # B A C to C B A: A 6, B 5, C 4
    assert found["reverse"].own == 0
    one = named(gains(BORDA, truth, [4], family(3)))
    assert one["bury 2"].own == pytest.approx(0.25)  # one alone makes a draw of it: A 7, B 7


def test_compromising_under_plurality_by_hand() -> None:
    """Four for A, three for B and two for C who would rather have B: they gain by naming it, and nothing by honesty."""
    truth = ratings(*[[1.0, 0.2, 0.0]] * 4, *[[0.0, 1.0, 0.4]] * 3, *[C_FIRST] * 2)
    found = named(gains(plurality, truth, [7, 8], family(3)))
    assert found["compromise 2"].own == pytest.approx(0.5)
    assert found["compromise 2"].others == pytest.approx((4 * (0.2 - 1) + 3 * 1) / 7)
    assert found["bury 2"].own == 0


def test_misreports_are_what_they_say() -> None:
    true = np.array([[1.0, 0.6, 0.0, 0.3]])
    order = np.array([0, 1, 3, 2])
    said = {m.name: m.change(true, order)[0] for m in family(4)}
    assert len(said) == 1 + 3 + 3 + 3 + 3 + 2
    assert np.argsort(-said["compromise 3"]).tolist() == [3, 0, 1, 2]
    assert np.argsort(-said["bury 1"]).tolist() == [1, 3, 2, 0]
    assert np.argsort(-said["reverse"]).tolist() == [2, 3, 1, 0]
    assert said["truncate 2"].tolist() == pytest.approx([1.0, 0.8, 0, 0])
    assert said["approve 3"].tolist() == [1, 1, 0, 1]
    mean = 0.475
    assert said["stretch 2"].tolist() == pytest.approx([1.0, mean + 2 * (0.6 - mean), 0.0, mean + 2 * (0.3 - mean)])
    assert all(((row >= 0) & (row <= 1)).all() for row in said.values())


def test_nobody_gains_under_a_random_dictator_or_by_what_a_rule_does_not_read() -> None:
    draw = two_camps(12, 4)
    found = strategy("random_dictator", random_dictator, draw, lambda truth: [11], populations=12)
    assert (found.informed.value, found.pays.value, found.blind_choice) == (0, 0, "honest")
    for number in range(5):  # Borda reads the order alone, which stretching without a limit keeps
        truth = draw(np.random.default_rng(number))
        half = truth._replace(values=0.25 + truth.values / 4)
        stretched = named(gains(BORDA, half, [0, 1, 2], family(4)))["stretch 2"]
        assert (stretched.own, stretched.others) == (0, 0)


def test_informed_is_the_best_in_each_population_and_blind_is_chosen_on_the_first_half() -> None:
    """Populations alternate in the first half only: there burying pays, in the second half nothing does."""
    seen = 0

    def draw(_: np.random.Generator) -> Ratings:
        nonlocal seen
        seen += 1
        loyal = [A_FIRST] * 3 if seen <= 4 else [A_FIRST] * 30
        return ratings(*loyal, B_FIRST, B_FIRST)

    found = strategy("borda", BORDA, draw, lambda truth: range(len(truth.values) - 2, len(truth.values)), populations=8)
    assert found.pays.value == 0.5
    assert found.informed.value == pytest.approx(0.25)
    assert found.others.value == pytest.approx(-0.25)
    assert found.blind_choice == "bury 2"
    assert (found.blind.value, found.blind_others.value) == (0, 0)


def test_outcomes_share_ties_and_lotteries_are_kept() -> None:
    assert outcome(by_score("r", ("a", "b", "c"), np.array([2.0, 2.0, 1.0]))).tolist() == [0.5, 0.5, 0]
    chances = np.array([0.2, 0.8, 0.0])
    assert outcome(by_score("r", ("a", "b", "c"), chances, probabilities=chances)).tolist() == [0.2, 0.8, 0]


def test_populations_are_of_unit_range_and_camps_disagree() -> None:
    truth = two_camps(200, 8, minority=0.25, likeness=-0.9)(np.random.default_rng(0))
    assert (truth.values.min(1) == 0).all()
    assert (truth.values.max(1) == 1).all()
    assert (truth.group == 1).sum() == 50
    means = [truth.values[truth.group == g].mean(0) for g in (0, 1)]
    assert np.corrcoef(*means)[0, 1] < -0.5
    assert unit_range(np.array([[3.0, 3.0]])).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(("members", "message"), [([], "0 of 2"), ([0, 1], "2 of 2")])
def test_somebody_misreports_and_not_everybody(members: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gains(BORDA, ratings(A_FIRST, B_FIRST), members, family(3))


@pytest.mark.parametrize("wrong", [np.nan, 1.5])
def test_utilities_outside_the_range_are_refused(wrong: float) -> None:
    values: NDArray[np.float64] = np.array([[wrong, 0.5, 0.0], [0.0, 0.5, 1.0]])
    with pytest.raises(DataError, match="outside"):
        gains(BORDA, ratings(A_FIRST, B_FIRST)._replace(values=values), [0], family(3))
    with pytest.raises(DataError, match="3 populations"):
        strategy("borda", BORDA, two_camps(5, 3), lambda truth: [0], populations=3)
