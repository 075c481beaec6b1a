"""A request in pieces that the reader is to put together: strings joined, variables, lists, first letters of lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from steersman.guard.decoders import Found
from steersman.guard.lexicon import WORD, Glance, readable, segment, words

_JOIN = re.compile(r"(\"|')\s{0,4}(?:\+|\.\.|\|\||&|\.|,|\n)?\s{0,4}\\?\n?\s{0,4}\1")
_STRING = r"(?:\"((?:[^\"\\\n]|\\.){0,2000})\"|'((?:[^'\\\n]|\\.){0,2000})'|“([^”\n]{0,2000})”)"
_ASSIGN = re.compile(rf"(?<![\w.])\$?([A-Za-z_]\w{{0,30}})\s{{0,4}}(?::=|=|:|\bis\b|\bbe\b)\s{{0,4}}{_STRING}")
_ASSIGNED = re.compile(r"(?:=|:|\bis|\bbe)\s?[\"'“]")
_SUM = re.compile(
    r"(?<![\w\"'])[${(\s]*\$?[A-Za-z_]\w{0,30}\}?(?:\s{0,3}(?:\+|\.\.|\|\||&|\.|\}\s?\$?\{|,)\s{0,3}[${]*[A-Za-z_]\w{0,30}\}?){1,40}"
)
_LIST = re.compile(rf"\[\s{{0,4}}{_STRING}(?:\s{{0,4}},\s{{0,4}}{_STRING}){{1,400}}\s{{0,4}},?\s{{0,4}}\]")
_LITERAL = re.compile(_STRING)
_APPEND = re.compile(rf"(?:append|push|add|insert|appendleft)\(\s{{0,3}}{_STRING}\s{{0,3}}\)")
_RANKED = re.compile(rf"{_STRING}\s{{0,3}}:\s{{0,3}}(\d{{1,4}})")


def joined_strings(glance: Glance) -> Iterator[list[Found]]:
    """Strings joined by a plus, by standing side by side, in a list, or through variables."""
    text = glance.text
    if '"' not in text and "'" not in text and "“" not in text:
        return
    spans = [
        Found(join.start(), join.end(), "", "strings joined")
        for join in _JOIN.finditer(text)
        if join.end() - join.start() > 2 and ("+" in join[0] or "&" in join[0] or "." in join[0] or "|" in join[0])
    ]
    if spans:
        yield spans
    spans = [
        Found(run.start(), run.end(), '"' + _glued(run[0]) + '"', "list joined")
        for run in _LIST.finditer(text)
        if readable(_glued(run[0]), surely=True)
    ]
    if spans:
        yield spans
    yield from _variables(text)


def _glued(part: str) -> str:
    pieces = ["".join(found) for found in _LITERAL.findall(part)]
    glue = "" if any(len(piece) < 3 or piece.startswith(" ") or piece.endswith(" ") for piece in pieces) else " "
    made = glue.join(pieces)
    return segment(made.lower()) if made.isalpha() and len(made) > 8 else made


def _variables(text: str) -> Iterator[list[Found]]:
    """Variables put together: a = "ki"; b = "ll"; a + b."""
    if len(_ASSIGNED.findall(text)) < 2:
        return
    values = {found[1]: found[2] or found[3] or found[4] or "" for found in _ASSIGN.finditer(text)}
    if len(values) < 2:
        return
    spans = []
    for run in _SUM.finditer(text):
        names = re.findall(r"[A-Za-z_]\w*", run[0])
        if len(names) > 1 and all(name in values for name in names):
            spans.append(
                Found(run.start(), run.end(), " " + "".join(values[name] for name in names), "variables joined")
            )
    if spans:
        yield spans


def ordered(glance: Glance) -> Iterator[list[Found]]:
    """Words given one by one: appended to a stack, or each with its rank."""
    text = glance.text
    if "(" in text:
        calls = list(_APPEND.finditer(text))
        pieces = [call[1] or call[2] or call[3] or "" for call in calls]
        if len([piece for piece in pieces if re.search(r"\w", piece)]) > 3:
            last = [
                Found(calls[0].start(), calls[-1].end(), " ".join(made), "words appended")
                for made in (pieces, pieces[::-1])
            ]
            if readable(last[0].text):
                yield [last[0]]
                yield [last[1]]
    if ":" in text:
        ranked = list(_RANKED.finditer(text))
        order = {int(found[4]): found[1] or found[2] or found[3] or "" for found in ranked}
        if len(ranked) > 3 and len(order) == len(ranked) and max(order) - min(order) == len(order) - 1:
            made = " ".join(order[rank] for rank in sorted(order))
            if readable(made):
                yield [Found(ranked[0].start(), ranked[-1].end(), made, "words ranked")]


_TREE = re.compile(r"\{\s{0,4}[\"'](?:value|left|right|word|key|data)[\"']\s{0,4}:")


def tree(glance: Glance) -> Iterator[list[Found]]:
    """Words in the nodes of a binary tree as JSON, from left to right."""
    first = _TREE.search(glance.text) if "{" in glance.text and "left" in glance.text else None
    if not first:
        return
    try:
        root, end = json.JSONDecoder().raw_decode(glance.text, first.start())
    except (ValueError, RecursionError):
        return
    found: list[str] = []
    waiting: list[Any] = [root]
    while waiting and len(found) < 2000:
        node = waiting.pop()
        if isinstance(node, dict):
            own = [part for name, part in node.items() if name not in ("left", "right")]
            waiting += [node.get("right"), *own[::-1], node.get("left")]
        elif isinstance(node, str):
            found.append(node)
    made = " ".join(found)
    if len(found) > 3 and readable(made):
        yield [Found(first.start(), end, made, "words in a tree")]


def acrostics(glance: Glance) -> Iterator[list[Found]]:
    """First letters of lines, where they are words."""
    text = glance.text
    if text.count("\n") < 3:
        return
    lines = list(re.finditer(r"(?:^|(?<=\n))[^\n]*", text))
    lines = lines[:600]
    firsts = [_first(line[0]) for line in lines]
    start = 0
    while start < len(lines):
        end = start
        while end < len(lines) and (len(firsts[end]) == 1):
            end += 1
        made = _from_firsts("".join(firsts[start:end]).strip())
        if made:
            yield [Found(lines[start].start(), lines[end - 1].end(), made, "first letters")]
        start = end + 1


def _first(line: str) -> str:
    stripped = re.sub(r"^\s*(?:[-*•>#]+\s+|\d{1,3}[.)]\s*|[\"'“(]+)?", "", line) if len(line) > 1 else line
    if not stripped.strip() or stripped.strip() in "—–-_/|":
        return " "
    return stripped[0]


def _from_firsts(letters: str) -> str:
    """First letters as words; empty if they are none. Blank lines are gaps between words, or between all lines."""
    parts = letters.split()
    if len(parts) > 2 and max(map(len, parts)) == 1:
        parts = ["".join(parts)]
    if sum(map(len, parts)) < 6 or (len(parts) > 1 and max(map(len, parts)) < 3):
        return ""
    made = " ".join(segment(part.lower()) if len(part) > 8 and part.isalpha() else part for part in parts)
    known = words()
    sure = sum(len(word) for word in WORD.findall(made.lower()) if len(word) > 2 and word in known)
    return made if sure >= 0.55 * len(made) and readable(made, surely=True) else ""
