"""Habits of the command line: version, module, names of recipes, a plan as JSON, a run called like a recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import steersman
from steersman.cli import app
from steersman.cli.align import SHIPPED
from steersman.errors import UserError
from steersman.recipe import load_recipe, recipes

RUN = CliRunner()


def test_the_version_is_told() -> None:
    assert RUN.invoke(app, ["--version"]).output.strip() == f"steersman {steersman.__version__}"


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "steersman", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"steersman {steersman.__version__}"


def test_help_names_the_shipped_recipes() -> None:
    assert list(SHIPPED) == recipes()
    shown = " ".join(RUN.invoke(app, ["align", "--help"]).output.split())
    assert all(name in shown for name in SHIPPED)


def test_a_misspelt_verb_is_answered_with_the_closest() -> None:
    assert "Did you mean 'align'" in RUN.invoke(app, ["algin"]).output


def test_a_plan_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = RUN.invoke(app, ["align", "smoke", "--until", "data", "--plan", "--json"])
    assert [stage["name"] for stage in json.loads(done.stdout)["stages"]] == ["data"]
    with pytest.raises(UserError, match="--json prints a plan"):
        RUN.invoke(app, ["align", "smoke", "--json"], catch_exceptions=False)


def test_a_folder_called_like_a_recipe_does_not_shadow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "laptop").mkdir()
    (tmp_path / "smoke").write_text("name: mine")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("laptop").name == "laptop"
    assert load_recipe("smoke").name == "smoke"
