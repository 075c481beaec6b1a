"""Suites from files to a summary: what is found and missing, arms, the guard's arm, kills, and the report's section."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steersman.errors import DataError
from steersman.evals import suites
from steersman.evals.suites import runner
from steersman.evals.suites.runner import SUMMARY, Gathered, available, digest_of, gather
from steersman.evals.suites.suite import Metric, Question, Reply, Suite, answering, mean
from steersman.lm.sampling import SamplingConfig
from steersman.lm.scripted import ScriptedModel
from steersman.report import terminal
from steersman.report.suites import blocks
from steersman.store import StageFolder, read_json


def free_columns(question: Question, reply: Reply) -> Mapping[str, float]:
    return {"polite": float("please" in reply.text), "words": float(len(reply.text.split()))}


FREE = Suite(
    name="free",
    title="Free set",
    paper="Us 2026",
    about="Whether answers are polite.",
    principles=("helpful-plain",),
    files=(),
    load=lambda paths, limit: [Question(f"Ask {i}") for i in range(limit or 12)],
    columns=free_columns,
    metrics={
        "polite": Metric("Polite", mean("polite")),
        "words": Metric("Words", mean("words"), "lower", is_rate=False),
    },
    nulls={"always please": answering("please")},
)
LETTERS = Suite(
    name="letters",
    title="Choice set",
    paper="Them 2025",
    about="Which letter.",
    principles=("fairness",),
    files=("letters",),
    load=lambda paths, limit: [Question(line, ("x", "y")) for path in paths for line in path.read_text().split("\n")],
    columns=lambda question, reply: {"first": float(reply.choice == 0)},
    metrics={"first": Metric("First", mean("first"), "half")},
    nulls={},
    by="nothing",
    expected="a file letters.txt (https://example.org/letters)",
)


@pytest.fixture(autouse=True)
def _two_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (suites, runner):
        monkeypatch.setattr(module, "SUITES", (FREE, LETTERS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "copy"
    found.mkdir()
    (found / "letters.txt").write_text("\n".join(f"Letter {i}?" for i in range(12)))
    return found


RAW = ScriptedModel({}, "B please do")
ALIGNED = ScriptedModel({"Ask 3": "no"} | {f"Ask {i}": "no" for i in range(8)}, "A if you please, or not")


def run(gathered: Gathered, out: Path, **more: Any) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    arms = {"raw": lambda: RAW, "aligned": lambda: ALIGNED}
    runner.run(gathered, arms, SamplingConfig(), StageFolder(out, "suites", **more))
    found: dict[str, Any] = read_json(out / SUMMARY)
    return found


def test_a_missing_set_is_named_or_an_error_that_says_what_is_expected(folder: Path) -> None:
    assert available((), None) == ["free"]
    assert available((), folder) == ["free", "letters"]
    assert gather((), None, 3).missing == ("letters",)
    with pytest.raises(DataError) as error:
        gather(("letters",), None, 3, strict=True)
    for part in ("Choice set", "letters ...", "https://example.org/letters", "Them 2025", "STEERSMAN_PUBLIC_DATA"):
        assert part in str(error.value)
    assert list(gather(("ours",), folder, 3).questions) == ["free"]
    assert list(gather(("ours", "letters"), folder, 3).questions) == ["free", "letters"]
    with pytest.raises(DataError, match="did you mean letters"):
        gather(("leters",), folder, 3)


def test_arms_differences_and_the_file_of_each_reply(folder: Path, tmp_path: Path) -> None:
    found = run(gather((), folder, None), tmp_path / "out")
    assert found["arms"] == ["raw", "aligned"]
    free, letters = found["suites"]
    polite, words = free["metrics"]
    assert [polite["arms"][arm]["value"] for arm in found["arms"]] == [1.0, pytest.approx(4 / 12)]
    assert polite["changes"]["aligned"]["value"] == pytest.approx(-8 / 12)
    assert polite["nulls"] == {"always please": 1.0}
    assert words["arms"]["raw"]["value"] == 3
    assert letters["by_letter"]
    assert [row["arms"]["aligned"]["value"] for row in letters["metrics"]] == [1.0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "free.raw.jsonl",
        "free.aligned.jsonl",
        "letters.raw.jsonl",
        "letters.aligned.jsonl",
        SUMMARY,
    }
    worst = found["changes"][0]
    assert (worst["metric"], worst["outcome"]) == ("polite", "worse")


def test_the_guard_is_an_arm_of_free_answers(folder: Path, tmp_path: Path) -> None:
    """Of the last model's answers, those that the guard stops are its refusals; choices have no such arm."""
    out = tmp_path / "out"
    out.mkdir()
    asked: list[str] = []

    def instead(prompt: Any, answer: str) -> str | None:
        asked.append(prompt)
        return "I decline, if you please" if answer == "no" else None

    arms = {"raw": lambda: RAW, "aligned": lambda: ALIGNED}
    given = gather((), folder, None)
    runner.run(given, arms, SamplingConfig(), StageFolder(out, "suites"), lambda: instead)
    free, letters = read_json(out / SUMMARY)["suites"]
    assert free["metrics"][0]["arms"]["guarded"]["value"] == 1.0
    assert list(letters["metrics"][0]["arms"]) == ["raw", "aligned"]
    assert sorted(asked) == sorted(question.prompt for question in given.questions["free"])
    rows = [json.loads(line) for line in (out / "free.guarded.jsonl").read_text().splitlines()]
    assert [row["stopped"] for row in rows] == [True] * 8 + [False] * 4


