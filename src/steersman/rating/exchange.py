"""Import of other tools' votes, and export of votes and of training rows.

Reading is `data/formats.py`'s (Argilla, Label Studio, LMArena and the rest: `data/columns.py`). Written are the votes
themselves, or the rows that they are aggregated into (`aggregation.aggregate`). TRL's pairs have neither a weight nor a
soft label, so undecided pairs are left out there, and counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from steersman.data.export import export, unwritten
from steersman.data.formats import dump, left_out, sort_out, unread
from steersman.errors import DataError
from steersman.rating.aggregation import MIN_PROBABILITY, MIN_WEIGHT, aggregate_and_fit
from steersman.rating.raters import Fit
from steersman.store import write_jsonl
from steersman.types import Comparison, Demonstration, OrderedPair

Form = Literal["votes", "ranked", "trl", "demonstrations"]


class ImportedVotes(NamedTuple):
    """The votes of a file, and messages for people about its other rows."""

    votes: list[Comparison]
    messages: list[str]


def import_votes(path: Path) -> ImportedVotes:
    """The votes in a file of any tool: ``.jsonl``, or one list in a ``.json``; either may be gzipped.

    Raises:
        DataError: the file is missing or no such file, or none of its rows can be used.
    """
    votes, faults, ignored = sort_out(path, Comparison)
    messages = [*left_out(path, ignored, Comparison), *unread(faults)]
    if not votes:
        raise DataError("\n  ".join(["no row that can be used", *messages]), where=str(path), expected="comparisons")
    raters = {vote.rater for vote in votes if vote.rater}
    return ImportedVotes(votes, [f"{path}: {len(votes)} vote(s) of {len(raters)} named rater(s)", *messages])


def export_votes(
    votes: Sequence[Comparison],
    form: Form,
    out: Path,
    demonstrations: Sequence[Demonstration] = (),
    min_probability: float = MIN_PROBABILITY,
) -> list[str]:
    """Write votes in one form; returns a message about each file and about what was left out.

    Args:
        form: ``votes``: unchanged, with rater and order shown. ``ranked``: aggregated, one row a question. ``trl``: the
            pairs of aggregated rows, also of longer rankings, of which one answer is better with ``min_probability``.
            ``demonstrations``: the edited answers, and of every question the acceptable answer that is better than
            each of the others with ``min_probability``. The order of a gold question is certain.

    Raises:
        DataError: ``out`` exists or is not named ``.jsonl``, or there is nothing to write.
    """
    if out.suffix != ".jsonl" or out.exists():
        found = "the file exists" if out.exists() else f"{out.name!r} does not end in .jsonl"
        raise DataError(found, where=str(out), expected="the name of a new .jsonl file", do="choose another name")
    messages: list[str] = []
    if form == "votes":
        rows, messages = dump(votes), _both_bad(sum(vote.both_bad for vote in votes), "vote(s)")
    else:
        aggregated, fit = aggregate_and_fit(votes)
        if form == "ranked":
            rows, messages = dump(aggregated), [verdicts(aggregated)]
        elif form == "trl":
            kept, messages = _decided(aggregated, fit, min_probability)
            rows, refused = export(kept, "trl")
            messages += unwritten(refused)
        else:
            best, messages = _best(aggregated, fit, min_probability)
            rows = dump([*demonstrations, *best])
    if not rows:
        raise DataError("\n  ".join(["nothing to write", *messages]), where=str(out), expected="votes")
    write_jsonl(out, rows)
    return [f"{out}: {len(rows)} row(s) from {len(votes)} vote(s)", *messages]


def verdicts(rows: Sequence[Comparison]) -> str:
    """What was said of the questions of aggregated rows, for people, with the count of each."""
    floor = sum(row.both_bad for row in rows)
    ordered = sum(bool(row.pairs()) and not row.both_bad for row in rows)
    by_principle = sum(not row.ranks() and not row.both_bad for row in rows)
    parts = {"ordered": ordered, "tied": len(rows) - floor - ordered - by_principle, "by principle alone": by_principle}
    told = [f"{count} {name}" for name, count in parts.items() if count or name != "by principle alone"]
    return f"{len(rows)} question(s): {', '.join(told)}, {floor} with no acceptable answer (both_bad)"


def _both_bad(count: int, what: str) -> list[str]:
    return [f"{count} {what}: no answer is acceptable (both_bad)"] if count else []


def _decided(rows: Sequence[Comparison], fit: Fit, min_probability: float) -> tuple[list[Comparison], list[str]]:
    """The decided pairs as rows of two answers each, and messages about the others."""
    kept, undecided, unreliable = [], 0, 0
    for row in rows:
        if _is_unreliable(row):
            unreliable += 1
            continue
        if not row.ranks():
            kept.append(row)  # the writer counts it as a row without an order
            continue
        decided = [pair for pair in row.pairs() if _is_decided(row, pair, fit, min_probability)]
        undecided += math.comb(len(row.options), 2) - len(decided)
        kept += [Comparison(prompt=row.prompt, options=(p.better, p.worse), ranking=(1, 2), id=row.id) for p in decided]
    reason = f"{undecided} pair(s): not decided: better with a probability below {min_probability:g}"
    return kept, _left_out(reason, unreliable)


def _best(rows: Sequence[Comparison], fit: Fit, min_probability: float) -> tuple[list[Demonstration], list[str]]:
    """The best answers as demonstrations, where they are acceptable and decidedly better than each of the others."""
    demonstrations: list[Demonstration] = []
    undecided = unreliable = floor = 0
    for row in rows:
        if _is_unreliable(row) or row.both_bad:
            floor += row.both_bad
            unreliable += not row.both_bad
            continue
        wins = Counter(pair.better for pair in row.pairs() if _is_decided(row, pair, fit, min_probability))
        best = next((text for text, n in wins.items() if n == len(row.options) - 1), None)
        undecided += best is None
        if best is not None:
            shared: dict[str, Any] = {
                name: getattr(row, name) for name in ("prompt", "principles", "topic", "source", "id")
            }
            demonstrations.append(Demonstration(completion=best, tags=row.tags, author="chosen by raters", **shared))
    least = f"a probability of {min_probability:g}"
    reason = f"{undecided} question(s): not decided: no answer better than the rest with {least}"
    messages = _left_out(reason, unreliable)
    return demonstrations, messages + [f"left out: {line}" for line in _both_bad(floor, "question(s)")]


def _is_decided(row: Comparison, pair: OrderedPair, fit: Fit, min_probability: float) -> bool:
    return row.gold or fit.probability(row.prompt, pair.better, pair.worse) >= min_probability


def _is_unreliable(row: Comparison) -> bool:
    return row.weight <= MIN_WEIGHT


def _left_out(undecided: str, unreliable: int) -> list[str]:
    """Both reasons with their counts, without those that are 0."""
    reasons = (undecided, f"{unreliable} question(s): answered by no reliable rater")
    return [f"left out: {reason}" for reason in reasons if not reason.startswith("0 ")]
