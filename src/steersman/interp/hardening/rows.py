"""The rows that hardening learns from: harmful requests with refusals, all others, and harmful requests given in to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steersman.errors import DataError
from steersman.evals.forms import HARMFUL, KINDS, kind_of
from steersman.lm.chat_format import ChatFormat, Example
from steersman.lm.sampling import random_stream
from steersman.types import Comparison, Demonstration, Text


class Rows(NamedTuple):
    """Rows by kind.

    Attributes:
        harmful: harmful requests, refused.
        utility: everything else, answered.
        complying: harmful requests, given in to: the worse answers of comparisons. Nobody should learn from them but
            an adversary; rerouting reads what the model makes of them.
    """

    harmful: list[Demonstration]
    utility: list[Demonstration]
    complying: list[Demonstration]

    def prompts(self, *, harmful: bool) -> list[Text]:
        """The requests of one kind, each once."""
        return list(dict.fromkeys(row.prompt for row in (self.harmful if harmful else self.utility)))


def rows_of(demonstrations: Sequence[Demonstration], comparisons: Sequence[Comparison] = ()) -> Rows:
    """Rows by the tag ``harmful``.

    Raises:
        DataError: there are no harmful rows, or no others.
    """
    kinds = [kind_of(row.tags) == HARMFUL for row in demonstrations]
    harmful = [row for row, own in zip(demonstrations, kinds, strict=True) if own]
    utility = [row for row, own in zip(demonstrations, kinds, strict=True) if not own]
    if not harmful or not utility:
        raise DataError(
            f"{len(harmful)} of {len(demonstrations)} demonstrations have the tag `{HARMFUL}`",
            expected="some that have it (harmful requests, refused), and some that have not",
            do="tag the rows whose requests are to be refused",
        )
    complying = []
    for row in comparisons:
        if kind_of(row.tags) == HARMFUL and (pairs := row.pairs()):
            complying.append(Demonstration(prompt=row.prompt, completion=pairs[0].worse, tags=row.tags))
    return Rows(harmful, utility, complying)


def drawn(rows: Sequence[Demonstration], count: int, seed: int) -> list[Demonstration]:
    """At most ``count`` rows, drawn without replacement."""
    import torch

    order = torch.randperm(len(rows), generator=random_stream(seed, len(rows))).tolist()
    return [rows[i] for i in order[:count]]


def drawn_evenly(rows: Sequence[Demonstration], count: int, seed: int) -> list[Demonstration]:
    """At most ``count`` rows, as many of each kind: look-alikes of harmful requests are half of those that are none.

    They are what a model refuses without need when it learns to refuse more.
    """
    kinds = [[row for row in rows if kind_of(row.tags) == kind] for kind in KINDS]
    kinds = [some for some in kinds if some]
    return [row for some in kinds for row in drawn(some, count // len(kinds), seed)]


def examples(chat: ChatFormat, rows: Sequence[Demonstration], answer_tokens: int, max_length: int) -> list[Example]:
    """Tokenised rows, with answers cut off after some tokens: what decides is in their beginnings."""
    found = []
    for row in rows:
        ids, start, cut = chat.example(row.prompt, row.completion, max_length)
        found.append(Example(ids[: start + answer_tokens], start, cut))
    return found
