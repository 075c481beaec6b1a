"""Votes on statements: the store, the application over HTTP, moderation, the live view and the export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from steersman.cli.rate import analyse
from steersman.data.polis import read_conversation
from steersman.errors import DataError, UserError
from steersman.rating import security
from steersman.rating.accounts import RaterAccounts
from steersman.rating.participants import Participants, SharedLink, Visitor
from steersman.rating.statement_app import StatementApp
from steersman.rating.statement_round import StatementRound, StatementVote
from steersman.rating.statement_session import begin_conversation, export_conversation, first_statements
from steersman.rating.statement_store import StatementStore
from steersman.rating.store import Refused

from .conftest import ADMIN, Browser, numbers

TEXTS = [f"The assistant keeps rule {number}." for number in range(6)]


def cast(assignment: str, vote: int, name: str = "", **more: bool) -> StatementVote:
    """A vote as a browser posts it."""
    submission = name or f"submission-{next(numbers)}"
    return StatementVote.model_validate({"submission": submission, "assignment": assignment, "vote": vote, **more})


@pytest.fixture
def conversation(where: str) -> Iterator[StatementStore]:
    """A conversation of six statements with two participants who have joined."""
    store = StatementStore(where)
    assert store.begin(StatementRound(proposals=2), TEXTS) == 6
    accounts = RaterAccounts(store.database)
    for name in ("Ann", "Bob"):
        accounts.join(accounts.invite(name), "the words")
    yield store
    store.database.engine.dispose()


def test_a_vote_counts_once_and_only_on_what_is_shown(conversation: StatementStore) -> None:
    shown = conversation.next_statement(1, {})
    assert shown is not None
    assert conversation.next_statement(1, {}) == shown  # over a reload
    other = next(s for s in conversation.statements() if s.public != shown.assignment)
    with pytest.raises(Refused, match="Another statement"):
        conversation.vote(1, cast(other.public, 1))
    with pytest.raises(Refused, match="not under discussion"):
        conversation.vote(1, cast("no-such-statement", 1))
    assert conversation.vote(1, cast(shown.assignment, 1, "submission-a"))
    assert not conversation.vote(1, cast(shown.assignment, 1, "submission-a"))  # a retry
    with pytest.raises(Refused, match="another content"):
        conversation.vote(1, cast(shown.assignment, -1, "submission-a"))
    with pytest.raises(Refused, match="already"):
        conversation.vote(1, cast(shown.assignment, -1))
    assert [(b.rater, b.vote) for b in conversation.standing()] == [(1, 1)]
    assert tuple(conversation.progress(1)) == (1, 5)
    assert tuple(conversation.progress(2)) == (0, 6)


def test_votes_are_undone_and_corrected_and_the_record_keeps_them(conversation: StatementStore) -> None:
    seen = []
    while (shown := conversation.next_statement(1, {})) is not None:
        conversation.vote(1, cast(shown.assignment, 1))
        seen.append(shown)
    assert sorted(shown.text for shown in seen) == TEXTS
    assert conversation.undo(1, "submission-undo")
    assert conversation.undo(1, "submission-undo")  # a retry
    assert conversation.next_statement(1, {}) == seen[-1]
    assert len(conversation.standing()) == 5
    conversation.vote(1, cast(seen[-1].assignment, -1))
    conversation.vote(1, cast(seen[0].assignment, 0, corrects=True))
    said = {shown.assignment: (vote, changes) for shown, vote, changes in conversation.voted(1)}
    assert said[seen[-1].assignment] == (-1, 1)
    assert said[seen[0].assignment] == (0, 1)
    assert len(conversation.standing()) == 6
    for _ in range(6):
        assert conversation.undo(1, f"submission-{next(numbers)}")
    assert conversation.standing() == []
    assert not conversation.undo(1, "submission-nothing-left")


def test_a_statement_is_shown_by_its_weight(conversation: StatementStore) -> None:
    """The chosen one of six has 91 % of the weight; what nobody has weighed counts as much as the heaviest."""
    accounts = RaterAccounts(conversation.database)
    for number in range(15):
        accounts.join(accounts.invite(f"rater {number}"), "the words")
    weights = {statement.id: 1.0 for statement in conversation.statements()}
    favourite = conversation.statements()[3]
    weights[favourite.id] = 50.0
    shown = [conversation.next_statement(rater, weights) for rater in range(3, 18)]
    assert sum(one is not None and one.text == favourite.text for one in shown) > 9
    del weights[favourite.id]
    unweighed = conversation.next_statement(2, weights)
    assert unweighed is not None


def test_nobody_sees_a_statement_before_the_moderator_accepts_it(conversation: StatementStore) -> None:
    conversation.propose(1, "The assistant is kind")
    for again in ("The assistant is kind", "the assistant is KIND.", TEXTS[0]):
        with pytest.raises(Refused, match="written before"):
            conversation.propose(2, again)
    conversation.propose(1, "The assistant sings")
    with pytest.raises(Refused, match="more are not taken"):
        conversation.propose(1, "The assistant dances")
    kind, sings = conversation.statements(1)
    assert tuple(conversation.progress(2)) == (0, 6)
    assert conversation.moderate(kind.id, "accepted")
    assert conversation.moderate(sings.id, "rejected")
    assert not conversation.moderate(999, "accepted")
    assert tuple(conversation.progress(2)) == (0, 7)
    while (shown := conversation.next_statement(2, {kind.id: 1e6})) is not None:
        conversation.vote(2, cast(shown.assignment, 1))
    assert len(conversation.standing()) == 7
    conversation.moderate(kind.id, "rejected")  # after all: its votes are read no more
    assert len(conversation.standing()) == 6
    assert len(conversation.ballots().statements) == 6


def test_who_withdraws_leaves_no_votes_and_no_statements(conversation: StatementStore) -> None:
    conversation.propose(1, "The assistant is kind")
    (kind,) = conversation.statements(1)
    conversation.moderate(kind.id, "accepted")
    for rater in (1, 2):
        while (shown := conversation.next_statement(rater, {})) is not None:
            conversation.vote(rater, cast(shown.assignment, 1))
    assert len(conversation.standing()) == 14
    RaterAccounts(conversation.database).withdraw(1)
    ballots = conversation.ballots()
    assert ballots.raters == (2,)
    assert [statement.text for statement in ballots.statements] == TEXTS
    assert np.array_equal(ballots.votes, np.ones((1, 6)))


def test_the_settings_hold_and_new_statements_join(conversation: StatementStore) -> None:
    again = StatementStore(conversation.where)
    assert again.begin(StatementRound(proposals=2), [*TEXTS, "A new one"]) == 1
    with pytest.raises(UserError, match="other settings"):
        again.begin(StatementRound(proposals=3), TEXTS)
    again.database.engine.dispose()


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    file = tmp_path / "statements.txt"
    file.write_text("\n".join(["# how it should behave", *TEXTS, ""]), encoding="utf-8")
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[StatementApp, Callable[[], Browser]]]:
    """The application, and what makes browsers on it."""
    store = begin_conversation(folder / "statements.txt", folder, {"title": "Rules", "min_votes": 3})
    app = StatementApp(store, ADMIN, analyse)
    asgi = app.asgi(("testserver",))
    yield app, lambda: Browser(asgi, follow_redirects=False, raise_server_exceptions=False)
    store.database.engine.dispose()


def say(me: Browser, vote: int, **more: object) -> str:
    """Vote on the statement that is shown; returns the next page."""
    body = {"submission": f"submission-{next(numbers)}", "assignment": me.assignment(), "vote": vote, **more}
    response = me.post("/vote", json=body)
    assert response.status_code == 200, response.text
    return str(response.text)


def test_a_participant_votes_adds_and_reviews(served: tuple[StatementApp, Callable[[], Browser]]) -> None:
    app, browser = served
    me = browser().joins(app.accounts.invite("Ann"))
    assert "0 done · 6 to go" in me.get("/rate").text
    for number in range(6):
        page = say(me, (1, -1, 0)[number % 3])
    assert "That is all for now" in page
    assert me.get("/answers").text.count("You agree.") == 2
    assert "0 done" not in me.post("/undo", json={"submission": "submission-undo"}).text
    assert me.post("/propose", json={"text": "  It is <b>kind</b>\n to people "}).json() == {"next": "propose"}
    shown = me.get("/propose").text
    assert "It is &lt;b&gt;kind&lt;/b&gt; to people" in shown
    assert "waits for the moderator" in shown
    assert me.post("/propose", json={"text": "x" * 401}).status_code == 422
    assert me.post("/propose", json={"text": " "}).status_code == 422
    assert (
        me.post("/vote", json={"submission": "submission-x", "assignment": me.assignment(), "vote": 2}).status_code
        == 422
    )
    boss = browser()
    boss.post("/admin/enter", json={"token": ADMIN})
    assert "It is &lt;b&gt;kind" in boss.get("/admin").text
    waiting = app.store.statements(1)[0].id
    assert boss.post("/admin/moderate", json={"statement": waiting, "decision": "accepted"}).json() == {"next": "admin"}
    assert "accepted: others vote on it" in me.get("/propose").text
    change = me.get("/answers").text.partition('href="change?of=')[2].partition('"')[0]
    assert "data-corrects" in me.get(f"/change?of={change}").text


def test_nothing_is_open_without_a_session_or_from_elsewhere(
    served: tuple[StatementApp, Callable[[], Browser]], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, browser = served
    stranger = browser()
    for path in ("/rate", "/task", "/propose", "/answers", "/admin/live"):
        assert stranger.get(path).status_code == 401, path
    for path in ("/vote", "/undo", "/propose", "/withdraw", "/admin/moderate", "/admin/invite"):
        assert stranger.post(path, json={}).status_code == 401, path
    me = browser().joins(app.accounts.invite("Ann"))
    body = {"submission": "submission-1", "assignment": me.assignment(), "vote": 1}
    assert me.post("/vote", json=body, headers={"origin": "https://evil.example"}).status_code == 403
    assert me.post("/vote", content="vote=1", headers={"content-type": "text/plain"}).status_code == 415
    assert app.store.standing() == []
    monkeypatch.setattr(security, "RATE_PER_S", 0.0)
    monkeypatch.setattr(security, "BURST", 3.0)
    assert [me.get("/task").status_code for _ in range(5)][-2:] == [429, 429]


def test_the_live_view_finds_groups_and_the_export_has_them(
    served: tuple[StatementApp, Callable[[], Browser]], folder: Path
) -> None:
    """Two camps of five: they agree on the first two rules and split on the rest."""
    app, browser = served
    boss = browser()
    boss.post("/admin/enter", json={"token": ADMIN})
    assert "Nobody has voted yet" in boss.get("/admin/live").text
    for number in range(10):
        rater = number + 1
        app.accounts.join(app.accounts.invite(f"rater {number}"), "the words")
        while (shown := app.store.next_statement(rater, app.analyst.weights())) is not None:
            rule = int(shown.text.split()[-1].rstrip("."))
            app.store.vote(rater, cast(shown.assignment, 1 if rule < 2 or (number % 2 == rule % 2) else -1))
    page = boss.get("/admin/live").text
    assert "2 groups: <strong>A</strong> 5, <strong>B</strong> 5" in page
    first, second = page.split("What divides the groups")
    assert first.index("rule 0.") < first.index("rule 2.")
    assert first.count("<td>86 %</td>") == 2 * 3 + 4  # (1 + 5) / (2 + 5): two in both groups and in all, four in one
    assert second.index("rule 5.") < second.index("rule 0.")
    told = export_conversation(folder, None, analyse)
    assert told[-1] == "opinion groups of 5, 5 people"
    found = read_conversation(folder / "votes")
    assert (len(found.participants), len(found.statements)) == (10, 6)
    assert sorted(found.groups) == ["0"] * 5 + ["1"] * 5
    assert {text.text for text in found.statements} == set(TEXTS)


def test_participants_by_the_shared_link_are_listed_for_the_payment(folder: Path) -> None:
    store = begin_conversation(folder / "statements.txt", folder, {})
    shared = Participants(store.database, SharedLink(participants=2))
    assert shared.join(Visitor("p-1"), "the words")
    for vote in (1, 0):
        shown = store.next_statement(1, {})
        assert shown is not None
        store.vote(1, cast(shown.assignment, vote))
    store.undo(1, "submission-undo")
    told = export_conversation(folder, folder / "elsewhere", analyse)
    assert "participants.csv" in told[-2]
    table = (folder / "participants.csv").read_text(encoding="utf-8").splitlines()
    assert table[1].startswith("p-1,,,rater-1,rating,1,0,")
    assert "p-1" not in (folder / "elsewhere" / "participant-votes.csv").read_text(encoding="utf-8")
    store.database.engine.dispose()


def test_what_a_conversation_begins_with(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        first_statements(tmp_path / "none.txt")
    file = tmp_path / "s.txt"
    file.write_text("short\n" + "long " * 100 + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"s\.txt:2: a statement has at most 400 characters, and this one 499"):
        first_statements(file)
    with pytest.raises(UserError, match="no conversation has begun here"):
        export_conversation(tmp_path, None, analyse)
    comments = tmp_path / "comments.csv"
    comments.write_text("comment-id,moderated,comment-body\n1,1,be kind\n2,-1,rubbish\n", encoding="utf-8")
    assert first_statements(comments) == ["be kind"]
