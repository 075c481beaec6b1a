"""The administrator's page over HTTP: the figures, questions to raters, and bad forms."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from steersman.rating.agreement import alpha, preferences
from steersman.rating.app import RatingApp
from steersman.rating.store import RatingStore
from steersman.rating.votes import comparisons

from .conftest import ADMIN, JSON, PLAIN, Browser, Open, questions, said


def test_the_administrator_sees_alpha_and_who_says_the_opposite(tmp_path: Path) -> None:
    store = RatingStore(tmp_path / "three.sqlite")
    store.begin(PLAIN, questions(20, raters=3))
    app = RatingApp(store, ADMIN)
    for rater, wrong in ((1, 1), (2, 2), (3, 18)):
        app.accounts.join(app.accounts.invite(f"rater {rater}"), "the words")
        for number in range(20):
            task = store.next_task(rater)
            assert task is not None
            best = task.answers[0].startswith("best") != (number < wrong)
            store.submit(rater, said(task, *((1, 2) if best else (2, 1))))
    boss = Browser(app.asgi(("testserver",)))
    boss.post("/admin/enter", json={"token": ADMIN})
    page = boss.get("/admin").text
    found = alpha(preferences(comparisons(store.votes()))).alpha
    assert f"0 for chance: {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]." in page
    assert re.search(r"n=\d+\.\s+Krippendorff", page)  # between them stood no space
    reliabilities = re.findall(r"<td( class=.warn.)?>(-?\d\.\d\d) ± \d\.\d\d</td>", page)
    assert [float(value) > 0 for _, value in reliabilities] == [True, True, False]
    assert [bool(marked) for marked, _ in reliabilities] == [False, False, True]
    store.database.engine.dispose()


def test_the_administrator_sees_figures_and_asks(app: RatingApp, browser: Open) -> None:
    boss = browser()
    assert boss.post("/admin/enter", json={"token": "wrong"}).status_code == 403
    assert boss.post("/admin/enter", json={"token": ADMIN}).json() == {"next": "admin"}
    token = boss.post("/admin/invite", json={"name": "Ann", "group": "staff"}).json()["token"]
    assert "already" in boss.post("/admin/invite", json={"name": "Ann"}).json()["error"]
    me = browser().joins(token)
    for _ in range(4):
        me.votes(1, 2)
    page = boss.get("/admin").text
    assert "100 % <small>[51, 100], n=4</small>" in page  # the first shown always won
    assert "staff" in page
    (reliability,) = re.findall(r"<td[^>]*>([-+]?\d\.\d\d) ± \d\.\d\d</td>", page)
    assert float(reliability) > 0
    ((share, low, high),) = re.findall(r">(\d+) % <small>\[(\d+), (\d+)\]</small>", page)  # the first of two equals
    assert 50 < int(share) < int(high)
    assert int(low) < int(share)
    assert "Informed questions: their gain is not known yet." in page
    item = app.store.votes()[0].item
    assert boss.post("/admin/ask", json={"item": item, "text": "Why?"}).json() == {"told": "Asked of 1 rater."}
    assert "1 question about your answers" in me.get("/task").text
    assert "Why?" in me.get("/questions").text
    assert me.post("/reply", json={"query": 1, "text": "Because."}).json() == {"next": "rate"}
    assert "Because." in boss.get("/admin").text
    for bad in (
        {"item": "x", "text": "?"},
        {"item": 99999, "text": "?"},
        {"item": item, "text": " "},
        {"item": item, "text": "x" * 2001},
    ):
        assert boss.post("/admin/ask", json=bad).status_code == 422
    assert boss.post("/admin/revoke", json={"rater": 1}).json() == {"next": "admin"}
    assert me.get("/task").status_code == 401
    assert "token" in boss.post("/admin/again", json={"rater": 1}).json()
    assert boss.post("/admin/again", json={"rater": 77}).status_code == 422


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/admin/invite", {}),
        ("/admin/invite", {"name": ["Ann"]}),
        ("/admin/invite", {"name": "Ann", "admin": True}),
        ("/admin/revoke", {"rater": 10**400}),
        ("/admin/again", {"rater": -1}),
        ("/admin/ask", {"item": 1.5, "text": "?"}),
    ],
)
def test_a_bad_form_of_the_administrator_is_refused(browser: Open, path: str, body: dict[str, object]) -> None:
    boss = browser()
    assert boss.post("/admin/enter", json={"token": ADMIN}).status_code == 200
    refused = boss.post(path, content=json.dumps(body), headers=JSON)
    assert refused.status_code == 422, refused.text
    assert refused.json()["error"]


def test_the_pages_have_no_jargon_and_no_space_is_missing(app: RatingApp, browser: Open) -> None:
    """Read as text: a sentence's end, then a letter, is two template lines that grew together."""
    boss = browser()
    boss.post("/admin/enter", json={"token": ADMIN})
    me = browser().joins(boss.post("/admin/invite", json={"name": "Ann"}).json()["token"])
    me.votes(1, 2)
    boss.post("/admin/ask", json={"item": app.store.votes()[0].item, "text": "Why?"})
    for who, path in (
        (boss, "/admin"),
        (me, "/rate"),
        (me, "/questions"),
        (me, "/join"),
        (me, "/"),
        (browser(), "/admin"),
    ):
        page = re.sub(r"<(script|textarea)[^>]*>.*?</\1>", "", who.get(path).text, flags=re.DOTALL)
        text = re.sub(
            r"</?(p|td|th|tr|h\d|li|label|div|button|section|title|summary|header|table|main)\b[^>]*>", "\n", page
        )
        text = re.sub(r"<[^>]*>", "", text)
        assert not re.search(r"[a-z%\])][.:;,!?][A-Z][a-z]", text), (path, text)
        jargon = r"[Ll]ogits?|Bradley|significan|sigmoid|posterior|entrop|undefined|None\b|nan\b|\bprior\b"
        assert not re.search(jargon, text), path
