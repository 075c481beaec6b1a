"""The sections of the stages: which there are, in which order, and the numbers in their blocks."""

from __future__ import annotations

from collections.abc import Callable

from steersman.report.blocks import Details, Exchange, LineChart, Section, Table
from steersman.report.evidence import read_evidence
from steersman.report.page import report_data
from steersman.report.stage_sections import sections_of
from steersman.store import Run

from .conftest import LOOKS


def section(run: Run, stage: str) -> Section:
    return next(section for section in sections_of(read_evidence(run)) if section.id == stage)


def test_only_finished_stages_have_sections(make: Callable[..., Run]) -> None:
    def ids(run: Run) -> list[str]:
        return [section["id"] for section in report_data(run)["sections"]]

    assert ids(make("plain")) == ["sft"]
    assert ids(make("all", comparisons=True, reinforced=True)) == ["sft", "dpo", "rl"]


def test_reinforcement_has_every_checkpoint_and_some_answers(make: Callable[..., Run]) -> None:
    rewards, gold, table, samples = section(make(reinforced=True), "rl").blocks
    assert isinstance(rewards, LineChart)
    assert isinstance(gold, LineChart)
    assert rewards.curves[0].points == tuple((kl, score) for kl, score, _ in LOOKS.values())
    assert rewards.curves[1].points == tuple((kl, score / 2) for kl, score, _ in LOOKS.values())
    assert gold.curves[0].points == tuple((kl, gold) for kl, _, gold in LOOKS.values())
    assert isinstance(table, Details)
    assert isinstance(table.blocks[0], Table)
    assert [row[0] for row in table.blocks[0].rows] == list(LOOKS)
    assert "The policy of step 5 was selected, the highest by all labels (70 %)" in gold.caption
    assert "93 %" in gold.caption
    assert isinstance(samples, Details)
    exchanges = [block for block in samples.blocks if isinstance(block, Exchange)]
    assert [exchange.prompt for exchange in exchanges] == ["Why 0?", "Why 2?", "Why 4?", "Why 6?"]
    assert [(answer.name, answer.strong) for answer in exchanges[0].answers] == [
        ("Step 0", False),
        ("Step 5", True),
        ("Step 10", False),
    ]
