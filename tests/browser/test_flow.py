"""What people's browsers do to a vote: other keyboards, double presses, fingers, login pages, devices and paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from steersman.rating.accounts import RaterAccounts
from steersman.rating.participants import Participants, SharedLink
from steersman.rating.round import Question

from .conftest import Server, answer, join, next_one, on_screen, pairs, read, until

pytestmark = pytest.mark.slow

Serving = Callable[..., Server]
Visit = Callable[..., Any]
KEPT = "Object.keys(localStorage).filter((key) => key.startsWith('kept ')).length"


def count_of(page: Any) -> int:
    return int(page.evaluate("document.querySelector('.count').textContent.match(/\\d+/)[0]"))


def forgive(page: Any, *words: str) -> None:
    """The browser's own notes of what a test did on purpose."""
    page.complaints[:] = [text for text in page.complaints if not any(word in text for word in words)]


def test_keys_by_their_place(serving: Serving, visit: Visit) -> None:
    """On AZERTY, Cyrillic and Arabic keyboards, with Caps Lock and on the number pad; and the keys that do nothing."""
    server, page = serving(pairs(12)), visit()
    join(page, server.link("Ann"))
    devtools = page.context.new_cdp_session(page)

    def press(key: str, code: str, **more: Any) -> None:
        for kind in ("keyDown", "keyUp"):
            devtools.send("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": code, **more})

    before = on_screen(page)
    for key, code, modifiers in (
        ("a", "KeyQ", 0), ("z", "KeyW", 0), ("1", "Digit1", 2), ("1", "Digit1", 1), ("1", "Digit1", 4),
        ("!", "Digit1", 8),
    ):  # fmt: skip
        press(key, code, modifiers=modifiers)
    page.evaluate("""() => document.body.dispatchEvent(
      new KeyboardEvent("keydown", { key: "1", code: "Digit1", isComposing: true, bubbles: true }))""")
    page.wait_for_timeout(300)
    assert (on_screen(page), count_of(page)) == (before, 0)
    expected: list[tuple[str, int | None, bool]] = []
    for key, code, modifiers, means in (
        ("&", "Digit1", 0, 0), ("é", "Digit2", 0, 1), ("à", "Digit0", 0, None), ("1", "Digit1", 8, 0),
        ("١", "Digit1", 0, 0), ("2", "Numpad2", 0, 1), ("S", "KeyS", 0, "skip"), ("ы", "KeyS", 0, "skip"),
        ("и", "KeyB", 0, "bad"), ("b", "KeyN", 0, "bad"),
    ):  # fmt: skip
        before, shown = on_screen(page), page.locator(".answer .md").all_inner_texts()
        press(key, code, modifiers=modifiers)
        next_one(page, before)
        best = means if isinstance(means, int) else None
        wins = None if best is None else 0 if shown[best].strip().startswith("good") else 1
        expected.append((str(means) if isinstance(means, str) else "vote", wins, means == "bad"))
    found = []
    for vote in server.store.votes():
        wins = vote.ranking.index(1) if vote.ranking and 2 in vote.ranking else None
        found.append(("bad" if vote.both_bad else vote.kind, wins, vote.both_bad))
    assert found == expected


def test_a_key_pressed_twice_or_held_makes_one_vote(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(12)), visit()
    join(page, server.link("Ann"))
    for gap in (0, 30, 80, 150, 250):
        before, votes = on_screen(page), len(server.store.votes())
        page.keyboard.press("1")
        page.wait_for_timeout(gap)
        page.keyboard.press("1")
        next_one(page, before)
        assert len(server.store.votes()) == votes + 1, gap
    before, votes = on_screen(page), len(server.store.votes())
    for _ in range(12):  # without a keyup between them, they are repeats
        page.keyboard.down("2")
        page.wait_for_timeout(100)
    page.keyboard.up("2")
    next_one(page, before)
    assert len(server.store.votes()) == votes + 1
    before = on_screen(page)
    page.locator(".choose").first.click()
    page.wait_for_function("b => document.querySelector('.question').dataset.assignment !== b", arg=before)
    page.keyboard.press("1")
    page.wait_for_selector("#notice:not([hidden])")
    assert "Not counted" in page.inner_text("#notice")
    assert len(server.store.votes()) == votes + 2
    before = on_screen(page)
    page.keyboard.press("u")
    page.wait_for_function("b => document.querySelector('.question').dataset.assignment !== b", arg=before)
    page.keyboard.press("u")
    page.wait_for_timeout(300)
    assert len(server.store.votes()) == votes + 1  # one undo and not two


