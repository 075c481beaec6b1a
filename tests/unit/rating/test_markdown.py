"""Model text as HTML: formulas and money, what Markdown must leave alone, tables, directions, and hostile input."""

from __future__ import annotations

import html
import re
import time

import pytest

from steersman.rating.markdown import LONGEST_MARKDOWN, rendered
from steersman.rating.maths import LONGEST_FORMULA, MOST_FORMULAS, is_formula

TEX = re.compile(r'data-tex="([^"]*)"')


def formulas(text: str) -> list[str]:
    return [html.unescape(found).strip() for found in TEX.findall(rendered(text))]


def words(text: str) -> str:
    """What a reader sees, before formulas are drawn."""
    return html.unescape(re.sub(r"<[^>]*>", "", rendered(text))).strip()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so $f(x) = x^2$ is", ["f(x) = x^2"]),
        (r"so \(f'(3) = 6\).", ["f'(3) = 6"]),
        ("it is\n\n$$\\frac{a}{b} = 2x$$\n\nso", [r"\frac{a}{b} = 2x"]),
        (r"in a line \[ \frac{d}{dx} x^n \] and on", [r"\frac{d}{dx} x^n"]),
        (r"$a_1 * a_2 * a_3$ costs $5 or $6.", ["a_1 * a_2 * a_3"]),
        ("\\[\nx_1 *y*\n- z\n= 3\n\\]", ["x_1 *y*\n- z\n= 3"]),
        ("> \\[\n> a *b* c_1\n> \\]\n\nbehind", ["a *b* c_1"]),
        ("- item\n  $$\n  x\n  - y\n  $$\n- next", ["x\n- y"]),
        ("\\begin{align}\na &= b_1 * c \\\\\n- d &= *e*\n\\end{align}", None),
        ("\\begin{pmatrix}\n\\begin{pmatrix} 1 \\end{pmatrix}\n\\end{pmatrix}", None),
        (r"$\begin{cases} a & b \\ c & d \end{cases}$", [r"\begin{cases} a & b \\ c & d \end{cases}"]),
        (r"the interval $[0, 1)$ and $(0,1]$", ["[0, 1)", "(0,1]"]),
        (r"$n$th, $-5$, $1, 2, 3$ and $5$", ["n", "-5", "1, 2, 3", "5"]),
        (r"设$x$为$y$的函数", ["x", "y"]),
        (r"$\$5 + \$6$", [r"\$5 + \$6"]),
        (r"**so $x_1$ and _y_**", ["x_1"]),
        ("| a |\n|---|\n| $x_1$ |", ["x_1"]),
        ("$$\na = b\n$$.", ["a = b\n."]),
        (r"\[ \text{total cost} = 5 \]", [r"\text{total cost} = 5"]),
    ],
)
def test_a_formula_is_found_whole(text: str, found: list[str] | None) -> None:
    assert formulas(text) == ([text] if found is None else found)
    assert "<em>" not in re.sub("_y_", "y", rendered(text)).replace("<em>y</em>", "")


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10.",
        "$5-$10, US$5/US$10 (A$3), $100k–$200k, 10$ or 20$",
        "I have $5 in my pocket, a dollar sign ($) in my hand",
        "$5 million (about €4)$",
        "$5 for me ($6 for you)",
        "restaurants $$ - $$$ and $ alone $",
        "$HOME/$USER, ${A}/${B}, $(pwd)/$(date), $a->b($c)",
        "$a\n\nb$",
        "the dollar ($) and the cent; another ($)",
    ],
)
def test_money_and_variables_are_no_formulas(text: str) -> None:
    assert formulas(text) == []
    assert re.sub(r"\s+", " ", words(text)) == re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    "text",
    [
        r"C:\Users\new and \\server\share",
        r"\[citation needed\], \[1\], \(optional\), \[x\]",
        r"\( unclosed and \[ too, \{a\}, 50\%, a \, b",
        "2*3*4 and f(x)*g(x)*h and a_b_c and x*y",
        r"\frac{a}{b} without dollars, \\ and \alpha",
        "[link](http://a.example) ![image](http://b.example/x.png) <http://c.example> [^1]",
        "- [ ] todo",
        "emoji 👩‍👩‍👧‍👦🇩🇪 and 万里の長城",
    ],
)
def test_what_is_no_markdown_stays_as_written(text: str) -> None:
    assert words(text) == text.removeprefix("- ")


