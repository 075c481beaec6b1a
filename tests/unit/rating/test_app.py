"""The application over HTTP: what a browser is shown, and what a rater and a server do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steersman.http_server import Address, warning
from steersman.rating import scorer_process
from steersman.rating.app import RatingApp
from steersman.rating.pages import rendered
from steersman.rating.round import Question, Round
from steersman.rating.store import RatingStore

from .conftest import ADMIN, JSON, PLAIN, Browser, Open, questions

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)><iframe src=//evil></iframe>\n\n"
    "[click](javascript:alert(1)) ![p](http://evil/pixel.png) <http://evil/> http://evil/\n\n"
    "</textarea></section><svg onload=alert(1)>\n\n"
    '```html"><script>alert(1)</script>\n<b>bold</b></code></pre><script>alert(2)</script>\n```\n\n'
    "{{ 7*7777777 }} {% include 'admin.html' %} \u202egnorw \0 &lt;script&gt;"
)


def test_a_rater_joins_votes_and_finishes(app: RatingApp, browser: Open) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    assert me.get("/").headers["location"] == "rate"
    assert "0 done · 12 to go" in me.get("/rate").text
    for number in range(12):
        response = me.votes(1, 2, visible_s=0.5)
        assert response.status_code == 200, response.text
        assert f"{number + 1} done" in response.text
    assert "That is all for now" in response.text
    assert len(app.store.votes()) == 12


def test_nothing_is_shown_without_a_session(browser: Open) -> None:
    stranger = browser()
    assert stranger.get("/rate").status_code == 401
    assert stranger.get("/task").status_code == 401
    assert stranger.get("/questions").status_code == 401
    for path in ("/vote", "/undo", "/reply", "/withdraw"):
        assert stranger.post(path, json={}).status_code == 401
    for path in ("/admin/invite", "/admin/again", "/admin/revoke", "/admin/ask"):
        assert stranger.post(path, json={"name": "x", "rater": 1}).status_code == 401
    assert "Raters" not in stranger.get("/admin").text
    assert stranger.get("/nowhere").status_code == 404


def test_no_page_says_who_wrote_an_answer(tmp_path: Path) -> None:
    store = RatingStore(tmp_path / "s.sqlite")
    asked = [q.model_copy(update={"origins": ("raw-model-x", "aligned-model-y")}) for q in questions(3)]
    gold = Question(prompt="known q", options=("yes", "no"), gold=(1, 2), origins=("raw-model-x", "aligned-model-y"))
    store.begin(
        Round(gold_share=0.5, repeat_share=0, source={"compare": ["raw-model-x", "aligned-model-y"]}), [*asked, gold]
    )
    app = RatingApp(store, ADMIN)
    me = Browser(app.asgi(("testserver",))).joins(app.accounts.invite("Ann", "group-of-ann"))
    seen = me.get("/rate").text
    while 'data-assignment="' in me.get("/task").text:
        response = me.votes(1, 2)
        seen += response.text + str(response.headers)
    for secret in ("raw-model-x", "aligned-model-y", "gold", "random", "informed", "group-of-ann", "Ann"):
        assert secret not in seen, secret
    store.database.engine.dispose()


# ── what models write ────────────────────────────────────────────────────────────────────────────────────────────────
def test_scripts_in_model_text_are_text(tmp_path: Path) -> None:
    store = RatingStore(tmp_path / "s.sqlite")
    shown = HOSTILE.replace("\0", "")  # a question with NUL is refused; a rater may still write one
    question = Question(prompt=shown, options=(shown, "tame"), principles=("p",))
    store.begin(Round(gold_share=0, repeat_share=0, principles={"p": HOSTILE}, title=HOSTILE), [question])
    app = RatingApp(store, ADMIN)
    me = Browser(app.asgi(("testserver",))).joins(app.accounts.invite(HOSTILE[:90]))
    boss = Browser(app.asgi(("testserver",)))
    boss.post("/admin/enter", json={"token": ADMIN})
    me.votes(1, 2, rationale=HOSTILE)
    boss.post("/admin/ask", json={"item": "1", "text": HOSTILE})
    pages = [me.get("/questions"), boss.get("/admin")]
    me.post("/undo", json={"submission": "undo-it-now"})
    pages += [me.get("/rate"), me.get("/task")]
    for page in pages:
        text = page.text.replace('<script src="static/', "")
        for tag in (
            "<script",
            "<img",
            "<iframe",
            "<svg",
            "<b>",
            "onerror=alert(1)>",
            'href="javascript',
            'href="http',
            "54444439",
        ):
            assert tag not in text, (tag, text[text.find(tag) - 80 :][:200])
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
    store.database.engine.dispose()


def test_markdown_is_rendered() -> None:
    html = rendered("# Head\n\n1. **one**\n\n```python\na < b\n```\n\n| a |\n|---|\n| `b` |\n\nnext\nline")
    for part in (
        "<h3",
        "<li>",
        "<strong>one</strong>",
        '<pre tabindex="0"><code>a &lt; b',
        '<td dir="auto"><code>b</code></td>',
        "<br />",
    ):
        assert part in html, html
    assert 'dir="auto"' in html
    assert "<h1" not in html


def test_enormous_and_nested_text_is_shown_in_time() -> None:
    for text in (
        "a" * 60_000,
        "> " * 9_000,
        "*" * 19_000,
        "[" * 19_000,
        "`" * 19_000,
        "- " * 9_000,
        "|" * 9_000 + "\n" + "|-" * 4_000,
    ):
        assert rendered(text)


# ── replies, withdrawing, serving ─────────────────────────────────────────────────────────────────────────────────────
def test_a_reply_has_a_number_and_a_text(app: RatingApp, browser: Open) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    for bad in ({"query": "x", "text": "."}, {"query": 10**400, "text": "."}, {"query": 1, "text": "x" * 4001}, {}):
        assert me.post("/reply", content=json.dumps(bad), headers=JSON).status_code == 422, bad
    assert me.post("/reply", json={"query": 1, "text": "."}).status_code == 404
    me.votes(1, 2)
    app.accounts.ask(app.store.votes()[0].item, "Why?")
    reply = json.dumps({"query": "1", "text": "\ud800."})  # as a form sends numbers, and half a character
    assert me.post("/reply", content=reply, headers=JSON).json() == {"next": "rate"}
    assert [text for _, _, text in app.accounts.replies()] == ["\N{REPLACEMENT CHARACTER}."]


def test_a_server_scores_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the application's start, unless all questions are drawn at random."""
    started: list[str] = []
    monkeypatch.setattr(scorer_process.Scoring, "start_process", lambda scoring: started.append(scoring._where))
    for name, share in (("informed", 0.2), ("random", 1.0)):
        store = RatingStore(tmp_path / name, scorer=lambda questions, votes: [0.0] * len(questions))
        store.begin(PLAIN.model_copy(update={"random_share": share}), questions(1))
        with Browser(RatingApp(store, ADMIN).asgi(("testserver",))):
            pass
        store.database.engine.dispose()
    assert started == [str(tmp_path / "informed")]


def test_withdrawing_ends_the_session(app: RatingApp, browser: Open) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    me.votes(1, 2)
    assert me.post("/withdraw", json={}).json() == {"next": "left"}
    assert me.get("/task").status_code == 401
    assert app.store.votes() == []


def test_addresses_beyond_this_machine_need_a_name_and_warn() -> None:
    from steersman.errors import UserError

    assert warning(Address(), "x") is None
    assert warning(Address(host="::1"), "x") is None
    assert "unencrypted" in str(warning(Address(host="192.0.2.7"), "x"))
    assert "unencrypted" not in str(warning(Address(host="0.0.0.0", url="https://rate.example.org"), "x"))
    with pytest.raises(UserError, match="every address"):
        Address(host="0.0.0.0").names()
    assert Address(host="0.0.0.0", url="https://rate.example.org/x").names()[0] == "rate.example.org"
    assert Address(url="http://rate.example.org:8080/x").origin == "http://rate.example.org:8080"
    assert Address().origin is None
    assert Address(host="192.0.2.7").names() == ("192.0.2.7",)
