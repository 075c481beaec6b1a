"""Detectors of raters who act as one: their arithmetic by brute force, whom they find, and whom they leave in peace."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from steersman.errors import DataError
from steersman.types import Comparison
from steersman.values import brigading
from steersman.values.brigading import (
    brigades,
    bursts,
    co_agreement,
    explained,
    places_chosen,
    reliabilities,
    same_sequence,
    vote_matrix,
)
from steersman.values.simulated_rounds import Attack, RoundShape, rates, simulated_round, suspected


def vote(rater: str, better: str, worse: str, prompt: str = "q", **rest: object) -> Comparison:
    return Comparison(prompt=prompt, options=(better, worse), ranking=(1, 2), rater=rater, **rest)  # type: ignore[arg-type]


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_matrix_is_in_the_order_of_the_texts_and_counts_what_it_drops() -> None:
    rows = [
        vote("ann", "x", "y"),
        vote("bob", "y", "x", order_shown=(1, 0)),
        vote("ann", "y", "x"),  # again
        Comparison(prompt="q", options=("x", "y"), ranking=(1, 1), rater="cem"),
        vote("", "x", "y"),
        vote("ann", "y", "x", gold=True),  # a key
        Comparison(prompt="r", options=("x", "y", "z"), ranking=(2, 1, 2), rater="bob"),
    ]
    found = vote_matrix(rows)
    assert found.raters == ("ann", "bob", "cem")
    assert found.values[:, 0].tolist()[:2] == [1, 0]
    assert np.isnan(found.values[2]).all()
    assert found.values[1, 1:].tolist()[:1] == [0]  # y above x
    assert (found.ties, found.unnamed, found.repeated) == (2, 1, 1)
    with pytest.raises(DataError, match="no vote"):
        vote_matrix([Comparison(prompt="q", options=("x", "y"), ranking=(1, 1), rater="cem")])


# ── co-agreement ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_agreement_beyond_quality_by_brute_force() -> None:
    generator = np.random.default_rng(0)
    values = np.where(generator.random((5, 7)) < 0.7, generator.integers(0, 2, (5, 7)), np.nan)
    reliability = generator.normal(1, 0.5, 5)
    found = explained(values, reliability)
    for r in range(5):
        for s in range(5):
            excess = variance = agreements = shared = 0.0
            for q in range(7):
                if r == s or np.isnan(values[[r, s], q]).any():
                    continue
                rest = [values[t, q] for t in range(5) if t not in (r, s) and not np.isnan(values[t, q])]
                margin = math.log((sum(rest) + 0.5) / (len(rest) - sum(rest) + 0.5))
                p, p_other = expit(reliability[r] * margin), expit(reliability[s] * margin)
                alike = p * p_other + (1 - p) * (1 - p_other)
                excess += (values[r, q] == values[s, q]) - alike
                variance += alike * (1 - alike)
                agreements += values[r, q] == values[s, q]
                shared += 1
            expected = (excess, variance, agreements, shared)
            assert [part[r, s] for part in found] == pytest.approx(expected)


def test_who_says_the_opposite_has_a_reliability_below_0_and_a_coin_about_0() -> None:
    generator = np.random.default_rng(1)
    margins = 2 * generator.standard_normal(100)
    true = np.array([1.0] * 10 + [-1.0, 0.0])
    values = (generator.random((12, 100)) < expit(true[:, None] * margins)).astype(float)
    found = reliabilities(values)
    assert (found[:10] > 0.4).all()
    assert found[10] < -0.4
    assert abs(found[11]) < 0.4


def test_those_who_follow_a_list_are_found_and_a_minority_of_one_mind_is_left_in_peace() -> None:
    """Five rounds of each. A tenth with margins of their own agree beyond quality (most have p_quality below 5 %) as
    four colluders do; only the colluders agree more than like minds."""
    minority = RoundShape(camps="minority", each=60)
    accused = 0
    for seed in range(5):
        drawn = simulated_round(minority, np.random.default_rng(seed))
        accused += len(co_agreement(drawn.votes).suspects)
        drawn = simulated_round(RoundShape(each=60), np.random.default_rng(seed), Attack(colluders=4))
        suspects = co_agreement(drawn.votes).suspects
        assert {suspect.rater for suspect in suspects} == drawn.colluders
        for suspect in suspects:
            assert set(suspect.neighbours) <= drawn.colluders
            assert suspect.agreement == 1 > suspect.usual
    assert accused == 0


def test_raters_who_share_too_little_are_named_and_not_judged() -> None:
    drawn = simulated_round(RoundShape(raters=10, questions=40, each=8), np.random.default_rng(0))
    found = co_agreement(drawn.votes)
    assert (found.suspects, found.compared) == ([], 0)
    assert found.too_few == drawn.votes.raters


# ── newcomers ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_scores_of_blocks_by_brute_force() -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 6))
    matrix = matrix + matrix.T
    np.fill_diagonal(matrix, 0)
    blocks = np.array([(0, 4), (1, 6), (2, 6)])
    for (i, j), score in zip(blocks, brigading._block_scores(matrix, blocks), strict=True):
        pairs = [matrix[a, b] for a in range(i, j) for b in range(a + 1, j)]
        assert score == pytest.approx(sum(pairs) / math.sqrt(len(pairs)))


def test_a_brigade_is_found_and_the_same_people_spread_over_time_are_none() -> None:
    drawn = simulated_round(RoundShape(), np.random.default_rng(3), Attack(colluders=5, slips=0.1, together=True))
    found = brigades(drawn.votes, drawn.arrived_s, 600, draws=99)
    assert drawn.colluders <= set(found.raters)
    assert found.p == 0.01
    spread = {name: 3600.0 * i for i, name in enumerate(drawn.votes.raters)}
    assert brigades(drawn.votes, spread, 600) == ((), 1.0)
    with pytest.raises(DataError, match="time of arrival"):
        brigades(drawn.votes, {}, 600)


def test_a_burst_is_more_newcomers_than_even_times_give() -> None:
    even = [100.0 * i for i in range(40)]
    assert bursts(even, 500).p > 0.5
    found = bursts([*even, *(1000.0 + i for i in range(15))], 60)
    assert found.p < 0.01
    assert (found.begins_s, found.newcomers) == (1000.0, 16)
    with pytest.raises(DataError, match="3 arrivals"):
        bursts([1, 2, 3], 60)


# ── scripts ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_same_keys_by_hand() -> None:
    """26 of 30 the same, both half and half, so each place is expected half the time: the binomial tail, of 3 pairs."""
    one = [0, 1] * 15
    other = [1 - key if i in (0, 1, 14, 15) else key for i, key in enumerate(one)]
    third = [0, 0, 1, 1] * 7 + [0, 1]
    found = same_sequence({"a": one, "b": other, "c": third, "few": [0, 1]})
    tail = sum(math.comb(30, k) for k in range(26, 31)) / 2**30
    assert [(p.first, p.second, p.same, p.both) for p in found] == [("a", "b", 26, 30)]
    assert found[0].p == pytest.approx(3 * tail)
    assert same_sequence({}) == []


def test_two_who_always_choose_one_side_are_lazy_and_no_script() -> None:
    assert same_sequence({"a": [0] * 40, "b": [0] * 40, "c": [0, 1] * 20}) == []


def test_places_are_those_on_the_screen() -> None:
    rows = [
        vote("a", "x", "y", order_shown=(1, 0)),
        vote("a", "y", "x", order_shown=(0, 1)),
        vote("a", "x", "y"),
        vote("a", "x", "y", gold=True, order_shown=(0, 1)),
        Comparison(prompt="q", options=("x", "y"), ranking=(1, 1), rater="a", order_shown=(0, 1)),
        Comparison(prompt="q", options=("x", "y", "z"), ranking=(2, 3, 1), rater="b", order_shown=(1, 0, 2)),
    ]
    assert places_chosen(rows) == {"a": [1, 0], "b": [2]}


# ── rounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_rounds_are_what_their_attack_says() -> None:
    attack = Attack(colluders=3, together=True)
    drawn = simulated_round(RoundShape(), np.random.default_rng(0), attack)
    assert drawn.colluders == {"rater-038", "rater-039", "rater-040"}
    own = drawn.votes.values[-3:]
    both = np.isfinite(own[0]) & np.isfinite(own[1])
    assert (own[0] == own[1])[both].all()
    times = [drawn.arrived_s[name] for name in drawn.colluders]
    assert max(times) - min(times) <= 600
    assert np.isfinite(drawn.votes.values).sum(1).tolist() == [50] * 40
    script = simulated_round(RoundShape(), np.random.default_rng(0), Attack(colluders=3, script=True))
    assert len({tuple(script.places[name]) for name in script.colluders}) == 1
    assert script.colluders <= suspected(script, draws=19)["same_sequence"]


@pytest.mark.slow
def test_honest_rounds_raise_few_alarms() -> None:
    """Forty rounds with a like-minded minority: at most 4 each, as 5 % of 40 with its chance would give; benchmarks
    measure the rates over 200."""
    found = rates(RoundShape(camps="minority"), rounds=40, seed=7)
    for detector in ("co_agreement", "brigades", "same_sequence"):
        assert found[detector].false_alarms.value <= 0.1, detector
        assert found[detector].hits.n == found[detector].colluders.n == 0
