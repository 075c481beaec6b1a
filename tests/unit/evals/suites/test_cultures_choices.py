"""Whose answers a model gives: similarity by hand, balance of orders and wordings, and movement beside its null."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from steersman.evals.suites import cultures_choices, measure
from steersman.evals.suites.cultures_choices import (
    CHOICES,
    VALUES,
    by_row,
    load,
    movement,
    similarity,
    to_holders,
)
from steersman.evals.suites.suite import Question, Reply, first_choice

QUESTIONS = load([], None)
FEWER = 800  # permutations: enough for p below 0.01 after Holm
Chooser = Callable[[Question, int], float]


def replies(score: Chooser) -> list[Reply]:
    """Of every option, shown at a place, a score in nats."""
    return [
        Reply(logprobs=tuple(score(q, place) for place in range(len(q.options))), tokens=(1,) * len(q.options))
        for q in QUESTIONS
    ]


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cultures_choices, "PERMUTATIONS", FEWER)


def value_at(question: Question, place: int) -> str:
    value: str = question.facts["values"][question.facts["shown"][place]]
    return value


def rows_of(answers: Sequence[Reply]) -> np.ndarray:
    return by_row(measure.observe(CHOICES, QUESTIONS, answers).columns).p


def test_similarity_is_one_less_the_divergence_of_scipy_in_base_2() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        p, q = generator.dirichlet([0.5] * 3), generator.dirichlet([0.5] * 3)
        assert similarity(p, q) == pytest.approx(1 - jensenshannon(p, q, base=2) ** 2)
    assert similarity(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(0)
    assert similarity(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == pytest.approx(1)


def test_similarity_to_holders_follows_from_the_probability_of_their_answer() -> None:
    p = np.array([[0.5, 0.3, 0.2, np.nan]])
    x = p[0, :3]
    assert to_holders(p)[0, :3] == pytest.approx(((1 + x) * np.log2(1 + x) - x * np.log2(x)) / 2)
    assert math.isnan(to_holders(p)[0, 3])
    assert to_holders(np.array([[1.0, 0.0, np.nan, np.nan]]))[0, :2].tolist() == [1, 0]


def test_every_answer_stands_in_every_place_equally_often() -> None:
    """So that a model that always takes the first answer shown has even probabilities, and so no side."""
    first = [first_choice(question, 0) for question in QUESTIONS]
    p = rows_of(first)
    count = (~np.isnan(p)).sum(1)
    assert np.nanmax(np.abs(p - 1 / count[:, None])) < 1e-12
    found = {
        slug: metric.formula(measure.observe(CHOICES, QUESTIONS, first).columns)
        for slug, metric in CHOICES.metrics.items()
    }
    assert found["decided"] == pytest.approx(0, abs=1e-9)
    assert found["wording"] == pytest.approx(0, abs=1e-9)
    assert found["first"] == 1


def test_figures_of_somebody_who_always_answers_by_one_value() -> None:
    care = replies(lambda question, place: 0.0 if value_at(question, place) == "care" else -math.inf)
    asked = [i for i, question in enumerate(QUESTIONS) if "care" in question.facts["values"]]
    columns = measure.observe(CHOICES, [QUESTIONS[i] for i in asked], [care[i] for i in asked]).columns
    assert CHOICES.metrics["to_care"].formula(columns) == pytest.approx(1)
    assert CHOICES.metrics["to_custom"].formula(columns) == pytest.approx(0)
    assert CHOICES.metrics["decided"].formula(columns) == pytest.approx(1)


def test_a_row_that_a_bootstrap_draws_twice_counts_twice() -> None:
    """`to_care` of the first two questions, one with three and one with two positions, against an average by hand."""
    answers = replies(lambda question, place: 1.5 if value_at(question, place) == "care" else 0.0)
    some = [i for i, question in enumerate(QUESTIONS) if question.facts["row"] < 2]
    seen = measure.observe(CHOICES, [QUESTIONS[i] for i in some], [answers[i] for i in some])
    x = np.array([math.e**1.5 / (math.e**1.5 + others) for others in (2, 1)])
    by_hand = ((1 + x) * np.log2(1 + x) - x * np.log2(x)) / 2
    formula = CHOICES.metrics["to_care"].formula
    assert formula(seen.columns) == pytest.approx(by_hand.mean())
    twice = np.repeat(np.arange(len(some)), np.array([2, 1])[seen.clusters])
    drawn = {name: column[twice] for name, column in seen.columns.items()}
    assert formula(drawn) == pytest.approx((2 * by_hand[0] + by_hand[1]) / 3)


def test_an_order_without_a_reply_is_left_out() -> None:
    """As of an endpoint that names no answer; a wording without any is no shift."""
    first = [first_choice(question, 0) for question in QUESTIONS]
    gone = {0, *(i for i, q in enumerate(QUESTIONS) if q.facts["row"] == 1 and q.facts["wording"] == 1)}
    some = [None if i in gone else reply for i, reply in enumerate(first)]
    columns = measure.observe(CHOICES, QUESTIONS[:22], some[:22]).columns
    values = {slug: metric.formula(columns) for slug, metric in CHOICES.metrics.items()}
    p = by_row(columns).p
    assert p[0, :3] == pytest.approx([1 / 5, 2 / 5, 2 / 5])  # the first of six is gone
    assert values["wording"] == pytest.approx(
        1 / 3 * 1 / 3 / (1 / 3 + 3 / 2)
    )  # one question of four, two orders of three
    assert not any(math.isnan(value) for value in values.values())


def noisy(seed: int, towards: str = "", by: float = 0.0, sharper: float = 1.0) -> list[Reply]:
    """A model of its own mind, the same in every order and wording; moved towards a value, and sharper."""
    generator = np.random.default_rng(seed)
    mind = {(q.facts["row"], which): generator.normal() for q in QUESTIONS for which in sorted(q.facts["shown"])}
    return replies(
        lambda question, place: (
            sharper
            * (
                mind[question.facts["row"], question.facts["shown"][place]]
                + by * (value_at(question, place) == towards)
            )
        )
    )


def test_movement_towards_one_value_is_found_and_sharpness_alone_is_not() -> None:
    moved = {m.value: m for m in movement(QUESTIONS, noisy(0), noisy(0, "custom", by=0.7))}
    assert moved["custom"].beyond.low > 0
    assert moved["custom"].p_holm < 0.01
    assert moved["custom"].change.value > 0
    assert moved["choice"].beyond.value < 0
    sharper = movement(QUESTIONS, noisy(0), noisy(0, sharper=3))
    assert max(abs(m.change.value) for m in sharper) > 0.01
    assert min(m.p_holm for m in sharper) > 0.05
    still = movement(QUESTIONS, noisy(0), noisy(0))
    assert [(m.change.value, m.p) for m in still] == [(0, 1)] * len(VALUES)


@pytest.mark.slow
def test_the_null_rejects_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 changes of mind that favour no value, in 5 % at most some value is called moved, give or take chance."""
    monkeypatch.setattr(cultures_choices, "PERMUTATIONS", 200)
    called = [
        min(m.p_holm for m in movement(QUESTIONS, noisy(seed), noisy(seed + 1000, sharper=1.5))) < 0.05
        for seed in range(60)
    ]
    assert sum(called) <= 8  # binomial, 60 times 0.05: at most 7 in 99 %


def test_a_question_without_all_its_replies_is_left_out() -> None:
    before, after = noisy(0), noisy(0, "care", by=1)
    kept = [
        None if question.facts["row"] == 0 and question.facts["wording"] else reply
        for question, reply in zip(QUESTIONS, after, strict=True)
    ]
    (care,) = [m for m in movement(QUESTIONS, before, kept) if m.value == "care"]
    (whole,) = [m for m in movement(QUESTIONS, before, after) if m.value == "care"]
    assert care.change.n == whole.change.n - 1
