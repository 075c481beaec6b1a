"""Votes in and out: other tools' files read, and what raters said written for whoever trains.

Reading is `data/formats.py`'s (Argilla, Label Studio, LMArena and the rest: `data/columns.py`). What is written are the
votes themselves, or the rows that they are weighed into (`raters.weigh`): TRL's pairs know neither a weight nor how
sure a label is, so questions that are hardly decided make no pair there, and are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from steersman.data.export import export, unread, unwritten
from steersman.data.formats import dump, sort_out
from steersman.errors import DataError
from steersman.feedback.raters import LEAST_WEIGHT, weigh
from steersman.store import write_jsonl
from steersman.types import Comparison, Demonstration

Form = Literal["votes", "ranked", "trl", "demonstrations"]
SURE = 0.6  # the least probability that the better answer of a pair for TRL is better


class Imported(NamedTuple):
    """The votes of a file, and for people what became of its other rows."""

    votes: list[Comparison]
    said: list[str]


def take_in(path: Path) -> Imported:
    """The votes in a file of any tool: ``.jsonl``, or one list in a ``.json``; either may be gzipped.

    Raises:
        DataError: the file is missing or no such file, or none of its rows can be used.
    """
    votes, faults = sort_out(path, Comparison)
    said = unread(faults)
    if not votes:
        raise DataError("\n  ".join(["no row that can be used", *said]), where=str(path), expected="comparisons")
    raters = {vote.rater for vote in votes if vote.rater}
    return Imported(votes, [f"{path}: {len(votes)} vote(s) of {len(raters)} named rater(s)", *said])


def give_out(
    votes: Sequence[Comparison], form: Form, out: Path, demonstrations: Sequence[Demonstration] = (), sure: float = SURE
) -> list[str]:
    """Write votes in one form, and say what became of them.

    ``votes`` are written as they are, with rater and side, ``ranked`` as weighed rows, both in our own columns;
    ``trl`` as pairs of weighed rows whose better answer is better with a probability of ``sure``; ``demonstrations``
    are the edited answers, and the best answer of every question of which that is as sure and that is acceptable.

    Raises:
        DataError: ``out`` exists or is not named ``.jsonl``, or there is nothing to write.
    """
    if out.suffix != ".jsonl" or out.exists():
        found = "the file exists" if out.exists() else f"{out.name!r} does not end in .jsonl"
        raise DataError(found, where=str(out), expected="the name of a new .jsonl file", do="choose another name")
    said: list[str] = []
    if form == "votes":
        rows = dump(votes)
    elif form == "ranked":
        rows = dump(weigh(votes))
    else:
        kept, said = _decided(weigh(votes), sure)
        if form == "trl":
            rows, refused = export(kept, "trl")
            said += unwritten(refused)
        else:
            rows = dump([*demonstrations, *_best(kept)])
    if not rows:
        raise DataError("\n  ".join(["nothing to write", *said]), where=str(out), expected="votes")
    write_jsonl(out, rows)
    return [f"{out}: {len(rows)} row(s) from {len(votes)} vote(s)", *said]


def _decided(rows: Sequence[Comparison], sure: float) -> tuple[list[Comparison], list[str]]:
    """The rows that are sure enough to be a fact, and how many are not."""
    reasons: list[str] = []
    kept = []
    for row in rows:
        if row.soft_label is not None and max(row.soft_label, 1 - row.soft_label) < sure:
            reasons.append(f"not decided: the better answer is better with a probability below {sure:g}")
        elif row.weight <= LEAST_WEIGHT:
            reasons.append("answered by nobody who is believed")
        else:
            kept.append(row)
    return kept, [f"left out: {n} question(s): {reason}" for reason, n in Counter(reasons).most_common()]


def _best(rows: Sequence[Comparison]) -> list[Demonstration]:
    """The best answers as what we would want, unless none is acceptable or two are equally good."""
    found: list[Demonstration] = []
    for row in rows:
        ranks = row.ranks()
        if not row.both_bad and ranks.count(1) == 1:
            shared: dict[str, Any] = {name: getattr(row, name) for name in ("prompt", "principles", "topic", "source")}
            best = row.options[ranks.index(1)]
            found.append(Demonstration(completion=best, tags=row.tags, author="chosen by raters", **shared))
    return found
