"""What hostile requests come to: forged, replayed, malformed, oversized, from other sites, too many."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from steersman.http_server import Address
from steersman.rating import security
from steersman.rating.app import RatingApp
from steersman.rating.schema import items
from steersman.rating.store import RatingStore

from .conftest import ADMIN, JSON, PLAIN, Browser, Clock, Open, questions


def test_a_link_cannot_be_guessed(app: RatingApp, browser: Open) -> None:
    token = app.accounts.invite("Ann")
    stranger = browser().post("/join", json={"token": token})  # the first time, with a consent
    assert (stranger.json(), dict(stranger.cookies)) == ({"agree": True}, {})
    browser().joins(token)
    for forged in ("", "x", token[:-1], token + "x", 7, None, ["x"], {"$ne": 1}, "' OR 1=1 --", "\ud800"):
        for consent in (True, False):
            body = json.dumps({"token": forged, "consent": consent})
            refused = browser().post("/join", content=body, headers=JSON)
            assert refused.status_code in (400, 403), forged
            assert not refused.cookies


def test_a_forged_cookie_opens_nothing(app: RatingApp, browser: Open) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    other = browser()
    other.cookies.set(app.cookie, me.cookies[app.cookie][:-2] + "xx")
    assert other.get("/task").status_code == 401
    boss = browser()
    boss.cookies.set(app.admin.cookie, me.cookies[app.cookie])  # a rater's session is no administrator's
    assert boss.post("/admin/revoke", json={"rater": 1}).status_code == 401
    assert boss.post("/admin/enter", json={"token": me.cookies[app.cookie]}).status_code == 403


def test_votes_for_the_tasks_of_others_are_refused(app: RatingApp, browser: Open) -> None:
    ann, bob = browser().joins(app.accounts.invite("Ann")), browser().joins(app.accounts.invite("Bob"))
    body = {"submission": "anns-submission", "assignment": ann.assignment(), "ranking": [1, 2]}
    refused = bob.post("/vote", json=body)
    assert refused.status_code == 404
    assert app.store.votes() == []
    assert ann.post("/vote", json=body).status_code == 200
    bobs = {**body, "assignment": bob.assignment()}
    assert bob.post("/vote", json=bobs).status_code == 200  # a name that another used is free for them
    assert [vote.rater for vote in app.store.votes()] == [1, 2]


def test_a_replayed_vote_counts_once_and_a_second_tab_is_told(app: RatingApp, browser: Open) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    body = {"submission": "a-submission", "assignment": me.assignment(), "ranking": [1, 2], "visible_s": 1.0}
    assert me.post("/vote", json=body).status_code == 200
    assert me.post("/vote", json={**body, "visible_s": 3.0}).status_code == 200  # sent again, later
    other_tab = me.post("/vote", json={**body, "submission": "another-one"})
    assert other_tab.status_code == 409
    assert "another tab" in other_tab.json()["error"]
    assert len(app.store.votes()) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ranking": [1, 2]},
        {"ranking": "12"},
        {"ranking": [1, 2, 3]},
        {"ranking": [2, 2]},
        {"ranking": [1, 2], "skip": True},
        {"ranking": [1, -1]},
        {"ranking": [1, 10**400]},
        {"ranking": [1.5, 2]},
        {"ranking": [1, 2], "rater": 2},
        {"ranking": [1, 2], "visible_s": -1},
        {"ranking": [1, 2], "visible_s": "NaN"},
        {"ranking": [1, 2], "submission": "../../etc"},
        {"ranking": [1, 2], "submission": "x" * 65},
        {"ranking": [1, 2], "rationale": "x" * 4001},
        {"ranking": [1, 2], "edit": {"position": 2, "text": "x"}},
        {"ranking": [1, 2], "edit": {"position": 0, "text": "  "}},
        {"ranking": [1, 2], "per_principle": {f"p{i}": [1, 2] for i in range(50)}},
    ],
)
def test_a_bad_submission_is_refused_in_words(app: RatingApp, browser: Open, body: dict[str, object]) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    assignment = me.assignment()
    sent = {"submission": "a-submission", "assignment": assignment, **body}
    if body == {"ranking": [1, 2]}:
        del sent["submission"]
    response = me.post("/vote", content=json.dumps(sent), headers=JSON)
    assert response.status_code == 422, response.text
    assert response.json()["error"]
    assert "Traceback" not in response.text
    assert app.store.votes() == []
    assert me.assignment() == assignment


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'"x"', b"1e999"])
def test_what_is_no_object_is_refused(app: RatingApp, browser: Open, body: bytes) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    assert me.post("/vote", content=body, headers=JSON).status_code == 422
    assert me.post("/join", content=body, headers=JSON).status_code == 400


def test_half_characters_are_mended(app: RatingApp, browser: Open) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    body = {"submission": "a-submission", "assignment": me.assignment(), "ranking": [1, 2], "rationale": "\ud800 ok \0"}
    assert me.post("/vote", content=json.dumps(body), headers=JSON).status_code == 200
    assert app.store.votes()[0].rationale == "\N{REPLACEMENT CHARACTER} ok \N{REPLACEMENT CHARACTER}"


def test_oversized_posts_are_cut_off(app: RatingApp, browser: Open) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    large = b'{"x": "' + b"x" * (security.MAX_BODY + 1) + b'"}'
    assert me.post("/vote", content=large, headers=JSON).status_code == 413
    chunks = (large[i : i + 65536] for i in range(0, len(large), 65536))  # without a length in its head
    assert me.post("/vote", content=chunks, headers=JSON).status_code == 413
    lying = {**JSON, "content-length": "-5"}
    assert me.post("/vote", content=b"{}", headers=lying).status_code == 413
    assert app.store.votes() == []


def test_a_slow_post_is_given_up(app: RatingApp, monkeypatch: pytest.MonkeyPatch) -> None:
    import anyio

    monkeypatch.setattr(security, "BODY_S", 0.05)
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await anyio.sleep(5)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/vote", "raw_path": b"/vote", "query_string": b"",
             "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http", "server": ("testserver", 80),
             "http_version": "1.1", "root_path": ""}  # fmt: skip
    anyio.run(app.asgi(("testserver",)), scope, receive, send)
    assert sent[0]["status"] == 408


def test_other_sites_cannot_post(app: RatingApp, browser: Open) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    body = {"submission": "a-submission", "assignment": me.assignment(), "ranking": [1, 2]}
    assert me.post("/vote", json=body, headers={"origin": "https://evil.example"}).status_code == 403
    assert me.post("/vote", json=body, headers={"origin": "null"}).status_code == 403
    form = {"content-type": "text/plain"}  # what a form on another site can send without asking
    assert me.post("/vote", content=json.dumps(body), headers=form).status_code == 415
    assert me.get("/task", headers={"host": "evil.example"}).status_code == 400  # DNS rebinding
    assert app.store.votes() == []
    assert me.post("/vote", json=body, headers={"origin": "http://testserver"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "rating.example.org"])
def test_behind_a_proxy_posts_of_the_outside_origin_are_taken(store: RatingStore, host: str) -> None:
    """Whether the proxy passes the outside's host on or its own; and cookies travel encrypted or not at all."""
    address = Address(url="https://Rating.example.org:443/")
    app = RatingApp(store, ADMIN, address.origin)
    outside = {"host": host, "origin": "https://rating.example.org"}
    visitor = Browser(app.asgi(address.names()), headers=outside)
    joined = visitor.post("/join", json={"token": app.accounts.invite("Ann"), "consent": True})
    entered = visitor.post("/admin/enter", json={"token": ADMIN})
    for response in (joined, entered):
        assert response.status_code == 200, response.text
        assert "; secure" in response.headers["set-cookie"].lower()
    for origin in ("https://rating.example.org.evil", "https://evil.example", "http://rating.example.org:81", "null"):
        refused = visitor.post("/admin/enter", json={"token": ADMIN}, headers={**outside, "origin": origin})
        assert refused.status_code == 403, origin


