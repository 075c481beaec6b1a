"""`steersman redteam`: plans, campaigns on an endpoint, the exit code, people's votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from served_endpoint import Served
from steersman.cli import app
from steersman.errors import UserError
from steersman.redteam.attacks import ATTACKS
from steersman.store import read_json, read_jsonl

RUN = CliRunner()


@pytest.fixture
def served() -> Any:
    endpoint = Served()
    yield endpoint
    endpoint.close()


@pytest.fixture
def goals(tmp_path: Path) -> Path:
    file = tmp_path / "goals.csv"
    file.write_text("goal,category\nTell me one.,privacy\nTell me two.,fraud\n", encoding="utf-8")
    return file


def attack(served: Served, goals: Path, out: Path, *more: str) -> Any:
    few = ("--attacks", "direct,base64", "--goals", str(goals), "--harmless", "2", "--out", str(out))
    return RUN.invoke(app, ["redteam", served.url, "--model", "judge", *few, *more], catch_exceptions=False)


def test_every_attack_is_listed() -> None:
    listed = RUN.invoke(app, ["redteam", "list"]).output
    assert all(f"  {attack.name}: " in listed for attack in ATTACKS)
    rows = json.loads(RUN.invoke(app, ["redteam", "list", "--json"]).output)
    assert [row["name"] for row in rows] == [attack.name for attack in ATTACKS]


def test_a_plan_asks_nothing(served: Served, goals: Path, tmp_path: Path) -> None:
    done = attack(served, goals, tmp_path / "out", "--plan")
    assert "2 attacks of 2 families x 2 goals of 2 principles x 2 targets x 1 seeds: 8 attempts" in done.output
    rows = json.loads(attack(served, goals, tmp_path / "out", "--plan", "--json").stdout)["targets"]
    assert [(row["target"], row["attempts"], row["asks"]) for row in rows] == [
        ("judge", 4, 6),
        ("refuses-everything", 4, 6),
    ]
    assert served.stats()["requests"] == 0


def test_an_endpoint_is_attacked_once_and_the_exit_code_tells(served: Served, goals: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = attack(served, goals, out, "--json")
    assert done.exit_code == 0, done.output
    summary = read_json(out / "summary.json")
    assert json.loads(done.stdout) == summary
    assert len(read_jsonl(out / "findings.jsonl")) == 8
    assert served.stats()["requests"] == 6
    again = attack(served, goals, out)
    assert served.stats()["requests"] == 6
    assert "Attack success against judge" in again.output
    assert attack(served, goals, out, "--fail-above", "1").exit_code == 0
    summary["targets"]["judge"]["overall"]["value"] = 0.2

    from steersman.cli.redteam import _fail

    with pytest.raises(Exception, match="1"):
        _fail(summary, 0.05)
    _fail(summary, 0.2)
    _fail(summary, None)


def test_int8_weights_of_an_endpoint_are_refused(served: Served, goals: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its weights are elsewhere"):
        attack(served, goals, tmp_path / "out", "--int8")


def test_another_campaign_in_the_folder_is_refused(served: Served, goals: Path, tmp_path: Path) -> None:
    attack(served, goals, tmp_path / "out")
    with pytest.raises(UserError, match="another campaign is in this folder; it differs in config"):
        attack(served, goals, tmp_path / "out", "--seed", "5")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["http://127.0.0.1:9/v1"], "the endpoint's model is not named"),
        (["http://127.0.0.1:9/v1", "--model", "m", "--attacks", "base65"], "base65"),
        (
            ["http://127.0.0.1:9/v1", "--model", "m", "--attacker", "http://127.0.0.1:9/v1"],
            "attacker's model is not named",
        ),
        (["http://127.0.0.1:9/v1", "--model", "m", "--goals", "none.csv"], "no such file"),
        (["nowhere"], "no run here"),
        (["rate", "nowhere"], "no finished campaign is here"),
    ],
)
def test_mistakes_are_explained(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        RUN.invoke(app, ["redteam", *words], catch_exceptions=False)


def test_people_judge_findings_in_the_rating_application(
    served: Served, goals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is left out: a vote is put into its store as the page would."""
    from steersman.rating import session
    from steersman.rating.accounts import RaterAccounts
    from steersman.redteam.people import HELPS

    out = tmp_path / "out"
    attack(served, goals, out)

    def vote(where: Path, source: Any, settings: Any, *_: Any) -> None:
        opened = session.begin(where, source, settings, lambda run: pytest.fail("nothing is sampled"))
        assert all(HELPS in question.options for _, question in opened.questions())
        RaterAccounts(opened.database).invite("me", "")

    monkeypatch.setattr(session, "serve_round", vote)
    with pytest.raises(UserError, match="nobody has voted yet"):
        RUN.invoke(app, ["redteam", "rate", str(out)], catch_exceptions=False)
    assert len(read_jsonl(out / "questions.jsonl")) == 4  # two attacks on two goals; the null is asked nothing
