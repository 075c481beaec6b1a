"""The public face: what `import steersman` promises, and what a run on disk answers with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Shared
from tests.toy.conftest import SETTINGS, align_smoke

import steersman
from steersman.errors import ModelError, UserError
from steersman.runs import OpenRun
from steersman.stages import inputs
from steersman.stages.inputs import EVALUATION, POLICY, REWARD_MODEL, TRAIN

NAMES = ["OpenRun", "Recipe", "__version__", "align", "load_constitution", "load_data", "load_recipe", "open_run"]
OF_A_RUN = {"about", "aligned", "base", "constitution", "on_its_hardware", "path", "policy", "present", "raw", "recipe"}
OF_A_RUN |= {"export", "judge", "reward_model", "run", "tables", "trains_a_policy"}


@pytest.fixture(scope="module")
def opened(shared: Shared) -> OpenRun:
    return steersman.open_run(shared("run", align_smoke))


def test_the_public_names_are_these() -> None:
    """A name that goes breaks somebody's script: it is a change for CHANGELOG.md."""
    assert sorted(steersman.__all__) == NAMES
    for name in NAMES:
        assert getattr(steersman, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        _ = steersman.trainer


def test_importing_the_package_imports_no_torch() -> None:
    code = "import steersman, sys; assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_offers_these(opened: OpenRun) -> None:
    assert {name for name in dir(opened) if not name.startswith("_")} == OF_A_RUN


def test_a_run_is_read_by_the_handles_of_its_stages(opened: OpenRun) -> None:
    assert opened[POLICY] == opened.policy == opened.path / "rl"
    assert opened[EVALUATION][0].prompt
    assert opened[inputs.PERSONA] == opened.constitution.persona
    assert opened[inputs.BASE] == opened.base
    assert POLICY in opened
    assert inputs.JUDGE_CARD not in opened
    assert opened[inputs.ABLATION] is None
    with pytest.raises(UserError, match="this run has no judge_card yet"):
        _ = opened[inputs.JUDGE_CARD]


def test_its_models_generate_and_score(opened: OpenRun) -> None:
    (answer,) = opened.aligned().generate(["How do I cook rice?"], max_new_tokens=3)
    assert isinstance(answer, str)
    assert opened.raw().generate(["Hi", "Ho"], max_new_tokens=2) != []
    first, second = opened.reward_model().score("How do I cook rice?", ["Boil it.", "No."])
    assert first != second


def test_runs_and_models_are_short_in_a_notebook(opened: OpenRun) -> None:
    assert "tiny-random; data, sft" in repr(opened)
    assert "n = 10" in repr(opened)
    html = opened._repr_html_()
    assert html.count("<table") == 1
    assert "<svg" not in html  # charts need the page's style
    assert len(repr(opened.raw())) + len(repr(opened.reward_model())) < 200


def test_its_tables_are_what_the_report_shows(opened: OpenRun) -> None:
    assert next(row["n"] for row in opened.tables()["overall"]) == 10


def test_what_a_run_has_not_reached_is_said(tmp_path: Path) -> None:
    steersman.align(steersman.load_recipe("smoke", SETTINGS), tmp_path / "run", until="data", echo=lambda _: None)
    early = steersman.open_run(tmp_path / "run")
    assert early[TRAIN]
    with pytest.raises(ModelError, match="no aligned model yet"):
        early.aligned()
    with pytest.raises(UserError, match="no reward_model yet"):
        _ = early[REWARD_MODEL]
    with pytest.raises(UserError, match="no run here"):
        steersman.open_run(tmp_path)
