"""The card of a reward model: accuracy, calibration, ceiling and biases of judges whose faults are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from steersman.evals import reward_card
from steersman.evals.reward_card import CHANGES, biases, calibration, card, ceiling
from steersman.store import StageFolder
from steersman.types import Comparison, Demonstration, Text

ROWS = [
    Comparison(prompt="One?", options=("good", "bad"), ranking=(1, 2), principles=("plain", "x"), failure="vague"),
    Comparison(prompt="Two?", options=("bad", "good"), ranking=(2, 1), principles=("plain",), group="north"),
    Comparison(prompt="Three?", options=("a good", "b bad", "c bad"), ranking=(2, 1, 2), principles=("kind",)),
    Comparison(prompt="Four?", options=("1 bad", "2 bad", "3 good", "4 bad"), ranking=(2, 2, 1, 3)),
    Comparison(prompt="Tied?", options=("good", "bad"), ranking=(1, 1)),
]
DEMONSTRATIONS = [
    Demonstration(prompt="When?", completion="It began in 1914. It ended in 1918."),
    Demonstration(prompt="Who?", completion="A clerk did it."),
    Demonstration(prompt="Where?", completion="Here, there, everywhere"),
]


def knows(_: Text, answers: Sequence[str]) -> list[float]:
    return [2.0 if "good" in answer else 0.0 for answer in answers]


def likes_length(_: Text, answers: Sequence[str]) -> list[float]:
    return [float(len(answer)) for answer in answers]


def test_accuracy_by_hand() -> None:
    found = card(knows, ROWS, DEMONSTRATIONS)
    # One?, Two?: right. Three?: its two pairs say that "b bad" is best: both wrong or, between equals, half a pair.
    # Four?: "3 good" above three others, and "1 bad", "2 bad" above "4 bad" with equal scores.
    right = 1 + 1 + 0 + 3
    equal = 1 + 2  # Three?: b over c; Four?: 1 and 2 over 4
    assert found["accuracy"]["n"] == 1 + 1 + 2 + 5
    assert found["accuracy"]["value"] == pytest.approx((right + equal // 2) / 9)
    assert found["by"]["principle"]["plain"]["value"] == 1.0
    assert found["by"]["principle"]["plain"]["n"] == 2
    assert "x" not in found["by"]["principle"]  # a row counts under its own principle
    assert found["by"]["failure"]["vague"]["n"] == 1
    assert found["by"]["group"] == {"north": found["by"]["group"]["north"]}
    assert (found["best_of_4"]["value"], found["best_of_4"]["n"]) == (1.0, 1)


def test_a_judge_of_length_is_found_out() -> None:
    found = biases(likes_length, DEMONSTRATIONS)
    assert found["padded"]["preferred"]["value"] == 1.0
    assert found["padded"]["shift_nats"]["low"] > 100
    assert found["flattered"]["shift_nats"]["value"] == len("What a great question! ")
    assert found["wrong number"]["shift_nats"]["value"] == 0.0
    assert found["wrong number"]["preferred"]["n"] == 1  # one answer has a number
    assert found["bulleted"]["preferred"]["n"] == 1  # one has two sentences
    assert found["exclaimed"]["preferred"]["n"] == 2
    blind = biases(knows, DEMONSTRATIONS)
    assert all(row["preferred"]["value"] == 0.0 for row in blind.values())


def test_changes_keep_the_words() -> None:
    answer = "It began in 1914. It ended in 1918."
    assert CHANGES["bulleted"](answer) == "- It began in 1914.\n- It ended in 1918."
    assert CHANGES["wrong number"](answer) == "It began in 1914. It ended in 2493."
    assert CHANGES["wrong number"]("Take 3 eggs.") == "Take 4 eggs."
    assert CHANGES["exclaimed"](answer) == "It began in 1914. It ended in 1918!"
    for name in ("padded", "flattered", "agreeing", "emoji"):
        changed = CHANGES[name](answer)
        assert changed is not None
        assert answer in changed


def test_calibration_by_hand() -> None:
    sure = math.log(0.95 / 0.05)
    table = calibration([sure] * 9 + [-sure] + [0.0])  # claims 95 % and is right in 90 %; a coin flip is wrong
    assert [row["right"]["n"] for row in table["bins"]] == [1, 10]
    assert table["bins"][1]["claimed"] == pytest.approx(0.95)
    assert table["bins"][1]["right"]["value"] == 0.9
    assert table["expected_error"] == pytest.approx((10 * 0.05 + 1 * 0.5) / 11)
    assert calibration([]) == {"bins": [], "expected_error": None}


def test_the_ceiling_is_how_often_raters_agree() -> None:
    def vote(first: str, second: str, ranking: tuple[int, int], prompt: str = "Which?") -> Comparison:
        return Comparison(prompt=prompt, options=(first, second), ranking=ranking)

    votes = [vote("a", "b", (1, 2)), vote("b", "a", (2, 1)), vote("a", "b", (2, 1)), vote("a", "c", (1, 2))]
    assert ceiling(votes)[:1] == (1 / 3,)  # three raters of one pair: one of three couples agrees
    assert ceiling(votes).n == 3
    assert ceiling([votes[0], vote("a", "b", (1, 2), "Another?")]).n == 0


def test_the_card_is_written(tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    out = StageFolder(tmp_path, "reward_card", lambda **row: events.append(row))
    reward_card.run(knows, ROWS, DEMONSTRATIONS, out)
    written = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert written["accuracy"]["n"] == events[0]["n"] == 9
    assert set(written["biases"]) == set(CHANGES)
