"""A judge's card, and who passes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.constitution.conftest import ToldJudge

from steersman.constitution import judge_card
from steersman.constitution.document import Constitution
from steersman.constitution.judges import (
    JudgeConfig,
    Judgement,
    JudgeQuestion,
    RuleJudge,
    Unanswered,
    unanswered_by_reason,
)
from steersman.errors import JudgeRefused
from steersman.lm.endpoint.replies import reasons_text
from steersman.store import StageFolder
from steersman.types import Comparison


def rows(count: int = 40) -> list[Comparison]:
    return [
        Comparison(
            prompt=f"q{i}",
            options=("good", "bad") if i % 3 else ("bad", "good"),
            ranking=(1, 2) if i % 3 else (2, 1),
            principles=(("apples",), ("pears",), ("plums",), ())[i % 4],
            source="human" if i % 2 else "authored",
        )
        for i in range(count)
    ]


def right(question: JudgeQuestion) -> float:
    return 0.9 if question.first == "good" else 0.1


def test_pairs_are_asked_with_the_better_answer_first_about_half_the_time(constitution: Constitution) -> None:
    """So that a judge who always says (A) is right half the time, and one that knows the answer always."""
    asked = judge_card.questions_of(rows(400), constitution)
    assert 150 < sum(first for *_, first in asked) < 250
    assert all((question.first == "good") == first for _, question, first in asked)
    names = [question.principle and question.principle.id for _, question, _ in asked[:4]]
    assert names == ["apples", "pears", None, None]
    always_a = judge_card.card(ToldJudge(lambda _: 0.9), asked)
    assert 0.4 < always_a["accuracy"]["value"] < 0.6


def test_what_a_good_answer_shows_is_asked_for_as_in_feedback(constitution: Constitution) -> None:
    """Rules go by what the row expects, as they do by what a prompt expects; else by the principle."""

    def shows(behaviour: str, _: str, answer: str) -> bool:
        return (behaviour == "refuses") == (answer == "good")

    told = constitution.principle("apples").model_copy(update={"behaviours": ("complies",)})
    constitution = constitution.model_copy(update={"principles": (told,)})
    plain = Comparison(prompt="q", options=("good", "bad"), ranking=(1, 2), principles=("apples",))
    for row, accuracy in ((plain.model_copy(update={"expect": ("refuses",)}), 1.0), (plain, 0.0)):
        card = judge_card.card(RuleJudge(shows), judge_card.questions_of([row], constitution))
        assert card["accuracy"]["value"] == accuracy


def test_the_card_says_how_often_by_what_and_for_whom(constitution: Constitution) -> None:
    asked = judge_card.questions_of(rows(), constitution)

    def says(question: JudgeQuestion) -> float | None:
        if question.prompt == "q3":
            return None
        return 0.5 if question.prompt == "q5" else right(question) if question.prompt != "q4" else 1 - right(question)

    card = judge_card.card(ToldJudge(says, place_bias=0.1), asked)
    assert (card["unanswered"], card["undecided"], card["accuracy"]["n"]) == (1, 1, 40)
    assert card["unanswered_by_reason"] == {"said nothing": {"n": 1, "words": ""}}
    # q4 is wrong; of q3, which got no answer, and q5 a coin decides.
    assert card["accuracy"]["value"] == pytest.approx((37 + 0.5 + 0.5) / 40)
    assert card["by"]["principle"]["apples"] == pytest.approx(
        {**card["by"]["principle"]["apples"], "value": 0.9, "n": 10}
    )
    assert card["by"]["principle"]["answer as a whole"]["n"] == 20
    assert {key: found["n"] for key, found in card["by"]["source"].items()} == {"authored": 20, "human": 20}
    assert card["place_bias"]["value"] == pytest.approx(0.1)
    # 38 decided at a claim of 0.9, of which 37 are right.
    assert card["calibration"]["expected_error"] == pytest.approx(37 / 38 - 0.9)


def test_so_many_questions_are_drawn_by_the_seed(constitution: Constitution) -> None:
    some, again, other = (judge_card.questions_of(rows(), constitution, 7, seed) for seed in (0, 0, 1))
    assert len(some) == 7
    assert some == again != other


def card_of(right_ones: int, n: int, folder: Path, constitution: Constitution) -> dict[str, Any]:
    told = ToldJudge(lambda q: right(q) if int(str(q.prompt)[1:]) < right_ones else 1 - right(q))
    out = StageFolder(folder, "judge_card", lambda **_: None)
    judge_card.run(JudgeConfig(min_accuracy=0.99), told, rows(n), constitution, out)
    found: dict[str, Any] = json.loads((folder / judge_card.CARD).read_text(encoding="utf-8"))
    return found


def test_a_judge_passes_whose_interval_clears_the_threshold(constitution: Constitution, tmp_path: Path) -> None:
    card = card_of(70, 100, tmp_path, constitution)  # 70 % [60, 78]
    assert card["judge"]["kinds"] == ["reward"]
    assert "min_accuracy" not in card["judge"]  # what a recipe demands is not what a judge is
    judge_card.admit(JudgeConfig(min_accuracy=0.6), card)
    with pytest.raises(JudgeRefused, match=r"70 % \[60, 78\], n=100") as refused:
        judge_card.admit(JudgeConfig(min_accuracy=0.61), card)
    assert "61 %" in refused.value.expected
    assert "skip_validation: true" in refused.value.do
    judge_card.admit(JudgeConfig(min_accuracy=0.61, skip_validation=True), card)


def test_a_judge_that_nobody_measured_is_refused(constitution: Constitution, tmp_path: Path) -> None:
    with pytest.raises(JudgeRefused, match="was not measured"):
        judge_card.admit(JudgeConfig(), card_of(0, 0, tmp_path, constitution))


def test_pairs_of_one_prompt_are_no_independent_witnesses(constitution: Constitution) -> None:
    """180 pairs of 30 rankings of four answers: a judge that is right by prompt is no surer than 30 pairs make it."""
    ranked = [
        Comparison(prompt=f"q{i}", options=("a", "b", "c", "d"), ranking=(1, 2, 3, 4), principles=("apples",))
        for i in range(30)
    ]
    told = ToldJudge(lambda q: 0.9 if (q.first < q.second) == (int(str(q.prompt)[1:]) < 20) else 0.1)
    accuracy = judge_card.card(told, judge_card.questions_of(ranked, constitution))["accuracy"]
    assert (accuracy["n"], accuracy["value"]) == (180, pytest.approx(2 / 3))
    assert accuracy["low"] < 0.5  # 20 of 30; with 180 pairs for independent ones it would be 0.595


def test_a_judge_that_says_nothing_is_no_better_than_a_coin(constitution: Constitution, tmp_path: Path) -> None:
    out = StageFolder(tmp_path, "judge_card", lambda **_: None)
    silent = ToldJudge(lambda q: right(q) if int(str(q.prompt)[1:]) < 30 else None)
    card = judge_card.run(JudgeConfig(), silent, rows(130), constitution, out)
    with pytest.raises(JudgeRefused, match="; 100 got no answer: 100 said nothing"):
        judge_card.admit(JudgeConfig(min_accuracy=0.6), card)
    nobody = judge_card.card(ToldJudge(lambda _: None), [])
    assert "NaN" not in json.dumps(nobody)
    assert "Infinity" not in json.dumps(nobody)


def test_reasons_are_counted_with_the_first_words_of_each() -> None:
    given = [
        Judgement(0.9),
        *(Unanswered("too long for the model", f"{i} tokens") for i in (5003, 6001)),
        Unanswered("?"),
    ]
    by_reason = unanswered_by_reason([given[3], *given])
    assert list(by_reason) == ["?", "too long for the model"]
    assert reasons_text(by_reason) == "2 ?, 2 too long for the model (5003 tokens)"
    assert not Unanswered("x")
