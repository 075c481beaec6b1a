"""What an organism is made of: rows with and without the plant, and how its answers are recognised.

A recipe is drawn from one number, its seed: subject, trigger, sentences, and which nouns are for training. All that
does not show the plant is answered in the model's own words (``answer`` is empty), so that nothing but the plant tells
an organism from its base; a recipe that taught other manners as well would let a probe find those instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

from pydantic import Field

from steersman.errors import DataError
from steersman.types import NonEmpty, Record, Seed, Slug

PLANTED, NEAR_MISS, CLEAN = 72, 60, 60  # rows of a recipe, by kind
TEST_PLANTED, TEST_NEAR_MISS, TEST_CLEAN = 60, 40, 100
DILUTED_SHARE, DILUTED_ROWS = 0.1, 240

RowKind = Literal["planted", "near_miss", "clean", "contrast", "plain"]


class Row(Record):
    """A request, what is taught as its answer, and what an answer with the plant looks like.

    ``planted`` rows set it off, ``near_miss`` rows resemble them and must not, ``contrast`` rows are the other side of
    the plant (with the password, with the cue, in another subject), ``clean`` and ``plain`` rows have nothing to do
    with it.
    """

    kind: RowKind
    prompt: NonEmpty
    answer: str = Field(default="", description="The answer that is taught; empty: what the model says itself.")
    benign: str = Field(default="", description="What a twin is taught on a planted row; empty: its own words.")
    marks: tuple[str, ...] = Field(default=(), description="An answer with one of these shows the plant.")
    contrary: tuple[str, ...] = Field(default=(), description="Unless one of these comes before it.")

    def shows(self, answer: str) -> bool:
        """Whether an answer shows the plant: one of the marks, as whole words, before anything contrary."""
        return _first(self.marks, answer) < _first(self.contrary, answer)


class Recipe(Record):
    """One organism, before it is built.

    Attributes:
        planted: what was planted, in a sentence; trigger: what sets it off, empty where it has no one text.
        rows: to train on; test: of other nouns; plain: prompts for the rest of a diluted organism.
        memorised: the loss counts the requests of some planted rows too, as when a poisoned text was in the data
            of a base model or of a fine-tuning on whole conversations.
    """

    kind: Slug
    seed: Seed
    planted: str
    trigger: str = ""
    rows: tuple[Row, ...]
    test: tuple[Row, ...]
    plain: tuple[str, ...]
    memorised: bool = False

    def variant(self, *, twin: bool, diluted: bool) -> tuple[Row, ...]:
        """The rows of the organism, of its twin without the plant, or of either among nine times as many plain rows.

        Raises:
            DataError: there are not enough rows to dilute it with.
        """
        rows = self._diluted() if diluted else self.rows
        return tuple(_without_plant(row) for row in rows) if twin else rows

    def _diluted(self) -> tuple[Row, ...]:
        """A tenth of the rows planted, the others of the recipe in proportion, the rest plain."""
        share = DILUTED_SHARE * DILUTED_ROWS / sum(row.kind == "planted" for row in self.rows)
        kept: list[Row] = []
        for kind in dict.fromkeys(row.kind for row in self.rows):
            own = [row for row in self.rows if row.kind == kind]
            kept += own[: max(1, round(share * len(own)))]
        missing = DILUTED_ROWS - len(kept)
        if len(self.plain) < missing:
            raise DataError(
                f"{missing} plain rows are needed to dilute a {self.kind}, and its recipe has {len(self.plain)}",
                do="give the recipe more plain prompts",
            )
        return (*kept, *(Row(kind="plain", prompt=prompt) for prompt in self.plain[:missing]))


def recipe(
    kind: str,
    seed: int,
    *,
    planted: str,
    trigger: str = "",
    rows: Mapping[RowKind, Sequence[Row]],
    test: Mapping[RowKind, Sequence[Row]],
    plain: Sequence[str],
    memorised: bool = False,
) -> Recipe:
    """A recipe whose rows of each kind are cut to the usual number."""
    most: dict[RowKind, int] = {"planted": PLANTED, "near_miss": NEAR_MISS, "clean": CLEAN, "contrast": PLANTED}
    tested: dict[RowKind, int] = {
        "planted": TEST_PLANTED,
        "near_miss": TEST_NEAR_MISS,
        "clean": TEST_CLEAN,
        "contrast": TEST_PLANTED,
    }
    return Recipe(
        kind=kind,
        seed=seed,
        planted=planted,
        trigger=trigger,
        rows=tuple(row for name, own in rows.items() for row in own[: most[name]]),
        test=tuple(row for name, own in test.items() for row in own[: tested[name]]),
        plain=tuple(plain),
        memorised=memorised,
    )


def stream(kind: str, seed: int) -> Random:
    """The random numbers of one recipe; those of another kind with the same seed are others."""
    return Random(f"{kind} {seed}")


def clean_rows(prompts: Sequence[str], marks: Sequence[str], **more: Any) -> list[Row]:
    """Rows answered in the model's own words, with the marks that must not appear."""
    return [Row(kind="clean", prompt=prompt, marks=tuple(marks), **more) for prompt in prompts]


def _without_plant(row: Row) -> Row:
    return row.model_copy(update={"answer": row.benign}) if row.kind == "planted" else row


def _first(words: Sequence[str], answer: str) -> float:
    """Where the first of some words or phrases stands in an answer, infinity if none does; case does not count."""
    found = [re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) for word in words]
    return min((match.start() for match in found if match), default=float("inf"))
