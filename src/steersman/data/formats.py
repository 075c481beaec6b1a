"""Reading rows as records: our own, and those of other tools, whose columns `data/columns.py` maps to ours.

`data/tables.py` reads the file, whatever its format.

Every row is either read or reported with its line: none is dropped silently.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from steersman.data.columns import Ignored, records_of
from steersman.data.tables import rows_of
from steersman.errors import DataError, closest
from steersman.terminal import console
from steersman.types import Comparison, Message, Record

R = TypeVar("R", bound=Record)
SHOWN_ROWS = 10


class Sorted(NamedTuple, Generic[R]):
    """The records of a file's valid rows, the faults of the others by line, and columns that were left out."""

    rows: list[R]
    faults: dict[int, list[str]]
    ignored: Ignored


def read(path: Path, record: type[R], prepare: Callable[[Any], Any] = lambda row: row) -> list[R]:
    """All rows of a ``.jsonl`` or ``.jsonl.gz`` file as records of one type.

    Args:
        prepare: applied to a row before its columns are mapped.

    Raises:
        DataError: the file is missing or not UTF-8, or rows are bad; names the lines and the faults.
    """
    rows, faults, ignored = sort_out(path, record, prepare)
    for line in left_out(path, ignored, record):
        console.print(line, markup=False, soft_wrap=True)
    if faults:
        shown = [f"line {n}: {fault}" for n in list(faults)[:SHOWN_ROWS] for fault in faults[n]]
        more = [f"and {len(faults) - SHOWN_ROWS} more"] if len(faults) > SHOWN_ROWS else []
        raise DataError(
            "\n  ".join([f"{len(faults)} bad row(s)", *shown, *more]),
            where=f"{path}:{min(faults)}",
            expected=f"a {record.__name__.lower()} a line: {_required(record)} and optional fields",
            do="fix or delete these lines",
        )
    return rows


def sort_out(
    path: Path, record: type[R], prepare: Callable[[Any], Any] = lambda row: row, limit: int | None = None
) -> Sorted[R]:
    """Sort the rows of a file, or its first ``limit`` rows, into records and faults.

    A ``.json`` file, as annotation tools write them, is one list; its rows count from 1.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    rows: list[R] = []
    faults: dict[int, list[str]] = {}
    ignored: Ignored = Ignored()
    for number, good, reasons in stream(path, record, prepare, ignored, limit):
        rows += good
        if reasons:
            faults[number] = reasons
    return Sorted(rows, faults, ignored)


def stream(
    path: Path, record: type[R], prepare: Callable[[Any], Any], ignored: Ignored, limit: int | None = None
) -> Iterator[tuple[int, list[R], list[str]]]:
    """Every row of a file: its number, its records, and what is wrong with it; nothing is kept.

    Args:
        ignored: counts the columns that are left out.

    Raises:
        DataError: as `sort_out`.
    """
    yield from records(islice(rows_of(path), limit), record, prepare, ignored)


def records(
    found_rows: Iterable[Any], record: type[R], prepare: Callable[[Any], Any], ignored: Ignored
) -> Iterator[tuple[int, list[R], list[str]]]:
    """The same of rows that were read already."""
    for number, found in enumerate(found_rows, start=1):
        if isinstance(found, str) and not found.strip():
            continue
        try:
            rows = records_of(prepare(_parse(found)), record, ignored)
            yield number, [record.model_validate(row) for row in rows], []
        except ValidationError as error:
            yield number, [], _faults(error, record)
        except DataError as error:
            yield number, [], [error.found]


def unread(faults: Mapping[int, Sequence[str]]) -> list[str]:
    """Reasons of unread rows, most common first, each with the number of rows and the first line."""
    reasons = Counter("; ".join(own) for own in faults.values())
    first = {"; ".join(own): line for line, own in sorted(faults.items(), reverse=True)}
    return [f"not read: {n} row(s), the first in line {first[reason]}: {reason}" for reason, n in reasons.most_common()]


def left_out(path: Path, ignored: Ignored, record: type[Record]) -> list[str]:
    """A line about the columns that were left out, with their rows and what they may have been meant to be, or none."""
    if not ignored:
        return []
    known = list(record.model_fields)
    columns = [f"{name!r} ({count} rows{_meant(name, known)})" for name, count in ignored.most_common()]
    return [f"{path}: columns that are not read: {', '.join(columns)}"]


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {near[0]!r}?" if near else ""


def dump(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows as plain JSON values, without fields left at their default."""
    return [row.model_dump(mode="json", exclude_defaults=True) for row in rows]


def _parse(line: Any) -> Any:
    """A row as an object, from its text or as it is."""
    if not isinstance(line, str):
        return line
    try:
        row = json.loads(line, object_pairs_hook=_object)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg} at column {error.colno})") from None
    except UnicodeEncodeError:
        raise DataError("half a character (a \\ud800 to \\udfff without its partner)") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise DataError(f"not readable JSON ({error})") from None
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose names may not occur twice: `json` would take the last one without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise DataError(f"{twice!r} occurs twice in one object")
    return found


def _faults(error: ValidationError, record: type[Record]) -> list[str]:
    """The faults of a row. A text slot is a union: only faults of the variant that the row uses are reported."""
    details = error.errors(include_url=False)
    return [_fault(d, record) for d in details if not (d["type"] == "string_type" and "str" in d["loc"])]


def _fault(detail: Any, record: type[Record]) -> str:
    path = [str(part) for part in detail["loc"] if part not in ("str", "tuple[Message, ...]")]
    name = ".".join(path)
    if detail["type"] == "missing":
        return f"no {name!r}"
    if detail["type"] == "extra_forbidden":
        return f"unknown field {name!r}, {closest(path[-1], list((Message if path[1:] else record).model_fields))}"
    if detail["type"] in ("string_too_short", "string_pattern_mismatch") and not str(detail["input"]).strip():
        return f"{name!r} is empty"
    if not path:  # contradicting fields, which the message names
        return str(detail["msg"]).removeprefix("Value error, ")
    what = f": {detail['msg'].lower().removeprefix('value error, ')}"
    if detail["type"] == "tuple_type":
        what = " must be text or a list of messages" if name == "prompt" else " must be a list"
    found = str(detail["input"])
    value = detail["input"]
    long = len(found) > 60 or (isinstance(value, list | tuple) and any(isinstance(item, str) for item in value))
    if detail["type"] == "value_error" and long:  # our own message describes the fault of a long text or of several
        return f"{name!r}{what}"
    return f"{name!r}{what}, found {found[:60]!r}"


def _required(record: type[Record]) -> str:
    if record is Comparison:
        return "prompt, chosen and rejected, or prompt, options and ranking,"
    return ", ".join(name for name, field in record.model_fields.items() if field.is_required())
