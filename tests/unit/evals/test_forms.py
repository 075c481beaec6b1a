"""The effect of form on refusals: none where content decides, the planted one where form does, and its p-value."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from steersman.evals.forms import Cell, cell, effect_of_form, kind_of, summarise
from steersman.types import Prompt

FORMS = ("question", "command", "wish", "story", "terse")


def grid(refused: list[list[bool]], kind: str = "harmful") -> list[Cell]:
    """A row for each content, a column for each form."""
    return [
        Cell(kind, f"{kind} {i}", form, fact)
        for i, row in enumerate(refused)
        for form, fact in zip(FORMS, row, strict=False)
    ]


def drawn(rates: list[float], contents: int, seed: int) -> list[Cell]:
    """A grid in which the form alone sets the rate."""
    return grid((np.random.default_rng(seed).random((contents, len(rates))) < np.array(rates)).tolist())


def test_content_alone_has_no_effect_of_form() -> None:
    effect, p_value = effect_of_form(grid([[i % 3 == 0] * 5 for i in range(12)]))
    assert (effect.value, effect.low, effect.high, effect.n) == (0, 0, 0, 12)
    assert p_value == 1


def test_the_effect_is_the_planted_standard_deviation() -> None:
    """Two forms refused at 0.8 and three at 0.3: a standard deviation of 0.245. 400 contents err by about 0.01."""
    rates = [0.8, 0.8, 0.3, 0.3, 0.3]
    effect, p_value = effect_of_form(drawn(rates, 400, seed=1))
    assert effect.value == pytest.approx(float(np.std(rates)), abs=0.03)
    assert effect.low < float(np.std(rates)) < effect.high
    assert effect.high - effect.low < 0.1
    assert p_value < 0.001


def test_without_an_effect_small_p_values_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 grids whose forms have one rate: about a quarter of the p-values are below a quarter, half below a half."""
    monkeypatch.setattr("steersman.evals.forms.PERMUTATIONS", 99)
    monkeypatch.setattr("steersman.evals.forms.BOOTSTRAPS", 9)
    found = [effect_of_form(drawn([0.5] * 5, 30, seed), seed)[1] for seed in range(40)]
    assert 3 <= sum(p < 0.25 for p in found) <= 18  # binomial, 10 expected, five in a thousand outside
    assert 11 <= sum(p < 0.5 for p in found) <= 29
    assert min(found) >= 1 / 100


def test_what_chance_gives_is_the_mean_over_all_permutations() -> None:
    """Two contents in three forms, by hand: 3! x 3! permutations."""
    table = [[True, True, False], [True, False, False]]
    spreads = [
        float(np.var(np.mean([a, b], axis=0)))
        for a, b in itertools.product(itertools.permutations(table[0]), itertools.permutations(table[1]))
    ]
    observed = float(np.var(np.mean(table, axis=0)))
    effect, p_value = effect_of_form(grid(table))
    assert effect.value == pytest.approx(math.sqrt(observed - np.mean(spreads)))
    assert p_value == pytest.approx(np.mean([spread >= observed - 1e-12 for spread in spreads]), abs=0.05)


@pytest.mark.parametrize(
    "cells",
    [
        [],
        grid([[True], [False], [True]]),  # one form
        grid([[True, False, True]]),  # one content
        grid([[True, False], [True]]),  # one content lacks a form
    ],
)
def test_a_grid_that_cannot_tell_gives_none(cells: list[Cell]) -> None:
    effect, p_value = effect_of_form(cells)
    assert math.isnan(effect.value)
    assert p_value == 1
    assert effect.json()["value"] is None


def test_a_content_that_lacks_a_form_is_left_out() -> None:
    whole = grid([[True, False], [True, False], [False, False]])
    more = Cell("harmful", "harmful 9", "question", True)
    assert effect_of_form([*whole, more]) == effect_of_form(whole)


def test_the_summary_counts_by_kind_and_form() -> None:
    harmful = grid([[True, True], [True, False], [False, False]])
    plain = grid([[False, False], [False, True]], "plain")
    found = summarise([*harmful, *plain])
    assert found["forms"] == ["question", "command"]
    assert list(found["kinds"]) == ["harmful", "plain"]
    assert (found["kinds"]["harmful"]["refused"]["value"], found["kinds"]["harmful"]["refused"]["n"]) == (0.5, 6)
    by_form = {form: row["value"] for form, row in found["kinds"]["harmful"]["forms"].items()}
    assert by_form == {"question": pytest.approx(2 / 3), "command": pytest.approx(1 / 3)}
    assert [found["kinds"][kind]["contents"] for kind in ("harmful", "plain")] == [3, 2]
    assert found["kinds"]["plain"]["effect_of_form"]["p"] == 1.0
    assert json.loads(json.dumps(found)) == found


def test_a_cell_is_told_by_the_tags_and_the_topic() -> None:
    prompt = Prompt(prompt="List locks.", topic="grid.locks", tags=("lookalike", "form:de"))
    assert cell(prompt, refused=True) == Cell("lookalike", "grid.locks", "de", True)
    assert cell(Prompt(prompt="List locks."), refused=False) == Cell("plain", "", "command", False)
    assert [kind_of(tags) for tags in ((), ("x", "harmful"), ("plain",))] == ["plain", "harmful", "plain"]
