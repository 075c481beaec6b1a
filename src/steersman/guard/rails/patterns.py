"""Words, phrases and regular expressions of the principles, in every view of a text.

A word is found as a whole word ("class" is not in "classic"), in any case, in the scripts that put spaces between words
and in those that do not. It is found as it is written: inflected forms are words of their own. Between the words of a
phrase may stand a few spaces, line ends or signs.

Patterns are Python's regular expressions, without regard to case. They come from the constitution, which a tenant may
have written, so one that could hang the guard is refused or bounded: see `bounded`. They are matched by the package
`regex`, which gives up after `TIMEOUT_S`; the rail has then failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]  # what `re` knows of a pattern's width
from typing import Any, NamedTuple

import regex

from steersman.constitution.document import Constitution, Principle
from steersman.errors import ConstitutionError
from steersman.guard.folding import folded
from steersman.guard.normalise import View, Views
from steersman.guard.rails.text import Finding, TextRail
from steersman.guard.verdict import Decision, Side

UNBOUNDED = 64  # characters, or repetitions, that `+`, `*` and `{2,}` stand for at most
WIDEST = 512  # characters of the longest match of a pattern
TIMEOUT_S = (
    0.5  # of one pattern in one view, in seconds of the process's CPU time; the guard's deadline is by the clock
)
DRESSED = 4  # an obfuscated word is up to so many times as long: base64, hexadecimal, percent signs, spaced letters
MOST_DRESSED = 256  # characters that are held back for a longer disguise

# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_KOREAN = "\u1100-\u11ff\uac00-\ud7a3"  # spaces before words; particles are attached behind
_MARKS = (
    r"\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963"
    r"\u0980-\u0983\u09bc-\u09cd\u0a01-\u0a03\u0a3c-\u0a51\u0a81-\u0a83\u0abc-\u0acd\u0b01-\u0b03\u0b3c-\u0b57"
    r"\u0bbe-\u0bcd\u0c3e-\u0c56\u0cbc-\u0cd6\u0d3e-\u0d4d\u0dca-\u0ddf"
)
_LETTER = rf"(?:[^\W_]|[{_MARKS}])"  # `\w` of `re` has no vowel signs of Devanagari and its kin
_TOKEN = re.compile(rf"(?:[^\W_]|[{_MARKS}])+")
_FREE = re.compile(f"[{_UNSPACED}]")
_GAP = r"[\W_]{1,4}"


class Word(NamedTuple):
    """A word or phrase, ready to be found in folded text."""

    principle: str
    tokens: tuple[str, ...]  # all of them stand in a text that holds it; none for scripts without spaces
    needle: str  # stands in a text that holds it
    found_by: re.Pattern[str]


def word_pattern(text: str) -> re.Pattern[str]:
    """What finds a word or phrase, as a whole, in folded text."""
    words = folded(text)[0].split()
    body = _GAP.join(map(re.escape, words))
    first, last = words[0][0], words[-1][-1]
    before = f"(?<!{_LETTER})" if _is_letter(first) and not _FREE.match(first) else ""
    bound = _is_letter(last) and not _FREE.match(last) and not re.match(f"[{_KOREAN}]", last)
    return re.compile(f"{before}(?:{body})" + (f"(?!{_LETTER})" if bound else ""))


def _is_letter(character: str) -> bool:
    return bool(_TOKEN.match(character))


class _Words:
    """Many words at once: those whose first token a text lacks cost one look-up together."""

    def __init__(self, words: Iterable[tuple[str, str]]) -> None:
        self.by_token: dict[str, list[Word]] = {}
        self.others: list[Word] = []  # of scripts without spaces, or of signs alone
        for principle, text in words:
            plain = folded(text)[0]
            tokens = tuple(_TOKEN.findall(plain))
            spaced = not (_FREE.search(plain) or re.search(f"[{_KOREAN}]", plain))
            word = Word(principle, tokens if spaced else (), plain.split()[0], word_pattern(text))
            if word.tokens:
                self.by_token.setdefault(word.tokens[0], []).append(word)
            else:
                self.others.append(word)

    def find(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Principle, start and end of each, in folded text."""
        likely = [word for word in self.others if word.needle in text]
        if self.by_token:
            tokens = set(_TOKEN.findall(text))
            for first in tokens & self.by_token.keys():
                likely += [word for word in self.by_token[first] if tokens.issuperset(word.tokens)]
        for word in likely:
            for match in word.found_by.finditer(text):
                yield word.principle, match.start(), match.end()


