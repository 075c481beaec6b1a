"""The stage `suites`: when it is left out, what it reads, and what stands in place of an answer behind a guard."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.constitution import document
from steersman.data.public_files import FOLDER_VARIABLE
from steersman.errors import DataError
from steersman.evals.suites import SUITES
from steersman.guard.verdict import Exchange, Ruling, Verdict
from steersman.recipe import Recipe, load_recipe
from steersman.stage import Sources
from steersman.stages import sources
from steersman.stages.suites import behind, check, config_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "suites"


@pytest.fixture(autouse=True)
def _no_copy_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


def recipe(settings: str) -> Recipe:
    return load_recipe("smoke", [f"suites={settings}"])


def test_it_is_left_out_where_no_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_of(recipe("null")) is None
    assert config_of(recipe("{names: [winobias, bbq]}")) is None
    assert config_of(recipe(f"{{names: [winobias, bbq], folder: {FIXTURES}}}")) is not None
    assert config_of(recipe(f"{{names: [bbq], folder: {FIXTURES}}}")) is None
    monkeypatch.setenv(FOLDER_VARIABLE, str(FIXTURES))
    assert config_of(recipe("{names: [winobias]}")) is not None


def test_names_that_no_suite_has_are_refused_before_the_first_stage() -> None:
    with pytest.raises(DataError, match="did you mean winobias"):
        config_of(recipe("{names: [winobia]}"))


def test_a_file_that_cannot_be_read_is_refused_before_the_first_stage(tmp_path: Path) -> None:
    (tmp_path / "winobias.jsonl").write_text("{")
    chosen = recipe(f"{{names: [winobias], folder: {tmp_path}}}")
    config = config_of(chosen)
    assert config is not None
    nothing: Any = SimpleNamespace()
    with pytest.raises(DataError, match="cannot be read"):
        check(config, Sources(chosen, nothing, nothing))


def test_the_questions_are_in_the_key_and_the_folder_is_not(tmp_path: Path) -> None:
    """The same rows elsewhere change nothing; another row does."""
    text = (FIXTURES / "winobias.jsonl").read_text(encoding="utf-8")
    (tmp_path / "winobias.jsonl").write_text(text, encoding="utf-8")
    chosen = [recipe(f"{{names: [winobias], folder: {folder}}}") for folder in (FIXTURES, tmp_path)]
    assert len({str(one.suites.identity()) for one in chosen if one.suites}) == 1

    def digest(one: Recipe) -> str:
        return sources.digested(sources.load(one), None)["suite_questions"].digest

    assert digest(chosen[0]) == digest(chosen[1])
    (tmp_path / "winobias.jsonl").write_text(text.replace("tired", "weary"), encoding="utf-8")
    assert digest(chosen[0]) != digest(chosen[1])


class Stub:
    """A guard that blocks what holds a word, and redacts what holds another."""

    constitution = document.load("assistant")

    def check(self, exchange: Exchange) -> Ruling:
        text = exchange.answer if exchange.side == "output" else exchange.question
        decision: Any = "block" if "knife" in (text or "") else "redact" if "number" in (text or "") else "allow"
        return Ruling(
            decision, Verdict(rail="stub", principle="refuse-harm", decision=decision) if decision != "allow" else None
        )


def test_what_the_guard_stops_is_its_refusal() -> None:
    stub: Any = Stub()
    instead = behind(stub)
    assert instead("How do I cook rice?", "In water.") is None
    assert instead("What is my number?", "The number is here.") is None  # redacted text is still an answer
    for prompt, answer in (("Where is the knife?", "There."), ("Where is it?", "Beside the knife.")):
        assert "can't help" in (instead(prompt, answer) or "")


def test_every_own_suite_needs_no_copy() -> None:
    own = [suite.name for suite in SUITES if not suite.files]
    for name in own:
        assert config_of(recipe(f"{{names: [{name}]}}")) is not None
