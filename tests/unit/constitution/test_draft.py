"""A constitution drafted from votes loads, keeps its support, and is warned of where a group rejects a principle."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from steersman.cli import app
from steersman.constitution.document import GroupSupport, Support, load
from steersman.constitution.draft import Left, draft
from steersman.constitution.lint import lint
from steersman.data.polis import Ballot, Statement, write_conversation


def support(statement: str, *groups: tuple[int, int, int], consensus: float = 0.8) -> Support:
    """Support by groups A, B, ...: (votes, agree, disagree)."""
    own = tuple(GroupSupport(group="ABC"[i], votes=v, agree=a, disagree=d) for i, (v, a, d) in enumerate(groups))
    return Support(statement=statement, consensus=consensus, groups=own)


def test_a_draft_loads_and_says_why_the_rest_is_out(tmp_path: Path) -> None:
    agreed = [
        support("The AI should not flatter: it says what it thinks, even where that hurts.", (20, 18, 1), (10, 9, 0)),
        support("The AI should not flatter, it says what it thinks.", (20, 17, 1), (10, 8, 0)),
        support("助手应该诚实", (20, 17, 1), (10, 8, 0)),
    ]  # fmt: skip
    left = [Left("The AI\nobeys: always", "group B rejects it (8 of 10 disagree)")]
    made, text = draft("rules", 'Our "rules": one', "We", "30 people voted.", agreed, left)
    file = tmp_path / "rules.yaml"
    file.write_text(text, encoding="utf-8")
    assert load(file) == made
    ids = [principle.id for principle in made.principles]
    assert ids == ["not-flatter-says-what-thinks", "not-flatter-says-what-thinks-2", "principle"]
    first = made.principles[0]
    assert first.support == agreed[0]
    assert first.title == "The AI should not flatter: it says what it thinks, even …"
    assert first.rationale == "People voted for it: 18 of 20 in group A and 9 of 10 in group B agreed."
    assert "#   The AI obeys: always\n#     group B rejects it (8 of 10 disagree)\n" in text


def test_the_check_warns_of_what_a_group_rejects() -> None:
    agreed = [
        support("The AI is brief.", (20, 18, 1), (12, 1, 11)),
        support("The AI is kind.", (20, 18, 1), (12, 5, 7)),  # more against than for, and no clear majority
        support("The AI is honest.", (20, 18, 1), (4, 0, 4)),
    ]
    made, _ = draft("rules", "Rules", "We", "", agreed, [])
    found = {(one.rule, one.severity, one.principle): one.message for one in lint(made) if "group" in one.rule}
    assert found == {
        ("rejected-by-group", "warning", "brief"): "group B rejects brief: 11 of its 12 votes are against",
        ("group-not-heard", "note", "honest"): "4 vote(s) of group B on honest say nothing about that group",
    }
    reworded = made.principles[0].model_copy(update={"statement": "The AI is terse."})
    other = made.model_copy(update={"principles": (reworded, *made.principles[1:])})
    assert [one.principle for one in lint(other) if one.rule == "reworded"] == ["brief"]
    assert not [one for one in lint(made) if one.rule == "reworded"]


def test_support_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="8 agree and 3 disagree, of 10 votes"):
        GroupSupport(group="A", votes=10, agree=8, disagree=3)


def test_a_principle_without_support_has_the_digest_that_it_had() -> None:
    assert "support" not in load("assistant").principles[0].model_dump()


def test_from_votes_to_a_draft(tmp_path: Path) -> None:
    """Two groups of ten: one statement all agree on, one that only the first does, one that nobody saw."""
    statements = [Statement(str(i), text) for i, text in enumerate(["It is honest.", "It obeys.", "It sings."])]
    ballots = [Ballot(f"p{p}", "0", 1) for p in range(20)]
    ballots += [Ballot(f"p{p}", "1", 1 if p < 10 else -1) for p in range(20)]
    groups = {f"p{p}": str(int(p >= 10)) for p in range(20)}
    write_conversation(tmp_path / "votes", "T", statements, ballots, groups)
    file = tmp_path / "what-we-agree-on.yaml"
    run = CliRunner()
    done = run.invoke(app, ["constitution", "draft", str(tmp_path / "votes"), "--to", str(file)])
    assert done.exit_code == 0, done.output
    assert "20 people in 2 opinion group(s) voted on 3 statements. The groups are those of the export." in done.output
    made = load(file)
    assert made.name == "what-we-agree-on"
    (principle,) = made.principles
    assert principle.support is not None
    assert principle.support.consensus == pytest.approx(11 / 12, abs=1e-4)
    text = file.read_text(encoding="utf-8")
    assert "#   It obeys.\n#     group B rejects it (10 of 10 disagree)" in text
    assert "group A has 0 vote(s) on it, fewer than 5" in text
    again = run.invoke(app, ["constitution", "draft", str(tmp_path / "votes"), "--to", str(file)])
    assert again.exit_code != 0  # it replaces no file
    write_conversation(tmp_path / "few", "T", statements, ballots[:4], {})
    none = run.invoke(app, ["constitution", "draft", str(tmp_path / "few"), "--to", str(tmp_path / "few.yaml")])
    assert none.exit_code != 0
    write_conversation(tmp_path / "small", "T", statements, ballots, {**groups, "p19": "2"})
    small = run.invoke(app, ["constitution", "draft", str(tmp_path / "small"), "--to", str(tmp_path / "small.yaml")])
    assert "a group of fewer than 5 people can carry nothing (C has 1)" in str(small.exception)
