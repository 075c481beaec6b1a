"""Who wins and who loses: made electorates whose answer is known beforehand."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from steersman.errors import DataError
from steersman.types import Comparison
from steersman.values.ballots import ballots
from steersman.values.preferences import concentration, opinions, tally
from steersman.values.who_wins import ValuesConfig, agreement, disagreements, who_wins


def vote(prompt: str, options: tuple[str, str], first: bool, rater: str, group: str) -> Comparison:
    """One vote on two answers."""
    return Comparison(prompt=prompt, options=options, ranking=(1, 2) if first else (2, 1), rater=rater, group=group)


def electorate(
    seed: int, sizes: dict[str, int], taste: dict[str, np.ndarray[Any, Any]], questions: int, each: int, sure: float
) -> list[Comparison]:
    """Raters vote on random questions of two answers; a group prefers the first where its taste is 1."""
    random, rows = np.random.default_rng(seed), []
    for group, size in sizes.items():
        for person in range(size):
            for q in random.choice(questions, each, replace=False):
                first = bool(taste[group][q]) == (random.random() < sure)
                rows.append(vote(f"question {q}", ("this", "that"), first, f"{group} {person}", group))
    return rows


def opposed(seed: int = 0, shared: float = 0.0, sizes: tuple[int, int] = (90, 10)) -> list[Comparison]:
    """A large and a small group of opposite tastes on all but a share of forty questions."""
    random = np.random.default_rng(100 + seed)
    large = random.random(40) < 0.5
    small = np.where(random.random(40) < shared, large, ~large)
    return electorate(seed, {"large": sizes[0], "small": sizes[1]}, {"large": large, "small": small}, 40, 20, 0.9)


def test_the_minority_loses_under_the_pooled_rule_and_max_min_has_a_price() -> None:
    found = who_wins(ballots(opposed()), ValuesConfig())
    large, small = (found["groups"][name] for name in ("large", "small"))
    assert small["rules"]["pooled"]["win_rate"]["high"] < 0.2, "they get the opposite of what they want"
    assert large["rules"]["pooled"]["win_rate"]["low"] > 0.8
    assert small["own"]["low"] > 0.8
    assert small["rules"]["pooled"]["regret"] > 1.5
    assert small["rules"]["max-min"]["price"]["low"] > 0.2
    assert large["rules"]["max-min"]["price"]["high"] < -0.2
    assert found["rules"]["max-min"]["lowest"] > found["rules"]["pooled"]["lowest"] + 0.2
    assert found["rules"]["pooled"]["of"] == "small"
    assert found["people"]["pooled"]["rather_by_chance"]["value"] == pytest.approx(0.1, abs=0.03)
    assert found["own_opinions"]["low"] > 0.05, "groups of their own opinion predict held-out votes better"
    assert found["decisions"]["disliked"]["small"] > 0.8


def test_groups_that_want_the_same_pay_nothing() -> None:
    found = who_wins(ballots(opposed(1, shared=1.0)), ValuesConfig())
    for group in found["groups"].values():
        assert group["rules"]["pooled"]["win_rate"]["low"] > 0.8
        assert abs(group["rules"]["max-min"]["price"]["value"]) < 0.02
    assert found["own_opinions"]["value"] < 0.005
    assert found["decisions"]["changed_without_group"]["small"] < 0.03


def test_groups_by_lot_have_no_opinions_of_their_own() -> None:
    """The null: labels dealt at random over one population."""
    rows = opposed(2, sizes=(100, 1))
    random = np.random.default_rng(0)
    dealt = {row.rater: f"lot {random.integers(4)}" for row in rows}
    found = who_wins(ballots([row.model_copy(update={"group": dealt[row.rater]}) for row in rows]), ValuesConfig())
    assert found["own_opinions"]["value"] < 0.01
    prices = [r["price"]["value"] for g in found["groups"].values() for r in g["rules"].values()]
    assert max(map(abs, prices)) < 0.03


def test_a_group_of_three_is_said_to_be_too_small() -> None:
    found = who_wins(ballots(opposed(3, sizes=(40, 3))), ValuesConfig())
    assert found["groups"]["small"]["too_small"] == "3 of 10 people"
    assert found["groups"]["large"]["too_small"] == ""
    assert found["rules"]["pooled"]["of"] == "large", "too small to be counted as the worst off"


def test_people_of_two_groups_are_counted_in_both_and_shown() -> None:
    rows = opposed(4, sizes=(60, 30))
    old = {row.rater for row in rows if hash(row.rater) % 2}
    both = [row.model_copy(update={"group": f"{row.group}; old" if row.rater in old else row.group}) for row in rows]
    given = ballots(both)
    found = who_wins(given, ValuesConfig())
    assert set(found["groups"]) == {"large", "small", "old"}
    assert set(found["in_two_groups"]) == {"large and old", "old and small"}
    split = found["in_two_groups"]
    assert split["old and small"]["rules"]["pooled"]["win_rate"]["value"] < 0.3
    assert split["large and old"]["rules"]["pooled"]["win_rate"]["value"] > 0.7
    assert found["everybody"]["pooled"]["win_rate"]["n"] == len(rows), "nobody votes twice"


def test_disagreement_is_told_from_noise_by_agreement_within_and_across() -> None:
    apart = agreement(ballots(opposed(5, sizes=(40, 40))))
    assert apart["within"]["large"]["value"] == pytest.approx(0.82, abs=0.03)  # 0.9 squared and 0.1 squared
    assert apart["across"]["value"] == pytest.approx(0.18, abs=0.03)
    shown = disagreements(ballots(opposed(5, sizes=(40, 40))), opinions(ballots(opposed(5, sizes=(40, 40)))), 3)
    assert len(shown) == 3
    a, b = shown[0]["prefer_the_first"]
    assert (a - 0.5) * (b - 0.5) < 0
    assert shown[0]["z"] >= shown[1]["z"]


def test_shrinkage_keeps_a_group_of_its_own_opinion_and_lends_the_others_theirs() -> None:
    given = ballots(opposed(6))
    held = opinions(given)
    assert held.concentration[2] < 4, "its votes say the opposite of what it is shrunk to"
    same = opinions(ballots(opposed(6, shared=1.0)))
    assert same.concentration[2] > 30


def test_the_concentration_is_the_likeliest_by_brute_force() -> None:
    from scipy.stats import betabinom

    from steersman.values.preferences import CONCENTRATIONS, Tally

    random = np.random.default_rng(0)
    mean, n = random.uniform(0.1, 0.9, 60), random.integers(1, 9, 60).astype(float)
    wins = random.binomial(n.astype(int), random.beta(6 * mean, 6 * (1 - mean))).astype(float)
    by_hand = [betabinom.logpmf(wins, n, k * mean, k * (1 - mean)).sum() for k in CONCENTRATIONS]
    assert concentration(Tally(wins, n), mean) == CONCENTRATIONS[int(np.argmax(by_hand))]


def test_words_are_read_where_every_question_has_one_vote() -> None:
    """No question is voted on twice, and the small group likes long answers where the large one likes short ones."""
    random, rows = np.random.default_rng(0), []
    for i in range(800):
        group = "small" if i % 4 == 0 else "large"
        long, short = "word " * int(random.integers(20, 40)) + f"{i}", f"word {i}"
        first_long = bool(random.random() < 0.5)
        wants_long = (group == "small") == (random.random() < 0.9)
        options = (long, short) if first_long else (short, long)
        rows.append(vote(f"question {i}", options, first_long == wants_long, f"{group} {i % 120}", group))
    found = who_wins(ballots(rows), ValuesConfig())
    assert found["words_read"]
    assert found["groups"]["small"]["own"]["low"] > 0.7
    assert found["groups"]["small"]["rules"]["pooled"]["win_rate"]["high"] < 0.35
    assert found["own_opinions"]["low"] > 0.05


def test_rankings_of_three_are_one_ballot_and_chosen_by_every_rule() -> None:
    rows = [
        Comparison(prompt="p", options=("a", "b", "c"), ranking=rank, rater=f"r{i}", group="g" if i % 2 else "h")
        for i, rank in enumerate([(1, 2, 3), (1, 3, 2), (2, 1, 3)] * 8)
    ]
    given = ballots(rows)
    assert given.weight.tolist() == [1 / 3] * (3 * len(rows))
    assert tally(given, np.ones(len(given.pair), dtype=bool)).votes.tolist() == [24.0] * 3
    found = who_wins(given, ValuesConfig(fewest_people=2, fewest_votes=2))
    assert found["everybody"]["pooled"]["win_rate"]["n"] == 2 * len(rows), "votes on b against c are about neither"
    assert found["everybody"]["majority"]["win_rate"]["value"] == pytest.approx(5 / 6, abs=0.01)


def test_what_cannot_be_read_is_refused_in_one_sentence() -> None:
    row = Comparison(prompt="p", options=("a", "b"), ranking=(1, 2), rater="r")
    with pytest.raises(DataError, match="no comparison names a group"):
        ballots([row])
    with pytest.raises(DataError, match="rater 'r' is in x in one row and in y in row 2"):
        ballots([row.model_copy(update={"group": "x"}), row.model_copy(update={"group": "y"})])


def test_ten_thousand_comparisons_of_five_groups_take_seconds() -> None:
    random = np.random.default_rng(0)
    names = [f"group {g}" for g in range(5)]
    taste = {name: random.random(500) < 0.5 for name in names}
    rows = electorate(0, dict.fromkeys(names, 40), taste, 500, 50, 0.8)
    start = time.process_time()
    found = who_wins(ballots(rows), ValuesConfig())
    assert time.process_time() - start < 20
    assert found["comparisons"] == 10_000
