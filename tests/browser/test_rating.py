"""People at the application: by keys, by mouse and drag, on a phone, in two tabs, and with a server that dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from steersman.rating.round import Question

from .conftest import ADMIN, Server, answer, join, next_one, on_screen, pairs, read, until

pytestmark = pytest.mark.slow

Serving = Callable[..., Server]
Visit = Callable[..., Any]
MARKDOWN = "**Bold**, and\n\n```python\n" + "x = 1  # a long line " * 12 + "\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
ARABIC = "كيف أستثمر عشرة آلاف يورو؟"


def ranked(count: int, options: int = 4) -> list[Question]:
    names = ["first", "second", "third", "fourth", "fifth"][:options]
    return [Question(prompt=f"rank {i}", options=tuple(f"{name} {i}" for name in names)) for i in range(count)]


def texts(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".answer .md").all_inner_texts()]


@pytest.mark.parametrize(("width", "height"), [(1280, 860), (390, 844)], ids=["desktop", "phone"])
def test_twenty_questions_at_one_key_each(serving: Serving, visit: Visit, width: int, height: int) -> None:
    server, page = serving(pairs(20)), visit(width, height)
    join(page, server.link("Ann"))
    keys = 0
    while (before := on_screen(page)) is not None:
        page.keyboard.press("1" if texts(page)[0].startswith("good") else "2")
        keys += 1
        next_one(page, before)
    assert keys == 20
    votes = server.store.votes()
    assert [vote.ranking for vote in votes] == [(1, 2)] * 20
    assert all(0 <= vote.seconds < 60 for vote in votes)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("width", "height"), [(1280, 860), (390, 844)], ids=["desktop", "phone"])
def test_a_second_one_by_mouse_and_drag(serving: Serving, visit: Visit, width: int, height: int) -> None:
    server, page = serving([*pairs(3), *ranked(3)]), visit(width, height)
    join(page, server.link("Bob"))
    while (before := on_screen(page)) is not None:
        shown = texts(page)
        if len(shown) == 2:
            page.locator(".choose").nth(0 if shown[0].startswith("good") else 1).click()
        else:
            by_mouse(page, shown)
        next_one(page, before)
    for vote in server.store.votes():
        assert vote.ranking == ((1, 2) if len(vote.question.options) == 2 else (1, 2, 2, 4)), vote


def test_the_rest_of_a_double_click_is_no_vote(serving: Serving, visit: Visit) -> None:
    """The second click is made in the page, the moment that the next question is there."""
    server, page = serving(pairs(3)), visit()
    join(page, server.link("Ann"))
    second_click = """() => new MutationObserver((_, observer) => {
      observer.disconnect();
      document.querySelector(".choose").dispatchEvent(new MouseEvent("click", { bubbles: true, detail: 2 }));
    }).observe(document.getElementById("task"), { childList: true })"""
    page.evaluate(second_click)
    before = on_screen(page)
    page.locator(".choose").first.click()
    next_one(page, before)
    unseen = on_screen(page)
    read(page)
    assert on_screen(page) == unseen
    assert len(server.store.votes()) == 1
    page.locator(".choose").first.click()
    next_one(page, unseen)
    assert len(server.store.votes()) == 2


def by_mouse(page: Any, shown: list[str]) -> None:
    """First, then second and third tied, then fourth; the first one is dragged in last, before all others."""
    place = {text.split()[0]: number for number, text in enumerate(shown)}
    pool, board = page.locator(".pool .chip"), page.locator(".rungs")
    box = board.bounding_box()
    drag(page, pool.locator(f"text='{place['second'] + 1}'"), box["x"] + 20, box["y"] + box["height"] / 2)
    tie = page.locator(".rung").first.bounding_box()
    middle = tie["y"] + tie["height"] / 2
    drag(page, pool.locator(f"text='{place['third'] + 1}'"), tie["x"] + tie["width"] / 2, middle)
    drag(page, pool.locator(f"text='{place['first'] + 1}'"), tie["x"] + 3, middle)
    page.click("[data-act=send]")  # the one that is left comes last


def drag(page: Any, chip: Any, x: float, y: float) -> None:
    box = chip.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move((box["x"] + x) / 2, y, steps=3)
    page.mouse.move(x, y, steps=3)
    page.mouse.up()


def test_a_ranking_by_keys_with_a_tie_and_more_to_say(serving: Serving, visit: Visit) -> None:
    principles = {"be-plain": "Is plain.", "be-kind": "Is kind."}
    server, page = serving(ranked(1), principles=principles, ask_principles=True), visit()
    join(page, server.link("Ann"))
    place = {text.split()[0]: str(number + 1) for number, text in enumerate(texts(page))}
    before = on_screen(page)
    for key in (place["fourth"], "Backspace", place["first"], place["second"], "=", place["third"], "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".details:not([hidden])")
    for number in range(4):
        page.locator("[data-principle=be-kind] select").nth(number).select_option("2" if number else "3")
    page.fill("#why", "u s b 1: none of these is a command here")
    page.click("[data-act=edit]")
    assert page.input_value("#better").startswith("first")
    page.fill("#better", "a better answer")
    page.keyboard.press("Control+Enter")
    next_one(page, before)
    (vote,) = server.store.votes()
    assert vote.ranking == (1, 2, 2, 4)
    assert vote.rationale.startswith("u s b 1")
    assert (vote.edited_option, vote.edited_text) == (0, "a better answer")
    shown_first = vote.order_shown[0]
    assert vote.per_principle == {"be-kind": tuple(2 if i == shown_first else 1 for i in range(4))}


def test_undo_skip_both_bad_and_tie_by_keys(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(3)), visit()
    join(page, server.link("Ann"))
    first = answer(page, "b")
    second = answer(page, "u")
    assert on_screen(page) == first
    page.keyboard.press("0")
    next_one(page, first)
    page.keyboard.press("s")
    next_one(page, second)
    answer(page, "b")
    assert [(v.kind, v.ranking, v.both_bad) for v in server.store.votes()] == [
        ("vote", (1, 1), False), ("skip", None, False), ("vote", None, True),
    ]  # fmt: skip


def test_a_browser_closed_in_the_middle_of_a_drag(serving: Serving, visit: Visit) -> None:
    server, page = serving(ranked(1)), visit()
    join(page, server.link("Ann"))
    before, shown = on_screen(page), texts(page)
    box = page.locator(".pool .chip").first.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] - 200, box["y"] + 5, steps=3)
    context = page.context
    page.close()
    assert server.store.votes() == []
    again = context.new_page()
    again.goto(f"{server.url}/rate")
    assert (on_screen(again), texts(again)) == (before, shown)  # the same question, on the same sides


def test_two_tabs_make_one_vote_and_go_on_together(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(2)), visit()
    join(page, server.link("Ann"))
    other = page.context.new_page()
    other.goto(f"{server.url}/rate")
    before = on_screen(page)
    assert on_screen(other) == before
    read(other)
    page.keyboard.press("1")
    next_one(page, before)
    other.keyboard.press("2")
    next_one(other, before)
    assert "another tab" in other.inner_text("#notice")
    assert on_screen(other) == on_screen(page)
    assert len(server.store.votes()) == 1
    page.complaints[:] = [text for text in page.complaints if "409" not in text]  # the browser's own note of it


def test_a_server_killed_while_voting(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(4)), visit()
    join(page, server.link("Ann"))
    answer(page, "1")
    second = on_screen(page)
    server.kill()
    page.keyboard.press("2")
    page.wait_for_selector("#notice:not([hidden])")
    assert "Not saved yet" in page.inner_text("#notice")
    page.keyboard.press("1")  # of no effect while the last one is on its way
    server.start()
    next_one(page, second)
    assert len(server.store.votes()) == 2
    page.complaints[:] = [text for text in page.complaints if "ERR_CONNECTION" not in text]


def test_a_vote_survives_a_reload_while_the_server_is_away(serving: Serving, visit: Visit) -> None:
    server, page = serving(pairs(3)), visit()
    join(page, server.link("Ann"))
    page.route("**/vote", lambda route: route.abort())
    page.keyboard.press("1")
    page.wait_for_selector("#notice:not([hidden])")
    page.unroute("**/vote")
    page.reload()
    until(lambda: len(server.store.votes()) == 1)
    page.wait_for_function("() => !Object.keys(localStorage).some((key) => key.startsWith('kept '))")
    page.complaints[:] = [text for text in page.complaints if "ERR_FAILED" not in text]


def test_scripts_in_model_text_do_not_run(serving: Serving, visit: Visit) -> None:
    attack = "<script>window.hit=1</script><img src=x onerror='window.hit=1'></textarea><svg onload='window.hit=1'>"
    asked = [Question(prompt=attack, options=(attack, f"```html\n{attack}\n```")) for _ in range(1)]
    server, page = serving(asked, principles={"p": attack}, title=attack), visit()
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    join(page, server.link("Ann"))
    page.keyboard.press("d")
    page.keyboard.press("1")
    page.click("[data-act=edit]")
    assert page.evaluate("window.hit") is None
    assert page.locator("#task img, #task svg, #task script, #task iframe").count() == 0
    assert attack in page.input_value("#better")
    assert all(url.startswith(server.url) for url in fetched)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_assistive_technology(serving: Serving, visit: Visit, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    principles = {"be-plain": "Is plain."}
    asked = [Question(prompt=ARABIC, options=(MARKDOWN, ARABIC)), *ranked(1)]
    server, page = serving(asked, principles=principles, ask_principles=True), visit(color_scheme=scheme)

    def check(what: str) -> None:
        found = axe.run(page)
        assert found.violations_count == 0, f"{what}: {found.generate_report()}"

    page.goto(server.link("Ann"))
    check("the consent")
    join(page, server.link("Bob"))
    while (before := on_screen(page)) is not None:
        pair = len(texts(page)) == 2
        check("a question")
        for key in ("1",) if pair else ("1", "2", "3", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector(".details:not([hidden])")
        page.click("[data-act=edit]")
        check("the details")
        page.keyboard.press("Control+Enter")
        next_one(page, before)
    check("the end")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{server.url}/admin#{ADMIN}")
    page.wait_for_selector(".admin")
    check("the administrator's page")


def test_right_to_left_text_reads_from_the_right(serving: Serving, visit: Visit) -> None:
    server, page = serving([Question(prompt=ARABIC, options=(ARABIC, "English"))]), visit(390, 844)
    join(page, server.link("Ann"))
    for text in page.locator(".answer .md p").all():
        wanted = "rtl" if ARABIC in text.inner_text() else "ltr"
        assert text.evaluate("e => getComputedStyle(e).direction") == wanted
