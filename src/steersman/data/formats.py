"""Reading and writing JSON Lines: our own records, and the columns that other tools use.

    TRL          messages | prompt+completion | prompt+chosen+rejected [+margin]
    Alpaca       instruction [+input] + output
    ShareGPT     conversations: [{from, value}]

Every row is either read or named in the error with its line: none is dropped in silence.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from steersman.errors import DataError, closest
from steersman.types import Comparison, Demonstration, Message, Prompt, Record

R = TypeVar("R", bound=Record)
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SHOWN_ROWS = 10


def read(path: Path, record: type[R]) -> list[R]:
    """All rows of a ``.jsonl`` or ``.jsonl.gz`` file as records of one type.

    Raises:
        DataError: the file is missing or not UTF-8, or rows are bad; names the line, the fault and the cure.
    """
    rows: list[R] = []
    faults: dict[int, list[str]] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            rows.append(record.model_validate(_to_record(_parse(line), record)))
        except ValidationError as error:
            faults[number] = _faults(error, record)
        except DataError as error:
            faults[number] = [error.found]
    if faults:
        shown = [f"line {n}: {fault}" for n in list(faults)[:SHOWN_ROWS] for fault in faults[n]]
        more = [f"and {len(faults) - SHOWN_ROWS} more"] if len(faults) > SHOWN_ROWS else []
        raise DataError(
            "\n  ".join([f"{len(faults)} bad row(s)", *shown, *more]),
            where=f"{path}:{min(faults)}",
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
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"not a whole gzip file ({error})", where=str(path)) from error
    except OSError as error:
        raise DataError(f"cannot read the file ({error.strerror})", where=str(path)) from error


def _parse(line: str) -> Any:
    try:
        row = json.loads(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg} at column {error.colno})") from None
    except UnicodeEncodeError:
        raise DataError("half a character (a \\ud800 to \\udfff without its partner)") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise DataError(f"not readable JSON ({error})") from None
    return row


def _to_record(row: Any, record: type[Record]) -> dict[str, Any]:
    """Map other tools' columns to ours; a row that already has our columns passes unchanged."""
    if not isinstance(row, dict):
        raise DataError(f"a {type(row).__name__} where an object {{...}} was expected")
    rest = dict(row)
    if "conversations" in rest:
        rest["messages"] = [_sharegpt(turn) for turn in _objects(rest.pop("conversations"), "conversations")]
    if "messages" in rest and "prompt" not in rest:
        messages = _objects(rest.pop("messages"), "messages")
        if record is Prompt:
            return {"prompt": _slot(messages), **rest}
        if record is Demonstration:
            return {"prompt": _slot(messages[:-1]), "completion": _answer(messages[-1:], "messages"), **rest}
    if "instruction" in rest and "prompt" not in rest:
        parts = [rest.pop("instruction"), rest.pop("input", "")]
        if not all(isinstance(part, str) for part in parts):
            raise DataError("'instruction' and 'input' must be text")
        rest["prompt"] = "\n\n".join(part for part in parts if part)
        if record is Demonstration and "output" in rest:
            rest["completion"] = rest.pop("output")
    if record in (Demonstration, Comparison):
        for name in {"completion", "chosen", "rejected"} & rest.keys():
            if isinstance(rest[name], list):  # TRL's conversational form
                rest[name] = _answer(_objects(rest[name], name), name)
    return rest


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    if not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        raise DataError(f"{name!r} must be a list of messages {{...}}")
    return value


def _answer(messages: list[dict[str, Any]], name: str) -> Any:
    """The text of a conversation that holds one assistant message and nothing else."""
    if [message.get("role") for message in messages] != ["assistant"]:
        what = "must end with an assistant message" if name == "messages" else "must be text or one assistant message"
        raise DataError(f"{name!r} {what}")
    return messages[0].get("content")


def _sharegpt(turn: Mapping[str, Any]) -> dict[str, Any]:
    role = SHAREGPT_ROLES.get(str(turn.get("from")))
    if role is None:
        raise DataError(f"a turn from {turn.get('from')!r}, {closest(str(turn.get('from')), list(SHAREGPT_ROLES))}")
    return {"role": role, "content": turn.get("value")}


def _slot(messages: list[dict[str, Any]]) -> Any:
    single = len(messages) == 1 and messages[0].get("role") == "user"
    return messages[0].get("content") if single else messages


def _faults(error: ValidationError, record: type[Record]) -> list[str]:
    """What is wrong with a row. A text slot is a union: only the side that the row meant is worth a word."""
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
    what = f": {detail['msg'].lower().removeprefix('value error, ')}"
    if detail["type"] == "tuple_type":
        what = " must be text or a list of messages" if name == "prompt" else " must be a list"
    return f"{name!r}{what}, found {str(detail['input'])[:60]!r}"


def _required(record: type[Record]) -> list[str]:
    return [name for name, field in record.model_fields.items() if field.is_required()]
