"""Krippendorff's alpha and Dawid & Skene by published examples and by hand; consistency of raters."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from steersman.data import toy_world as world
from steersman.data.toy_world import ToyRater as Rater
from steersman.errors import DataError
from steersman.rating.agreement import alpha, consistency, dawid_skene, preferences
from steersman.types import Comparison

# Hayes & Krippendorff 2007, also Wikipedia's example: three raters, 15 items, gaps.
WORKED = {
    "A": [None, None, None, None, None, 3, 4, 1, 2, 1, 1, 3, 3, None, 3],
    "B": [1, None, 2, 1, 3, 3, 4, 3, None, None, None, None, None, None, None],
    "C": [None, None, 2, 1, 3, 4, 4, None, 2, 1, 1, 3, 3, None, 4],
}
ITEMS = [{rater: said[i] for rater, said in WORKED.items() if said[i] is not None} for i in range(15)]
# Dawid & Skene 1979, table 1: five anaesthetists on 45 patients, the first of them three times.
ANAESTHETISTS = """111,1,1,1,1 333,4,3,3,4 112,2,1,2,2 222,3,1,2,1 222,3,2,2,2 222,3,3,2,2 122,2,1,1,1 333,3,4,3,3
222,2,2,2,3 232,2,2,2,3 444,4,4,4,4 222,3,3,4,3 111,1,1,1,1 222,3,2,1,2 121,1,1,1,1 111,2,1,1,1 111,1,1,1,1 111,1,1,1,1
222,2,2,2,1 222,1,3,2,2 222,2,2,2,2 222,2,2,2,1 222,3,2,2,2 221,2,2,2,2 111,1,1,1,1 111,1,1,1,1 232,2,2,2,2 111,1,1,1,1
111,1,1,1,1 112,1,1,2,1 111,1,1,1,1 333,3,2,3,3 111,1,1,1,1 222,2,2,2,2 222,3,2,3,2 433,4,3,4,3 221,2,2,3,2 232,3,2,3,3
333,3,4,3,2 111,1,1,1,1 111,1,1,1,1 121,2,1,1,1 232,2,2,2,2 121,1,1,1,1 222,2,2,2,2"""


def vote(rater: str, better: str, worse: str, prompt: str = "q", ranking: tuple[int, int] = (1, 2)) -> Comparison:
    return Comparison(prompt=prompt, options=(better, worse), ranking=ranking, rater=rater)


# ── alpha ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_alpha_is_that_of_the_worked_example() -> None:
    found = alpha(ITEMS)
    assert found.alpha.value == pytest.approx(0.691, abs=5e-4)
    assert alpha(ITEMS, "interval").alpha.value == pytest.approx(0.811, abs=5e-4)
    assert (found.alpha.n, found.raters, found.labels, found.why) == (12, 3, 27, "")
    assert found.alpha.low < 0.691 < found.alpha.high


def test_alpha_says_why_it_is_undefined() -> None:
    unanimous = alpha([{"a": 1, "b": 1}, {"a": 1, "b": 1}])
    assert math.isnan(unanimous.alpha.value)
    assert "nothing could have been disagreed on" in unanimous.why
    assert alpha([{"a": 1}, {"b": 2}]).why == "no item has two labels"
    with pytest.raises(DataError, match="text at the level 'ordinal'"):
        alpha([{"a": "x", "b": "y"}], "ordinal")


def test_the_interval_of_alpha_holds_chance_and_certainty() -> None:
    """Labels by chance: 0 lies within; the same raters, of whom one copies another, do not reach it."""
    generator = random.Random(0)
    chance = [{name: generator.randrange(3) for name in "abc"} for _ in range(300)]
    found = alpha(chance).alpha
    assert found.low < 0 < found.high
    copied = alpha([{"a": item["a"], "b": item["a"], "c": item["c"]} for item in chance]).alpha
    assert copied.low > 0.2


def test_shuffled_sides_do_not_touch_alpha() -> None:
    """Two who always agree, shown the answers the other way round: their labels are of texts, not of places."""
    votes = [vote(rater, *pair, prompt=str(i)) for i, pair in enumerate([("x", "y"), ("y", "x")] * 3) for rater in "ab"]
    turned = [
        v.model_copy(update={"options": v.options[::-1], "ranking": (2, 1)}) if v.rater == "b" else v for v in votes
    ]
    assert alpha(preferences(turned)).alpha.value == alpha(preferences(votes)).alpha.value == 1.0


def test_preferences_take_a_raters_first_word_and_no_gold() -> None:
    votes = [
        vote("a", "x", "y"),
        vote("a", "y", "x"),
        vote("", "y", "x"),
        vote("b", "x", "y", ranking=(1, 1)),
        vote("key", "x", "y").model_copy(update={"gold": True}),
    ]
    assert preferences(votes) == [{"a": 1, "vote 2": -1, "b": 0}]


# ── Dawid & Skene ────────────────────────────────────────────────────────────────────────────────────────────────────
def anaesthetists() -> list[dict[str, tuple[int, ...]]]:
    patients = [row.split(",") for row in ANAESTHETISTS.split()]
    return [{str(i): tuple(map(int, said)) for i, said in enumerate(row)} for row in patients]


def test_dawid_and_skenes_own_example() -> None:
    """The paper's table 2: the classes' shares .40 .42 .11 .07, and that the first anaesthetist is mostly right."""
    found = dawid_skene(anaesthetists(), smoothing=0.0)
    assert found.prior == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.006)
    assert found.confusion["0"][0, 0] == pytest.approx(0.89, abs=0.006)
    assert found.posterior[2] @ [0, 1, 0, 0] > 0.9  # patient 3, whose votes are four ones and three twos


def test_the_likelihood_never_falls() -> None:
    steps = dawid_skene(anaesthetists(), smoothing=0.0).log_likelihood
    assert len(steps) > 3
    assert np.all(np.diff(steps) > -1e-9)


def test_one_round_by_hand() -> None:
    """Items {a: 1, b: 1} and {a: 1, b: 2}. From the shares of votes: P(1) = 3/4. Of class 1, a says 1 always, b says 1
    in 1 of 1.5; of class 2, b says 2 always. So the first item is of class 1 with weight 3/4 * 2/3 against 0."""
    found = dawid_skene([{"a": 1, "b": 1}, {"a": 1, "b": 2}], rounds=1, smoothing=0.0)
    assert found.classes == [1, 2]
    assert found.prior == pytest.approx([0.75, 0.25])
    assert found.confusion["b"] == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 1]]))
    assert found.posterior == pytest.approx(np.array([[1, 0], [0.5, 0.5]]))  # 3/4 * 1/3 = 1/4 * 1
    assert found.log_likelihood == pytest.approx([2 * math.log(0.5)])


def test_planted_confusions_are_found_and_beat_the_majority() -> None:
    """Two good raters against three who see ghosts: 400 items, planted false alarms within 0.1."""
    generator = random.Random(1)
    alarm = {"good": 0.05, "fine": 0.1, "ghost 1": 0.5, "ghost 2": 0.5, "ghost 3": 0.6}
    truth = [generator.random() < 0.3 for _ in range(400)]
    items = [
        {name: "flag" if generator.random() < (0.9 if flagged else rate) else "ok" for name, rate in alarm.items()}
        for flagged in truth
    ]
    found = dawid_skene(items)
    assert found.classes == ["flag", "ok"]
    for name, rate in alarm.items():
        assert found.confusion[name][1, 0] == pytest.approx(rate, abs=0.1)
    assert found.accuracy("good") > 0.9 > found.accuracy("ghost 3")
    right = np.mean((found.posterior[:, 0] > 0.5) == np.array(truth))
    majority = np.mean(
        [(list(item.values()).count("flag") > 2) == flagged for item, flagged in zip(items, truth, strict=True)]
    )
    assert right > majority + 0.05
    assert right > 0.9


def test_no_label_is_refused() -> None:
    with pytest.raises(DataError, match="no item has a label"):
        dawid_skene([])
    with pytest.raises(DataError, match="an item without a label"):
        dawid_skene([{"a": 1}, {}])


# ── consistency ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_consistency_with_others_and_with_oneself() -> None:
    votes = [
        vote("a", "x", "y"),
        vote("b", "x", "y"),
        vote("c", "y", "x"),
        vote("a", "x", "y", ranking=(2, 1)),  # changed their mind
        vote("a", "x", "y", "r"),
        vote("a", "y", "x", "r", ranking=(2, 1)),  # the same again, turned round
    ]
    found = consistency(votes)
    assert found["a"].with_others[:1] == (0.5,)
    assert found["a"].with_self[:1] == (0.5,)
    assert found["c"].with_others.value == 0.0
    assert found["b"].with_others.value == 0.5
    assert found["b"].with_self.n == 0


def test_a_liar_agrees_with_nobody() -> None:
    raters = [
        *world.population(5, Rater(name="honest")),
        Rater(name="liar", kind="liar"),
        Rater(name="coin", kind="coin"),
    ]
    votes = [v.comparison() for v in world.votes(raters, world.questions(60), 60)]
    found = consistency(votes)
    assert found["honest-0"].with_others.value > 0.55
    assert found["liar"].with_others.value < 0.3
    assert 0.35 < found["coin"].with_others.value < 0.65
