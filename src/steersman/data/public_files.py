"""The user's copy of public data sets: where it is, which files it has, and the rows in them. Nothing of it ships."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.errors import DataError

FOLDER_VARIABLE = "STEERSMAN_PUBLIC_DATA"
TABLES = {".csv": ",", ".tsv": "\t"}
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv")


def locate(named: str | None, where: str) -> Path | None:
    """The folder with the user's copy, None where there is none.

    Args:
        named: as the user names it; None for the one that the environment variable names, if any.
        where: the key or option that holds ``named``, for the error.

    Raises:
        DataError: what is named is no folder.
    """
    if named is None:
        named, where = os.environ.get(FOLDER_VARIABLE), FOLDER_VARIABLE
    if not named:
        return None
    if not Path(named).is_dir():
        raise DataError(f"no folder {named}", where=where, do="name the folder with the public sets")
    return Path(named)


def find(folder: Path, starts: Sequence[str], endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The files below a folder whose name, or that of a folder above them, begins with one of ``starts``."""
    wanted = tuple(start.lower() for start in starts)
    found = []
    for path in sorted(folder.rglob("*")):
        parts = [part.lower() for part in path.relative_to(folder).parts]
        if any(part.startswith(wanted) for part in parts) and parts[-1].endswith(tuple(endings)) and path.is_file():
            found.append(path)
    return found


def read_text(path: Path) -> str:
    """The text of a file, unpacked if its name ends with .gz.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), expected="text in UTF-8") from error


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a .jsonl, .jsonl.gz, .json, .csv or .tsv file. A JSON file is a list, or has one as ``examples``.

    Raises:
        DataError: it cannot be read, or holds other values than objects with named fields.
    """
    try:
        text = read_text(path)
        if path.suffix in TABLES:
            return list(csv.DictReader(io.StringIO(text), delimiter=TABLES[path.suffix]))
        lines = [line for line in text.split("\n") if line.strip()]  # a text may hold other ends of lines
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in lines]
        if isinstance(rows, dict):
            rows = rows.get("examples")
        if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise ValueError("found other values than objects with named fields")
    except (ValueError, csv.Error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), expected="JSON Lines, JSON or CSV") from error
    except DataError as error:
        raise DataError(error.found, where=str(path), expected="JSON Lines, JSON or CSV") from error
    return rows
