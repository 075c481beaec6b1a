"""Judges of every kind, asked the same question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from tests.unit.constitution.conftest import ToldJudge

from steersman.constitution.document import Constitution
from steersman.constitution.judges import (
    CascadeJudge,
    JudgeQuestion,
    PromptedJudge,
    RuleJudge,
    ScoringJudge,
    Unanswered,
    in_order,
    judge_examples,
    likely_violations,
)
from steersman.lm.sampling import Completion, Request
from steersman.lm.scripted import ScriptedModel
from steersman.types import Message, Text, judged_by, plain_text


@dataclass
class Chooser:
    """A model that thinks an answer with the word "good" better by ``nats``, and the one shown first by ``first``."""

    nats: float = 2.0
    first: float = 0.0
    mute: str = "\0"
    calls: list[tuple[list[Text], Text | None]] = field(default_factory=list)

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        self.calls.append((list(prompts), preamble))
        found: list[tuple[float, ...] | None] = []
        for prompt in prompts:
            shown = plain_text(prompt).split("(A) ")[1]
            a, b = (text.split("\n")[0] for text in shown.split("\n(B) ")[:2])
            lead = self.nats * (("good" in a) - ("good" in b)) + self.first
            found.append(None if self.mute in plain_text(prompt) else (-3.0 + lead, -3.0))
        return found

    def answers(self, request: Request) -> Iterator[Completion]:
        return ScriptedModel({}, otherwise="Let me see.").answers(request)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def questions(constitution: Constitution) -> list[JudgeQuestion]:
    apples, pears = constitution.principles
    return [
        JudgeQuestion("What?", "a good one", "a poor one", apples),
        JudgeQuestion("What?", "a poor one", "a good one", pears),
        JudgeQuestion("Why?", "one", "two", apples),
    ]


def test_a_model_is_asked_in_both_orders_and_the_place_is_told_from_the_answer(constitution: Constitution) -> None:
    model = Chooser(nats=2.0, first=0.5)
    found = in_order(PromptedJudge(model).judge(questions(constitution)), 3)
    better, worse = (sigmoid(2.5) + 1 - sigmoid(-1.5)) / 2, (sigmoid(-1.5) + 1 - sigmoid(2.5)) / 2
    assert [j and j.probability for j in found] == pytest.approx([better, worse, 0.5])
    even = sigmoid(0.5) - 0.5
    biased = (sigmoid(2.5) + sigmoid(-1.5) - 1) / 2
    assert [j and j.position_bias for j in found] == pytest.approx([biased, biased, even])
    # One call for each principle, behind its own examples: what stands before the questions is read once.
    assert [(len(asked), preamble) for asked, preamble in model.calls] == [
        (4, judge_examples(constitution.principles[0])),
        (2, judge_examples(constitution.principles[1])),
    ]


def test_the_examples_before_a_question_show_each_place_as_often_and_leave_out_answers_without_fault(
    constitution: Constitution,
) -> None:
    shown = judge_examples(constitution.principles[0])
    assert [m.content for m in shown if m.role == "assistant"] == ["(A)", "(B)"]
    for question, answer in zip(shown[::2], shown[1::2], strict=True):
        assert f"{answer.content} Good" in question.content


def test_without_a_principle_it_is_asked_all_in_all_and_nothing_stands_before(constitution: Constitution) -> None:
    model = Chooser()
    in_order(PromptedJudge(model).judge([JudgeQuestion("What?", "a good one", "two", None)]), 1)
    ((asked, preamble),) = model.calls
    assert preamble is None
    assert "helpful, honest and harmless" in plain_text(asked[0])
    assert "Rule:" not in plain_text(asked[0])


def test_no_answer_is_no_judgement(constitution: Constitution) -> None:
    found = in_order(PromptedJudge(Chooser(mute="Why?")).judge(questions(constitution)), 3)
    assert [bool(judgement) for judgement in found] == [True, True, False]
    assert found[2] == Unanswered("names no option")


def test_after_a_chain_of_thought_probabilities_are_clamped_and_the_reasons_kept(constitution: Constitution) -> None:
    model = Chooser(nats=9.0)
    found = in_order(PromptedJudge(model, chain_of_thought=True).judge(questions(constitution)), 3)
    assert [j and j.probability for j in found] == pytest.approx([0.6, 0.4, 0.5])
    assert found[0] is not None
    assert found[0].reasons == "Let me see."
    conversation = model.calls[0][0][0]
    assert not isinstance(conversation, str)
    assert [message.role for message in conversation] == ["user", "assistant", "user"]
    assert conversation[1].content == "Let me see."


def test_scores_are_asked_with_the_text_of_the_principle_once_for_all_answers_to_a_prompt(
    constitution: Constitution,
) -> None:
    apples, _ = constitution.principles
    asked: list[tuple[Text, list[str]]] = []

    def scores(prompt: Text, answers: Sequence[str]) -> list[float]:
        asked.append((prompt, list(answers)))
        return [float(len(answer)) for answer in answers]

    three = [
        JudgeQuestion("q", "a", "bbb", apples),
        JudgeQuestion("q", "bbb", "cc", apples),
        JudgeQuestion("q", "a", "cc", None),
    ]
    found = in_order(ScoringJudge(scores).judge(three), 3)
    assert [j and j.probability for j in found] == pytest.approx([sigmoid(-2), sigmoid(1), sigmoid(-1)])
    assert asked == [(judged_by("q", apples.text), ["a", "bbb", "cc"]), ("q", ["a", "cc"])]
    told = judged_by("q", apples.text)[0]
    assert isinstance(told, Message)
    assert apples.statement in told.content


def test_the_principle_that_an_answer_most_likely_breaks_comes_first(constitution: Constitution) -> None:
    apples, pears = constitution.principles
    low = {judged_by("q", apples.text): 0.5, judged_by("q", pears.text): -2.0}
    found = likely_violations(lambda prompt, answers: [low[prompt]] * len(answers), "q", "a", (apples, pears))
    assert found == [(pears, -2.0), (apples, 0.5)]


def test_rules_count_the_behaviours_that_a_prompt_expects_or_else_those_of_the_principle(
    constitution: Constitution,
) -> None:
    apples, _ = constitution.principles  # which lists "refuses"

    def shows(behaviour: str, prompt: str, answer: str) -> bool:
        return behaviour in answer

    judge = RuleJudge(shows, confidence=0.8)
    asked = [
        JudgeQuestion("q", "refuses", "complies", apples),
        JudgeQuestion("q", "refuses", "complies", apples, ("complies",)),
        JudgeQuestion("q", "refuses corrects", "complies corrects", apples, ("corrects",)),
        JudgeQuestion("q", "corrects", "refuses", None),
    ]
    found = [j.probability for j in in_order(judge.judge(asked), 4) if j]
    assert found == pytest.approx([0.8, 0.2, 0.5, 0.5])


def test_the_next_judge_is_asked_what_the_ones_before_left_open(constitution: Constitution) -> None:
    first = ToldJudge(lambda q: {"What?": 0.5, "Why?": None}.get(plain_text(q.prompt), 0.9))
    second = ToldJudge(lambda q: 0.7 if q.prompt == "What?" else None)
    apples, _ = constitution.principles
    asked = [JudgeQuestion(prompt, "a", "b", apples) for prompt in ("What?", "Who?", "Why?", "What?")]
    found = in_order(CascadeJudge((first, second)).judge(asked), 4)
    assert [j.probability if j else j.reason for j in found] == [0.7, 0.9, "said nothing", 0.7]
    assert [q.prompt for q in second.asked] == ["What?", "Why?", "What?"]