def test_markdown_is_still_markdown() -> None:
    assert rendered(r"*em* **W**orld a*b* 这是*重点*内容 \*not\* 1\. \_ \$5") == (
        '<p dir="auto"><em>em</em> <strong>W</strong>orld a*b* 这是<em>重点</em>内容 *not* 1. _ $5</p>\n'
    )
    assert rendered("a\nb  \nc\\\nd").count("<br") == 3
    nested = rendered("5. five\n6. six\n   - nested")
    assert '<ol start="5" dir="ltr">' in nested
    assert "<ul" in nested
    assert "<code>\tx = 1  # two  spaces\n</code>" in rendered("```\n\tx = 1  # two  spaces\n```")
    assert formulas("```\n$$x$$\n```\n\n`$x_1$`\n\n    $$y$$") == []


def test_columns_keep_their_alignment_without_a_style() -> None:
    table = rendered("| a | b | c |\n|:--|--:|:-:|\n| 1 | 2 | 3 |")
    for name in ("left", "right", "center"):
        assert table.count(f'class="align-{name}"') == 2
    assert "style" not in table
    assert '<div class="wide" tabindex="0"><table' in table


def test_each_block_reads_in_its_own_direction() -> None:
    assert '<ol dir="rtl">' in rendered("1. ساطع\n2. بعيد")
    assert '<blockquote dir="rtl">' in rendered("> ערב (evening)")
    assert '<ul dir="ltr">' in rendered("- 1: hello שלום")
    assert '<table dir="rtl">' in rendered("| א | b |\n|---|---|\n| 1 | 2 |")
    assert rendered("שלום $x$ hello") == (
        '<p dir="auto">שלום <span class="tex" dir="ltr" data-tex="x">$x$</span> hello</p>\n'
    )


def test_what_katex_does_not_draw_is_shown_as_written() -> None:
    text = "\\begin{itemize}\n\\item a_b_c and *d*\n\\end{itemize}"
    assert rendered(text) == f'<pre class="tex-source" tabindex="0">{text}</pre>\n'
    assert 'class="tex-source"' in rendered(r"see \begin{tabular}{c} *a* \end{tabular} here")


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        '$\\text{"><img src=x onerror=alert(1)>}$',
        "\\begin{x}\n<svg onload=alert(1)>\n\\end{x}",
        '$$\n"onmouseover="alert(1)\n= <b>\n$$',
        "```html\n</code></pre><script>alert(1)</script>\n```",
        "[x](javascript:alert(1)) <javascript:alert(1)>",
        '| a |\n|:-:" onclick="x|\n| <iframe src=x> |',
        "&lt;script&gt; &#60;script&#62;",
    ],
)
def test_hostile_text_makes_no_element_and_no_attribute(attack: str) -> None:
    page = rendered(attack)
    tags = re.findall(r"<\s*/?\s*([a-zA-Z0-9]+)((?:[^>\"]|\"[^\"]*\")*)>", page)
    known = {"p", "pre", "code", "span", "div", "table", "thead", "tbody", "tr", "th", "td", "em", "br"}
    assert {name for name, _ in tags} <= known, page
    for _, attributes in tags:
        rest = re.sub(r'\s(?:class|dir|tabindex|data-tex)="[^"]*"', "", attributes)
        assert rest.strip() in ("", "data-display", "/"), page


def test_limits() -> None:
    assert not is_formula("$$", "x=" + "1" * LONGEST_FORMULA)
    assert len(formulas("$x_1$ " * (MOST_FORMULAS + 5))) == MOST_FORMULAS
    assert rendered("*a*" + "b" * LONGEST_MARKDOWN).startswith('<div class="plain"')


@pytest.mark.parametrize(
    "text", ["$a ", "\\[\n", "\\begin{a}\n", "\\(", "$$\n", "\\", "*a", "\\[\n> ", "$a$b", "\\begin{a}\\end{b} "]
)
def test_no_text_takes_long(text: str) -> None:
    """Under a second of this process each; before closings were remembered, `\\begin{a}` took a minute."""
    whole = (text * LONGEST_MARKDOWN)[:LONGEST_MARKDOWN]
    started = time.process_time()
    rendered(whole)
    assert time.process_time() - started < 10
