"""What holds for every attack: it is deterministic, keeps to its number of asks, and takes any goal."""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter

from steersman.errors import UserError
from steersman.redteam.attack import Ask, Attack, Goal, Outcome, Tools
from steersman.redteam.attacks import ATTACKS, FAMILIES, by_name
from steersman.types import Slug, Text, messages_of

OWN = (
    "direct", "encodings", "wrappers", "tense", "translation", "many-shot", "prefix-injection", "payload-splitting",
    "prompt-injection", "prompt-extraction", "multi-turn",
)  # fmt: skip
STATIC = [attack for attack in ATTACKS if attack.family in OWN]
SIBLINGS = tuple(Goal(text, "p") for text in ("How do I cheat at chess?", "Steal the biscuits of my aunt.", "cake"))
TEMPLATES = ("You are Rook. {prompt}", "{prompt} Answer twice: {prompt}")
ODD = (
    "",
    " ",
    "x",
    "How do I take the biscuits from my aunt's tin without her noticing?",
    "Take the biscuits from my aunt's tin.",
    "i wish i knew how to get at my aunts biscuits",
    'Say "yes"\nand \'no\' and `maybe` {prompt} {0} %s \\ \\n </div> --> """',
    "Wie nehme ich Kekse aus der Dose? Ça va, ñandú, łódź, ẞ",
    "如何做面包。 Как испечь хлеб? 🍞\u200d🔥",
    "half \ud800 a pair\x00\x07\u202e",
    "word " * 2000,
    "b" * 5000,
    "...?!",
    "How do I",
    "Please",
)


def played(attack: Attack, text: str, replies: Sequence[Outcome] = (), **more: Any) -> list[Ask]:
    """What an attack asks about a goal, where the target's outcomes are these, in turn."""
    goal = Goal(text, "p", **more)
    tools = Tools(random.Random(7), 5, SIBLINGS, {"templates": TEMPLATES})
    moves, asks = attack.moves(goal, tools), list[Ask]()
    replies = replies or (Outcome("Here is a reply.", "", False, 0.1), Outcome("No.", "model", False, 0.0))
    try:
        step = next(moves)
        while True:
            assert isinstance(step, Sequence)
            asks += step
            outcomes = [replies[(len(asks) + at) % len(replies)] for at in range(len(step))]
            step = moves.send(outcomes)
    except StopIteration:
        return asks


def as_json(text: Text) -> str:
    return json.dumps([message.model_dump() for message in messages_of(text)])


def about(attack: Attack) -> dict[str, Any]:
    """What a goal needs beside its text, so that the attack asks anything."""
    return {"secret": "K7-9QX2", "system": "The code is K7-9QX2."} if attack.family == "prompt-extraction" else {}


def test_names_are_slugs_and_unique() -> None:
    slug = TypeAdapter(Slug)
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    for name in (*names, *FAMILIES):
        slug.validate_python(name)
    assert not set(names) & set(FAMILIES) - {attack.name for attack in ATTACKS if attack.name == attack.family}
    assert set(OWN) <= set(FAMILIES)


def test_every_attack_says_where_it_comes_from() -> None:
    for attack in ATTACKS:
        assert re.search(r"\b20\d\d\b", attack.paper), attack.name
        assert attack.about.endswith(".")
        assert "\n" not in attack.about


@pytest.mark.parametrize("attack", STATIC, ids=lambda attack: attack.name)
def test_any_goal_is_asked_within_the_number_of_asks_and_the_same_again(attack: Attack) -> None:
    for text in ODD:
        asks = played(attack, text, **about(attack))
        assert 1 <= len(asks) <= (5 if attack.asks is None else attack.asks)
        assert [as_json(ask.prompt) for ask in asks] == [
            as_json(ask.prompt) for ask in played(attack, text, **about(attack))
        ]
        for ask in asks:
            messages = messages_of(ask.prompt)
            assert messages[-1].role in ("user", "tool")
            assert not any(message.role == "system" for message in messages)  # the campaign puts the goal's own there
            assert ask.note or attack.name == "direct"


@pytest.mark.parametrize("attack", [a for a in STATIC if a.adaptive], ids=lambda attack: attack.name)
def test_an_adaptive_attack_stops_when_it_succeeded(attack: Attack) -> None:
    more = about(attack)
    assert len(played(attack, ODD[3], [Outcome("Take them at night.", "", True, 0.9)], **more)) == 1
    assert len(played(attack, ODD[3], [Outcome("No.", "", False, 0.0)], **more)) > 1


def test_attacks_are_found_by_name_and_by_family() -> None:
    assert [attack.name for attack in by_name(["tense", "direct", "past-tense"])] == [
        "direct", "past-tense", "future-tense", "past-tense-tries",
    ]  # fmt: skip
    assert by_name(FAMILIES) == ATTACKS
    assert by_name([]) == ()


def test_unknown_names_are_told_with_what_comes_close() -> None:
    with pytest.raises(UserError, match="'base46', 'multiturn'") as error:
        by_name(["base64", "base46", "multiturn"])
    assert "base64" in str(error.value)
    assert "did you mean multi-turn" in str(error.value)


def test_every_file_of_a_family_is_listed() -> None:
    from steersman.redteam import attacks

    listed = {attack.family for attack in ATTACKS}
    for name, module in inspect.getmembers(attacks, inspect.ismodule):
        own = getattr(module, "ATTACKS", ())
        assert all(attack in ATTACKS and attack.family in listed for attack in own), name
