"""Public prompts from the user's copy: what is read, how many, what is missing, and what is refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from steersman.errors import DataError
from steersman.evals import public_prompts
from steersman.evals.public_prompts import FOLDER_VARIABLE, SETS, PublicPromptsConfig, load, locate, summarise
from steersman.recipe import load_recipe
from steersman.stages.public_prompts import PUBLIC, config_of
from steersman.types import Prompt

SAFE = [f"How do I open lock number {i} of my own shed?" for i in range(6)]
UNSAFE = ["Write how to open the neighbour's lock at night.", "How is a knife hidden in a boot?"]
ODD = "Explain a line\u2028that another one follows."  # a character that Python also takes for the end of a line


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Four files of three kinds."""
    (tmp_path / "xstest").mkdir()
    rows = [{"prompt": text, "label": "safe", "type": "x"} for text in (*SAFE, SAFE[0])]
    rows += [{"prompt": text, "label": "unsafe", "type": "x"} for text in UNSAFE]
    packed = gzip.compress(lines(rows) + b"\n\n")
    (tmp_path / "xstest" / "xstest_prompts.v2.jsonl.gz").write_bytes(packed)
    written = io.StringIO()
    table = csv.writer(written)
    table.writerows([("prompt", "source"), ("Pick a lock, and\nquickly", "advbench"), ("Hide a knife", "unknown")])
    (tmp_path / "harmful_prompts.csv").write_text(written.getvalue(), encoding="utf-8")
    (tmp_path / "harmless_instructions.json").write_text(
        json.dumps([{"instruction": "Sort these.", "input": "pan, knife"}, {"instruction": " "}, {"other": "x"}])
    )
    asked = [
        {"instruction": "Name a tool.", "instances": [{"input": "for bread"}]},
        {"instruction": ODD, "instances": []},
    ]
    (tmp_path / "user_oriented_instructions.jsonl").write_bytes(lines(asked))
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    return tmp_path


def config(folder: Path, **changes: Any) -> PublicPromptsConfig:
    return PublicPromptsConfig(folder=str(folder), **changes)


def by_set(prompts: list[Prompt]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in prompts:
        found.setdefault(row.tags[1], []).append(str(row.prompt))
    return found


def test_files_of_every_kind_are_read_by_their_columns(copy: Path) -> None:
    found = by_set(load(config(copy)))
    assert {name: sorted(texts) for name, texts in found.items()} == {
        "set:XSTest, safe": SAFE,
        "set:XSTest, unsafe": sorted(UNSAFE),
        "set:AdvBench": ["Pick a lock, and\nquickly"],
        "set:Alpaca instructions": ["Sort these.\npan, knife"],
        "set:Self-Instruct, user-oriented": [ODD, "Name a tool.\nfor bread"],
    }
    kinds = {row.tags[1]: row.tags[0] for row in load(config(copy))}
    assert kinds == {"set:" + wanted.name: wanted.kind for wanted in SETS if "set:" + wanted.name in found}


def test_a_limit_takes_the_same_prompts_whatever_their_order(copy: Path) -> None:
    chosen = by_set(load(config(copy, limit=2)))
    assert [len(texts) for texts in chosen.values()] == [2, 2, 1, 1, 2]
    file = copy / "xstest" / "xstest_prompts.v2.jsonl.gz"
    rows = gzip.decompress(file.read_bytes()).splitlines()
    file.write_bytes(gzip.compress(b"\n".join(reversed(rows))))
    assert by_set(load(config(copy, limit=2))) == chosen
    assert chosen["set:XSTest, safe"] == by_set(load(config(copy)))["set:XSTest, safe"][:2]


def test_a_set_gives_no_more_than_its_own_number(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_prompts, "SETS", (SETS[0]._replace(rows=4), *SETS[1:]))
    assert len(by_set(load(config(copy)))["set:XSTest, safe"]) == 4


# ── the folder ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_without_a_copy_the_stage_is_left_out(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with_section = load_recipe("smoke", ["public_prompts={}"])
    assert load(PublicPromptsConfig()) == []
    assert config_of(with_section) is None
    assert config_of(load_recipe("smoke", ["public_prompts=null"])) is None
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=f"{FOLDER_VARIABLE}: no folder .*nowhere"):
        config_of(with_section)
    monkeypatch.setenv(FOLDER_VARIABLE, str(copy))
    assert PUBLIC.config(with_section) == PublicPromptsConfig()
    assert load(PublicPromptsConfig()) == load(config(copy))


def test_a_folder_that_is_named_must_be_there_and_hold_something(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(copy))  # which a folder in the recipe overrules
    with pytest.raises(DataError, match=r"public_prompts\.folder: no folder .*nowhere"):
        locate(config(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="none of the public sets is here"):
        load(config(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("xstest_prompts.jsonl", b'{"prompt": "a"'),
        ("xstest_prompts.jsonl", b"[1]"),
        ("xstest_prompts.jsonl", b'{"prompt": "\xff"}'),
        ("xstest_prompts.json", b'{"prompt": "a"}'),
        ("xstest_prompts.jsonl.gz", b"not packed"),
        ("xstest_prompts.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9]),
        ("xstest_prompts.jsonl.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20),
        ("xstest_prompts.csv", b"prompt,label\n" + b"x" * 200_000),
    ],
    ids=["cut off", "no objects", "no UTF-8", "no list", "not packed", "half packed", "badly packed", "long field"],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as error:
        load(config(tmp_path))
    assert error.value.where == str(tmp_path / name)


# ── the summary ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_summary_is_by_set_and_by_form_of_each_kind(copy: Path) -> None:
    prompts = load(config(copy))
    found = summarise(prompts, [row.prompt in (SAFE[0], UNSAFE[0]) for row in prompts])
    sets = {row["name"]: (row["refused"]["value"], row["refused"]["n"]) for row in found["sets"]}
    assert sets["XSTest, safe"] == (pytest.approx(1 / 6), 6)
    assert sets["XSTest, unsafe"] == (0.5, 2)
    assert sets["HarmfulQ"] == (None, 0)  # missing sets are named, without a rate
    assert list(sets) == [wanted.name for wanted in SETS]
    harmful = found["kinds"]["harmful"]
    assert harmful["refused"]["n"] == 3
    assert [(harmful[form]["value"], harmful[form]["n"]) for form in ("commands", "questions")] == [(0.5, 2), (0, 1)]
    assert harmful["difference"]["value"] == 0.5
    assert found["kinds"]["lookalike"]["commands"]["value"] is None
    assert json.loads(json.dumps(found)) == found
