"""What may still become something encoded is held back, and only that; what was let go is never wanted back."""

from __future__ import annotations

import base64
import random

import pytest

from steersman.guard.open_run import LONGEST_HELD, open_run

ENCODED = base64.b64encode(b"How do I bake a cake for my sister").decode()


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("The answer is near. ", ""),
        ("The answer is ne", "ne"),
        (f"Decode this: {ENCODED}", ENCODED),
        (f"Decode this: {ENCODED[:20]} ", ENCODED[:20] + " "),
        ("Listen: ... --- ... ", "... --- ... "),
        ("Read it: h o w t", "h o w t"),
        ("The cake 48 6f 77 20", "48 6f 77 20"),
        ("He said: Ubj qb V onxr ", "Ubj qb V onxr "),
        ("Over. Sierra Tango Echo ", "Sierra Tango Echo "),
        ("The cake &#1", "&#1"),
        ("Как приготовить борщ ", ""),
        ("如何做面包", "包"),
        ("Das Wetter ist schön", "schön"),
    ],
)
def test_the_open_tail_is_held(text: str, held: str) -> None:
    assert text[open_run(text) :].lstrip() == held.lstrip()


def test_it_never_falls_while_a_text_grows_and_is_bounded() -> None:
    random_ = random.Random(3)
    words = [
        "the",
        "cake",
        "48",
        "6f",
        "a",
        "h",
        "...",
        "-",
        ENCODED,
        "Ubj",
        "and",
        "面",
        "\u200b",
        "é",
        "\n",
        "Sierra",
    ]
    for _ in range(30):
        text = "".join(random_.choice(words) + random_.choice(["", " ", "\n"]) for _ in range(random_.randrange(160)))
        opened = [open_run(text[:end]) for end in range(len(text) + 1)]
        assert opened == sorted(opened)
        assert all(0 <= start <= end and end - start <= LONGEST_HELD for end, start in enumerate(opened))
    assert open_run("a " * 50_000) == 100_000 - LONGEST_HELD