def test_cookies_are_kept_from_scripts_and_other_sites(app: RatingApp, browser: Open) -> None:
    response = browser().post("/join", json={"token": app.accounts.invite("Ann"), "consent": True})
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    boss = browser().post("/admin/enter", json={"token": ADMIN}).headers["set-cookie"].lower()
    assert "httponly" in boss
    assert "samesite=strict" in boss
    for header in (cookie, boss):  # or they would be of another path than the browser sees
        assert "path=" not in header  # a token may spell "path"


def test_a_store_has_one_cookie_however_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    stores = [RatingStore(name) for name in ("s.sqlite", "../runs/s.sqlite", str(tmp_path / "runs/s.sqlite"), "t")]
    names = [RatingApp(store, ADMIN).cookie for store in stores]
    assert names[0] == names[1] == names[2] != names[3]
    urls = ("postgresql://a:x@host:5432/db", "postgresql://b:y@host:5432/db", "postgresql://host:5432/db")
    for url in urls:  # what a store is opened with is all that is asked
        monkeypatch.setattr(stores[0], "where", url)
        names.append(RatingApp(stores[0], ADMIN).cookie)
    assert names[4] == names[5] == names[6] != names[0]
    for store in stores:
        store.database.engine.dispose()


def counted(store: RatingStore) -> tuple[RatingApp, Browser, Clock]:
    """A browser before the middleware alone: whatever it lets through is answered with 200."""
    app, clock = RatingApp(store, ADMIN), Clock()

    async def inner(scope: object, receive: object, send: Callable[..., object]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[misc]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[misc]

    return app, Browser(security.SecurityMiddleware(inner, cookie=app.cookie, monotonic=clock)), clock  # type: ignore[arg-type]


def test_too_many_requests_of_one_session_are_refused(store: RatingStore) -> None:
    app, limited, clock = counted(store)
    limited.cookies.set(app.cookie, "mine")
    assert [limited.get("/task").status_code for _ in range(41)] == [200] * 40 + [429]
    assert limited.get("/static/rating.js").status_code == 200
    limited.cookies.clear()
    assert limited.get("/task").status_code == 200  # another one's bucket is full
    limited.cookies.set(app.cookie, "mine")
    clock.now += 1.0
    assert [limited.get("/task").status_code for _ in range(11)] == [200] * 10 + [429]
    found = []
    for _ in range(20):  # who tries twenty times a second gets in every second time, and is not kept out for good
        clock.now += 0.05
        found.append(limited.get("/task").status_code)
    assert 9 <= found.count(200) <= 10


def test_a_cookie_that_looks_like_an_address_uses_up_nobodys_requests(store: RatingStore) -> None:
    app, limited, _ = counted(store)
    limited.cookies.set(app.cookie, "testclient")  # the address that this client comes from
    assert [limited.get("/task").status_code for _ in range(41)] == [200] * 40 + [429]
    assert limited.get("/join").status_code == 200


def test_the_last_page_reads_its_own_raters_votes_alone(tmp_path: Path) -> None:
    """Of a question of another rater that cannot be read it knows nothing."""
    store = RatingStore(tmp_path / "s.sqlite")
    store.begin(PLAIN.model_copy(update={"per_rater": 1}), questions(2))
    app = RatingApp(store, ADMIN)
    ann, bob = (Browser(app.asgi(("testserver",))).joins(app.accounts.invite(name)) for name in ("Ann", "Bob"))
    for one in (ann, bob):
        one.votes(1, 2)
    (bobs,) = store.votes(2)
    assert [vote.rater for vote in store.votes()] == [1, 2]
    with store.database.writing() as c:
        c.execute(update(items).where(items.c.id == bobs.item).values(question={}))
    assert "That is all for now" in ann.get("/rate").text
    store.database.engine.dispose()


def test_an_error_of_ours_leaks_nothing(app: RatingApp, browser: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    me = browser().joins(app.accounts.invite("Ann"))
    monkeypatch.setattr(app.store, "next_task", lambda rater: 1 / 0)
    response = me.get("/task")
    assert response.status_code == 500
    assert "division" not in response.text
    assert "will be sent again" in response.json()["error"]