class Killed(BaseException):
    """Where a process would have died."""


@pytest.mark.parametrize("events", range(5))
def test_a_killed_run_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path, events: int) -> None:
    given = gather((), folder, None)
    run(given, tmp_path / "whole")
    left = [events]

    def emit(**_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    with pytest.raises(Killed):
        run(given, tmp_path / "killed", emit=emit)
    run(given, tmp_path / "killed")
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "killed").iterdir()} == names
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_digest_holds_whatever_is_asked_and_counted() -> None:
    question = Question("a", ("x", "y"), {"label": 0}, "c")
    others = [
        Question("b", ("x", "y"), {"label": 0}, "c"),
        Question("a", ("y", "x"), {"label": 0}, "c"),
        Question("a", ("x", "y"), {"label": 1}, "c"),
        Question("a", ("x", "y"), {"label": 0}, "d"),
        Question("a", ("x", "y"), {"label": 0}, "c", plain=True),
    ]
    assert len({digest_of([one]) for one in [question, *others]}) == 6


# ── the suites as they are ───────────────────────────────────────────────────────────────────────────────────────────
def test_every_suite_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, figures whose columns a reply gives, and nulls that are no error."""
    monkeypatch.undo()
    names = [suite.name for suite in suites.SUITES]
    assert len(set(names)) == len(names)
    for suite in suites.SUITES:
        assert all((suite.metrics, suite.paper, suite.about, suite.principles)), suite.name
        assert not suite.files or suite.expected, f"{suite.name}: which files, in which published form?"
        questions = suite.load([], 3) if not suite.files else []
        for question in questions:
            for null in suite.nulls.values():
                assert all(not math.isinf(value) for value in suite.columns(question, null(question, 0)).values())


def test_the_section_says_first_what_got_worse(folder: Path, tmp_path: Path) -> None:
    found = run(gather((), folder, None), tmp_path / "out")
    found["missing"] = runner.described(["letters"])
    console = Console(width=140, file=io.StringIO())
    console.print(terminal.render(blocks(found)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("Worse: Free set: polite (-67 points)") < text.index("Polite")
    assert "always please 100 %" in text
    assert "chose among letters" in text
    assert "no copy of the set was found: Choice set (Them 2025)" in " ".join(text.split())


def test_dropped_questions_are_named_with_their_reason(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arms = {"raw": lambda: ScriptedModel({asked(0): "neither"}, "A")}
    runner.run(gather(("letters",), folder, None), arms, SamplingConfig(), StageFolder(out, "suites"))
    (suite,) = read_json(out / SUMMARY)["suites"]
    assert suite["dropped"] == {"raw": {"the answer names no option": 1}}
    assert suite["metrics"][0]["arms"]["raw"]["n"] == 11
    text = json.dumps([block.model_dump() for block in blocks(read_json(out / SUMMARY))])
    assert "questions left out, raw: 1 (the answer names no option)" in text


def asked(number: int) -> str:
    return f"Letter {number}?\n\n(A) x\n(B) y\n\nAnswer with the letter alone."
