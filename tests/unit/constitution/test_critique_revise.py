"""Critiques and revisions by a scripted model: what it is asked, what is kept, what is dropped and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.constitution.conftest import ToldJudge

from steersman.constitution import critique_revise
from steersman.constitution.critique_revise import (
    RevisionsConfig,
    critique_examples,
    critique_message,
    draw_principles,
    faults,
)
from steersman.constitution.document import Constitution
from steersman.constitution.judges import Judge
from steersman.errors import DataError
from steersman.lm.endpoint.client import RemoteModel
from steersman.lm.sampling import Completion, Request
from steersman.lm.scripted import ScriptedModel
from steersman.stages import inputs
from steersman.stages import judge as stages
from steersman.store import StageFolder
from steersman.types import Message, Prompt, Text, messages_of, plain_text

PROMPTS = [
    Prompt(prompt=f"q{i}", principles=("apples",) if i % 2 else ("pears", "apples"), tags=("t",)) for i in range(8)
]


class Reviser:
    """Answers "draft", criticises as "it is CRITIQUE", and revises to the texts of its list, by the prompt's number."""

    def __init__(self, *revisions: str) -> None:
        self.revisions, self.calls = revisions, 0
        self.asked: list[tuple[Text, Text | None, int]] = []

    def answers(self, request: Request) -> Iterator[Completion]:
        self.calls += 1
        for index, prompt in zip(request.numbers, request.prompts, strict=True):
            self.asked.append((prompt, request.preamble, request.config.seed))
            last = messages_of(prompt)[-1].content
            said = "draft"
            if last.startswith("Write it again"):
                said = self.revisions[index % len(self.revisions)]
            elif "Where does it break" in last:
                said = "it is CRITIQUE"
            yield from ScriptedModel({}, otherwise=said).answers(Request(["?"], request.config, indices=[index]))

    def choose(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a reviser is not asked to choose")


def run(
    folder: Path, constitution: Constitution, reviser: Reviser, judge: Judge | None = None, **settings: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """The revisions, the demonstrations and the events."""
    events: list[dict[str, Any]] = []
    out = StageFolder(folder, "revisions", lambda **event: events.append(event))
    config = RevisionsConfig(**settings)
    written = critique_revise.write(config, reviser, reviser, ("p", "r"), PROMPTS, constitution, out)
    critique_revise.choose(config, written, PROMPTS, constitution, judge, out)
    read = [
        [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("revisions.jsonl", "demonstrations.jsonl")
    ]
    return read[0], read[1], events


def test_every_row_keeps_its_whole_history(constitution: Constitution, tmp_path: Path) -> None:
    reviser = Reviser("A better text.")
    rows, demonstrations, events = run(tmp_path, constitution, reviser, rounds=2, seed=5, drop=[])
    assert [row["prompt"] for row in rows] == [f"q{i}" for i in range(8)]
    for row in rows:
        assert (row["answer"], row["answerer"], row["reviser"], row["tags"]) == ("draft", "p", "r", ["t"])
        assert [(r["critique"], r["revision"], r["ended"], r["seed"]) for r in row["rounds"]] == [
            ("it is CRITIQUE", "A better text.", True, 6),
            ("it is CRITIQUE", "A better text.", True, 8),
        ]
        assert {r["principle"] for r in row["rounds"]} <= set(row["principles"])
    assert [row["completion"] for row in demonstrations] == ["A better text."] * 8
    assert {(row["source"], row["author"]) for row in demonstrations} == {("revision", "model")}
    assert events == [{"event": "revisions", "rows": 8, "kept": 8, "dropped": {}}]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["demonstrations.jsonl", "revisions.jsonl"]


def test_the_reviser_reads_the_examples_then_the_answer_then_its_own_critique(
    constitution: Constitution, tmp_path: Path
) -> None:
    reviser = Reviser("Better.")
    run(tmp_path, constitution, reviser, rounds=1)
    apples = constitution.principles[0]
    told = [
        (messages_of(prompt), preamble)
        for prompt, preamble, _ in reviser.asked
        if preamble == critique_examples(apples)
    ]
    request = critique_message("q1", "draft", apples)
    assert ((request,), critique_examples(apples)) in told
    critique = Message(role="assistant", content="it is CRITIQUE")
    again = Message(role="user", content="Write it again and keep apples.")
    assert ((request, critique, again), critique_examples(apples)) in told
    shown = critique_examples(apples)
    assert [m.content for m in shown[:4]] == [
        "JudgeQuestion: Ask apples 1?\nAnswer: Bad apples 1.\n\nWhere does it break apples?",
        "It is bad.",
        "Write it again and keep apples.",
        "Good apples 1.",
    ]
    # The answers have no examples before them; answer, critique and revision have different seeds.
    assert {seed for _, preamble, seed in reviser.asked if preamble is None} == {0}
    assert {seed for _, preamble, seed in reviser.asked if preamble is not None} == {1, 2}


def test_principles_are_drawn_by_the_prompts_number_from_its_own_or_from_all(constitution: Constitution) -> None:
    own, every = RevisionsConfig(rounds=40), RevisionsConfig(rounds=40, principles="any")
    only = Prompt(prompt="q", principles=("pears", "unknown"))
    assert {p.id for p in draw_principles(own, constitution, only, 0)} == {"pears"}
    assert {p.id for p in draw_principles(every, constitution, only, 0)} == {"pears", "apples"}
    assert draw_principles(every, constitution, only, 0) == draw_principles(every, constitution, only, 0)
    assert draw_principles(every, constitution, only, 0) != draw_principles(every, constitution, only, 1)
    with pytest.raises(DataError, match="about none of the constitution's principles: 'q'") as wrong:
        draw_principles(own, constitution, Prompt(prompt="q", principles=("unknown",)), 0)
    assert "apples, pears" in wrong.value.expected


@pytest.mark.parametrize(
    ("revision", "ended", "found"),
    [
        (" \n", True, ["empty"]),
        ("Here is the revised answer: apples.", True, ["meta comment"]),
        ("Sure! Here's a better version. Apples.", True, ["meta comment"]),
        ("RevisedAnswer answer: apples.", True, ["meta comment"]),
        ("The previous answer named no apples.", True, ["meta comment"]),
        ("CritiqueRequest: where?", True, ["meta comment"]),
        ("Here are the opening hours: nine to five.", True, []),
        ("My answer is that nobody knows.", True, []),
        ("Apples are red and", False, ["cut off"]),
        ("THE first   answer.", True, ["copy"]),
        ("Good apples 1.", True, ["example"]),
        ("A new text.", True, []),
    ],
)
def test_what_nobody_should_learn_from(
    revision: str, ended: bool, found: list[str], constitution: Constitution
) -> None:
    assert list(faults(revision, ended, "The first answer.", constitution.principles[0]))[:1] == found


def test_dropped_rows_are_counted_by_reason(constitution: Constitution, tmp_path: Path) -> None:
    reviser = Reviser("", "draft", "Here is the revised text: x.", "A new text, whose judge likes it.")
    judge = ToldJudge(lambda q: 0.9 if q.prompt != "q3" else 0.4)
    rows, demonstrations, events = run(tmp_path, constitution, reviser, judge)
    first = ["empty", "copy", "meta comment"]
    assert [row["dropped"] for row in rows] == [*first, "not better by the judge", *first, ""]
    assert [plain_text(row["prompt"]) for row in demonstrations] == ["q7"]
    assert events[-1]["kept"] == 1
    assert events[-1]["dropped"] == {"empty": 2, "copy": 2, "meta comment": 2, "not better by the judge": 1}
    # Only what has no fault is shown to the judge: the revision first, the answer second.
    assert [(q.prompt, q.first, q.second) for q in judge.asked] == [
        ("q3", "A new text, whose judge likes it.", "draft"),
        ("q7", "A new text, whose judge likes it.", "draft"),
    ]


def test_the_last_or_the_best_revision_is_learnt(constitution: Constitution, tmp_path: Path) -> None:
    class Twice(Reviser):
        def answers(self, request: Request) -> Iterator[Completion]:
            self.revisions = ("First try.",) if request.config.seed <= 2 else ("Second try.",)
            yield from super().answers(request)

    judge = ToldJudge(lambda q: 0.8 if q.first == "First try." else 0.6)
    for keep, wanted in (("best", "First try."), ("last", "Second try.")):
        folder = tmp_path / keep
        folder.mkdir()
        _, demonstrations, _ = run(folder, constitution, Twice(), judge, rounds=2, keep=keep)
        assert {row["completion"] for row in demonstrations} == {wanted}


def test_a_stronger_model_may_revise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The policy answers, and the endpoint criticises and revises."""
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "large"}
    with pytest.raises(ValidationError, match="go together"):
        RevisionsConfig(reviser="remote")
    config = RevisionsConfig.model_validate({"reviser": "remote", "remote": endpoint})
    asked: list[Any] = []
    monkeypatch.setattr(stages.LocalModel, "load_fast", lambda *_: "policy")
    monkeypatch.setattr(stages.critique_revise, "write", lambda *given: asked.extend(given) or [])
    monkeypatch.setattr(stages, "folder_digest", lambda _: "d")
    given: Any = {inputs.BASE: tmp_path, inputs.SFT: tmp_path, inputs.TRAIN: [], inputs.REVISED: None}
    stages._write_revisions(config, [], given, StageFolder(tmp_path, "revisions", lambda **_: None))
    _, policy, reviser, digests, *_ = asked
    assert (policy, digests) == ("policy", ("d", "large"))
    assert isinstance(reviser, RemoteModel)


def test_rounds_that_agree_are_no_copies_of_the_answer(constitution: Constitution, tmp_path: Path) -> None:
    """The reviser finds nothing more to mend after the first round: that is what should be learnt."""
    rows, _, events = run(tmp_path, constitution, Reviser("A good text."), rounds=3, keep="last")
    assert {row["kept"] for row in rows} == {"A good text."}
    assert events[-1]["dropped"] == {}


def test_what_the_judge_did_not_answer_is_said_so(constitution: Constitution, tmp_path: Path) -> None:
    judge = ToldJudge(lambda q: None if q.prompt == "q3" else 0.9)
    rows, _, _ = run(tmp_path, constitution, Reviser("A good text."), judge)
    assert [row["dropped"] for row in rows] == ["unanswered" if i == 3 else "" for i in range(8)]


def test_a_killed_run_goes_on_and_asks_nothing_twice(constitution: Constitution, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Dies(Reviser):
        def answers(self, request: Request) -> Iterator[Completion]:
            if self.calls == 3:
                raise Killed
            yield from super().answers(request)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    undisturbed = Reviser("A text.")
    run(whole, constitution, undisturbed)
    with pytest.raises(Killed):
        run(broken, constitution, Dies("A text."))
    rest = Reviser("A text.")
    run(broken, constitution, rest)
    assert rest.calls == undisturbed.calls - 3
    for name in ("revisions.jsonl", "demonstrations.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_if_nothing_is_worth_learning_the_stage_says_why(constitution: Constitution, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 8 revisions is usable: 8 copy"):
        run(tmp_path, constitution, Reviser("draft"))
