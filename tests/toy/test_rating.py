"""From a run to its raters and back: questions, a blind test, votes, export, and a reward model by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from steersman.cli import app as cli
from steersman.data.formats import read
from steersman.errors import UserError
from steersman.feedback.app import RatingApp
from steersman.feedback.store import RatingStore
from steersman.pipeline import align
from steersman.rating import Source, begin, invitations, questions_of
from steersman.recipe import load_recipe
from steersman.store import read_json, write_jsonl
from steersman.types import Comparison, Demonstration

from .conftest import PLAIN

SETTINGS = (
    *PLAIN, "rl=null", "cost_model=null", "dpo=null", "reward_model=null", "examples.limit_demonstrations=48",
    "examples.limit_comparisons=24", "examples.limit_evaluation=12", "sft.epochs=1", "capability.knowledge_items=4",
    "capability.neutral_passages=2", "answers.sampling.max_new_tokens=6",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny random model."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return align(load_recipe("smoke", SETTINGS), folder, until="aligned_answers", echo=lambda _: None).path


def vote(store: RatingStore, count: int, **more: Any) -> None:
    """Somebody who prefers the longer answer, through HTTP."""
    application = RatingApp(store, "x" * 20)
    ((_, token),) = invitations(application.people, ["Ann:staff"])
    client = TestClient(application.asgi(("testserver",)))
    client.post("/join", json={"token": token, "consent": True}).raise_for_status()
    for number in range(count):
        task = store.next_task(1)
        if task is None:
            break
        by_length = sorted(set(map(len, task.answers)), reverse=True)
        ranking = [by_length.index(len(text)) + 1 for text in task.answers]
        body = {"submission": f"submission-{number}", "assignment": task.assignment, "ranking": ranking, **more}
        client.post("/vote", json=body).raise_for_status()
    store.database.engine.dispose()


def test_votes_train_the_reward_model_by_one_command(run: Path) -> None:
    given = {"answers": 3, "prompts": 30, "max_new_tokens": 8, "gold_share": 0, "repeat_share": 0}
    store = begin(run, given)
    vote(store, 30, rationale="longer", edit={"position": 0, "text": "what I would have said"})
    told = CliRunner().invoke(cli, ["rate", "export", str(run)])
    assert told.exit_code == 0, told.output
    rows = read(run / "rating" / "comparisons.jsonl", Comparison)
    assert len(rows) > 10
    assert all(row.rater == "rater-1" and row.group == "staff" and row.source == "human" for row in rows)
    assert all(row.order_shown and row.seconds is not None and row.rationale == "longer" for row in rows)
    edits = read(run / "rating" / "demonstrations.jsonl", Demonstration)
    assert {row.completion for row in edits} == {"what I would have said"}
    told = CliRunner().invoke(cli, ["rate", "train", str(run), "--set", "reward_model.epochs=1"])
    assert told.exit_code == 0, told.output
    after = run.with_name("tiny-votes")
    learnt = read(after / "data" / "comparisons.jsonl", Comparison)
    held_out = read(after / "data" / "held_out_comparisons.jsonl", Comparison)
    assert sum(row.source == "human" for row in [*learnt, *held_out]) == len(rows)
    assert read_json(after / "sft" / "manifest.json")["seconds"] == read_json(run / "sft" / "manifest.json")["seconds"]
    assert read_json(after / "reward_card" / "card.json")["accuracy"]["n"] > 0
    assert "of held-out pairs" in told.output


def test_a_blind_test_puts_both_models_side_by_side(run: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "blind.sqlite")
    store = begin(run, {"compare": ("raw", "aligned")}, place)
    asked = [question for _, question in store.questions()]
    assert asked
    assert all(question.origins == ("raw", "aligned") for question in asked)
    vote(store, 3)
    refused = CliRunner().invoke(cli, ["rate", "train", str(run), "--store", place])
    assert isinstance(refused.exception, UserError)
    assert "evaluation prompts" in str(refused.exception)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"compare": ("raw", "algined")}, "no answers of 'algined'"),
        ({"compare": ("raw", "raw")}, "compared with itself"),
        ({"answers": 1}, "greater than or equal to 2"),
        ({"gold": "nowhere.jsonl"}, "does not exist"),
    ],
)
def test_wrong_settings_are_named(run: Path, tmp_path: Path, given: dict[str, Any], told: str) -> None:
    small = {"prompts": 2, "max_new_tokens": 4}
    with pytest.raises(UserError, match=told):
        begin(run, {**small, **given}, str(tmp_path / "s.sqlite"))


def test_a_file_of_options_makes_a_round(tmp_path: Path) -> None:
    file, gold = tmp_path / "asked.jsonl", tmp_path / "gold.jsonl"
    write_jsonl(file, [
        {"prompt": "p", "options": ["a", "b", "c"]},
        {"prompt": "q", "chosen": "x", "rejected": "y"},
        {"prompt": "g", "options": ["x", "y"], "ranking": [2, 1], "gold": True},
    ])  # fmt: skip
    write_jsonl(gold, [{"prompt": "k", "chosen": "x", "rejected": "y"}])
    found = questions_of(file, Source(gold=str(gold), raters=2), 0)
    assert [(q.prompt, q.gold, q.raters) for q in found] == [
        ("p", None, 2), ("q", None, 2), ("g", (2, 1), 2), ("k", (1, 2), 1),
    ]  # fmt: skip
    store = begin(file, {})
    assert (tmp_path / "asked.rating.sqlite").exists()
    store.database.engine.dispose()
    write_jsonl(gold, [{"prompt": "k", "options": ["x", "y"], "both_bad": True}])
    with pytest.raises(UserError, match="do not say which answer is better"):
        questions_of(file, Source(gold=str(gold)), 0)


def test_a_round_that_has_begun_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    write_jsonl(file, [{"prompt": f"p {i}", "options": ["a", "b"]} for i in range(5)])
    begin(file, {"seed": 3}).database.engine.dispose()
    again = begin(file, {})
    assert again.round.seed == 3
    again.database.engine.dispose()
    with pytest.raises(UserError, match="seed: 3 -> 4"):
        begin(file, {"seed": 4})