class AllowedWords:
    """Words and phrases that no rail may object to, literally: no disguise of them counts."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = _Words(("", word) for word in words)
        self.longest = max(map(len, words), default=0)
        self._spans = lru_cache(maxsize=64)(self._found)

    def cover(self, text: str, start: int, end: int) -> bool:
        """Whether these characters of a text lie inside an allowed phrase."""
        return bool(self.longest) and any(s <= start < end <= e for s, e in self._spans(text))

    def _found(self, text: str) -> list[tuple[int, int]]:
        view = View(text)
        plain, origin = folded(text)
        return [_original(view, origin, start, end) for _, start, end in self.words.find(plain)]


class Pattern(NamedTuple):
    """A regular expression of a principle."""

    principle: str
    found_by: Any  # regex.Pattern


class PatternRail(TextRail):
    """The words and patterns of a constitution's principles.

    Raises:
        ConstitutionError: a pattern that cannot be enforced, or a principle whose words can have no effect.
    """

    name = "patterns"

    def __init__(self, constitution: Constitution) -> None:
        super().__init__()
        self._enforced = {principle.id: principle.enforced for principle in constitution.principles}
        self._words = _Words((p.id, word) for p in constitution.principles for word in p.guard.words)
        self._patterns: list[Pattern] = []
        longest = max((_longest(word) for p in constitution.principles for word in p.guard.words), default=0)
        ahead = 1  # the next character may make another word of it
        for principle in constitution.principles:
            _has_effect(principle, constitution.name)
            for text in principle.guard.patterns:
                compiled, width, behind = bounded(
                    text, f"constitution {constitution.name}: {principle.id}: guard.patterns"
                )
                self._patterns.append(Pattern(principle.id, compiled))
                longest, ahead = max(longest, width), max(ahead, behind)
        # An allowed phrase may go on behind it.
        self.look_ahead = ahead + max(map(len, constitution.guard.allowed), default=0)
        self.reach: int | None = max(longest, min(DRESSED * longest, MOST_DRESSED)) + self.look_ahead if longest else 0

    def find(self, views: Views) -> Iterable[Finding]:
        """See `TextRail`. The same characters found in several views are one finding, of the plainest."""
        seen: set[tuple[str, int, int]] = set()
        for view in views:
            plain, origin = folded(view.text)
            found = [(id, *_original(view, origin, start, end)) for id, start, end in self._words.find(plain)]
            for pattern in self._patterns:
                matches = pattern.found_by.finditer(view.text, overlapped=True, timeout=TIMEOUT_S)
                found += [(pattern.principle, *view.span(*match.span())) for match in matches]
            for key in sorted(found, key=lambda key: key[1:]):
                if key not in seen:
                    seen.add(key)
                    principle, start, end = key
                    yield Finding(principle, "", start, end, view.trace)

    def decision(self, principle: str, side: Side) -> Decision:
        """See `TextRail`."""
        own = self._enforced[principle]
        return own.input if side == "input" else own.output


def _longest(word: str) -> int:
    """Characters of a phrase with the widest gaps."""
    return len(word) + 3 * len(word.split())


def _original(view: View, origin: Sequence[int] | None, start: int, end: int) -> tuple[int, int]:
    """Characters of a folded view in the original; a letter that folds to several counts as a whole."""
    if origin is not None:
        last = end - 1
        while end < len(origin) - 1 and origin[end] == origin[last]:
            end += 1
        start, end = origin[start], origin[end]
    return view.span(start, end)


def _has_effect(principle: Principle, name: str) -> None:
    rule = principle.guard
    if (rule.words or rule.patterns) and not principle.enforced.anywhere:
        raise ConstitutionError(
            "it has words or patterns, and both sides are allowed: nothing would ever be done about them",
            where=f"constitution {name}: {principle.id}: guard",
            expected="`input` or `output` other than allow",
            do="let `output: block` stop answers that hold them, or remove the words",
        )


# ── regular expressions ──────────────────────────────────────────────────────────────────────────────────────────────
# An escape, a character class, a comment, the beginning of a group, or a quantifier (`++` gives nothing back).
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)|\(\?|(?:[+*?]|\{\d*,?\d*\})\+?", re.DOTALL)


def bounded(text: str, where: str) -> tuple[Any, int, int]:
    """A regular expression with an end to it, compiled; the characters that it sees at most; those ahead of a match.

    ``+``, ``*`` and ``{2,}`` stand for at most `UNBOUNDED` repetitions more than their least, so that no match is
    wider than `WIDEST`: streaming holds that much back.

    Raises:
        ConstitutionError: it is no regular expression, matches nothing at all, or could match too much.
    """
    where = f"{where} ({text})"
    try:
        tree = _parser.parse(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConstitutionError(
            f"not a regular expression: {error}", where=where, expected="one as Python's `re` reads it"
        ) from None
    if tree.state.flags & re.VERBOSE:
        raise ConstitutionError("the flag x is not read here", where=where, expected="a pattern without (?x)")
    if tree.getwidth()[0] == 0:
        raise ConstitutionError(
            "it matches the empty text, so it would object to everything",
            where=where,
            expected="a pattern that needs at least one character",
        )
    short = _PIECE.sub(_with_an_end, text)
    try:
        tree = _parser.parse(short, re.IGNORECASE)
        width, looked_at = _width(tree), _looked_at(tree)
        compiled = regex.compile(short, regex.IGNORECASE | regex.VERSION0)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise ConstitutionError(f"cannot be read: {error}", where=where) from None
    if width > WIDEST:
        raise ConstitutionError(
            f"it could match {width:,} characters, counting + and * as {UNBOUNDED}",
            where=where,
            expected=f"at most {WIDEST}: streaming holds back as much as a pattern can match",
            do="give its repetitions an end, such as {1,20}, and let none stand inside another",
        )
    return compiled, width, 1 + looked_at


def _with_an_end(piece: re.Match[str]) -> str:
    """A quantifier without a most gets one; every other piece stays."""
    found = piece[0]
    if found[0] in "+*":
        return f"{{{int(found[0] == '+')},{UNBOUNDED}}}{found[1:]}"
    if without_most := re.match(r"\{(\d*),\}", found):
        least = int(without_most[1] or 0)
        return f"{{{least},{least + UNBOUNDED}}}{found[without_most.end() :]}"
    return found


def _width(tree: Any) -> int:
    """Characters of the longest match, and of what it looks at around it."""
    return int(min(tree.getwidth()[1], 10**9)) + _looked_at(tree)


def _looked_at(tree: Any) -> int:
    total = 0
    for kind, value in tree:
        if kind in (_constants.ASSERT, _constants.ASSERT_NOT):
            total += _width(value[1])
        else:
            total += sum(map(_looked_at, _inner(value)))
    return total


def _inner(value: Any) -> Iterator[Any]:
    """The patterns inside an item of a parsed pattern."""
    if isinstance(value, _parser.SubPattern):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _inner(item)
