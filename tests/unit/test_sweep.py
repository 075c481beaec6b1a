"""Sweeps: what a run's recipe is, intervals over seeds by hand, and a small sweep that resumes and reuses."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from tests.toy.conftest import PLAIN
from typer.testing import CliRunner

from steersman import pipeline, sweep
from steersman.cli import app
from steersman.errors import RecipeError
from steersman.store import read_json
from steersman.sweep import Figure, SweepConfig, load, over_seeds, recipe_of, run

FILE = """
name: small
recipe: smoke
seeds: [3, 4]
until: forms
settings:
  dpo: null
  reward_model: null
  cost_model: null
  rl: null
  examples.limit_demonstrations: 24
  sft.epochs: 0.5
  sft.lora.rank: 2
  forms.sampling.max_new_tokens: 2
variants:
  plain: {}
  wordy: {forms.sampling.max_new_tokens: 3}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    nulls = "".join(f"  {key}: {value}\n" for key, _, value in (setting.partition("=") for setting in PLAIN[:-1]))
    path = tmp_path / "sweep.yaml"
    path.write_text(FILE.replace("settings:\n", f"settings:\n{nulls}"), encoding="utf-8")
    return path


# ── recipes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_section_with_a_seed_gets_it() -> None:
    variants: dict[str, Any] = {"a": {}, "b": {"sft": {"epochs": 5}, "dpo.epochs": 2, "sft.seed": 9}}
    config = SweepConfig(name="x", recipe="smoke", settings={"dpo.epochs": 3, "sft.epochs": 4}, variants=variants)
    recipe = recipe_of(config, "b", 7)
    seeds = {
        name: section.seed for name in type(recipe).model_fields if hasattr(section := getattr(recipe, name), "seed")
    }
    assert seeds == dict.fromkeys(seeds, 7)
    assert {"sft", "dpo", "reward_model", "cost_model", "rl", "preference_model", "cai_sft"} <= set(seeds)
    assert (recipe.dpo.epochs, recipe.sft.epochs) == (2, 4)  # type: ignore[union-attr]
    assert recipe_of(config, "a", 0).dpo.epochs == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{sft.epoch: 2}", "no setting 'sft.epoch'"),
        ("{sft.epochs: -1}", "sft.epochs"),
        ("{rl.steps: 3}", "no section 'rl'"),
    ],
)
def test_a_wrong_key_is_refused_with_the_files_name_before_anything_runs(
    file: Path, wrong: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = file.read_text(encoding="utf-8") + f"  wrong: {wrong}\n"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(pipeline, "align", None)
    with pytest.raises(RecipeError) as error:
        run(load(file))
    assert str(error.value).startswith(f"{file}:{len(text.splitlines())}, variant wrong: ")
    assert message in str(error.value)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_wrong_field_and_a_missing_file_are_named(file: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        load(file.with_name("other.yaml"))
    file.write_text("name: x\nseed: [1]\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"sweep\.yaml:2"):
        load(file)


def test_a_recipe_beside_the_sweep_is_found_from_anywhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = file.parent / "own.yaml"
    own.write_text("name: own\nmodel: tiny-random\nconstitution: assistant\ndata: assistant\n", encoding="utf-8")
    file.write_text("name: x\nrecipe: own.yaml\n", encoding="utf-8")
    monkeypatch.chdir("/")
    assert load(file).recipe == str(own)


def test_what_a_recipe_lacks_is_refused_before_the_first_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "align", None)
    with pytest.raises(RecipeError, match="no stage 'form'"):
        run(load(file).model_copy(update={"until": "form"}), file.parent / "out")


# ── intervals ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_interval_by_hand() -> None:
    """Of 0.5, 0.6 and 0.7: s = 0.1, t with 2 degrees of freedom 4.3027; 100 prompts at 0.6 have 0.049 of their own."""
    seeds = 4.302653 * 0.1 / math.sqrt(3)
    alone = over_seeds([0.5, 0.6, 0.7])
    assert alone == pytest.approx((0.6, 0.6 - seeds, 0.6 + seeds, 3), rel=1e-6)
    both = over_seeds([0.5, 0.6, 0.7], 100)
    half = math.sqrt(seeds**2 + (1.96**2) * 0.6 * 0.4 / 100)
    assert both == pytest.approx((0.6, 0.6 - half, 0.6 + half, 3), rel=1e-6)
    one = over_seeds([0.5], 100)
    assert (one.value, one.n) == (0.5, 1)
    assert math.isnan(one.low)
    assert over_seeds([1.3, 1.3], 10).high == pytest.approx(1.3)  # no rate: nothing of prompts


def test_figures_are_compared_by_their_names() -> None:
    """The second variant lacks the first figure, and has one of its own."""
    first = [[Figure("forms", 0.1, 10), Figure("kept", 0.5, 10)], [Figure("forms", 0.3, 10), Figure("kept", 0.7, 10)]]
    second = [[Figure("kept", 0.6, 10), Figure("own", 0.2, 0)], [Figure("kept", 0.9, 10), Figure("own", 0.4, 0)]]
    table = sweep._table({"a": first, "b": second})
    assert table["b"]["kept"]["by_seed"] == [0.6, 0.9]
    assert table["b"]["kept"]["versus_first"]["value"] == pytest.approx(0.15)
    assert table["a"]["kept"]["versus_first"]["value"] == 0
    assert table["b"]["own"]["versus_first"] is None
    _, rows = (block := sweep.shown({"seeds": [0, 1], "variants": table})[0]).columns, block.rows  # type: ignore[union-attr]
    assert [row[0] for row in rows] == ["forms", "kept", "own"]
    assert [cell is None for cell in rows[0][1:]] == [False, True]


# ── a whole sweep ────────────────────────────────────────────────────────────────────────────────────────────────────
def stages(said: list[str], word: str) -> list[str]:
    return [line.split()[1].strip(":") for line in said if word in line]


@pytest.mark.slow
def test_a_sweep_resumes_reuses_and_prints_its_table(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two variants, two seeds; the variants train alike, so that two trainings are enough."""
    out, said = tmp_path / "out", list[str]()
    table = run(load(file), out, said.append)
    assert sorted(path.name for path in out.iterdir()) == [
        "plain-seed3", "plain-seed4", sweep.TABLE, "wordy-seed3", "wordy-seed4",
    ]  # fmt: skip
    assert read_json(out / sweep.TABLE) == table
    assert stages(said, "sft: done") == ["sft"] * 2
    assert stages(said, "forms: done") == ["forms"] * 4
    label = "forms: harmful refused"
    for variant, row in table["variants"].items():
        values = [
            read_json(out / f"{variant}-seed{seed}" / "forms" / "summary.json")["kinds"]["harmful"]["refused"]["value"]
            for seed in (3, 4)
        ]
        assert row[label]["by_seed"] == values
        assert row[label]["value"] == pytest.approx(statistics.fmean(values))
    assert [read_json(out / f"plain-seed{seed}" / "sft" / "manifest.json")["config"]["seed"] for seed in (3, 4)] == [
        3,
        4,
    ]
    said.clear()
    assert run(load(file), out, said.append) == table
    assert stages(said, ": done") == []
    assert len(stages(said, ": reused")) == 4 * 3
    found = CliRunner().invoke(app, ["sweep", str(file), "--out", str(out)])
    assert found.exit_code == 0, found.output
    printed = found.output + capsys.readouterr().out
    assert "Mean over seeds 3, 4" in printed
    assert "plain" in printed
    assert "wordy" in printed
    as_json = CliRunner().invoke(app, ["sweep", str(file), "--out", str(out), "--json"])
    assert json.dumps(table["seeds"]) in as_json.output.replace("\n", "").replace(" ", "").replace(",", ", ")
