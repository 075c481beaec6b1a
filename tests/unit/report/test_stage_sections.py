"""The sections of the stages: which there are, in which order, and the numbers in their blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersman.constitution import ai_feedback, critique_revise, judge_card
from steersman.evals import reward_card
from steersman.pipeline import sections_of
from steersman.report import terminal
from steersman.report.blocks import Details, Exchange, LineChart, Paragraph, Section, Table
from steersman.report.evidence import StageRecord
from steersman.report.page import report_data
from steersman.stages import judge, reward_model, scores
from steersman.stats import wilson
from steersman.store import Run, write_json, write_jsonl

from .conftest import LOOKS


def section(run: Run, stage: str) -> Section:
    return next(section for section in sections_of(run) if section.id == stage)


def test_only_finished_stages_have_sections(make: Callable[..., Run]) -> None:
    def ids(run: Run) -> list[str]:
        return [section["id"] for section in report_data(run, sections_of(run))["sections"]]

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


@pytest.fixture
def record(tmp_path: Path) -> StageRecord:
    """Of a stage without files yet."""
    return StageRecord("stage", tmp_path, {}, (), {"refuse-harm": "No help with serious harm"}, {})


def rate(successes: int, n: int) -> dict[str, Any]:
    return wilson(successes, n).json()


def card(**kinds: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy": rate(3, 4), "by": kinds, "calibration": {"expected_error": 0.125}}


def text(section: Section | None) -> str:
    """All of its paragraphs."""
    assert section is not None
    found = [block for block in section.blocks if isinstance(block, Paragraph)]
    return " ".join(part if isinstance(part, str) else part.text for block in found for part in block.parts)


def table(section: Section | None, place: int) -> list[list[str]]:
    """The cells of one of its tables as the terminal shows them."""
    assert section is not None
    block = [block for block in section.blocks if isinstance(block, Table)][place]
    return [[terminal.plain(cell) for cell in row] for row in block.rows]


def test_the_reward_model_has_its_accuracy_and_biases(record: StageRecord) -> None:
    nothing = {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    shift = {"value": -0.25, "low": -0.5, "high": 0.0, "n": 4}
    biases = {
        "wrong_number": {"preferred": rate(1, 4), "shift_nats": shift},
        "unseen": {"preferred": nothing, "shift_nats": shift},
    }
    by = {"principle": {"refuse-harm": rate(1, 1)}, "failure": {"preachy": rate(0, 1)}, "group": {}}
    more = {"best_of_4": rate(1, 2), "ceiling": nothing, "biases": biases}
    write_json(record.folder / reward_card.CARD, card(**by) | more)
    found = reward_model.section(record)
    assert table(found, 0) == [
        ["All pairs", "3 of 4", "4"],
        ["No help with serious harm (principle)", "1 of 1", "1"],
        ["preachy (flaw of the worse answer)", "0 of 1", "1"],
    ]
    assert table(found, 1) == [["wrong number", "1 of 4", "-0.25 [-0.50, 0.00]", "4"]]
    assert "Best of four answers found: 50 % [9, 91]. Expected calibration error: 12 %." in text(found)
    assert "ceiling" not in text(found)
    assert found.limits


@pytest.mark.parametrize(
    ("bias", "sentence"),
    [(-0.05, "Position bias: −5.0 [−10.0, +2.5] points for the answer shown first."), (0.0, "No position bias.")],
)
def test_the_judge_has_its_accuracy_and_position_bias(record: StageRecord, bias: float, sentence: str) -> None:
    more = {"judge": {"kinds": ["rules", "reward"]}, "undecided": 1, "unanswered": 0}
    place = {"value": bias, "low": -0.1, "high": 0.025, "n": 4}
    write_json(
        record.folder / judge_card.CARD,
        card(principle={}, source={"people": rate(2, 2)}) | more | {"place_bias": place},
    )
    found = judge.card_section(record)
    assert table(found, 0)[1] == ["people (source of the comparison)", "2 of 2", "2"]
    assert sentence in text(found)
    assert "rules, reward. Expected calibration error: 12 %." in text(found)
    assert "Undecided: 1 of 4; unanswered: 0." in text(found)


def test_revisions_are_counted_and_sampled_with_their_history(record: StageRecord) -> None:
    step = {"principle": "refuse-harm", "critique": "Harmful.", "revision": "No."}
    kept = {"prompt": "Bomb?", "answer": "Yes.", "rounds": [step], "kept": "No.", "dropped": ""}
    write_jsonl(record.folder / critique_revise.REVISIONS, [kept] * 9 + [{**kept, "kept": "", "dropped": "empty"}])
    found = judge.revisions_section(record)
    assert text(found) == "9 of 10 revisions were kept for training; dropped: 1 empty."
    assert found is not None
    sample = found.blocks[1]
    assert isinstance(sample, Details)
    exchanges = [block for block in sample.blocks if isinstance(block, Exchange)]
    assert [exchange.note for exchange in exchanges] == ["kept for training"] * 3 + ["dropped: empty"]
    assert [(a.name, a.note, a.text, a.strong) for a in exchanges[0].answers] == [
        ("Answer", "", "Yes.", False),
        ("Critique", "No help with serious harm", "Harmful.", False),
        ("Revision", "No help with serious harm", "No.", True),
    ]
    write_jsonl(record.folder / critique_revise.REVISIONS, [])
    assert judge.revisions_section(record) is None


def test_feedback_says_what_was_kept_and_which_principle_decided(record: StageRecord) -> None:
    feedback = {"prompts": 1500, "kept": 20, "left_out": {"less sure": 3}, "decided": {"refuse-harm": rate(1, 4)}}
    write_json(record.folder / ai_feedback.SUMMARY, {**feedback, "principles_agree": rate(3, 4)})
    found = judge.feedback_section(record)
    assert "20 pairs of the policy’s answers to 1,500 prompts were kept for training; left out: 3 less sure." in text(
        found
    )
    assert "alike in 75 % [30, 95]" in text(found)
    assert table(found, 0) == [["No help with serious harm", "1 of 4", "4"]]


def test_the_ablation_compares_with_the_first_policy(record: StageRecord) -> None:
    def step(stage: str, passed: int, change: float) -> dict[str, Any]:
        since = {"value": change, "low": -0.5, "high": 0.75, "n": 4}
        rates = {"pass rate": {**rate(passed, 20), "versus_first": since}}
        return {
            "stage": stage,
            "rates": rates,
            "violations": {"refuse-harm": rate(20 - passed, 20)},
            "mean_answer_tokens": 8,
        }

    write_json(record.folder / scores.SUMMARY, {"ablation": [step("sft", 5, 0.0), step("rl", 15, 0.5)]})
    found = scores.section(record)
    assert table(found, 0) == [
        ["Supervised fine-tuning", "25 % [11, 47]", "8.0"],
        ["+ reinforcement learning", "75 % [53, 89], +50 [-50, 75]", "8.0"],
    ]
    assert found is not None
    first = found.blocks[0]
    assert isinstance(first, Table)
    assert first.columns == ("After", "Pass rate", "Tokens")
    write_json(record.folder / scores.SUMMARY, {})
    assert scores.section(record) is None
