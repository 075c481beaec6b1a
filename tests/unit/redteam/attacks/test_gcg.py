"""GCG as an attack: what it asks is what it optimised, and its stretches are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.redteam.attacks.drive import GOAL, assert_resumes, play
from tests.unit.redteam.attacks.white_box import Weights, weights_of

from steersman.redteam.attack import Ask, Outcome, Work
from steersman.redteam.attacks import gcg
from steersman.redteam.attacks.gcg import GCG, asked, stretch
from steersman.redteam.coordinate_gradient import Search, Step

STEPS, WIDTH = 3, 16


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcg, "STEPS", STEPS)
    monkeypatch.setattr(gcg, "WIDTH", WIDTH)


def test_a_stretch_ends_with_the_message_of_its_lowest_loss(family: Callable[[str], Any], tokenizer: Any) -> None:
    weights = weights_of(family("Gemma3"), tokenizer)
    goal = GOAL._replace(system="Be brief.")
    found = json.loads(json.dumps(stretch(goal, weights, None, 7), allow_nan=False))
    assert found["message"].startswith(GOAL.text)
    assert len(found["losses"]) == STEPS
    assert found["loss"] == min(found["losses"])
    assert STEPS <= found["evaluations"] <= STEPS * WIDTH
    assert asked(goal, "x")[0].role == "system"  # type: ignore[union-attr]
    assert found == json.loads(json.dumps(stretch(goal, weights, None, 7)))
    assert found != stretch(goal, weights, None, 8)
    further = stretch(goal, weights, found["ids"], 8)
    assert further["loss"] < found["losses"][0]


def test_the_best_suffix_is_asked_and_the_search_goes_on_from_the_last(
    family: Callable[[str], Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = (3.0, 1.0, 2.0)
    seen: list[tuple[str, list[int]]] = []

    def step(search: Search, suffix: list[int], generator: Any) -> Step:
        place = len(seen)
        ids = [*suffix[:place], int(search.usable[20 + place]), *suffix[place + 1 :]]
        seen.append((search.problem.message(ids), ids))
        return Step(ids, losses[place], 4, 1)

    monkeypatch.setattr(Search, "step", step)
    found = stretch(GOAL, weights_of(family("Llama"), tokenizer), None, 7)
    assert (found["message"], found["loss"]) == (seen[1][0], 1.0)
    assert found["ids"] == seen[-1][1]
    assert len({message for message, _ in seen}) == STEPS == len(losses)
    assert found["evaluations"] == 4 * STEPS


def test_every_ask_follows_a_stretch_and_a_recorded_one_is_not_done_again(
    family: Callable[[str], Any], tokenizer: Any
) -> None:
    weights = weights_of(family("Llama"), tokenizer)
    whole = assert_resumes(GCG, budget=2, weights=weights)
    assert [isinstance(step, Work) for step in whole.steps] == [True, False] * 2
    assert [ask.note.split(",")[0] for ask in whole.asks] == [f"step {STEPS}", f"step {2 * STEPS}"]
    assert whole.texts()[0] != whole.texts()[1]
    gone = Weights(None, weights.chat)
    again = play(GCG, budget=2, weights=gone, recorded=whole.answers)
    assert again.asks == whole.asks


def test_it_stops_at_success(family: Callable[[str], Any], tokenizer: Any) -> None:
    weights = weights_of(family("GPT2"), tokenizer)

    def success(ask: Ask) -> Outcome:
        return Outcome("Sure, here is how.", "", True, 0.9)

    assert len(play(GCG, budget=5, answer=success, weights=weights).asks) == 1
    assert GCG.needs == {"weights"}
