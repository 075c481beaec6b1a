"""What people see: formulas, text as it was written, wide tables, and the strip on which answers are put in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from steersman.rating.round import Question

from .conftest import ADMIN, Server, join, on_screen, until

pytestmark = pytest.mark.slow

Serving = Callable[..., Server]
Visit = Callable[..., Any]
PHONE = {"width": 390, "height": 844, "has_touch": True, "is_mobile": True}
FORMULAS = (
    "So $f(x) = x^2$ and \\(a_1 * a_2\\), for $5 or $6:\n\n"
    "$$\n\\begin{aligned} f'(x) &= \\lim_{h \\to 0} \\frac{(x+h)^2 - x^2}{h} \\\\ &= 2x \\label{a} "
    "\\end{aligned}\n$$\n\n"
    "\\begin{cases}\n1 & x > 0 \\\\\n0 & \\text{else}\n\\end{cases}"
)
REFUSED = (
    "Not drawn: $\\foo_{x}$, $x^$, \\(\\frac{1}{\\) and\n\n$$\\href{javascript:hit()}{a}$$\n\n"
    "$$\\includegraphics{http://127.0.0.1:9/x}$$\n\n"
    "\\[ \\htmlStyle{position: fixed}{b} + \\url{http://127.0.0.1:9} \\]\n\n"
    "\\begin{itemize}\n\\item a_b_c\n\\end{itemize}"
)
WIDE = (
    "|" + "|".join(f"column {i} with a long head" for i in range(12)) + "|\n|" + "--:|" * 12 + "\n"
    "|" + "|".join(f"value {i}" for i in range(12)) + "|\n\n```\n"
    + "\tx = 1  # a long line " * 12 + "\n```\n\n" + "W" * 400
)  # fmt: skip
HIDDEN = "No, \u202etxt.exe\u202c hides\tits  ending\u200b. \U000e0041 👩‍👩‍👧 می\u200cروم  \nend"


def ranked(count: int = 4) -> list[Question]:
    return [Question(prompt=f"rank {i}", options=tuple(f"{n} {i}" for n in "abcdefghi"[:count])) for i in range(2)]


def strip(page: Any) -> str:
    """The order on the strip: rungs by commas, ties by =; then what is not placed."""
    rungs = page.locator(".rung").all()
    order = ",".join("=".join(rung.locator(".chip").all_inner_texts()) for rung in rungs)
    return order + "|" + "".join(page.locator(".pool .chip").all_inner_texts())


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


# ── what was written ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_formulas_are_drawn_and_what_cannot_be_drawn_stays_as_written(serving: Serving, visit: Visit) -> None:
    asked = [Question(prompt="A $y_1$?", options=(FORMULAS, REFUSED))]
    server, page = serving(asked), visit()
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    join(page, server.link("Ann"))
    page.wait_for_selector(".answer .katex")
    page.wait_for_function("() => !document.querySelector('.tex:not([data-drawn])')")
    answers = {"So" if "So " in box.inner_text() else "Not": box for box in page.locator(".answer .md").all()}
    assert answers["So"].locator(".tex[data-drawn=yes]").count() == 4
    assert answers["So"].locator("math").count() == 4  # for those who listen
    assert "$5 or $6" in answers["So"].inner_text()
    shown = answers["Not"].inner_text()
    assert answers["Not"].locator("[data-drawn=yes], a, img").count() == 0
    for source in ("$\\foo_{x}$", "$x^$", "\\(\\frac{1}{\\)", "$$\\href{javascript:hit()}{a}$$", "\\item a_b_c"):
        assert source in shown
    assert "\\[ \\htmlStyle{position: fixed}{b}" in shown
    assert all(url.startswith(server.url) for url in fetched)
    assert [url for url in fetched if "katex.min.js" in url]


def test_a_page_without_formulas_fetches_no_katex(serving: Serving, visit: Visit) -> None:
    server, page = serving([Question(prompt="It costs $5.", options=("And $6.", "Or $7."))]), visit()
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    join(page, server.link("Ann"))
    page.wait_for_timeout(300)
    assert not [url for url in fetched if "katex" in url]


def test_a_formula_hides_nothing_and_leaves_its_card_alone(serving: Serving, visit: Visit) -> None:
    escapes = "$\\color{white} x$ $\\kern-90em\\raisebox{30em}{HERE}$ $\\rule{900em}{900em}$"
    server, page = serving([Question(prompt="?", options=(escapes, "plain"))]), visit()
    join(page, server.link("Ann"))
    page.wait_for_function("() => document.querySelectorAll('.tex[data-drawn=yes]').length === 3")
    colours = page.evaluate(
        "[...document.querySelectorAll('.tex .katex-html *')].map(e => getComputedStyle(e).color === "
        "getComputedStyle(document.body).color)"
    )
    assert all(colours)
    assert page.evaluate("[...document.querySelectorAll('.md')].every(e => getComputedStyle(e).overflow === 'clip')")
    assert fits(page)


@pytest.mark.parametrize("by", ["key", "capital", "Cyrillic", "button"])
def test_text_as_written_is_one_key_away_and_stays(serving: Serving, visit: Visit, by: str) -> None:
    asked = [Question(prompt=f"**p**rompt {i}", options=(HIDDEN, "*a*  $x_1$")) for i in range(2)]
    server, page = serving(asked), visit()
    join(page, server.link("Ann"))
    press = {
        "key": lambda: page.keyboard.press("w"),
        "capital": lambda: page.keyboard.press("W"),
        "Cyrillic": lambda: page.evaluate(
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ц', code: 'KeyW', bubbles: true}))"
        ),
        "button": lambda: page.click("[data-written]"),
    }[by]
    press()
    assert page.locator(".md:visible").count() == 0
    written = page.locator("pre.written:visible").all_inner_texts()
    assert written[0].startswith("**p**rompt")
    assert "*a*  $x_1$" in written
    hidden = next(text for text in written if text.startswith("No"))
    for code in ("U+202E", "U+202C", "U+200B", "U+E0041"):
        assert code in hidden
    assert "👩‍👩‍👧 می\u200cروم" in hidden
    assert page.locator(".written .tab").count() == 1
    assert page.locator(".written .spaces").count() == 3  # two in a row, and two before the line's end, and of *a*
    assert page.get_attribute("[data-written]", "aria-pressed") == "true"
    page.reload()
    assert page.locator("pre.written:visible").count() == 3
    press()
    assert page.locator("pre.written:visible").count() == 0
    assert page.locator(".md:visible").count() == 3
    assert server.store.votes() == []


@pytest.mark.parametrize("kind", [{}, PHONE], ids=["desktop", "phone"])
def test_what_is_wide_scrolls_in_its_own_box(serving: Serving, visit: Visit, kind: dict[str, Any]) -> None:
    server, page = serving([Question(prompt=WIDE, options=(WIDE, "short"))]), visit(**kind)
    join(page, server.link("Ann"))
    assert fits(page)
    table = page.locator(".answer .wide").first
    assert table.evaluate("e => e.scrollWidth > e.clientWidth + 200")
    page.wait_for_selector(".answer .wide.more-right")
    assert table.locator("td").first.evaluate("e => getComputedStyle(e).textAlign") == "right"
    code = page.locator(".answer pre code").first
    assert code.evaluate("e => getComputedStyle(e).whiteSpace") == "pre"
    before = on_screen(page)
    table.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    page.wait_for_function("() => document.querySelector('.answer .wide').scrollLeft > 0")
    page.wait_for_selector(".answer .wide.more-left")
    assert on_screen(page) == before
    assert server.store.votes() == []
    page.keyboard.press("w")
    assert fits(page)


# ── the strip ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_number_comes_off_by_mouse(serving: Serving, visit: Visit) -> None:
    server, page = serving(ranked()), visit()
    join(page, server.link("Ann"))
    assert strip(page) == "|1234"
    page.locator(".pool .chip").nth(1).click()
    page.locator(".choose").nth(3).click()
    assert strip(page) == "2,4|13"
    page.locator(".rung .chip").first.click()
    assert strip(page) == "4|123"
    page.locator(".choose").nth(3).click()  # the card's own button takes it off too
    assert strip(page) == "|1234"
    for number in (2, 0, 1, 3):
        page.locator(".choose").nth(number).click()
    assert strip(page) == "3,1,2,4|"
    assert page.locator(".choose:has-text('Place next')").count() == 0
    assert [end.inner_text() for end in page.locator(".rungs > .end").all()] == ["Best", "Worst"]
    chip = page.locator(".rung .chip").nth(1)
    box = chip.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] + 300, steps=4)  # far from the strip
    page.mouse.up()
    assert strip(page) == "3,2,4|1"
    assert page.locator(".ghost").count() == 0


def test_a_number_comes_off_by_finger(serving: Serving, visit: Visit) -> None:
    server, page = serving(ranked()), visit(**PHONE)
    join(page, server.link("Ann"))
    page.locator(".choose").nth(0).tap()
    page.locator(".pool .chip").nth(1).tap()
    assert strip(page) == "1,3|24"
    page.locator(".rung .chip").first.tap()
    assert strip(page) == "3|124"
    page.locator(".choose").nth(2).tap()
    assert strip(page) == "|1234"
    sizes = page.evaluate(
        "[...document.querySelectorAll('.chip, #task button')].filter(e => e.checkVisibility())"
        ".map(e => e.getBoundingClientRect()).map(b => Math.min(b.width, b.height))"
    )
    assert min(sizes) >= 43.9
    assert fits(page)


def test_a_number_comes_off_by_key(serving: Serving, visit: Visit) -> None:
    server, page = serving(ranked()), visit()
    join(page, server.link("Ann"))
    for key in ("2", "=", "4", "1"):
        page.keyboard.press(key)
    assert strip(page) == "2=4,1|3"
    page.locator(".rung .chip").first.focus()
    page.keyboard.press("Delete")
    assert strip(page) == "4,1|23"
    assert page.evaluate("document.activeElement.dataset.place") == "1"  # the focus goes with it
    page.keyboard.press("Enter")
    assert strip(page) == "4,1,2|3"
    page.keyboard.press("Space")
    assert strip(page) == "4,1|23"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Backspace")
    assert strip(page) == "4|123"


def test_undo_takes_back_the_last_placing_before_any_vote(serving: Serving, visit: Visit) -> None:
    server, page = serving(ranked()), visit()
    join(page, server.link("Ann"))
    page.wait_for_timeout(900)
    for key in "1234":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    until(lambda: len(server.store.votes()) == 1)
    page.wait_for_function(
        "() => document.querySelector('.prompt').innerText.includes('rank') && !document.querySelector('.rung')"
    )
    second = on_screen(page)
    page.keyboard.press("3")
    page.keyboard.press("1")
    page.locator(".rung .chip").first.click()
    assert strip(page) == "1|234"
    for expected in ("3,1|24", "3|124", "|1234"):
        page.keyboard.press("u")
        assert strip(page) == expected
    assert on_screen(page) == second
    assert len(server.store.votes()) == 1


def test_a_ranking_that_changes_under_the_open_details_is_not_sent_as_it_was(serving: Serving, visit: Visit) -> None:
    server, page = serving(ranked()), visit()
    join(page, server.link("Ann"))
    page.wait_for_timeout(900)
    for key in ("d", "1", "2", "3", "4", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".details:not([hidden])")
    page.locator(".rung .chip").first.click()
    assert page.is_hidden(".details")
    assert strip(page) == "2,3,4|1"
    assert server.store.votes() == []


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_the_administrators_table_fits_or_shows_that_it_scrolls(serving: Serving, visit: Visit, width: int) -> None:
    server, page = serving([Question(prompt="$x_1$", options=("$a$", "b"))]), visit(width)
    join(page, server.link("Somebody with a rather long name"))
    page.wait_for_timeout(900)
    page.keyboard.press("1")
    page.wait_for_selector(".done")
    page.goto(f"{server.url}/admin#{ADMIN}")
    page.wait_for_selector(".admin table", timeout=180_000)  # the server first imports torch
    page.wait_for_timeout(200)
    assert fits(page)
    box = page.locator(".admin .wide").first
    over = box.evaluate("e => e.scrollWidth - e.clientWidth")
    assert over <= 1 if width == 1280 else ("more-right" in box.get_attribute("class")) == (over > 1)