def test_two_taps_of_a_finger_make_one_vote(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(6)), visit(390, 780, has_touch=True, is_mobile=True)
    join(page, server.link("Ann"))
    devtools = page.context.new_cdp_session(page)

    def tap(x: float, y: float) -> None:
        devtools.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    for number, gap in enumerate((40, 120, 220), start=1):
        before, box = on_screen(page), page.locator(".choose").first.bounding_box()
        where = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tap(*where)
        page.wait_for_timeout(gap)
        tap(*where)
        next_one(page, before)
        assert len(server.store.votes()) == number, gap
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_another_page_in_place_of_an_answer_loses_no_vote(serving: Serving, visit: Visit) -> None:
    """A login page, error pages of a proxy, JSON of a gateway, a redirect, an answer that breaks off."""
    server, page = serving(pairs(12)), visit()
    join(page, server.link("Ann"))
    html = {"content_type": "text/html", "body": "<html><body><h1>Please sign in</h1></body></html>"}
    others: list[Callable[[Any], None]] = [
        lambda route: route.fulfill(status=200, **html),
        lambda route: route.fulfill(status=403, **html),
        lambda route: route.fulfill(status=404, **html),
        lambda route: route.fulfill(status=413, **html),
        lambda route: route.fulfill(status=502, **html),
        lambda route: route.fulfill(status=401, content_type="application/json", body='{"error": "token expired"}'),
        lambda route: route.fulfill(status=302, headers={"location": f"{server.url}/static/icon.svg"}),
        lambda route: route.abort(),
    ]
    faults: list[Callable[[Any], None]] = []
    # One route for all of it: Playwright loses a request now and then where routes come and go about a reload.
    page.route("**/vote", lambda route: faults[0](route) if faults else route.continue_())
    for number, other in enumerate(others, start=1):
        before, shown = on_screen(page), page.inner_text("#task")
        faults.append(other)
        page.keyboard.press("1")
        page.wait_for_selector("#notice:not([hidden])")
        assert page.inner_text("#notice").startswith("Not saved yet:")
        assert (on_screen(page), page.inner_text("#task")) == (before, shown)
        assert page.evaluate(KEPT) == 1
        faults.clear()
        if number == 2:  # also over a reload
            page.reload()
        next_one(page, before)
        assert page.evaluate(KEPT) == 0
        assert not page.is_visible("#notice")
        assert len(server.store.votes()) == number
    forgive(page, "Failed to load", "ERR_FAILED")


def test_an_answer_that_was_stored_and_not_heard_of_counts_once(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(3)), visit()
    join(page, server.link("Ann"))
    before = on_screen(page)

    def lost(route: Any) -> None:
        route.fetch()
        route.fulfill(status=504, content_type="text/html", body="<h1>Gateway timeout</h1>")

    page.route("**/vote", lost, times=2)
    page.keyboard.press("1")
    next_one(page, before)
    assert (len(server.store.votes()), count_of(page)) == (1, 1)
    page.context.set_offline(True)
    before = on_screen(page)
    page.keyboard.press("2")
    page.wait_for_selector("#notice:not([hidden])")
    assert "offline" in page.inner_text("#notice")
    page.context.set_offline(False)
    next_one(page, before)
    assert len(server.store.votes()) == 2
    forgive(page, "Failed to load", "ERR_INTERNET")


def test_a_link_goes_on_in_other_browsers_and_sends_what_was_kept(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(5)), visit()
    link = server.link("Ann")
    page.goto(link)
    page.reload()  # the tab remembers the token
    page.check("input[name=consent]")
    page.click("text=Begin")
    page.wait_for_selector(".question")
    page.wait_for_load_state("load")
    read(page)
    answer(page, "1")
    phone = visit(390, 780, has_touch=True, is_mobile=True)
    phone.goto(link)
    phone.wait_for_selector(".question")  # without another consent
    assert (on_screen(phone), count_of(phone)) == (on_screen(page), 1)
    page.context.clear_cookies()
    read(page)
    before = on_screen(page)
    page.keyboard.press("2")
    page.wait_for_selector("#notice:not([hidden])")
    assert "signed out here" in page.inner_text("#notice")
    page.goto(f"{server.url}/")
    assert "Your invitation is needed" in page.inner_text("main")
    page.goto(link)
    page.wait_for_selector(".question")
    until(lambda: len(server.store.votes()) == 2)
    next_one(page, before)
    assert count_of(page) == 2
    forgive(page, "401")


