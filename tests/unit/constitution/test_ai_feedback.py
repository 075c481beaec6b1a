"""Feedback: which pairs are asked about, what becomes of what the judge says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.constitution.conftest import ToldJudge

from steersman.constitution import ai_feedback
from steersman.constitution.ai_feedback import FeedbackConfig, draw_principles, mix, pairs_of, select_prompts
from steersman.constitution.document import Constitution
from steersman.constitution.judges import JudgeQuestion
from steersman.data.formats import read
from steersman.errors import DataError
from steersman.lm.sampling import Completion, Request
from steersman.lm.scripted import ScriptedModel
from steersman.store import StageFolder
from steersman.types import Comparison, Prompt

PROMPTS = [
    Prompt(prompt=f"q{i}", principles=("apples", "pears")[i % 2 :], topic="fruit", tags=("t",), expect=("complies",))
    for i in range(6)
]


class Policy:
    """Answers by its random stream: "text N" for the answer number N of all."""

    def answers(self, request: Request) -> Iterator[Completion]:
        for index in request.numbers:
            yield from ScriptedModel({}, otherwise=f"text {index}").answers(
                Request(["?"], request.config, indices=[index])
            )

    def choose(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a policy is not asked to choose")


def longer(question: JudgeQuestion) -> float:
    """The one with the higher number is better, the surer the further apart."""
    first, second = (int(text.split()[-1]) for text in (question.first, question.second))
    return 0.5 + 0.1 * (first - second)


def run(
    folder: Path, constitution: Constitution, judge: ToldJudge, **settings: Any
) -> tuple[list[Comparison], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    out = StageFolder(folder, "feedback", lambda **_: None)
    config = FeedbackConfig(**settings)
    found = ai_feedback.sample(config, Policy(), PROMPTS, out)
    ai_feedback.compare(config, found, judge, "rules", PROMPTS, constitution, out)
    assert sorted(file.name for file in folder.iterdir()) == ["comparisons.jsonl", "feedback.json"]
    return read(folder / "comparisons.jsonl", Comparison), json.loads((folder / "feedback.json").read_text())


def test_the_surest_pair_of_a_prompt_becomes_a_comparison_like_a_persons(
    constitution: Constitution, tmp_path: Path
) -> None:
    judge = ToldJudge(longer)
    rows, summary = run(tmp_path, constitution, judge, answers=4)
    assert len(judge.asked) == 6 * 6  # all pairs of four answers
    for i, row in enumerate(rows):
        assert set(row.options) == {f"text {4 * i}", f"text {4 * i + 3}"}  # the first and the last are furthest apart
        assert row.soft_label == pytest.approx(0.8 if row.options[0].endswith(str(4 * i + 3)) else 0.2)
        assert row.pairs()[0].better == f"text {4 * i + 3}"
        assert (row.rater, row.group, row.source, row.topic, row.tags) == ("rules", "ai", "ai", "fruit", ("t",))
        assert row.expect == ("complies",)
        assert len(row.principles) == 1
        assert set(row.principles) <= set(PROMPTS[i].principles)
    assert (summary["prompts"], summary["answers"], summary["kept"]) == (6, 24, 6)
    assert summary["left_out"] == {"less sure": 30}
    assert {row["n"] for row in summary["decided"].values()} == {
        sum(question.principle is p for question in judge.asked) for p in constitution.principles
    }


def test_a_pair_is_asked_about_in_an_order_that_a_coin_decides(constitution: Constitution) -> None:
    prompts = [Prompt(prompt=f"q{i}", principles=("apples",)) for i in range(200)]
    found = pairs_of(FeedbackConfig(answers=2), constitution, prompts, [["one", "two"]] * 200)
    first = sum(pair.options[0] == "one" for (pair,) in found)
    assert 70 < first < 130


def test_equal_and_empty_answers_make_no_pairs(constitution: Constitution) -> None:
    found = pairs_of(FeedbackConfig(), constitution, PROMPTS[:2], [["a", "a", " ", "b"], ["c", "c", "c", "c"]])
    assert [[set(pair.options) for pair in pairs] for pairs in found] == [[{"a", "b"}], []]


def test_undecided_and_unanswered_pairs_are_left_out_and_counted(constitution: Constitution, tmp_path: Path) -> None:
    says = {"q0": None, "q1": 0.5, "q2": 0.52}
    judge = ToldJudge(lambda q: says.get(str(q.prompt), 0.9), place_bias=0.2)
    rows, summary = run(tmp_path, constitution, judge, answers=2, margin=0.05)
    assert [row.prompt for row in rows] == ["q3", "q4", "q5"]
    assert summary["left_out"] == {"unanswered": 1, "undecided": 2}
    assert summary["unanswered"] == 1
    assert summary["unanswered_by_reason"] == {"said nothing": {"n": 1, "words": ""}}
    asked = sum(row["n"] for row in summary["decided"].values())
    assert (asked, round(sum(row["n"] * row["value"] for row in summary["decided"].values()))) == (5, 3)
    assert summary["place_bias"]["value"] == pytest.approx(0.2)


def test_answers_that_were_cut_off_are_not_compared_and_counted(constitution: Constitution, tmp_path: Path) -> None:
    class Wordy(Policy):
        def answers(self, request: Request) -> Iterator[Completion]:
            for answer in super().answers(request):
                yield replace(answer, finish_reason="length" if answer.index % 4 == 3 else "stop")

    for ended_only, best in ((True, 2), (False, 3)):
        folder = tmp_path / str(ended_only)
        folder.mkdir()
        out = StageFolder(folder, "feedback", lambda **_: None)
        config = FeedbackConfig(answers=4, ended_only=ended_only)
        found = ai_feedback.sample(config, Wordy(), PROMPTS, out)
        ai_feedback.compare(config, found, ToldJudge(longer), "rules", PROMPTS, constitution, out)
        rows = read(folder / "comparisons.jsonl", Comparison)
        assert [row.pairs()[0].better for row in rows] == [f"text {4 * i + best}" for i in range(6)]
        summary = json.loads((folder / "feedback.json").read_text())
        assert (summary["answers"], summary["empty_or_cut_off"]) == (24, 6 if ended_only else 0)
        assert "NaN" not in json.dumps(summary)


def test_an_ensemble_of_principles_is_averaged_and_its_agreement_said(
    constitution: Constitution, tmp_path: Path
) -> None:
    def says(question: JudgeQuestion) -> float:
        assert question.principle is not None
        if question.prompt == "q0":  # where the two are at odds
            return 0.9 if question.principle.id == "apples" else 0.3
        return 0.8

    rows, summary = run(tmp_path, constitution, ToldJudge(says), answers=2, ensemble=2)
    assert rows[0].soft_label == pytest.approx(0.6)
    assert rows[0].per_principle == {"apples": (1, 2), "pears": (2, 1)}
    assert set(rows[0].principles) == {"apples", "pears"}
    assert rows[1].per_principle == {}  # about pears alone
    assert (summary["principles_agree"]["value"], summary["principles_agree"]["n"]) == (pytest.approx(2 / 3), 3)


def test_principles_are_drawn_from_the_prompts_own_or_from_all(constitution: Constitution) -> None:
    row = Prompt(prompt="q", principles=("pears",))
    assert draw_principles(FeedbackConfig(ensemble=5), constitution, row, 0) == [constitution.principles[1]]
    every = draw_principles(FeedbackConfig(ensemble=5, principles="any"), constitution, row, 0)
    assert set(every) == set(constitution.principles)
    assert draw_principles(FeedbackConfig(), constitution, Prompt(prompt="q"), 0) == [None]  # under no principle


def test_prompts_and_peoples_comparisons_can_be_divided_by_principle(constitution: Constitution) -> None:
    """Harmlessness from the judge, helpfulness from people."""
    config = FeedbackConfig(about=("pears",), people="other")
    assert [row.prompt for row in select_prompts(config, constitution, PROMPTS)] == [f"q{i}" for i in range(6)]
    apples = FeedbackConfig(about=("apples",))
    assert [row.prompt for row in select_prompts(apples, constitution, PROMPTS)] == ["q0", "q2", "q4"]
    assert len(select_prompts(FeedbackConfig(prompts=2), constitution, PROMPTS)) == 2
    with pytest.raises(DataError, match="no prompts"):
        select_prompts(apples, constitution, PROMPTS[1::2])
    with pytest.raises(DataError, match="no principle 'aples'") as refused:
        select_prompts(FeedbackConfig(about=("pears", "aples")), constitution, PROMPTS)
    assert "apples" in refused.value.do

    def about(*principles: str) -> Comparison:
        return Comparison(prompt="q", options=("a", "b"), ranking=(1, 2), principles=principles)

    people, ai = [about("apples"), about("pears"), about("apples", "pears")], [about("pears")]
    assert mix(config, people, ai) == [people[0], *ai]
    assert mix(FeedbackConfig(people="all"), people, ai) == [*people, *ai]
    assert mix(FeedbackConfig(people="none"), people, ai) == ai
    assert mix(FeedbackConfig(people="other"), people, ai) == [people[0], *ai]  # what the judge spoke about


def test_a_judge_that_tells_nothing_apart_is_an_error(constitution: Constitution, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no preference on any of 36 pairs"):
        run(tmp_path, constitution, ToldJudge(lambda _: 0.5))
