"""Exports of Polis conversations: reading them, and writing votes on statements in the same form.

    comments.csv             a statement a line: comment-id, comment-body, moderated (-1 is rejected), ...
    participants-votes.csv   a person a line, a column for each statement; group-id is the opinion group of the report
    participant-votes.csv    its name since 2024
    votes.csv                a vote a line; of several votes of one person on one statement the last stands
    summary.csv              may declare the signs of votes

Agreement is 1, disagreement -1, pass 0. The database of Polis has the opposite sign, and report exports of some years
wrote it as it is; they declare nothing, so a file whose own counts say the opposite of its votes is refused, and one
with more disagreement than agreement gets a message.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import DataError
from steersman.store import write_text

COMMENTS, VOTES, SUMMARY = "comments.csv", "votes.csv", "summary.csv"
MATRIX = ("participant-votes.csv", "participants-votes.csv")
CONVENTION = "agree=+1;disagree=-1;pass=0;format=polis-export/1"
REJECTED = -1  # in the column moderated
ABOUT_PEOPLE = ("participant", "xid", "group-id", "n-comments", "n-votes", "n-agree", "n-disagree")
VALUES = {"1": 1.0, "-1": -1.0, "0": 0.0, "1.0": 1.0, "-1.0": -1.0, "0.0": 0.0, "": np.nan}


class Statement(NamedTuple):
    """A statement under discussion."""

    id: str
    text: str
    author: str = ""
    moderated: int = 0  # 1 accepted, 0 not looked at, -1 rejected
    created_at: float = 0.0  # seconds since the epoch


class Ballot(NamedTuple):
    """One vote: 1 agree, -1 disagree, 0 pass."""

    participant: str
    statement: str
    vote: int
    voted_at: float = 0.0


class Conversation(NamedTuple):
    """Votes on statements: [participants, statements] of 1, -1, 0 and NaN (not seen).

    ``groups``: each participant's opinion group as the file has it; empty for who is in none. ``messages`` say what
    was left out, for people.
    """

    statements: tuple[Statement, ...]
    participants: tuple[str, ...]
    groups: tuple[str, ...]
    votes: NDArray[np.float64]
    messages: tuple[str, ...] = ()


class _Line(NamedTuple):
    """A row of a file with its place."""

    where: str
    fields: dict[str, str]


def read_conversation(path: Path) -> Conversation:
    """A Polis export: its folder, or the file of its votes with comments.csv beside it.

    Statements that moderators rejected, and metadata statements (which ask who people are), are left out and counted.

    Raises:
        DataError: a file is missing, or a row is wrong; names the file, the row and the column.
    """
    comments, matrix, events = _files(path)
    _check_convention(comments.with_name(comments.name.replace(COMMENTS, SUMMARY)))
    statements, messages = read_statements(comments)
    if matrix is not None:
        people, groups, votes, more = _from_matrix(matrix, statements)
    else:
        assert events is not None
        people, votes, more = _from_events(events, statements)
        groups = ("",) * len(people)
    if not len(people):
        raise DataError("nobody has voted", where=str(matrix or events), expected="a row for each participant or vote")
    agreed, against = int((votes == 1).sum()), int((votes == -1).sum())
    if against > agreed:
        more.append(
            f"more disagreement ({against}) than agreement ({agreed}): exports of older Polis reports have the "
            "opposite signs, so compare one statement with the report"
        )
    return Conversation(tuple(statements.values()), people, groups, votes, (*messages, *more))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _files(path: Path) -> tuple[Path, Path | None, Path | None]:
    """The comments, and the matrix or the list of votes; their names may have the conversation's before them."""
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), expected="the folder of a Polis export")
    folder = path if path.is_dir() else path.parent

    def the_one(*names: str) -> Path | None:
        found = sorted(f for f in folder.iterdir() if f.name.endswith(names))
        exact = [file for file in found if file.name in names]
        if len(exact or found) > 1:
            several = ", ".join(file.name for file in (exact or found)[:3])
            raise DataError(f"several files could be {names[0]}: {several}", where=str(folder), do="keep one of them")
        return next(iter(exact or found), None)

    comments = the_one(COMMENTS)
    if comments is None:
        raise DataError("there are no statements", where=str(folder), expected=COMMENTS)
    matrix = the_one(*MATRIX) if path.is_dir() else path if path.name.endswith(MATRIX) else None
    if path.is_dir() and matrix is None:
        others = sorted(f for f in folder.iterdir() if f.name.endswith(VOTES))
        if not others:
            raise DataError("there are no votes", where=str(folder), expected=f"{MATRIX[0]} or {VOTES}")
        return comments, None, others[0]
    return comments, matrix, None if matrix else path