def test_a_participant_comes_finishes_and_gets_the_code(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(2)), visit(390, 780)
    key = Participants(server.store.database, SharedLink(participants=5)).key()
    link = f"{server.url}/study?key={key}&PROLIFIC_PID=5f3c0a1b2c&STUDY_ID=s1&SESSION_ID=x1"
    join(page, link)
    for _ in range(2):
        answer(page, "1")
    assert page.inner_text(".code") == "C1ABCDEF"
    assert page.get_attribute("a.button", "href") == "https://example.org/done?cc=C1ABCDEF"
    again = visit()
    again.goto(link)
    again.wait_for_selector(".code")
    assert len(RaterAccounts(server.store.database).all()) == 1


def test_earlier_answers_are_reviewed_corrected_and_withdrawn(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(3)), visit()
    join(page, server.link("Ann"))
    before = answer(page, "1")
    page.click("text=Your earlier answers")
    assert "Answer 1 is better." in page.inner_text("main")
    page.click("text=Look again or change")
    page.wait_for_selector("#notice:not([hidden])")
    assert "Answer 1 is better." in page.inner_text("#notice")
    assert on_screen(page) == before
    assert len(server.store.votes()) == 1  # what was said stands
    read(page)
    page.keyboard.press("2")
    page.wait_for_url("**/answers")
    assert "Answer 2 is better." in page.inner_text("main")
    assert "changed 1 time" in page.inner_text("main")
    assert len(server.store.votes()) == 1
    page.click("text=Back to rating")
    page.wait_for_selector(".question")
    assert on_screen(page) != before
    page.click("text=Withdraw")
    page.click("button:has-text('Withdraw')")
    page.wait_for_url("**/left")
    assert "You have withdrawn" in page.inner_text("main")
    assert server.store.votes() == []


def test_undo_in_mid_ranking_takes_back_the_last_placement(serving: Serving, visit: Visit) -> None:
    ranked = [Question(prompt=f"rank {i}", options=tuple(f"{n} {i}" for n in "abcd")) for i in range(3)]
    server, page = serving(ranked), visit()
    join(page, server.link("Ann"))

    def placed() -> int:
        return int(page.locator(".answer.placed").count())

    assert page.is_disabled("[data-act=undo]")
    page.keyboard.press("3")
    page.click("[data-act=undo]")
    assert placed() == 0
    before = answer(page, "3", "1", "2", "4", "Control+Enter")
    second = on_screen(page)
    for key in ("3", "1", "u"):
        page.keyboard.press(key)
    assert (placed(), on_screen(page), len(server.store.votes())) == (1, second, 1)
    page.keyboard.press("u")
    assert (placed(), on_screen(page)) == (0, second)
    page.keyboard.press("u")
    next_one(page, second)
    assert (on_screen(page), server.store.votes()) == (before, [])
    page.keyboard.press("d")
    for key in ("3", "1", "2", "4", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".details:not([hidden])")
    page.fill("#why", "1 b s u d = are no commands here")
    page.keyboard.press("Meta+Enter")
    next_one(page, before)
    assert [vote.rationale[:5] for vote in server.store.votes()] == ["1 b s"]


def test_below_a_path_of_a_proxy(serving: Serving, visit: Visit) -> None:
    """As JupyterHub's proxy does it, which takes the path off: the browser sees pages and cookies of the path alone."""
    public = "http://hub.test/user/ann/proxy/8642"
    server, page = serving(pairs(2), public), visit()

    def proxy(route: Any) -> None:
        reply = route.fetch(url=server.url + route.request.url.removeprefix(public), max_redirects=0)
        route.fulfill(response=reply)

    page.route(f"{public}/**", proxy)
    token = RaterAccounts(server.store.database).invite("Ann")
    join(page, f"{public}/join#{token}")
    assert page.evaluate("getComputedStyle(document.querySelector('.choose')).cursor") == "pointer"  # styles came
    answer(page, "1")
    page.click("text=Your earlier answers")
    page.click("text=Back to rating")
    page.wait_for_selector(".question")
    assert page.url == f"{public}/rate"
    assert [cookie["path"] for cookie in page.context.cookies("http://hub.test/user/ann/proxy/8642/rate")] == [
        "/user/ann/proxy/8642"
    ]
    assert len(server.store.votes()) == 1
    forgive(page, "Cross-Origin-Opener-Policy")
    page.unroute_all(behavior="wait")  # a request may be under way still, and its route ends with the page
