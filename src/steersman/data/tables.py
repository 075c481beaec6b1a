"""The rows of a file, whatever holds them, one after the other: JSON Lines, JSON, CSV, Parquet, Arrow, and what
Hugging Face `datasets` saved to disk or keeps on the Hub.

A row is its text where a fault has to be named in it (JSON), otherwise the object itself. Parquet, Arrow and data sets
need the extra ``data``. Nothing is read as a whole but a ``.json`` list.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, cast

from steersman.errors import DataError

LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".arrow")
LONGEST_CELL = 2**27  # characters
HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?(@[\w.-]+)?")  # org/name:split@revision
_SAVED = ("dataset_info.json", "dataset_dict.json")


def rows_of(path: Path) -> Iterator[Any]:
    """The rows of a file, of a folder of ``save_to_disk``, or of a data set on the Hub (``org/name[:split]``).

    Raises:
        DataError: it is missing, or not what its name says.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if is_saved(path) or not path.exists():
        return _data_set(path)
    if kind in ("csv", "tsv"):
        return _table(path, "\t" if kind == "tsv" else ",")
    if kind == "json":
        return iter(_list(path))
    if kind in ("parquet", "arrow"):
        return _columnar(path, kind)
    return _lines(path)


def is_saved(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return path.is_dir() and any((path / name).exists() for name in _SAVED)


def _lines(path: Path) -> Iterator[str]:
    with _opened(path) as file, _whole_gzip(path):
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError("not UTF-8 text", where=f"{path}:{number}", do="save the file as UTF-8") from error
            yield text.rstrip("\n")


def _opened(path: Path) -> BinaryIO:
    try:
        return cast("BinaryIO", gzip.open(path) if path.suffix == ".gz" else path.open("rb"))
    except OSError as error:
        raise DataError(f"cannot read the file ({error.strerror})", where=str(path)) from error


@contextmanager
def _whole_gzip(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"not a whole gzip file ({error})", where=str(path)) from error
    except OSError as error:  # a folder is opened, and only then refused
        raise DataError(f"cannot read the file ({error.strerror})", where=str(path)) from error


def _list(path: Path) -> list[str]:
    """The text of each element of the one list that a ``.json`` file holds."""
    text = "\n".join(_lines(path))
    if not (opening := re.match(r"\s*\[\s*", text)):
        raise DataError("no list of rows", where=str(path), expected="a JSON list [...], or lines in a .jsonl file")
    rows: list[str] = []
    decoder, gap, at = json.JSONDecoder(), re.compile(r"\s*(?:,\s*)?"), opening.end()
    try:
        while text[at : at + 1] != "]":
            _, end = decoder.raw_decode(text, at)
            rows.append(text[at:end])
            at = gap.match(text, end).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error})", where=f"{path}, row {len(rows) + 1}") from None
    return rows


def _table(path: Path, separator: str) -> Iterator[dict[str, Any]]:
    """A CSV file with a header. Empty cells are absent; a cell that is a JSON list or object is read as one."""
    with _opened(path) as file, _whole_gzip(path), TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        usual = csv.field_size_limit(LONGEST_CELL)  # it holds for the process: put back below
        try:
            reader = csv.DictReader(text, delimiter=separator, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"a row has another number of cells than the header ({len(reader.fieldnames or ())})",
                        where=f"{path}:{reader.line_num}",
                    )
                yield {name: _cell(value) for name, value in row.items() if value != ""}
        except csv.Error as error:
            raise DataError(f"not a valid table ({error})", where=str(path)) from error
        except UnicodeDecodeError as error:
            raise DataError("not UTF-8 text", where=str(path), do="save the file as UTF-8") from error
        finally:
            csv.field_size_limit(usual)


def _cell(value: str) -> Any:
    if value[:1] + value[-1:] in ("[]", "{}"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _columnar(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    _needed()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if kind == "parquet":
            for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
                yield from map(_present, batch.to_pylist())
        else:
            with pa.memory_map(str(path)) as source:
                try:
                    reader: Any = pa.ipc.open_stream(source)
                except pa.ArrowInvalid:
                    file = pa.ipc.open_file(source)
                    reader = (file.get_batch(i) for i in range(file.num_record_batches))
                for batch in reader:
                    yield from map(_present, batch.to_pylist())
    except pa.ArrowException as error:
        raise DataError(f"not a valid {kind} file ({str(error)[:200]})", where=str(path)) from error


def _data_set(path: Path) -> Iterator[dict[str, Any]]:
    """A folder of ``save_to_disk``, or a data set on the Hub, streamed."""
    name, _, revision = str(path).partition("@")
    name, _, split = name.partition(":")
    if not path.is_dir() and not HUB.fullmatch(str(path)):
        raise DataError("the file does not exist", where=str(path), do="check the path, or `steersman init` a project")
    _needed()
    import datasets

    try:
        if path.is_dir():
            found: Any = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset(name, split=split or None, revision=revision or None, streaming=True)
    except Exception as error:  # the library's, the network's and the parsers' own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        do = "check the name; a private one needs `hf auth login`; without a network give a folder or a file"
        raise DataError(f"`datasets` cannot read it ({reason})", where=str(path), do=do) from error
    if isinstance(found, dict):
        if len(found) > 1 and "train" not in found:
            raise DataError(f"it has the splits {', '.join(found)}", where=str(path), do=f"name one: {name}:SPLIT")
        found = found.get("train") or next(iter(found.values()))
    for row in found:
        yield _present(row)


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """The row without its nulls, which tables have where JSON has nothing."""
    return {name: value for name, value in row.items() if value is not None}


def _needed() -> None:
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise DataError(
            "Parquet, Arrow and data sets need the package `datasets`", do="run: pip install 'steersman[data]'"
        ) from error
