"""The streamed check of one long file: MinHash by hand, and the same twins as the exact check on a short one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from steersman.cli.data import data_app
from steersman.data.check import LengthLimit, jaccard, twins
from steersman.data.large import BAND, BANDS, candidates, check_stream, shown, signature
from steersman.data.sources import kind_of
from steersman.types import Comparison, Demonstration

WORDS = [f"w{i}" for i in range(400)]


def text(draw: random.Random, length: int = 12) -> str:
    return " ".join(draw.sample(WORDS, length))


def varied(draw: random.Random, prompt: str) -> str:
    """The same with one word exchanged: Jaccard 11 of 13."""
    words = prompt.split()
    words[draw.randrange(len(words))] = "other"
    return " ".join(words)


def write(folder: Path, prompts: list[str]) -> Path:
    path = folder / "rows.jsonl"
    rows = [{"prompt": prompt, "completion": "a b c", "id": i} for i, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_signatures_estimate_jaccard() -> None:
    draw = random.Random(0)
    errors = []
    for shared in (2, 6, 10, 18):
        pool = draw.sample(WORDS, 40 - shared)
        one, other = set(pool[:20]), set(pool[20 - shared :])
        agree = np.mean(
            [np.mean(signature({f"{t}{k}" for t in one}) == signature({f"{t}{k}" for t in other})) for k in range(60)]
        )
        errors.append(abs(agree - jaccard(one, other)))
    assert max(errors) < 0.04


def test_candidates_share_a_band_and_equal_texts_are_none() -> None:
    base = np.arange(BANDS * BAND, dtype=np.uint32)
    near, far = base.copy(), base + 1000
    near[BAND:] += 500  # the first band alone
    rows = np.stack([base, far, near, base])
    assert candidates(rows, np.array([1, 2, 3, 1], dtype=np.uint64)) == [(0, 2)]
    assert candidates(np.zeros((0, BANDS * BAND), dtype=np.uint32), np.zeros(0, dtype=np.uint64)) == []


def test_the_same_twins_as_the_exact_check(tmp_path: Path) -> None:
    draw = random.Random(1)
    prompts = [text(draw) for _ in range(300)]
    prompts += [varied(draw, prompt) for prompt in prompts[:40]] + prompts[:5]
    draw.shuffle(prompts)
    report = check_stream(write(tmp_path, prompts), Demonstration)
    exact = [pair for pair in twins(prompts) if pair.first != pair.second]
    assert (report.rows, report.kind, report.repeated) == (345, "demonstrations", 5)
    assert len({frozenset(pair[:2]) for pair in exact}) == 40
    assert 37 <= report.twin_pairs <= 40
    assert all(frozenset(pair[:2]) in {frozenset(p[:2]) for p in exact} for pair in report.twins)
    assert report.lengths == {"shortest": 3, "median": 3, "nine in ten at most": 3, "longest": 3}
    assert not report.ignored  # ids are read


def test_faults_are_counted_by_reason_and_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + '{"prompt": "a"}\n' * 3 + "{\n")
    report = check_stream(path, Demonstration)
    assert (report.rows, report.faults["no 'completion'"], sum(report.faults.values())) == (1, 3, 4)
    assert any("not read: 3 row(s): no 'completion'" in line for line in shown("rows.jsonl", report))
    assert json.dumps(report.json())


@pytest.mark.parametrize("prompts", [[], ["", "?"]])
def test_nothing_and_texts_without_words(prompts: list[str], tmp_path: Path) -> None:
    assert check_stream(write(tmp_path, prompts), Demonstration).twin_pairs == 0


def test_a_file_of_other_names_is_told_how_to_name_them(tmp_path: Path) -> None:
    """Nothing read, or only the prompts of what has answers, is no success without a word."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "Why?", "answer": "Because."}) + "\n")
    assert kind_of(path) is Comparison  # none can be read: the first kind
    said = "\n".join(shown("rows", check_stream(path, kind_of(path))))
    assert "--columns" in said
    assert "(answer, question)" in said
    path.write_text(json.dumps({"prompt": "Why?", "output_1": "Because.", "output_2": "No."}) + "\n")
    assert "if answers are among its columns (output_1, output_2)" in "\n".join(
        shown("rows", check_stream(path, kind_of(path)))
    )


def test_rows_over_a_limit_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, ["a b c d", "a", "b c"])
    limit = LengthLimit(5, lambda prompt, answers: len(str(prompt).split()) + max(len(a.split()) for a in answers), "W")
    report = check_stream(path, Demonstration, limit=limit)
    assert report.too_long == 1
    assert "Longer than 5 tokens by W: 1 demonstrations; `truncation` says" in "\n".join(shown("f", report, limit))
    said = CliRunner().invoke(data_app, ["check", str(path), "--max-length", "16", "--json"])
    assert (said.exit_code, json.loads(said.stdout)["too_long"]) == (0, 0)
