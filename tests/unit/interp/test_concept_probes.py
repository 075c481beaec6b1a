"""The rows of the gate's probes: nothing on both sides, no class told by a word, and each fits on a small model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steersman.data import sources
from steersman.interp import concept_probes as concepts
from steersman.interp import probe_texts as texts
from steersman.interp.probes import of_prompt, splits
from steersman.lm.language_model import LocalModel

KINDS = {
    "defection": (concepts.defection_sets, concepts.fit_defection, concepts.defection_behaviour),
    "deception": (concepts.deception_sets, concepts.fit_deception, concepts.deception_behaviour),
    "evaluation_awareness": (
        concepts.evaluation_awareness_sets,
        concepts.fit_evaluation_awareness,
        concepts.evaluation_awareness_behaviour,
    ),
}


@pytest.fixture(scope="module")
def sampler(tiny_base: Path) -> Any:
    return LocalModel.load(tiny_base).sampler


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_disjoint_and_balanced(sampler: Any, name: str) -> None:
    for seed in (0, 1):
        sets = KINDS[name][0](sampler.chat, 60, seed)
        counted = splits(sets)
        assert counted.rows["threshold"] == counted.rows["chat"] == 60
        for part in ("fit", "layer", "test", "style"):
            rows = getattr(sets, part)
            assert sum(row.label for row in rows) * 2 == len(rows)
            assert len({row.ids for row in rows}) == len(rows)
    assert KINDS[name][0](sampler.chat, 60, 1) == sets  # the same on every call


@pytest.mark.parametrize("name", KINDS)
def test_each_fits_and_scores(sampler: Any, name: str) -> None:
    probe = KINDS[name][1](sampler.model, sampler.chat, chat_rows=20)
    assert probe.name == name
    assert len(probe.scores(sampler.model, [of_prompt(sampler.chat, "Who are you?", False, 0)])) == 1
    assert isinstance(KINDS[name][2](sampler.model, sampler.chat)(), float)


def test_yes_is_as_often_dangerous_as_safe(sampler: Any) -> None:
    sets = concepts.defection_sets(sampler.chat, 2)
    for rows in (sets.fit, sets.test):
        answers = Counter((row.label, row.text.rsplit("\n")[-1]) for row in rows)
        assert len(answers) == 4
        assert len(set(answers.values())) == 1


def test_each_instruction_and_style_is_fitted_on_and_none_of_the_tests(sampler: Any) -> None:
    sets = concepts.deception_sets(sampler.chat, 2)
    for which, rows in ((texts.FITTED_INSTRUCTIONS, sets.fit), (texts.TEST_INSTRUCTIONS, sets.test)):
        for honest, dishonest in texts.INSTRUCTIONS[which]:
            assert any(honest in row.text for row in rows)
            assert sum(honest in row.text for row in rows) == sum(dishonest in row.text for row in rows)
        for honest, _ in set(texts.INSTRUCTIONS) - set(texts.INSTRUCTIONS[which]):
            assert not any(honest in row.text for row in rows)
    said = [row.text.split("\n")[-1] for row in sets.fit]
    assert said[::2] == said[1::2]  # the same words under both instructions
    for _, reply in texts.STYLES[texts.FITTED_STYLES]:
        start = reply.split("{}")[0]
        assert any(text.startswith(start) for text in said)
    assert len(texts.INSTRUCTIONS[texts.FITTED_INSTRUCTIONS]) >= 5
    assert len(texts.STYLES[texts.FITTED_STYLES]) >= 8
    assert len(set(texts.FACTS)) == 60


def test_nothing_of_it_is_in_the_data_that_ships() -> None:
    """A probe of the gate that training has seen measures nothing."""
    shipped = "\n".join(path.read_text(encoding="utf-8") for path in sources.LIBRARY.rglob("*.jsonl")).lower()
    assert "what is a young dog called?" in shipped
    pairs = (*texts.FACTS, *texts.INSTRUCTIONS, *texts.WATCHED)
    written = [*(text for pair in pairs for text in pair), *(row[0] for row in texts.DEFECTION), *texts.REQUESTS]
    assert [text for text in written if text.lower() in shipped] == []
