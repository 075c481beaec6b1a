"""Answers under several conditions: the fair few-shot baseline, and a run that is killed goes on to the same file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steersman.evals import answers
from steersman.evals.answers import AnswersConfig, few_shot_preamble
from steersman.evals.conditions import Condition
from steersman.lm import transcript
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import Request, SamplingConfig
from steersman.lm.scripted import ScriptedModel
from steersman.store import StageFolder
from steersman.types import Demonstration, Message, Prompt, plain_text

CONFIG = AnswersConfig(sampling=SamplingConfig(max_new_tokens=6, batch_size=4))
PROMPTS = [Prompt(prompt=f"How do I cook {'rice and ' * (i % 4)}bread {i}?") for i in range(11)]
PROMPTS += [Prompt(prompt=(Message(role="user", content="Hi"), Message(role="user", content="Why?")))]
SHOTS = (
    Message(role="system", content="Be kind."),
    Message(role="user", content="A?"),
    Message(role="assistant", content="B."),
)
CONDITIONS = [Condition("raw", None), Condition("raw_few_shot", SHOTS)]


class Killed(Exception):
    """Stands in for a kill."""


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "RESUMABLE", 5)  # twelve prompts: batches of 5, 5, 2


def run(base: Path, folder: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    folder.mkdir(exist_ok=True)
    out = StageFolder(folder, "raw_answers", lambda **e: events.append(e))
    answers.run(CONFIG, LocalModel.load(base), PROMPTS, CONDITIONS, out)
    return events


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcript, "RESUMABLE", 5)
        events = run(tiny_base, folder)
    assert [file.name for file in folder.iterdir()] == ["answers.jsonl"]
    return (folder / "answers.jsonl").read_bytes(), events


# ── the few-shot prompt ──────────────────────────────────────────────────────────────────────────────────────────────
def row(prompt: Any, completion: str, principle: str, *tags: str) -> Demonstration:
    return Demonstration(prompt=prompt, completion=completion, principles=(principle,) if principle else (), tags=tags)


ROWS = [
    row("A long question about a?", "A long answer.", "a"),
    row("b?", "B.", "b"),
    row("a?", "A.", "a"),
    row("a?", "A, but longer.", "a"),
    row("x", "y", "c", "lang:de"),
    row((Message(role="user", content="x"),), "y", "c"),
    row("c, in plain English?", "C.", "c"),
    row("z", "z", ""),
    row("d?", "D.", "d"),
]


def test_the_preamble_shows_the_shortest_row_of_each_of_the_first_principles() -> None:
    shown = [(m.role, m.content) for m in few_shot_preamble("You are kind.", ROWS, 3)]
    assert shown == [
        ("system", "You are kind."),
        ("user", "a?"),
        ("assistant", "A."),
        ("user", "b?"),
        ("assistant", "B."),
        ("user", "c, in plain English?"),
        ("assistant", "C."),
    ]


def test_a_preamble_with_more_examples_than_principles_shows_all() -> None:
    assert len(few_shot_preamble("P", ROWS, 99)) == 1 + 2 * 4
    assert few_shot_preamble("P", [], 3) == (Message(role="system", content="P"),)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_prompt_is_answered_under_every_condition_in_order(
    whole: tuple[bytes, list[dict[str, Any]]], tiny_base: Path
) -> None:
    rows = [json.loads(line) for line in whole[0].splitlines()]
    assert [(r["condition"], r["index"]) for r in rows] == [(c.name, i) for c in CONDITIONS for i in range(12)]
    assert rows[3]["prompt"] == PROMPTS[3].prompt
    assert rows[11]["prompt"] == [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Why?"}]
    model = LocalModel.load(tiny_base)
    for found in (rows[3], rows[15]):
        preamble = None if found["condition"] == "raw" else SHOTS
        (alone,) = model.answers(Request([PROMPTS[3].prompt], CONFIG.sampling, preamble=preamble))
        assert found["answer"] == alone.text
        assert found["tokens"] == len(alone.token_ids)
        assert found["logprob_nats"] == pytest.approx(sum(alone.logprobs), abs=2e-3)
        assert found["finish_reason"] == alone.finish_reason


def test_totals_are_counted(whole: tuple[bytes, list[dict[str, Any]]]) -> None:
    rows = [json.loads(line) for line in whole[0].splitlines()]
    for event, name in zip(whole[1], ("raw", "raw_few_shot"), strict=True):
        mine = [r for r in rows if r["condition"] == name]
        assert event == {
            "event": "answers",
            "condition": name,
            "answers": 12,
            "tokens": sum(r["tokens"] for r in mine),
            "ended_by_themselves": sum(r["finish_reason"] == "stop" for r in mine),
            "truncated_prompts": 0,
        }


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5])
def test_a_killed_run_goes_on_to_the_same_file(
    stop_after: int,
    tiny_base: Path,
    tmp_path: Path,
    whole: tuple[bytes, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[list[int]] = []

    generate = LocalModel.answers

    def counted(model: LocalModel, request: Request) -> Iterator[Any]:
        calls.append(list(request.numbers))
        if len(calls) == stop_after + 1:
            raise Killed
        return generate(model, request)

    monkeypatch.setattr(LocalModel, "answers", counted)
    with pytest.raises(Killed):
        run(tiny_base, tmp_path)
    run(tiny_base, tmp_path)
    assert len(calls) == 6 + 1  # three batches under two conditions, and the one that was cut short
    assert (tmp_path / "answers.jsonl").read_bytes() == whole[0]
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("kept", [2, 4])
@pytest.mark.parametrize("torn", [b"", b'{"step": "raw", "ind'])
@pytest.mark.slow
def test_a_batch_of_which_only_some_rows_reached_the_disk_is_answered_again(
    kept: int, torn: bytes, tiny_base: Path, tmp_path: Path, whole: tuple[bytes, list[dict[str, Any]]]
) -> None:
    """A full disk, or a kill in the middle of a write, leaves whole lines of half a batch."""
    lines = whole[0].replace(b'"condition"', b'"step"').splitlines(keepends=True)
    first = sorted(range(12), key=lambda i: (len(plain_text(PROMPTS[i].prompt)), i))[:5]
    for order in (first, first[::-1]):  # with and without the batch's first row
        partial = tmp_path / "answers.partial.jsonl"
        partial.write_bytes(b"".join(lines[i] for i in order[:kept]) + torn)
        run(tiny_base, tmp_path)
        assert (tmp_path / "answers.jsonl").read_bytes() == whole[0]


def test_a_script_is_written_down_as_any_model_is(tmp_path: Path) -> None:
    script = ScriptedModel({plain_text(p.prompt): f"Answer {i} of a few words" for i, p in enumerate(PROMPTS)})
    out = StageFolder(tmp_path, "raw_answers", lambda **_: None)
    answers.run(AnswersConfig(sampling=SamplingConfig(max_new_tokens=4)), script, PROMPTS, CONDITIONS[:1], out)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["answer"] for r in rows] == [f"Answer {i} of a" for i in range(12)]
    assert {r["finish_reason"] for r in rows} == {"length"}
