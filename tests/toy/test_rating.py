"""From a run to its raters and back: questions, a blind test, votes, export, and a reward model by one command."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from steersman import pipeline
from steersman.cli import app as cli
from steersman.cli.rate import load_policy, train
from steersman.data import toy_world as world
from steersman.data.formats import read
from steersman.errors import UserError
from steersman.http_server import Address
from steersman.pipeline import align
from steersman.rating.accounts import RaterAccounts
from steersman.rating.app import RatingApp
from steersman.rating.round import Round, Submission
from steersman.rating.session import (
    Source,
    begin,
    export,
    given,
    invitations,
    make_questions,
    parse_settings,
    serve_round,
)
from steersman.rating.store import RatingStore
from steersman.recipe import load_recipe
from steersman.store import Run, read_json, read_jsonl, write_jsonl
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


def opened(where: Path, store: str | None = None, source: Source | None = None, **settings: Any) -> RatingStore:
    """A round with these settings, begun or continued."""
    return begin(where, source or Source(), given(Round, **settings), load_policy, store)


def vote(store: RatingStore, count: int, **more: Any) -> None:
    """Somebody who prefers the longer answer, through HTTP."""
    application = RatingApp(store, "x" * 20)
    ((_, token),) = invitations(application.accounts, ["Ann:staff"])
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


@pytest.mark.slow
def test_votes_train_the_reward_model_by_one_command(run: Path) -> None:
    store = opened(run, source=Source(answers=3, prompts=30, max_new_tokens=8), gold_share=0, repeat_share=0)
    vote(store, 30, rationale="longer", edit={"position": 0, "text": "what I would have said"})
    weighed = run / "rating" / "comparisons.jsonl"
    raw = run / "rating" / "votes.jsonl"
    for more in ([], ["--to", "votes", "--out", str(raw)]):
        told = CliRunner().invoke(cli, ["rate", "export", str(run), *more])
        assert told.exit_code == 0, told.output
    rows = read(raw, Comparison)
    assert len(read(weighed, Comparison)) == len(rows) > 10
    assert all(row.rater == "rater-1" and row.group == "staff" and row.source == "human" for row in rows)
    assert all(row.order_shown and row.seconds is not None and row.rationale == "longer" for row in rows)
    assert all(not row.rater and row.author == "1 raters" for row in read(weighed, Comparison))
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


@pytest.mark.slow
def test_a_blind_test_puts_both_models_side_by_side(run: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "blind.sqlite")
    store = opened(run, place, Source(compare=("raw", "aligned")))
    asked = [question for _, question in store.questions()]
    assert asked
    assert all(question.origins == ("raw", "aligned") for question in asked)
    vote(store, 3)
    assert {one.arm for one in store.votes()} <= {"random", "repeat"}  # what tells most is no fair sample
    told = CliRunner().invoke(cli, ["rate", "export", str(run), "--store", place, "--out", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    found = read_json(run / "rating" / "blind-test-raw-aligned.json")
    longer = [len(one.question.options[0]) - len(one.question.options[1]) for one in store.votes()]
    assert [found[name] for name in ("wins", "ties", "losses")] == [
        sum(x > 0 for x in longer), longer.count(0), sum(x < 0 for x in longer)
    ]  # fmt: skip
    assert f"raw wins against aligned: {100 * found['win_rate']['value']:.0f} % [" in told.output
    assert f"{found['votes_needed']['for_margin']} for +-5 points" in told.output
    manifest = read_json(run / "raw_answers" / "manifest.json")
    assert found["inputs"]["raw_answers/answers.jsonl"] == manifest["outputs"]["answers.jsonl"]
    refused = CliRunner().invoke(cli, ["rate", "train", str(run), "--store", place])
    assert isinstance(refused.exception, UserError)
    assert "evaluation prompts" in str(refused.exception)


@pytest.mark.slow
def test_a_blind_test_of_answers_that_are_gone_is_refused(run: Path, tmp_path: Path) -> None:
    again, place = tmp_path / "again", str(tmp_path / "blind.sqlite")
    shutil.copytree(run, again)
    store = opened(again, place, Source(compare=("raw", "aligned")))
    vote(store, 3)
    file = again / "aligned_answers" / "answers.jsonl"
    write_jsonl(file, [{**row, "answer": row["answer"] + " now"} for row in read_jsonl(file)])
    with pytest.raises(UserError, match="no longer holds"):
        export(again, tmp_path / "out", place)


@pytest.mark.slow
def test_votes_of_another_tool_train_the_reward_model(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """As weighed rows, or as they are where the reward model fits the raters itself."""
    file = tmp_path / "theirs.jsonl"
    said = {"prompt": "p", "chosen": "x", "rejected": "y", "weight": 1.0}
    write_jsonl(file, [{**said, "rater": name} for name in ("a", "b", "c")])
    monkeypatch.setattr(pipeline, "align", lambda recipe, out, until: Run(out))
    for count, settings in ((1, []), (3, ["reward_model.rater_reliability=true"])):
        done = train(run, settings, tmp_path / f"out-{count}", votes=file)
        rows = read(done.path / "comparisons.jsonl", Comparison)
        assert len(rows) == count
        assert rows[0].weight == pytest.approx(3 / count, abs=0.3)
        assert load_recipe(done.path / "recipe.yaml").votes == str(done.path / "comparisons.jsonl")
    refused = CliRunner().invoke(cli, ["rate", "train", str(run), "--votes", str(tmp_path / "no.jsonl")])
    assert "does not exist" in str(refused.exception)


@pytest.mark.slow
def test_a_round_of_simulated_raters(tmp_path: Path) -> None:
    """Liars and honest raters over a file: informed questions beside random ones, weights, soft labels, forms."""
    pool, generator = world.pool(4, prompts=world.PROMPTS[::8]), random.Random(1)
    file = tmp_path / "asked.jsonl"
    write_jsonl(file, [{"prompt": q.prompt, "options": list(q.options)} for q in pool])
    store = opened(file, source=Source(raters=5), gold_share=0, repeat_share=0, random_share=0.4)
    people = world.population(5, world.ToyRater(name="r"), liars=0.2)
    tokens = [RaterAccounts(store.database).invite(rater.name) for rater in people]
    for token in tokens:
        RaterAccounts(store.database).join(token, "the words")
    for turn in range(len(pool) * len(people)):
        number = 1 + turn % len(people)
        task = store.next_task(number)
        assert task is not None
        asked = world.ToyQuestion(prompt=task.prompt, options=task.answers)
        ranking = world.vote(people[number - 1], asked, generator).comparison().ranks()
        body = {"submission": f"submission-{turn}", "assignment": task.assignment, "ranking": ranking}
        store.submit(number, Submission.model_validate(body))
    chosen = Counter(vote.arm for vote in store.votes())
    # Each scoring names a question once; a rater who has answered all of them gets one at random.
    assert min(chosen["informed"], chosen["random"]) > 10
    told = CliRunner().invoke(cli, ["rate", "export", str(file)])
    assert told.exit_code == 0, told.output
    about = read_json(tmp_path / "asked.rating" / "raters.json")
    gain = about["gain"]
    assert f"informed questions: {100 * gain['difference']['value']:+.1f} points [" in told.output
    assert (
        gain["difference"]["low"] <= gain["informed"]["value"] - gain["random"]["value"] <= gain["difference"]["high"]
    )
    assert f"alpha {about['alpha']['value']:.2f} [" in told.output
    liar = [f"rater-{n}" for n, rater in enumerate(people, start=1) if rater.kind == "liar"]
    assert [name for name, one in about["raters"].items() if one["reliability"] < 0] == liar
    rows = read(tmp_path / "asked.rating" / "comparisons.jsonl", Comparison)
    assert len(rows) == len(pool)
    assert all(row.soft_label is not None and 2 < row.weight <= 5 for row in rows)
    for form, count in (("votes", len(pool) * 5), ("ranked", len(pool)), ("trl", 1), ("demonstrations", 1)):
        out = tmp_path / f"{form}-form.jsonl"
        told = CliRunner().invoke(cli, ["rate", "export", str(file), "--to", form, "--out", str(out)])
        assert told.exit_code == 0, told.output
        written = read_jsonl(out)
        assert len(written) >= count
        assert ("chosen" in written[0]) == (form == "trl")
        assert ("rater" in written[0]) == (form == "votes")
    nowhere = CliRunner().invoke(cli, ["rate", "export", str(file), "--to", "trl"])
    assert "--out" in str(nowhere.exception)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"compare": ("raw", "algined")}, "no answers of 'algined'"),
        ({"compare": ("raw", "raw")}, "compared with itself"),
        ({"answers": 1}, "greater than or equal to 2"),
        ({"gold": "nowhere.jsonl"}, "does not exist"),
    ],
)
def test_wrong_settings_are_named(run: Path, tmp_path: Path, source: dict[str, Any], told: str) -> None:
    small = {"prompts": 2, "max_new_tokens": 4}
    with pytest.raises(UserError, match=told):
        opened(run, str(tmp_path / "s.sqlite"), given(Source, **{**small, **source}))


def test_a_file_of_options_makes_a_round(tmp_path: Path) -> None:
    file, gold = tmp_path / "asked.jsonl", tmp_path / "gold.jsonl"
    write_jsonl(file, [
        {"prompt": "p", "options": ["a", "b", "c"]},
        {"prompt": "q", "chosen": "x", "rejected": "y"},
        {"prompt": "g", "options": ["x", "y"], "ranking": [2, 1], "gold": True},
    ])  # fmt: skip
    write_jsonl(gold, [{"prompt": "k", "chosen": "x", "rejected": "y"}])
    found = make_questions(file, Source(gold=str(gold), raters=2), 0, load_policy)
    assert [(q.prompt, q.gold, q.raters) for q in found] == [
        ("p", None, 2), ("q", None, 2), ("g", (2, 1), 2), ("k", (1, 2), 1),
    ]  # fmt: skip
    store = opened(file)
    assert (tmp_path / "asked.rating.sqlite").exists()
    store.database.engine.dispose()
    write_jsonl(gold, [{"prompt": "k", "options": ["x", "y"], "both_bad": True}])
    with pytest.raises(UserError, match="do not say which answer is better"):
        make_questions(file, Source(gold=str(gold)), 0, load_policy)


def test_an_export_replaces_no_file_of_the_user_or_of_another_round(tmp_path: Path) -> None:
    file, other = tmp_path / "comparisons.jsonl", str(tmp_path / "other.sqlite")
    write_jsonl(file, [{"prompt": f"p {i}", "chosen": "a", "rejected": "b b"} for i in range(3)])
    given = file.read_bytes()
    for store in (None, other):
        vote(opened(file, store), 3)
    export(file)
    assert file.read_bytes() == given
    mine = {path: path.read_bytes() for path in (tmp_path / "comparisons.rating").iterdir()}
    assert {path.name for path in mine} == {"comparisons.jsonl", "demonstrations.jsonl", "raters.json"}
    with pytest.raises(UserError, match="name it with --out"):
        export(file, store=other)
    with pytest.raises(UserError, match="replace the file that the questions come from"):
        export(file, tmp_path)
    assert {path: path.read_bytes() for path in mine} == mine
    assert file.read_bytes() == given
    assert any("comparisons.jsonl" in line for line in export(file, tmp_path / "out", other))
    export(file, store=str(tmp_path / "comparisons.rating.sqlite"))  # the file's own, by name


def test_nobody_is_invited_with_a_name_that_another_has(tmp_path: Path) -> None:
    """Or the links of those before would be made, never printed, and passed over at the next start."""
    file = tmp_path / "asked.jsonl"
    write_jsonl(file, [{"prompt": "p", "options": ["a", "b"]}])
    store = opened(file)
    people = RaterAccounts(store.database)
    for names, told in (
        (["Ann", "Bob:staff", " Ann :clients"], "'Ann' is named twice"),
        (["Ann", " :staff"], "a name of 0 characters"),
        (["Ann", "B" * 101], "a name of 101 characters"),
        (["Ann", "Bob:" + "g" * 101], "a group of 101"),
    ):
        with pytest.raises(UserError, match=told):
            invitations(people, names)
        assert people.all() == []
        with pytest.raises(UserError, match=told):
            serve_round(tmp_path / "not read before", Source(), Round(), names, Address(), load_policy)
    assert [name for name, _ in invitations(people, ["Ann", "Bob:staff"])] == ["Ann", "Bob"]
    assert [(rater.name, rater.group) for rater in people.all()] == [("Ann", ""), ("Bob", "staff")]
    store.database.engine.dispose()


def test_settings_of_a_round_are_given_as_words(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    write_jsonl(file, [{"prompt": "p", "options": ["a", "b"]}])
    words = ["title=Which: a or b?", "gold_share=0.25", "consent=Yes"]
    store = opened(file, **parse_settings(words))
    assert (store.round.title, store.round.gold_share, store.round.consent) == ("Which: a or b?", 0.25, "Yes")
    store.database.engine.dispose()
    for word, told in {
        "gold_shre=1": "did you mean gold_share",
        "principles={}": "no setting 'principles'",
        "title": "not of the form key=value",
    }.items():
        with pytest.raises(UserError, match=told):
            parse_settings([word])
    with pytest.raises(UserError, match="gold_share"):
        opened(file, str(tmp_path / "other.sqlite"), **parse_settings(["gold_share=half"]))


def test_a_round_that_has_begun_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    write_jsonl(file, [{"prompt": f"p {i}", "options": ["a", "b"]} for i in range(5)])
    opened(file, seed=3).database.engine.dispose()
    again = opened(file)
    assert again.round.seed == 3
    again.database.engine.dispose()
    with pytest.raises(UserError, match="seed: 3 -> 4"):
        opened(file, seed=4)
