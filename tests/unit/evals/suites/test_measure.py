"""Figures of a suite: the bootstrap over clusters, paired differences, nulls, groups, and what is said first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from steersman.evals.suites import SUITES, measure
from steersman.evals.suites.measure import Observed, change, draws, estimate, figures, verdicts
from steersman.evals.suites.suite import (
    SIGNED,
    Columns,
    Metric,
    OfMeans,
    Question,
    Reply,
    Suite,
    cut,
    first_choice,
    gap,
    known_mean,
    mean,
    random_choice,
)


def ratio(right: Any, biased: Any) -> Any:
    return (1 - right) * (2 * biased - 1)


def columns(question: Question, reply: Reply) -> Mapping[str, float]:
    chosen = reply.choice
    biased = math.nan if chosen == 2 else float(chosen == 0)
    return {"right": float(chosen == question.facts["label"]), "biased": biased}


TOY = Suite(
    name="toy",
    title="Toy",
    paper="Us 2026",
    about="Nothing.",
    principles=("fairness",),
    files=(),
    load=lambda paths, limit: [],
    columns=columns,
    metrics={
        "accuracy": Metric("Accuracy", mean("right")),
        "bias": Metric("Bias", OfMeans(("right", "biased"), ratio), "zero", bounds=SIGNED),
    },
    nulls={"random": random_choice, "first": first_choice},
    by="kind",
)


def question(number: int, label: int = 2, cluster: str = "", kind: str = "a") -> Question:
    return Question(f"Question {number}?", ("x", "y", "unknown"), {"label": label, "kind": kind}, cluster)


def chose(option: int) -> Reply:
    return Reply(logprobs=tuple(0.0 if i == option else -5.0 for i in range(3)), tokens=(1, 1, 1))


def observed(columns: dict[str, Sequence[float]], clusters: Sequence[int] | None = None) -> Observed:
    arrays = {name: np.array(values, dtype=float) for name, values in columns.items()}
    size = len(next(iter(arrays.values())))
    return Observed(arrays, np.array(clusters if clusters is not None else range(size)))


def test_values_are_those_worked_by_hand() -> None:
    """Choices 0, 0, 1, unknown where unknown is right: accuracy 1/4, two of three biased, (3/4)(2 2/3 - 1) = 1/4."""
    questions = [question(i) for i in range(4)]
    found = figures(TOY, questions, {"raw": [chose(0), chose(0), chose(1), chose(2)]})
    accuracy, bias = (row["arms"]["raw"]["value"] for row in found["metrics"])
    assert accuracy == pytest.approx(0.25)
    assert bias == pytest.approx(0.25)


def test_a_formula_over_means_is_drawn_as_any_other_formula_is() -> None:
    """The matrix product over clusters against the same resamples spelled out row by row."""
    generator = np.random.default_rng(3)
    right = generator.integers(0, 2, 60).astype(float)
    biased = np.where(generator.random(60) < 0.4, math.nan, generator.integers(0, 2, 60))
    seen = observed({"right": list(right), "biased": list(biased)}, list(generator.integers(0, 12, 60) % 12))

    def spelled_out(columns: Columns) -> float:
        return float(ratio(known_mean(columns["right"]), known_mean(columns["biased"])))

    found = draws({"fast": OfMeans(("right", "biased"), ratio), "slow": spelled_out}, seen)
    assert len(found["fast"]) == measure.RESAMPLES
    assert len(found["slow"]) == measure.SLOW_RESAMPLES
    assert np.allclose(found["fast"][: measure.AT_ONCE], found["slow"][: measure.AT_ONCE], equal_nan=True)
    rest = measure.SLOW_RESAMPLES - measure.AT_ONCE
    assert np.allclose(found["fast"][measure.AT_ONCE :][:rest], found["slow"][measure.AT_ONCE :], equal_nan=True)


def test_questions_of_one_template_do_not_count_as_independent() -> None:
    """Ten templates of ten questions with equal answers carry as much as ten questions."""
    questions = [question(i, cluster=f"t{i // 10}") for i in range(100)]
    alone = [question(i) for i in range(100)]
    replies = [chose(2 if i // 10 % 2 else 0) for i in range(100)]
    widths = []
    for rows in (questions, alone):
        for row in figures(TOY, rows, {"raw": replies})["metrics"]:
            widths.append(row["arms"]["raw"]["high"] - row["arms"]["raw"]["low"])
    assert widths[0] > 2.5 * widths[2]  # a rate: Wilson's interval with the design effect
    assert widths[1] > 2.5 * widths[3]  # a ratio: the bootstrap
    ten = [question(i) for i in range(10)]
    (few, _) = figures(TOY, ten, {"raw": [chose(2 if i % 2 else 0) for i in range(10)]})["metrics"]
    assert widths[0] == pytest.approx(few["arms"]["raw"]["high"] - few["arms"]["raw"]["low"], rel=0.2)


def test_a_difference_is_paired() -> None:
    """Forty of fifty answers agree between the arms: the difference is known better than each rate."""
    questions = [question(i) for i in range(50)]
    before = [chose(2 if i % 2 else 0) for i in range(50)]
    after = [chose(2) if i < 20 else reply for i, reply in enumerate(before)]
    accuracy = figures(TOY, questions, {"raw": before, "aligned": after})["metrics"][0]
    found = accuracy["changes"]["aligned"]
    assert found["value"] == pytest.approx(0.2)
    assert found["low"] > 0.08
    assert found["high"] < 0.33
    assert found["p"] < 0.01


def test_a_question_that_one_arm_did_not_answer_is_in_no_difference() -> None:
    questions = [question(i) for i in range(6)]
    before: list[Reply | None] = [chose(2)] * 6
    after: list[Reply | None] = [chose(2), chose(2), None, chose(0), None, chose(2)]
    accuracy = figures(TOY, questions, {"raw": before, "aligned": after})["metrics"][0]
    assert accuracy["arms"]["aligned"]["n"] == 4
    assert accuracy["arms"]["raw"]["n"] == 6
    assert accuracy["changes"]["aligned"]["n"] == 4
    assert accuracy["changes"]["aligned"]["value"] == pytest.approx(-0.25)


def test_five_answers_that_all_turned_are_no_certainty() -> None:
    """Every resample shows the same difference; an interval without width would give p = 0."""
    pair = [observed({"right": [value] * 5}) for value in (1.0, 0.0)]
    metric = Metric("Accuracy", mean("right"))
    found = change(metric, pair, [draws({"": metric.formula}, seen)[""] for seen in pair])
    assert found["value"] == -1
    assert found["high"] == pytest.approx(-1 + 3 / 5)
    assert found["p"] == 2**-4  # the least that a sign test of five can give
    same = change(metric, [pair[0]] * 2, [draws({"": metric.formula}, pair[0])[""]] * 2)
    assert (same["low"], same["high"]) == (pytest.approx(-3 / 5), pytest.approx(3 / 5))
    assert same["p"] == 1


# ── where all draws agree ────────────────────────────────────────────────────────────────────────────────────────────
def estimated(metric: Metric, columns: dict[str, Sequence[float]], clusters: Sequence[int] | None = None) -> Any:
    seen = observed(columns, clusters)
    return estimate(metric, seen, draws({"": metric.formula}, seen)[""])


def limits(found: Mapping[str, Any]) -> tuple[Any, Any]:
    return found["low"], found["high"]


def ratio_of(first: Any, second: Any) -> Any:
    return first / second


def test_a_rate_of_which_all_draws_agree_stays_within_its_bounds() -> None:
    """None of ten: Wilson's upper limit is z^2 / (10 + z^2) = 3.8415 / 13.8415; the rule of three went to -0.3."""
    over_rows = Metric("m", lambda columns: float(np.mean(columns["x"])))
    top = 3.8415 / 13.8415
    assert limits(estimated(over_rows, {"x": [0.0] * 10})) == (0.0, pytest.approx(top, abs=1e-4))
    assert limits(estimated(over_rows, {"x": [1.0] * 10})) == (pytest.approx(1 - top, abs=1e-4), 1.0)
    # Four clusters of five are four observations: 3.8415 / 7.8415.
    clustered = estimated(over_rows, {"x": [0.0] * 20}, [i // 5 for i in range(20)])
    assert limits(clustered) == (0.0, pytest.approx(3.8415 / 7.8415, abs=1e-4))
    # A ratio, as the answers weighted by their labels' confidence: no more than all.
    weighted = Metric("m", OfMeans(("x", "weight"), ratio_of))
    low, high = limits(estimated(weighted, {"x": [0.9, 0.8] * 5, "weight": [0.9, 0.8] * 5}))
    assert high == 1.0
    assert 0 < low < 1


def test_a_gap_of_which_all_draws_agree_has_newcombes_limits() -> None:
    """Newcombe (1998, independent proportions), method 10, case h of his table II: 10 of 10 less 0 of 10 is
    [0.6075, 1]; case g, 10 of 10 less 0 of 20, [0.6791, 1].
    """
    metric = Metric("m", gap("x", "y"), bounds=SIGNED)
    nothing = math.nan
    both = estimated(metric, {"x": [1.0] * 10 + [nothing] * 10, "y": [nothing] * 10 + [0.0] * 10})
    assert limits(both) == (pytest.approx(0.6075, abs=1e-4), 1.0)
    more = estimated(metric, {"x": [1.0] * 10 + [nothing] * 20, "y": [nothing] * 10 + [0.0] * 20})
    assert limits(more) == (pytest.approx(0.6791, abs=1e-4), 1.0)
    less = estimated(metric, {"x": [0.0] * 10 + [nothing] * 10, "y": [nothing] * 10 + [1.0] * 10})
    assert limits(less) == (-1.0, pytest.approx(-0.6075, abs=1e-4))
    # No gap between two certain rates: 0.2775 either way, each limit the root of both squares.
    none = estimated(metric, {"x": [1.0] * 10 + [nothing] * 10, "y": [nothing] * 10 + [1.0] * 10})
    assert limits(none) == (pytest.approx(-0.2775, abs=1e-4), pytest.approx(0.2775, abs=1e-4))


def test_a_distance_of_two_rates_is_never_below_zero() -> None:
    """|x - y| of two rates of 0 of 10 each: up to the root of 2 * 0.2775^2."""
    apart = Metric("m", OfMeans(("x", "y"), lambda first, second: np.abs(np.subtract(first, second))), "lower")
    columns = {"x": [0.0] * 10 + [math.nan] * 10, "y": [math.nan] * 10 + [0.0] * 10}
    assert limits(estimated(apart, columns)) == (0.0, pytest.approx(2**0.5 * 0.27754, abs=1e-4))


def test_draws_that_differ_by_rounding_agree() -> None:
    """Means of 0.1, in sums over clusters of unequal sizes, are not the same to the last digit."""
    metric = Metric("m", OfMeans(("x", "y"), lambda x, y: np.asarray(x) * np.asarray(y)))
    clusters = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]
    found = estimated(metric, {"x": [0.1] * 11, "y": [0.7] * 11}, clusters)
    assert found["high"] - found["low"] > 0.1


def test_a_score_of_which_all_draws_agree_has_no_interval() -> None:
    """A difference of log-likelihoods has no bounds; that ten agree says nothing about an eleventh."""
    score = Metric("m", mean("x"), "lower", is_rate=False)
    found = estimated(score, {"x": [3.0] * 10})
    assert found == {"value": 3.0, "low": None, "high": None, "n": 10, "why": "all resamples agree"}
    moved = change(score, [observed({"x": [x] * 10}) for x in (3.0, 2.0)], [np.full(50, x) for x in (3.0, 2.0)])
    assert (moved["value"], moved["low"], moved["p"]) == (-1.0, None, 1.0)


@pytest.mark.parametrize(
    ("better", "values", "difference", "worsening"),
    [
        ("higher", (-1.0, 1.0), (2 - 6 / 10, 2), (-2, -2 + 6 / 10)),  # a gap may change by 2
        ("zero", (0.0, 1.0), (1 - 6 / 10, 1 + 6 / 10), (1 - 3 / 10, 1)),  # its distance from 0 by 1
        ("zero", (0.0, 0.0), (-6 / 10, 6 / 10), (-3 / 10, 3 / 10)),
    ],
)
def test_a_change_that_all_draws_agree_on_stays_within_what_can_change(
    better: Any, values: tuple[float, float], difference: tuple[float, float], worsening: tuple[float, float]
) -> None:
    metric = Metric("m", gap("x", "y"), better, bounds=SIGNED)
    pair = [observed({"x": [max(v, 0.0)] * 10, "y": [max(-v, 0.0)] * 10}) for v in values]
    found = change(metric, pair, [draws({"": metric.formula}, seen)[""] for seen in pair])
    assert limits(found) == pytest.approx(difference)
    assert limits(found["worsening"]) == pytest.approx(worsening)


def test_only_clusters_that_a_figure_reads_make_its_change_certain() -> None:
    metric = Metric("m", mean("x"))
    pair = [observed({"x": [0.0] * 5 + [math.nan] * 45})] * 2
    found = change(metric, pair, [draws({"": metric.formula}, seen)[""] for seen in pair])
    assert limits(found) == pytest.approx((-3 / 5, 3 / 5))


def test_every_metric_of_every_suite_stays_within_its_bounds() -> None:
    """At the corners of its columns' means, each formula gives what the metric says that it can give."""
    for suite in SUITES:
        for slug, metric in suite.metrics.items():
            if metric.is_rate and isinstance(metric.formula, OfMeans):
                for corner in itertools.product((0.02, 0.98), repeat=len(metric.formula.names)):
                    value = float(metric.formula.function(*corner))
                    if slug != "weighted":  # its first column is never above the second
                        assert metric.bounds[0] <= value <= metric.bounds[1], (suite.name, slug)
            if metric.is_rate and metric.bounds == SIGNED:
                corners = itertools.product((0.0, 1.0), repeat=len(metric.formula.names))  # type: ignore[attr-defined]
                assert min(metric.formula.function(*corner) for corner in corners) < 0  # type: ignore[attr-defined]


def test_one_cluster_gives_no_interval() -> None:
    questions = [question(i, cluster="only") for i in range(8)]
    found = figures(TOY, questions, {"raw": [chose(0)] * 8, "aligned": [chose(1)] * 8})["metrics"][1]
    assert found["arms"]["raw"]["value"] == 1
    assert found["arms"]["raw"]["low"] is None
    assert found["changes"]["aligned"]["p"] == 1


@pytest.mark.parametrize(
    ("better", "values", "expected"),
    [
        ("higher", (0.2, 0.5), -0.3),
        ("lower", (0.2, 0.5), 0.3),
        ("zero", (-0.4, 0.1), -0.3),
        ("zero", (-0.1, 0.4), 0.3),
        ("half", (0.6, 0.9), 0.3),
        ("half", (0.3, 0.5), -0.2),
    ],
)
def test_worse_is_further_from_where_it_should_be(better: Any, values: tuple[float, float], expected: float) -> None:
    metric = Metric("m", gap("x", "y"), better)
    pair = [observed({"x": [value] * 4, "y": [0.0] * 4}) for value in values]
    found = change(metric, pair, [draws({"": metric.formula}, seen)[""] for seen in pair])
    assert found["worsening"]["value"] == pytest.approx(expected)


def test_nulls_are_measured_like_models() -> None:
    questions = [question(i, label=i % 3) for i in range(90)]
    found = measure.null_values(TOY, questions)
    assert found["first"]["accuracy"] == pytest.approx(1 / 3)
    assert found["random"]["accuracy"] == pytest.approx(1 / 3, abs=0.06)
    assert found["first"]["bias"] == pytest.approx(2 / 3)


def test_a_null_without_a_value_has_none() -> None:
    unknown = Suite(**{**vars(TOY), "nulls": {"unknown": lambda question, number: chose(2)}})
    assert measure.null_values(unknown, [question(0)])["unknown"] == {"accuracy": 1.0, "bias": None}


def test_groups_have_every_figure() -> None:
    questions = [question(i, kind="b" if i < 3 else "a") for i in range(8)]
    replies = [chose(2)] * 3 + [chose(0)] * 5
    groups = figures(TOY, questions, {"raw": replies})["groups"]
    assert [(group["group"], group["n"]) for group in groups] == [("a", 5), ("b", 3)]
    assert [group["metrics"]["accuracy"]["raw"]["value"] for group in groups] == [0.0, 1.0]
    assert groups[1]["metrics"]["bias"]["raw"]["value"] is None  # every answer is unknown


def row(p: float, worsening: float, better: str = "higher") -> dict[str, Any]:
    moved = {"value": -worsening, "low": 0, "high": 0, "n": 9, "p": p, "worsening": {"value": worsening}}
    return {"metric": f"m{p}", "title": "t", "better": better, "arms": {}, "changes": {"aligned": moved}}


def test_what_got_worse_is_said_first() -> None:
    """Holm over all figures of all suites: p = 0.02 of five is no longer below the level, 0.001 is."""
    suites = [
        {"suite": "a", "title": "A", "metrics": [row(0.5, 0.1), row(0.001, -0.3), row(0.02, 0.2)]},
        {"suite": "b", "title": "B", "metrics": [row(0.0001, 0.4), row(0.9, -0.1), row(0.0, 0.9, better="none")]},
    ]
    found = verdicts(suites, "aligned")
    assert [(one["metric"], one["outcome"]) for one in found] == [
        ("m0.0001", "worse"),
        ("m0.02", "unsure"),
        ("m0.5", "unsure"),
        ("m0.9", "unsure"),
        ("m0.001", "better"),
    ]
    assert found[0]["p_holm"] == pytest.approx(0.0005)
    assert found[1]["p_holm"] == pytest.approx(0.06)


def test_a_cut_asks_the_same_questions_whatever_their_order() -> None:
    questions = [question(i) for i in range(40)]
    kept = cut(questions, 7)
    again = cut(questions[::-1], 7)
    assert len(kept) == 7
    assert {q.prompt for q in kept} == {q.prompt for q in again}
    assert [q.prompt for q in kept] == [q.prompt for q in questions if q in kept]
    assert {q.prompt for q in cut(questions, 5)} < {q.prompt for q in kept}
    assert cut(questions, None) == questions


@pytest.mark.slow
def test_intervals_cover_a_ratio_of_clustered_answers() -> None:
    """Of 300 samples of 60 templates with 4 questions each, the bootstrap's interval holds the truth in 93 to 97 %.

    Without clusters it held it in 74 % (measured here: `wrong`).
    """
    generator, held, wrong = np.random.default_rng(5), 0, 0
    truth = (1 - 0.5) * (2 * 0.6 - 1)
    formula = OfMeans(("right", "biased"), ratio)
    for sample in range(300):
        tilt = generator.beta(0.6, 0.4, 60).repeat(4)  # a template's own share of biased answers, 0.6 in the mean
        biased = (generator.random(240) < tilt).astype(float)
        right = (generator.random(240) < 0.5).astype(float)
        seen = observed({"right": list(right), "biased": list(biased)}, list(np.arange(60).repeat(4)))
        for rows, clustered in ((seen, True), (seen._replace(clusters=np.arange(240)), False)):
            low, high = np.percentile(draws({"": formula}, rows, seed=sample)[""], [2.5, 97.5])
            inside = low <= truth <= high
            held, wrong = held + (inside and clustered), wrong + (inside and not clustered)
    assert 0.92 <= held / 300 <= 0.98
    assert wrong / 300 < 0.85
