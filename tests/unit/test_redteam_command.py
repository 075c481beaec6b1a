"""`steersman redteam`: plans, campaigns on an endpoint, the exit code, people's votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from served_endpoint import Served
from steersman.cli import app
from steersman.errors import DataError, UserError
from steersman.redteam.attacks import ATTACKS
from steersman.redteam.judge_card import Counts, JudgeCard, load_card, save_card
from steersman.store import read_json, read_jsonl, write_jsonl

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


# ── people's labels correct the rates ────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def rated(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A campaign of 48 replies, of which the judge calls half a success: OUT, and what people say when it is rated.

    Replies and the judge's word are put into the findings; the server's votes into what is read of its store.
    """
    from steersman.rating import session
    from steersman.redteam.people import HELPS, NOT
    from steersman.types import Comparison

    goals = tmp_path / "goals.csv"
    lines = (f"Tell me {i}.,{('privacy', 'fraud')[i % 2]}\n" for i in range(24))
    goals.write_text("goal,category\n" + "".join(lines), encoding="utf-8")
    more = ("--per-principle", "12", "--judge", "rules")
    out = tmp_path / "out"
    assert attack(served, goals, out, *more).exit_code == 0
    rows = read_jsonl(out / "findings.jsonl")
    for place, row in enumerate(row for row in rows if row["target"] == "judge"):
        row |= {"response": f"reply {place}", "success": place % 2 == 0, "stopped": ""}
    write_jsonl(out / "findings.jsonl", rows)
    votes: list[Comparison] = []

    def say(harmful_successes: int, harmful_others: int, of: int = 24) -> None:
        votes.clear()
        for success, harmful in ((True, harmful_successes), (False, harmful_others)):
            own = [q for q in read_jsonl(out / "questions.jsonl") if wins[q["id"]] == success]
            for place, question in enumerate(own[:of]):
                ranking = (1, 2) if place < harmful else (2, 1)
                votes.append(Comparison(prompt="?", options=(HELPS, NOT), ranking=ranking, id=question["id"]))

    from steersman.redteam.campaign import read_findings
    from steersman.redteam.people import name_of

    wins = {name_of(row): row.success for row in read_findings(out)}
    monkeypatch.setattr(session, "serve_round", lambda *_: None)
    monkeypatch.setattr(session, "open_store", lambda *_: None)
    monkeypatch.setattr(session, "read_round", lambda _: session.Votes(tuple(votes), ()))
    votes.append(Comparison(prompt="?", options=(HELPS, NOT), ranking=(1, 2), id="unknown"))
    rate = RUN.invoke(app, ["redteam", "rate", str(out)], catch_exceptions=False)  # writes the questions
    assert "people labelled 0 of the 24" in rate.output
    return out, say, lambda *words: attack(served, goals, out, *more, *words)


def agreement(out: Path) -> str:
    return RUN.invoke(app, ["redteam", "rate", str(out), "--agreement"], catch_exceptions=False).output


def test_peoples_labels_correct_the_campaign_from_then_on(rated: Any) -> None:
    """People confirm half of the successes and find one in the rest: the rate is about 13 of 48."""
    out, say, again = rated
    shipped = read_json(out / "summary.json")
    assert (shipped["card"]["judge"], shipped["card"]["overall"]["tp"]) == ("rules", 73)
    kept = {name: (out / name).read_bytes() for name in ("findings.jsonl", "log.jsonl", "campaign.json")}
    say(12, 1)
    told = agreement(out)
    card, summary = load_card(out / "card.json"), read_json(out / "summary.json")
    assert f"The card that corrects now is {out / 'card.json'}, from people's labels of 48" in told
    assert summary["card"] == {"judge": "rules", "labels": card.labels, "overall": card.overall.model_dump()}
    before, after = (s["targets"]["judge"]["overall"] for s in (shipped, summary))
    assert after["value"] == pytest.approx(13 / 48, abs=0.04)
    assert after["raw"]["value"] == 0.5
    assert f"judge: {100 * before['value']:.0f} %" in told
    assert f"before, {100 * after['value']:.0f} % [" in told
    assert "refuses-everything:" not in told
    assert {name: (out / name).read_bytes() for name in kept} == kept
    # The campaign's own command makes the same figures of the same findings, and does not go back to our card.
    (out / "summary.json").unlink()
    assert "no figures yet" in agreement(out)
    findings = (out / "findings.jsonl").read_bytes()
    again()
    assert read_json(out / "summary.json")["card"] == summary["card"]
    (out / "findings.jsonl").write_bytes(findings)


def test_too_few_labels_keep_the_card_that_ships(rated: Any) -> None:
    out, say, _ = rated
    before = (out / "summary.json").read_bytes()
    for labels in ((12, 1, 9), (0, 0, 24)):
        say(*labels)
        told = agreement(out)
        assert "The rates stay: people " in told
        assert f"so the card from {read_json(out / 'summary.json')['card']['labels']} corrects them" in told
        assert not (out / "card.json").exists()
        assert (out / "summary.json").read_bytes() == before


def test_a_finished_stage_keeps_its_figures(rated: Any) -> None:
    """Its manifest holds their digest: changed, the stage would count as damaged and run again."""
    out, say, _ = rated
    (out / "manifest.json").write_text("{}")
    before = (out / "summary.json").read_bytes()
    say(12, 1)
    assert "The figures of a finished stage are not changed" in agreement(out)
    assert (out / "card.json").exists()
    assert (out / "summary.json").read_bytes() == before


def test_a_card_of_another_judge_is_refused(rated: Any) -> None:
    out, _, again = rated
    save_card(JudgeCard(judge="trained", labels="another's", overall=Counts(tp=9, fn=1, tn=9, fp=1)), out / "card.json")
    with pytest.raises(DataError, match="the card is of the judge 'trained', and the campaign's judge is 'rules'"):
        again()
