"""Odd spellings undone: letters apart, leet, accents for show, words cut in two, letters repeated or swapped.

All of them make one view. A word changes only where the result is a common word, or reads like one.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from steersman.guard.decoders import Found, disjoint
from steersman.guard.lexicon import Glance, bits, readable, segment, words

_APART = re.compile(r"(?<![^\W_])[^\W\d_](?:(?:[^\w]|_){1,5}[^\W_](?![^\W_])){3,}")
_SINGLE = re.compile(r"[^\W_]")
# What stands for a letter. Of these 1 and | may be i or l, and 6 may be g or b.
_LEET = {"4": "a", "3": "e", "0": "o", "5": "s", "7": "t", "8": "b", "9": "g", "@": "a", "$": "s", "!": "i", "(": "c",
         "<": "c", "{": "c", "+": "t", "€": "e", "£": "l", "#": "h", "^": "a", "¡": "i", "2": "z"}  # fmt: skip
_READ = [str.maketrans({**_LEET, "1": one, "|": one, "6": six}) for one in "il" for six in "gb"]
_LEET_TOKEN = re.compile(r"(?<!\S)\S*[0-9@$|(<{+€£#^!]\S*")
_LEET_CORE = re.compile(r"[A-Za-z0-9@$|(<{+€£#^!¡]+")
_NO_LEET = re.compile(r"\d+(?:st|nd|rd|th)$|\d{2,}[a-z]{1,2}$|\d+(?:am|pm|k|km|cm|mm|kg|ml|gb|mb|px)$", re.IGNORECASE)
_CODE = re.compile(r"[a-z]{1,4}\d+$|\d+[a-z]{1,4}$|(?=\d*[a-f])[a-f\d]{6,}$", re.IGNORECASE)  # names of things, digests
_GLUES = frozenset((*"-‐‑·.*_|~^,;:/\\\n", "- ", "-\n", "...", "..", "--", "**", "__", "\\n", " - ", "-\n "))
_PLAIN = str.maketrans(
    {"ß": "ss", "ı": "i", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "ŧ": "t"}
)
_THRICE = re.compile(r"([^\W\d_])\1{2,}")


def apart(glance: Glance) -> Iterator[Found]:
    """Letters with something between them: h o w, h-o-w, h.o.w."""
    if sum(len(word) == 1 for word in glance.words) < 4:
        return
    for run in _APART.finditer(glance.text):
        letters = list(_SINGLE.finditer(run[0]))
        gaps = [run[0][left.end() : right.start()] for left, right in itertools.pairwise(letters)]
        kinds = set(gaps)
        usual = max(sorted(kinds, key=len), key=gaps.count) if len(kinds) < 40 else gaps[0]
        parts = [letters[0][0]]
        for gap, letter in zip(gaps, letters[1:], strict=True):
            parts += ["" if gap == usual else "'" if "'" in gap and len(gap) > 1 else " ", letter[0]]
        made = "".join(parts)
        if sum(letter.isalpha() for letter in made) < 0.75 * len(letters):
            continue
        if " " not in made and len(made) > 8 and made.isalpha() and made.isascii():
            made = segment(made.lower()) if bits(made.lower()) < 5.0 else made
        if readable(made, surely=len(letters) < 8) or (len(made) >= 16 and not made.islower() and made.isascii()):
            yield Found(run.start(), run.end(), made, "spaced letters")


def _leet(glance: Glance) -> Iterator[Found]:
    """Digits and signs for letters."""
    text = glance.text
    sure: list[Found] = []
    loose: list[Found] = []
    seen: dict[str, str] = {}
    for token in _LEET_TOKEN.finditer(text):
        if len(token[0]) > 60:
            continue
        for part in _LEET_CORE.finditer(text, token.start(), token.end()):
            core = part[0]
            if core.isalpha():
                continue
            for lead, end in _cores(core):
                word = core[lead:end]
                if word not in seen:
                    seen[word] = _unleet(word)
                if made := seen[word]:
                    told = len(made) > 2 and any(char.isalpha() for char in word) and word[0] not in "!({<+#^|"
                    (sure if told else loose).append(Found(part.start() + lead, part.start() + end, made, "leet"))
                if seen[word] or word.isalpha():
                    break
    yield from sure
    if len({found.text for found in sure}) > 1:
        yield from loose


def _cores(core: str) -> list[tuple[int, int]]:
    """The token, and without brackets and marks around it."""
    end = len(core.rstrip("!|({<+#^"))
    lead = len(core) - len(core.lstrip("!|({<+#^"))
    return list(dict.fromkeys(((lead, end), (0, end), (0, len(core))))) if end > lead else [(0, len(core))]


def _unleet(token: str) -> str:
    known = words()
    if len(token) > 30 or token.isalpha():
        return ""
    if len(token) == 1:
        return {"1": "i", "4": "a", "!": "i", "@": "a"}.get(token, "")
    lower = token.lower()
    made = [lower.translate(table) for table in _READ]
    ranked = [word for word in made if word in known] if not _NO_LEET.match(token) else []
    if ranked:
        return min(ranked, key=lambda word: known[word])
    letters = sum("a" <= char <= "z" for char in lower)
    inner = lower[1:-1]
    if len(token) < 4 or letters < 0.4 * len(token) or _CODE.match(token) or not token.isalnum() or inner.isalpha():
        return ""
    best = min(made, key=bits)
    return best if best.isalpha() and token[0].isalpha() and token[-1].isalpha() and bits(best) < 3.9 else ""


def _pieced(glance: Glance) -> Iterator[Found]:
    """Words cut by a hyphen, a dot, a line end or a space, where only the whole is a word."""
    known, found, unknown, text = words(), glance.words, glance.unknown, glance.text
    if not unknown or len(found) < 2:
        return
    done = 0
    for at, word in enumerate(found):
        if at < done or word not in unknown or len(word) > 12:
            continue
        for first, last in ((at - 1, at + 2), (at - 1, at + 1), (at, at + 3), (at, at + 2), (at, at + 1), (at - 1, at)):
            if first < done or last >= len(found):
                continue
            whole = "".join(found[first : last + 1])
            if not 3 < len(whole) < 20 or whole not in known or known[whole] > 5000:
                continue
            gaps = [text[glance.places[i][1] : glance.places[i + 1][0]] for i in range(first, last)]
            bare = all(part in unknown or len(part) < 3 for part in found[first : last + 1])
            if all(gap in _GLUES or (gap == " " and bare) for gap in gaps):
                yield Found(glance.places[first][0], glance.places[last][1], whole, "word joined")
                done = last + 1
                break


@cache
def _scrambles() -> dict[tuple[str, str, str], str]:
    table: dict[tuple[str, str, str], str] = {}
    for word, rank in words().items():
        if len(word) > 3 and word.isascii() and rank < 4000:
            table.setdefault(_shuffled(word), word)
    return table


def _shuffled(word: str) -> tuple[str, str, str]:
    return word[0], word[-1], "".join(sorted(word[1:-1]))


def _plain(word: str) -> str:
    made = unicodedata.normalize("NFD", word.translate(_PLAIN))
    return "".join(char for char in made if not unicodedata.combining(char))


def _word_by_word(glance: Glance) -> Iterator[Found]:
    """What can be told from an unknown word alone."""
    known, scrambles = words(), _scrambles()
    accents: dict[str, str] = {}
    rest: dict[str, str] = {}
    stretched: dict[str, str] = {}
    swapped: dict[str, str] = {}
    for word in glance.unknown:
        if not word.isascii() and (plain := _plain(word)) != word and plain.isascii():
            (accents if plain in known else rest)[word] = plain
        if _THRICE.search(word):
            for pattern in (r"\1", r"\1\1"):
                made = _THRICE.sub(pattern, word)
                if made in known and len(made) > 2:
                    stretched[word] = made
                    break
        elif (
            3 < len(word) < 20
            and word.isascii()
            and (made := scrambles.get(_shuffled(word), ""))
            and bits(word) > bits(made) + 0.6
        ):
            swapped[word] = made
    if max(map(len, accents), default=0) < 3:
        accents = {}  # a word of two letters is one in some language or other
    if len(accents) > len(rest):
        accents |= rest
    for name, table in (("accents", accents), ("letters repeated", stretched), ("letters swapped", swapped)):
        for start, end, made in glance.respell(table):
            yield Found(start, end, made, name)


def respelled(glance: Glance) -> Iterator[list[Found]]:
    """All odd spellings undone, in one view."""
    spans = disjoint((*apart(glance), *_leet(glance), *_pieced(glance), *_word_by_word(glance)))
    if spans:
        yield spans
