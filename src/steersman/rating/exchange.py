"""Votes in and out: other tools' files read, and what raters said written for whoever trains.

Reading is `data/formats.py`'s (Argilla, Label Studio, LMArena and the rest: `data/columns.py`). What is written are the
votes themselves, or the rows that they are weighed into (`raters.weigh`): TRL's pairs know neither a weight nor how
sure a label is, so pairs that are hardly decided are left out there, and are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from steersman.data.export import export, unread, unwritten
from steersman.data.formats import dump, sort_out
from steersman.errors import DataError
from steersman.rating.raters import LEAST_WEIGHT, Fit, weigh, weighed
from steersman.store import write_jsonl
from steersman.types import Comparison, Demonstration, OrderedPair

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
    ``trl`` as the pairs of weighed rows, also of longer rankings, whose better answer is better with a probability of
    ``sure``; ``demonstrations`` are the edited answers, and of every question the acceptable answer that is better
    than each of the others with that probability. What a gold question's key says is sure.

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
        weighty, fit = weighed(votes)
        if form == "trl":
            kept, said = _decided(weighty, fit, sure)
            rows, refused = export(kept, "trl")
            said += unwritten(refused)
        else:
            best, said = _best(weighty, fit, sure)
            rows = dump([*demonstrations, *best])
    if not rows:
        raise DataError("\n  ".join(["nothing to write", *said]), where=str(out), expected="votes")
    write_jsonl(out, rows)
    return [f"{out}: {len(rows)} row(s) from {len(votes)} vote(s)", *said]


def _decided(rows: Sequence[Comparison], fit: Fit, sure: float) -> tuple[list[Comparison], list[str]]:
    """What is sure enough to be a fact, in rows of two answers each, and how much is not."""
    kept, unsure, unbelieved = [], 0, 0
    for row in rows:
        if _unbelieved(row):
            unbelieved += 1
            continue
        if not row.ranks():
            kept.append(row)  # whoever writes it says that it holds no order
            continue
        found = [pair for pair in row.pairs() if _is_sure(row, pair, fit, sure)]
        unsure += math.comb(len(row.options), 2) - len(found)
        kept += [Comparison(prompt=row.prompt, options=(p.better, p.worse), ranking=(1, 2)) for p in found]
    return kept, _left_out(f"{unsure} pair(s): not decided: better with a probability below {sure:g}", unbelieved)


def _best(rows: Sequence[Comparison], fit: Fit, sure: float) -> tuple[list[Demonstration], list[str]]:
    """The best answers as what we would want, where they are acceptable and surely better than each of the others."""
    found: list[Demonstration] = []
    undecided = unbelieved = 0
    for row in rows:
        if _unbelieved(row):
            unbelieved += 1
            continue
        wins = Counter(pair.better for pair in row.pairs() if _is_sure(row, pair, fit, sure))
        best = next((text for text, n in wins.items() if n == len(row.options) - 1), None)
        undecided += best is None
        if best is not None and not row.both_bad:
            shared: dict[str, Any] = {name: getattr(row, name) for name in ("prompt", "principles", "topic", "source")}
            found.append(Demonstration(completion=best, tags=row.tags, author="chosen by raters", **shared))
    told = f"{undecided} question(s): not decided: no answer better than the rest with a probability of {sure:g}"
    return found, _left_out(told, unbelieved)


def _is_sure(row: Comparison, pair: OrderedPair, fit: Fit, sure: float) -> bool:
    return row.gold or fit.probability(row.prompt, pair.better, pair.worse) >= sure


def _unbelieved(row: Comparison) -> bool:
    return row.weight <= LEAST_WEIGHT


def _left_out(undecided: str, unbelieved: int) -> list[str]:
    """Both reasons with their numbers, without those that nothing was left out for."""
    reasons = (undecided, f"{unbelieved} question(s): answered by nobody who is believed")
    return [f"left out: {reason}" for reason in reasons if not reason.startswith("0 ")]
