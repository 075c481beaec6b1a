"""``--columns prompt=instruction+input,first=output_1,second=output_2,better=label``: columns that no format names.

prompt, completion, chosen, rejected ...   a field of ours; several columns are joined by a blank line
first, second, better                      two answers and which is better: 1 or 2, a or b, 0 or tie, both bad
first, second                              of an annotated task (Label Studio): the left and the right answer

Of a task of Label Studio or a record of Argilla the columns are those of its ``data`` or ``fields``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from steersman.data.turns import Row
from steersman.data.verdicts import verdict
from steersman.errors import DataError, closest
from steersman.types import Comparison, Demonstration, Prompt, Record

PAIR = ("first", "second", "better")
TARGETS = sorted(
    {*Demonstration.model_fields, *Comparison.model_fields, *Prompt.model_fields, "chosen", "rejected", "label"}
)


def column_mapping(text: str) -> Callable[[Any], Any]:
    """What is done to a row before its format is looked for.

    Raises:
        DataError: not ``field=column``, an unknown field, or only a part of first, second and better.
    """
    wanted: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        target, _, source = (side.strip() for side in part.partition("="))
        if not source:
            raise DataError(f"{part!r} is not field=column", where="--columns", expected="prompt=question,...")
        if target not in (*TARGETS, *PAIR):
            do = closest(target, [*PAIR, *TARGETS])
            raise DataError(f"no field is called {target!r}", where="--columns", expected="a field of ours", do=do)
        wanted[target] = [name.strip() for name in source.split("+")]
    given = [name for name in PAIR if name in wanted]
    if given and given != [*PAIR[:2]] and len(given) < len(PAIR):
        missing = next(name for name in PAIR if name not in wanted)
        raise DataError(f"{given[0]!r} without {missing!r}", where="--columns", expected=", ".join(PAIR))

    def apply(row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        for inside in ("data", "fields"):  # of Label Studio and Argilla, which say elsewhere what raters chose
            if isinstance(row.get(inside), dict) and {"annotations", "responses"} & row.keys():
                return {**row, inside: _applied(wanted, row[inside])}
        if given == [*PAIR[:2]] and not ("annotation_id" in row or any(name.endswith(".responses") for name in row)):
            raise DataError("--columns names 'first' and 'second' and not 'better', and the row is no annotated task")
        return _applied(wanted, row)

    return apply


def unnamed_columns(kind: type[Record], columns: Iterable[str]) -> str:
    """What to write for a file whose columns have names that no format knows; empty where it has no others."""
    names = ", ".join(sorted(columns))
    answers = (
        "--columns prompt=...,completion=... or prompt=...,chosen=...,rejected=... or first=...,second=...,better=..."
    )
    if not names:
        return ""
    return f"if {'answers are' if kind is Prompt else 'the text is'} among its columns ({names}), name them: {answers}"


def _applied(wanted: Mapping[str, list[str]], row: Row) -> Row:
    """The row with its columns under their new names; those that were used are gone."""
    if missing := [name for names in wanted.values() for name in names if name not in row]:
        raise DataError(f"no column {missing[0]!r}, {closest(missing[0], list(row))}")
    used = {name for names in wanted.values() for name in names}
    mapped = {name: value for name, value in row.items() if name not in used}
    for target, names in wanted.items():
        values = [row[name] for name in names]
        mapped[target] = values[0] if len(values) == 1 else "\n\n".join(str(value) for value in values if value)
    if "better" in mapped:
        options = [mapped.pop(name) for name in PAIR[:2]]
        mapped |= {"options": options, **_said(mapped.pop("better"))}
    return mapped


def _said(value: Any) -> Row:
    if isinstance(value, float) and 1 < value < 2 and value != 1.5:
        value = round(value)  # AlpacaEval: 1 and the probability of the second
    if said := verdict(value):
        return said
    raise DataError(f"which answer is better is not said by {str(value)[:40]!r}")
