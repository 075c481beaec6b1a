"""`steersman eval`: lists, missing files, a model's folder, a run, an endpoint; nothing is asked twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from served_endpoint import Served
from steersman.cli import app
from steersman.data.public_files import FOLDER_VARIABLE
from steersman.errors import DataError, UserError
from steersman.evals.suites import SUITES, asking

FIXTURES = Path(__file__).parents[1] / "fixtures" / "suites"


@pytest.fixture(autouse=True)
def _no_copy_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


def asked(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_list_says_what_is_found_and_which_file_is_not() -> None:
    text = asked("--list", "--data", str(FIXTURES))
    assert "+ winobias" in text
    assert "- bbq" in text
    assert "https://github.com/nyu-mll/BBQ" in text
    rows = json.loads(asked("--list", "--json"))
    assert [row["suite"] for row in rows] == [suite.name for suite in SUITES]
    assert not any(row["found"] for row in rows if row["files"])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--suite", "bbq"], "nothing to ask is named"),
        (["gemma", "--suite", "bbc"], "did you mean bbq"),
        (["gemma", "--suite", "bbq"], "BBQ is asked from your copy, and there is none: no folder is named"),
        (["gemma", "--suite", "bbq", "--data", str(FIXTURES)], "whose name begins with bbq"),
        (["gemma", "--data", "/nowhere/at/all"], "no folder /nowhere/at/all"),
        (["http://127.0.0.1:1/v1", "--suite", "persona", "--data", str(FIXTURES)], "no model is named"),
    ],
)
def test_wrong_input_says_what_to_do(arguments: list[str], error: str) -> None:
    with pytest.raises(UserError) as found:
        CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=False)
    assert error in str(found.value)
    assert found.value.exit_code == 2


def test_a_models_folder_is_asked_once(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [str(tiny_base), "--data", str(FIXTURES), "--out", str(tmp_path / "out"), "--suite"]
    text = asked(*arguments, "winobias,persona")
    assert "always the" in text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [suite["suite"] for suite in summary["suites"]] == ["winobias", "persona"]
    assert summary["changes"] == []
    accuracy = summary["suites"][0]["metrics"][0]["arms"]["raw"]
    assert accuracy["n"] == 4
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    monkeypatch.setattr(asking, "ask", None)  # a second call would fail
    again = json.loads(asked(*arguments, "winobias", "--json"))
    assert again["suites"] == summary["suites"][:1]


def test_another_limit_asks_anew(tiny_base: Path, tmp_path: Path) -> None:
    arguments = [
        str(tiny_base),
        "--data",
        str(FIXTURES),
        "--out",
        str(tmp_path / "out"),
        "--suite",
        "persona",
        "--json",
    ]
    sizes = [json.loads(asked(*arguments, "--limit", limit))["suites"][0]["questions"] for limit in ("2", "0")]
    assert sizes == [2, 6]


def test_an_endpoint_chooses_among_letters(tmp_path: Path) -> None:
    served, out = Served(), tmp_path / "out"
    arguments = [served.url, "--model", "judge", "--data", str(FIXTURES), "--out", str(out), "--json"]
    try:
        (suite,) = json.loads(asked(*arguments, "--suite", "persona"))["suites"]
        with pytest.raises(DataError, match="WinoBias compares the log-probabilities"):
            asked(*arguments, "--suite", "winobias")
    finally:
        served.close()
    assert suite["by_letter"]
    assert suite["metrics"][3]["arms"]["judge"]["n"] == 6


@pytest.mark.slow
def test_a_run_is_asked_raw_aligned_and_behind_its_guard(shared: Any, tmp_path: Path) -> None:
    from tests.toy.conftest import align_smoke

    from steersman.evals.suites import runner

    run = shared("run", align_smoke)
    suites = ["winobias", *[suite.name for suite in SUITES if not suite.files][:1]]
    before = {path for path in run.rglob("*") if "eval" not in path.parts}
    arguments = [str(run), "--data", str(FIXTURES), "--suite", ",".join(suites), "--limit", "4", "--out", str(tmp_path)]
    summary = json.loads(asked(*arguments, "--json"))
    assert summary["arms"] == ["raw", "aligned"]
    assert {row["suite"] for row in summary["changes"]} == set(suites)
    free = summary["suites"][-1]
    assert list(free["metrics"][0]["arms"]) == ["raw", "aligned", runner.GUARDED]
    assert {path for path in run.rglob("*") if "eval" not in path.parts} == before
