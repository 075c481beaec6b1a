"""Rows from every format are the same records; broken files are named."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from steersman.data import tables
from steersman.data.formats import read
from steersman.data.sources import load_file
from steersman.errors import DataError
from steersman.types import Comparison, Demonstration

ROWS: list[dict[str, Any]] = [
    {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "score": 1.5},
    {"prompt": 'Two\nlines, "quoted"', "chosen": "🙂", "rejected": "[so]", "score": None},
]
MESSAGES = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]


def written(folder: Path, kind: str) -> Path:
    """The rows in a file of this kind."""
    path = folder / f"rows.{kind}"
    if kind.startswith("jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith(".gz") else text)
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif kind in ("csv", "tsv"):
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(ROWS).to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    else:
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_list(ROWS)
        if kind == "parquet":
            table.to_parquet(path)
        elif kind == "arrow":
            table.save_to_disk(folder / "saved")
            path = next((folder / "saved").glob("*.arrow"))
        elif kind == "saved":
            table.save_to_disk(path)
        else:
            datasets.DatasetDict({"train": table, "test": table}).save_to_disk(path)
    return path


@pytest.mark.parametrize(
    "kind", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet", "arrow", "saved", "saved-splits"]
)
def test_every_format_gives_the_same_records(kind: str, tmp_path: Path) -> None:
    rows = read(written(tmp_path, kind), Comparison)
    assert [(row.prompt, row.options, row.ranking) for row in rows] == [
        (row["prompt"], (row["chosen"], row["rejected"]), (1, 2)) for row in ROWS
    ]


def test_a_cell_that_is_a_list_is_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('messages\n"' + json.dumps(MESSAGES).replace('"', '""') + '"\n')
    (row,) = read(path, Demonstration)
    assert (row.prompt, row.completion) == ("Hi?", "Yes.")


def test_a_long_cell_is_read_and_the_processs_limit_is_as_it_was(tmp_path: Path) -> None:
    before, path = csv.field_size_limit(), tmp_path / "rows.csv"
    path.write_text(f"prompt,completion\n{'a' * (before + 1)},b\n")
    assert len(read(path, Demonstration)) == 1
    assert csv.field_size_limit() == before


def test_lists_of_messages_come_out_of_parquet(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"messages": MESSAGES, "id": 1}]).to_parquet(tmp_path / "rows.parquet")
    data = load_file(tmp_path / "rows.parquet")
    assert [row.completion for row in data.demonstrations] == ["Yes."]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("rows.csv", b"prompt,completion\nHi?\n", "another number of cells than the header"),
        ("rows.csv", b"prompt,completion\n\xff,a\n", "not UTF-8 text"),
        ("rows.parquet", b"no parquet", "not a valid parquet file"),
        ("rows.arrow", b"no arrow at all", "not a valid arrow file"),
        ("rows.jsonl.gz", b"no gzip", "not a whole gzip file"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, found: str, tmp_path: Path) -> None:
    if name.endswith(("parquet", "arrow")):
        pytest.importorskip("datasets")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=found):
        read(tmp_path / name, Demonstration)


def test_a_split_has_to_be_named_where_none_is_for_training(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"a": table, "b": table}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="it has the splits a, b"):
        read(tmp_path / "saved", Comparison)


def test_the_hub_is_asked_for_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load_dataset(name: str, **options: Any) -> list[dict[str, Any]]:
        asked.append((name, options))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(read(Path("some-org/prefs:test@main"), Comparison)) == len(ROWS)
    assert asked == [("some-org/prefs", {"split": "test", "revision": "main", "streaming": True})]


def test_without_the_package_there_is_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'steersman\[data\]'"):
        list(tables.rows_of(tmp_path / "rows.parquet"))