def _lines(file: Path, needed: Iterable[str]) -> tuple[list[str], list[_Line]]:
    """The header and the rows of a CSV file.

    A last field that was not quoted may hold commas, as in exports of older reports.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 (byte {error.start})", where=str(file), expected="CSV in UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    for name in needed:
        if name not in header:
            found = ", ".join(header[:8]) or "nothing"
            raise DataError(f"no column {name!r} (found {found})", where=f"{file}:1", expected="a file as Polis has it")
    if doubled := [name for name, count in Counter(header).items() if count > 1]:
        raise DataError(f"two columns {doubled[0]!r}", where=f"{file}:1", expected="each column once")
    lines = []
    for row in reader:
        where = f"{file}:{reader.line_num}"
        if not row:
            continue
        if len(row) > len(header) and header[-1] == "comment-body":
            row = [*row[: len(header) - 1], ",".join(row[len(header) - 1 :])]
        if len(row) != len(header):
            raise DataError(
                f"{len(row)} fields for {len(header)} columns",
                where=where,
                expected="texts with a line break or a comma in quotes",
            )
        lines.append(_Line(where, dict(zip(header, row, strict=True))))
    return header, lines


def _whole(line: _Line, column: str, default: int | None = None) -> int:
    """A whole number of a row."""
    text = line.fields.get(column, "").strip()
    if not text and default is not None:
        return default
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"column {column!r}: {text[:40]!r} is no number", where=line.where, expected="a number"
        ) from error


def _check_convention(summary: Path) -> None:
    """Refuse an export that declares other signs."""
    if not summary.exists():
        return
    for number, row in enumerate(csv.reader(io.StringIO(summary.read_text(encoding="utf-8-sig"), newline="")), 1):
        declared = dict(part.partition("=")[::2] for part in row[1].split(";")) if row[1:] else {}
        signs = [declared.get(name, "").lstrip("+") for name in ("agree", "disagree", "pass")]
        if row[:1] == ["vote-convention"] and signs != ["1", "-1", "0"]:
            raise DataError(f"the signs are {row[1]!r}", where=f"{summary}:{number}", expected=CONVENTION)


def read_statements(file: Path) -> tuple[dict[str, Statement], list[str]]:
    """The statements of a comments.csv by id, and messages about those left out.

    Raises:
        DataError: a row is wrong, or no statement is left.
    """
    _, lines = _lines(file, ("comment-id", "comment-body"))
    kept: dict[str, Statement] = {}
    left_out: Counter[str] = Counter()
    for line in lines:
        id, text = line.fields["comment-id"].strip(), line.fields["comment-body"].strip()
        if not id or id in kept:
            found = f"the id {id!r} a second time" if id else "no id"
            raise DataError(f"column 'comment-id': {found}", where=line.where, expected="an id of its own")
        moderated = _whole(line, "moderated", 0)
        created = _whole(line, "timestamp", 0)
        reason = (
            "rejected by a moderator"
            if moderated == REJECTED
            else "about the participants (metadata)"
            if line.fields.get("is-meta", "").strip().lower() in ("true", "1")
            else ""
            if text
            else "without a text"
        )
        if reason:
            left_out[reason] += 1
            continue
        seconds = created / 1000 if created > 1e11 else float(created)  # older exports count milliseconds
        kept[id] = Statement(id, text, line.fields.get("author-id", "").strip(), moderated, seconds)
    messages = [f"{file}: {count} statement(s) left out: {reason}" for reason, count in left_out.items()]
    if not kept:
        raise DataError("no statement is left", where=str(file), expected="statements", do="; ".join(messages))
    return kept, messages


def _value(text: str, line: _Line, column: str) -> float:
    """A vote; NaN for an empty field."""
    value = VALUES.get(text.strip())
    if value is None:
        raise DataError(
            f"column {column!r}: {text[:40]!r} is no vote",
            where=line.where,
            expected="1 (agree), -1 (disagree), 0 (pass) or nothing (not seen)",
        )
    return value


def _from_matrix(
    file: Path, statements: dict[str, Statement]
) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float64], list[str]]:
    """Participants, their groups, votes and messages, from a file with a person a line."""
    header, lines = _lines(file, ("participant",))
    columns = [name for name in header if name not in ABOUT_PEOPLE]
    unknown = [name for name in columns if name not in statements]
    messages = [f"{file}: {len(unknown)} column(s) of votes whose statement is left out"] if unknown else []
    votes = np.full((len(lines), len(statements)), np.nan)
    place = {id: number for number, id in enumerate(statements)}
    into = [place[name] for name in columns if name in place]
    kept = [number for number, name in enumerate(columns) if name in place]
    right = swapped = 0
    for number, line in enumerate(lines):
        own = [_value(line.fields[name], line, name) for name in columns]
        votes[number, into] = [own[column] for column in kept]
        told = tuple(_whole(line, name, -1) for name in ("n-agree", "n-disagree"))
        counted = (own.count(1.0), own.count(-1.0))
        right += told == counted
        swapped += told == counted[::-1] and told[0] != told[1]
    if swapped > right:
        raise DataError(
            f"the signs are reversed: of {swapped} participants n-agree counts the votes -1",
            where=str(file),
            expected="1 for agreement",
            do="swap 1 and -1 in the columns of votes, or export again",
        )
    people = tuple(line.fields["participant"].strip() for line in lines)
    if twice := [name for name, count in Counter(people).items() if count > 1]:
        raise DataError(f"column 'participant': {twice[0]!r} twice", where=str(file), expected="a person a line")
    groups = tuple(line.fields.get("group-id", "").strip().removesuffix(".0") for line in lines)
    return people, groups, votes, messages


def _from_events(
    file: Path, statements: dict[str, Statement]
) -> tuple[tuple[str, ...], NDArray[np.float64], list[str]]:
    """Participants, votes and messages, from a file with a vote a line; the latest of two stands."""
    _, lines = _lines(file, ("comment-id", "voter-id", "vote"))
    order = sorted(range(len(lines)), key=lambda i: _whole(lines[i], "timestamp", 0))  # stable: the later line stands
    people = {name: number for number, name in enumerate(dict.fromkeys(line.fields["voter-id"] for line in lines))}
    place = {id: number for number, id in enumerate(statements)}
    votes, lost, changed = np.full((len(people), len(place)), np.nan), 0, 0
    for line in (lines[i] for i in order):
        value = _value(line.fields["vote"] or "?", line, "vote")
        statement = place.get(line.fields["comment-id"].strip())
        if statement is None:
            lost += 1
            continue
        cell = people[line.fields["voter-id"]], statement
        changed += not np.isnan(votes[cell])
        votes[cell] = value
    told = {"on statements that are left out": lost, "that a later one replaces": changed}
    return tuple(people), votes, [f"{file}: {count} vote(s) {what}" for what, count in told.items() if count]


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def write_conversation(
    folder: Path, title: str, statements: Sequence[Statement], ballots: Sequence[Ballot], groups: dict[str, str]
) -> list[str]:
    """Write votes on statements as Polis does: comments, votes, one row a participant, and the summary.

    Args:
        ballots: in the order of time, at most one for each participant and statement.
        groups: the opinion group by participant; those without one have an empty field.

    Returns:
        The files with their rows, for people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cell = {(ballot.participant, ballot.statement): ballot.vote for ballot in ballots}
    people = list(dict.fromkeys(ballot.participant for ballot in ballots))
    tally = Counter((ballot.statement, ballot.vote) for ballot in ballots)
    written = Counter(statement.author for statement in statements if statement.author)
    comments = [
        (int(s.created_at), _date(s.created_at), s.id, s.author, tally[s.id, 1], tally[s.id, -1], s.moderated, s.text)
        for s in statements
    ]
    matrix = []
    for person in people:
        own = [cell.get((person, statement.id)) for statement in statements]
        counts = (written[person], sum(vote is not None for vote in own), own.count(1), own.count(-1))
        matrix.append((person, groups.get(person, ""), *counts, *("" if vote is None else vote for vote in own)))
    events = [(int(b.voted_at), _date(b.voted_at), b.statement, b.participant, b.vote) for b in ballots]
    head = ("timestamp", "datetime", "comment-id")
    ids = [statement.id for statement in statements]
    tables: dict[str, tuple[Sequence[object], Sequence[Sequence[object]]]] = {
        COMMENTS: ((*head, "author-id", "agrees", "disagrees", "moderated", "comment-body"), comments),
        MATRIX[0]: ((ABOUT_PEOPLE[0], *ABOUT_PEOPLE[2:], *ids), matrix),
        VOTES: ((*head, "voter-id", "vote"), events),
    }
    for name, (header, rows) in tables.items():
        write_text(folder / name, _csv([header, *rows]))
    summary = [("topic", title), ("voters", len(people)), ("voters-in-conv", sum(map(bool, groups.values())))]
    summary += [("comments", len(statements)), ("groups", len(set(groups.values()) - {""}))]
    write_text(folder / SUMMARY, _csv([*summary, ("vote-convention", CONVENTION)]))
    return [f"wrote {folder / name} ({len(rows)} rows)" for name, (_, rows) in tables.items()]


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%a %b %d %Y %H:%M:%S GMT+0000")
