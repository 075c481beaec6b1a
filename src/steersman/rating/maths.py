r"""Formulas in Markdown: found before Markdown reads their underscores, asterisks and backslashes.

`$...$`, `$$...$$`, `\(...\)`, `\[...\]` and `\begin{...}...\end{...}` become elements of class ``tex``, whose text is
the source with its delimiters and whose ``data-tex`` is what stands between them. KaTeX draws them in the browser
(``static/render.js``); what it cannot read stays as it was written. Dollars are money more often than maths, so what
stands between two of them has to look like a formula.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

LONGEST_FORMULA = 5_000  # characters
DEEPEST = 20  # environments of one name within each other
MOST_FORMULAS = 500  # in one text; more stay as they were written

# What KaTeX draws; other environments (tabular, itemize, tikzpicture) are shown as they were written.
_ENVIRONMENT = re.compile(
    r"([pbBvV]|small)?matrix\*?|(d?ar|subar)ray|[dr]{0,2}cases|aligned(at)?|gathered|split|CD"
    r"|(equation|align|alignat|gather)\*?"
)
# Within an inline formula these would be refused.
_ALWAYS_DISPLAYED = re.compile(r"\\begin\{(equation|align|alignat|gather)\*?\}|\\tag\b")
_PAIRS = {"\\(": "\\)", "\\[": "\\]"}
_BEGIN = re.compile(r"\\begin\{([A-Za-z]+\*?)\}")
_WORDS = re.compile(
    r"\\(?:text\w*|mbox|hbox|math[a-z]+|operatorname\*?|tag\*?|label)\s*\{[^{}]*\}|\\(?:begin|end)\s*\{[^{}]*\}"
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_PROSE = re.compile(r"[^\W\d_]{3,}[,.;:!?]?\s+[^\W\d_]{3,}")
_WORD = re.compile(r"[^\W\d_]{2,}")
_AMOUNT = re.compile(r"[\d.,]+(?:[kKmMB]|bn)[,;:]?\s")
_OPERATOR = re.compile(r"[\\^_=<>+*/|&(){}-]")
_AFTER_DOLLAR = re.compile(r"(?!(?:th|st|nd|rd|s)\b)[A-Za-z0-9({$]")  # but `$n$th`


def install(markdown: MarkdownIt) -> None:
    """Add the rules to a parser."""
    markdown.block.ruler.before("fence", "tex_block", _block, {"alt": ["paragraph", "blockquote", "list"]})
    markdown.inline.ruler.before("escape", "tex", _inline)
    markdown.add_render_rule("tex", _render_inline)
    markdown.add_render_rule("tex_block", _render_block)
    markdown.add_render_rule("tex_source", _render_source)


# ── does it look like a formula? ─────────────────────────────────────────────────────────────────────────────────────
def is_formula(opening: str, body: str) -> bool:
    """Whether what stands behind an opening delimiter, up to the closing one, reads as maths and not as prose."""
    if not body.strip() or len(body) > LONGEST_FORMULA:
        return False
    if _BEGIN.match(opening):
        return True
    if opening != "$" and opening in body:
        return False
    bare = _COMMAND.sub(" ", _WORDS.sub(" x ", body))
    if opening in ("\\(", "\\["):
        # `\[1\]` and `\(optional\)` are brackets that somebody escaped.
        if _OPERATOR.search(body):
            return True
        return opening == "\\(" and not re.search(r"[^\W\d_]{4,}|[^\W\d_]\s+[^\W\d_]{3,}", bare)
    if "`" in body or _PROSE.search(bare) or not re.search(r"\w", body):
        return False
    if opening == "$$":
        return bool(_OPERATOR.search(body)) or not _WORD.search(bare)
    if not body[0].isdigit():
        return True
    # `$5 for me ($6 for you)`, `$200k, 10$`: an amount, and words or half a bracket behind it.
    return not (_WORD.search(bare) or _AMOUNT.match(body)) and bare.count("(") == bare.count(")")


# ── within a line ────────────────────────────────────────────────────────────────────────────────────────────────────
def _inline(state: StateInline, silent: bool) -> bool:
    opening = _opening(state.src, state.pos)
    found = _closing(state.src, state.pos, opening, state.env) if opening else None
    if opening is None or found is None:
        return False
    body, end = found
    if not is_formula(opening, body) or not _counted(state.env):
        return False
    if not silent:
        token = state.push("tex", "", 0)
        environment = _BEGIN.match(opening)
        token.content = state.src[state.pos : end]
        token.meta = {
            "tex": token.content if environment else body,
            "display": opening in ("$$", "\\[") or bool(_ALWAYS_DISPLAYED.search(token.content)),
        }
        if environment and not _ENVIRONMENT.fullmatch(environment[1]):
            token.meta = {}
    state.pos = end
    return True


def _opening(text: str, start: int) -> str | None:
    if text.startswith(("\\(", "\\["), start):
        return text[start : start + 2]
    if text.startswith("\\begin{", start):
        found = _BEGIN.match(text, start)
        return found[0] if found else None
    if text[start] != "$":
        return None
    if text.startswith("$$", start):
        return None if text.startswith("$$$", start) else "$$"
    before, after = text[start - 1 : start], text[start + 1 : start + 2]
    return None if before in ("$", "\\") or re.match(r"[A-Za-z0-9]", before) or not after.strip() else "$"


def _closing(text: str, start: int, opening: str, env: Any) -> tuple[str, int] | None:
    """The body and the end of a formula, or None if it has none within `LONGEST_FORMULA`."""
    inside, limit = start + len(opening), start + LONGEST_FORMULA
    environment = _BEGIN.match(opening)
    closing = f"\\end{{{environment[1]}}}" if environment else _PAIRS.get(opening, opening)
    # Where this text is known to hold no closing: without it, a text of openings alone would take quadratic time.
    none_before = env.setdefault("none before", {})
    at = max(inside, none_before.get((closing, text), 0))
    while (at := text.find(closing, at, limit)) >= 0:
        before, end = text[inside:at], at + len(closing)
        if environment:
            depth = before.count(opening) - before.count(closing)
            if depth == 0:
                return text[inside:end], end
            if depth > DEEPEST:
                return None
        elif (len(before) - len(before.rstrip("\\"))) % 2 == 0:  # not escaped
            # The next dollar closes a formula, or there is none: `$5 and $x$` is an amount and a formula.
            return (before, end) if opening != "$" or _may_close(text, at) else None
        at += 1
    if not environment or closing not in text[inside:limit]:
        none_before[closing, text] = limit - len(closing)
    return None


def _may_close(text: str, at: int) -> bool:
    """Whether the dollar at this place may end a formula: no space before it, and no word or amount behind."""
    return not text[at - 1].isspace() and text[at - 1] != "$" and not _AFTER_DOLLAR.match(text, at + 1)


def _counted(env: Any) -> bool:
    env["formulas"] = env.get("formulas", 0) + 1
    return bool(env["formulas"] <= MOST_FORMULAS)


# ── on lines of their own ────────────────────────────────────────────────────────────────────────────────────────────
def _block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    if state.is_code_block(first):
        return False
    start = state.bMarks[first] + state.tShift[first]
    opening = _opening(state.src, start) if start < state.eMarks[first] else None
    if opening in (None, "$", "\\("):
        return False
    whole = _closing(state.src, start, opening, state.env)
    if whole is None or not is_formula(opening, whole[0]):
        return False
    lines = first
    while state.eMarks[lines] < whole[1]:
        lines += 1
        if lines >= last or (opening == "$$" and state.isEmpty(lines)):
            return False
        if not state.isEmpty(lines) and state.sCount[lines] < state.blkIndent:
            return False
    lines += 1
    # Once more, without the marks of quotes and lists before the lines.
    content = state.getLines(first, lines, state.blkIndent, False).lstrip()
    found = _closing(content, 0, opening, state.env)
    if found is None or content[found[1] :].strip() not in ("", ".", ",", ";"):
        return False
    body, end = found
    if silent:
        return True
    if not _counted(state.env):
        return False
    environment = _BEGIN.match(opening)
    drawn = environment is None or _ENVIRONMENT.fullmatch(environment[1]) is not None
    token = state.push("tex_block" if drawn else "tex_source", "", 0)
    token.block, token.map, token.content = True, [first, lines], content.rstrip("\n")
    token.meta = {"tex": content[:end] if environment else body, "after": content[end:].strip()}
    state.line = lines
    return True


# ── as HTML ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _render_inline(renderer: Any, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
    token = tokens[idx]
    source = escapeHtml(token.content)
    if not token.meta:
        return f'<span class="tex-source" dir="ltr">{source}</span>'
    if token.meta["display"]:
        return f'<span class="tex display wide" tabindex="0" dir="ltr" {_data(token)} data-display>{source}</span>'
    return f'<span class="tex" dir="ltr" {_data(token)}>{source}</span>'


def _render_block(renderer: Any, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
    token = tokens[idx]
    source = escapeHtml(token.content)
    return f'<div class="tex display wide" tabindex="0" dir="ltr" {_data(token)} data-display>{source}</div>\n'


def _render_source(renderer: Any, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
    return f'<pre class="tex-source" tabindex="0">{escapeHtml(tokens[idx].content)}</pre>\n'


def _data(token: Token) -> str:
    return f'data-tex="{escapeHtml(token.meta["tex"] + token.meta.get("after", ""))}"'
