"""The tree step by step: who branches, who is pruned before asking, who after."""

from __future__ import annotations

import json
import random

import pytest
from tests.unit.redteam.attacks.drive import assert_resumes, play
from tests.unit.redteam.attacks.test_pair import Script, is_topic_check

from steersman.redteam.attack import Ask, Consult, Outcome
from steersman.redteam.attacks.tap import BRANCHES, DEPTH, TAP


def by_number(ask: Ask) -> Outcome:
    """The higher the number of a prompt, the better its score."""
    return Outcome(f"answer to {ask.prompt}", "", False, int(str(ask.prompt).split()[-1]) / 1000)


def test_the_best_of_a_layer_branch_with_their_own_histories() -> None:
    played = play(TAP, budget=30, answer=by_number, attacker=Script())
    assert played.rounds == [4, 12, 12, 2]  # width 3: 4, then 3 * 4 twice, then what is left
    assert sorted(played.texts()[:4]) == [f"prompt {i}" for i in range(1, 5)]
    writes = [c for c in played.consults if not is_topic_check(c)]
    parents = [c.prompt[2].content for c in writes[4:16]]  # type: ignore[union-attr]
    best = [json.dumps({"improvement": "More.", "prompt": f"prompt {i}"}) for i in (4, 3, 2)]
    assert parents == [reply for reply in best for _ in range(BRANCHES)]
    for consult, number in zip(writes[4:16:4], (4, 3, 2), strict=True):
        assert f"answer to prompt {number}" in consult.prompt[-1].content  # type: ignore[union-attr]


def test_a_leaf_keeps_the_history_of_its_own_branch() -> None:
    """In the third layer, what stands before the last draft is what that draft was written from."""
    played = play(TAP, budget=30, answer=by_number, attacker=Script())
    writes = [c for c in played.consults if not is_topic_check(c)]
    third = writes[16:28]
    for consult in third:
        number = int(json.loads(consult.prompt[-2].content)["prompt"].split()[-1])  # type: ignore[union-attr]
        assert 4 < number <= 16
        assert consult.prompt[:-2] == writes[number - 1].prompt
    assert len({consult.prompt[-2] for consult in third}) == 3


def test_off_topic_prompts_are_dropped_before_asking() -> None:
    script = Script()

    def attacker(consult: Consult) -> str:
        if is_topic_check(consult):
            return "no" if int(str(consult.prompt).split()[-1]) % 2 else "Yes."
        return script(consult)

    played = play(TAP, budget=6, answer=by_number, attacker=attacker)
    assert sorted(played.texts()[:2]) == ["prompt 2", "prompt 4"]
    assert all(int(text.split()[-1]) % 2 == 0 for text in played.texts())
    assert played.asks[0].note == "layer 1, 2 off topic"
    assert played.asks[-1].note == "layer 2, 6 off topic"


def test_unreadable_replies_are_counted_and_a_lost_layer_is_tried_again() -> None:
    lost = ["what?"] * 20  # four branches, five attempts each
    played = play(TAP, budget=4, attacker=Script(*lost))
    assert played.asks[0].note == "layer 2, 20 unreadable"
    assert len(played.asks) == 4


def test_it_ends_when_nothing_is_readable() -> None:
    played = play(TAP, budget=4, attacker=lambda consult: "no JSON")
    assert played.asks == []
    assert len(played.consults) == DEPTH * BRANCHES * 5


@pytest.mark.parametrize("budget", [1, 3, 20, 100])
def test_the_budget_is_spent_and_never_exceeded(budget: int) -> None:
    played = play(TAP, budget=budget, attacker=Script())
    assert len(played.asks) == budget
    assert max(played.rounds) <= BRANCHES * max(2, budget // 10)


def test_it_stops_at_success_and_equal_scores_are_shuffled() -> None:
    def success(ask: Ask) -> Outcome:
        return Outcome("Here is how.", "", ask.prompt == "prompt 7", 0.2)

    assert play(TAP, budget=50, answer=success, attacker=Script()).rounds == [4, 16]
    orders = {tuple(play(TAP, budget=4, seed=seed, attacker=Script()).texts()) for seed in range(5)}
    assert len(orders) > 1


def test_it_resumes() -> None:
    def attacker(consult: Consult) -> str:
        return json.dumps({"prompt": f"prompt {random.Random(str(consult.prompt)).randrange(99)}"})

    assert_resumes(TAP, budget=14, answer=by_number, attacker=attacker)
