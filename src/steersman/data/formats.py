"""Reading and writing JSON Lines: our own records, and the columns that other tools use.

    TRL          messages | prompt+completion | prompt+chosen+rejected [+margin]
    Alpaca       instruction [+input] + output
    ShareGPT     conversations: [{from, value}]

Every row is either read or named in the error with its line: none is dropped in silence.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from steersman.errors import DataError, closest
from steersman.types import Comparison, Demonstration, Prompt, Record

R = TypeVar("R", bound=Record)
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SHOWN_PROBLEMS = 10


def read(path: Path, record: type[R]) -> list[R]:
    """All rows of a ``.jsonl`` or ``.jsonl.gz`` file as records of one type.

    Raises:
        DataError: the file is missing or not UTF-8, or rows are bad; names the line, the fault and the cure.
    """
    rows: list[R] = []
    problems: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            rows.append(record.model_validate(_to_record(json.loads(line), record)))
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not valid JSON ({error.msg} at column {error.colno})")
        except ValidationError as error:
            problems += [f"line {number}: {_problem(detail, record)}" for detail in error.errors()]
        except DataError as error:
            problems.append(f"line {number}: {error.found}")
    if problems:
        shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise DataError(
            f"{len(problems)} bad row(s)\n  {shown}{more}",
            where=str(path),
            expected=f"a {record.__name__.lower()} a line: {', '.join(_required(record))} and optional fields",
            do="mend or delete these lines",
        )
    return rows


def dump(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows as plain JSON values, without fields left at their default."""
    return [row.model_dump(mode="json", exclude_defaults=True) for row in rows]


def _lines(path: Path) -> list[str]:
    if not path.exists():
        raise DataError("the file does not exist", where=str(path), do="check the path, or `steersman init` a project")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError("not UTF-8 text", where=f"{path}:{line}", do="save the file as UTF-8") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"not a whole gzip file ({error})", where=str(path)) from error


def _to_record(row: Any, record: type[Record]) -> dict[str, Any]:
    """Map other tools' columns to ours; a row that already has our columns passes unchanged."""
    if not isinstance(row, dict):
        raise DataError(f"a {type(row).__name__} where an object {{...}} was expected")
    rest = dict(row)
    if "conversations" in rest:
        rest["messages"] = [_sharegpt(turn) for turn in rest.pop("conversations")]
    if "messages" in rest and "prompt" not in rest:
        messages = rest.pop("messages")
        if record is Prompt:
            return {"prompt": messages, **rest}
        if record is Demonstration:
            if not messages or messages[-1].get("role") != "assistant":
                raise DataError("'messages' must end with an assistant message, which is the completion")
            return {"prompt": _slot(messages[:-1]), "completion": messages[-1]["content"], **rest}
    if "instruction" in rest and "prompt" not in rest:
        extra = rest.pop("input", "")
        rest["prompt"] = rest.pop("instruction") + (f"\n\n{extra}" if extra else "")
        if record is Demonstration and "output" in rest:
            rest["completion"] = rest.pop("output")
    if record in (Demonstration, Comparison):
        for name in ("completion", "chosen", "rejected"):
            if isinstance(rest.get(name), list):  # TRL's conversational form: one assistant message
                rest[name] = rest[name][-1].get("content", "") if rest[name] else ""
    return rest


def _sharegpt(turn: Mapping[str, Any]) -> dict[str, Any]:
    role = SHAREGPT_ROLES.get(str(turn.get("from")))
    if role is None:
        raise DataError(f"a turn from {turn.get('from')!r}, {closest(str(turn.get('from')), list(SHAREGPT_ROLES))}")
    return {"role": role, "content": turn.get("value")}


def _slot(messages: list[dict[str, Any]]) -> Any:
    single = len(messages) == 1 and messages[0].get("role") == "user"
    return messages[0]["content"] if single else messages


def _problem(detail: Any, record: type[Record]) -> str:
    name = ".".join(str(part) for part in detail["loc"] if part not in ("str", "tuple[Message, ...]"))
    if detail["type"] == "missing":
        return f"no {name!r}"
    if detail["type"] == "extra_forbidden":
        return f"unknown field {name!r}, {closest(name, list(record.model_fields))}"
    if detail["type"] == "string_too_short":
        return f"{name!r} is empty"
    return f"{name!r}: {detail['msg'].lower()}, found {str(detail['input'])[:60]!r}"


def _required(record: type[Record]) -> list[str]:
    return [name for name, field in record.model_fields.items() if field.is_required()]
