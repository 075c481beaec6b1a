"""Odd spellings undone: letters apart, leet, accents for show, words cut in two, letters repeated or swapped.

All of them make one view. A word changes only where the result is a common word, or reads like one.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

from steersman.guard.decoders import Found, disjoint
from steersman.guard.lexicon import (
    OWN_RANK,
    Glance,
    bits,
    common_words,
    known_share,
    own_words,
    readable,
    segment,
    words,
)

_APART = re.compile(r"(?<![^\W_])[^\W\d_](?:(?:[^\w]|_){1,5}[^\W_](?![^\W_])){3,}")
_LONG_RUN = re.compile(r"[^\W\d_]{9,}")  # a long word, or several without gaps
_NO_WORD = re.compile(r"[^\W\d_]{17,}")
_SINGLE = re.compile(r"[^\W_]")
# What stands for which letters.
_LEET = {"4": "a", "@": "a", "^": "a", "8": "b", "6": "gb", "9": "g", "(": "c", "<": "c", "[": "c", "{": "c", "3": "e",
         "€": "e", "#": "h", "1": "il", "!": "il", "|": "il", "¡": "i", "£": "l", "0": "o", "5": "s", "$": "s",
         "7": "t", "+": "t", "2": "z"}  # fmt: skip
_DRAWN = {"/-\\": "4", "/\\": "4", "|3": "8", "/3": "8", "!3": "8"}  # letters of several signs
_CLASS = str.maketrans(
    {**{sign: letters[0] for sign, letters in _LEET.items()}, "l": "i", "£": "i", "b": "g", "8": "g"}
)
_LEET_TOKEN = re.compile(r"(?<!\S)\S*[0-9@$|(<{\[+€£#^!\\]\S*")
_LEET_CORE = re.compile(r"(?:/-?\\|/3|[A-Za-z0-9@$|(<{\[+€£#^!¡])+")
_BRACKETS = "!|({[<+#^"
_FAR_LEET = 0.25  # share of a text's words that are leet for certain, from which on all odd words are
_NO_LEET = re.compile(
    r"[a-z]\d{2,3}$|\d+(?:st|nd|rd|th)$|\d{2,}[a-z]{1,2}$|\d+(?:am|pm|k|km|cm|mm|kg|ml|gb|mb|px)$", re.IGNORECASE
)
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
        told = made.count(" ") * 12 >= len(made)  # where words end
        made = (_NO_WORD if told else _LONG_RUN).sub(_segmented, made)
        if readable(made, surely=len(letters) < 8) or (len(made) >= 16 and not made.islower() and made.isascii()):
            yield Found(run.start(), run.end(), made, "spaced letters")


def _segmented(run: re.Match[str]) -> str:
    """Words whose gaps are lost, with gaps again, if they are words."""
    letters = run[0].lower()
    if letters in words():
        return run[0]
    made = segment(letters)
    return made if known_share(made) >= 0.5 else run[0]


def _leet(glance: Glance) -> Iterator[Found]:
    """Digits and signs for letters."""
    text = glance.text
    sure: list[Found] = []
    loose: list[Found] = []
    rest: list[tuple[int, str]] = []
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
                    told = len(made) > 2 and any(char.isalpha() for char in word) and word[0] not in "!({[<+#^|/"
                    (sure if told else loose).append(Found(part.start() + lead, part.start() + end, made, "leet"))
                if seen[word] or word.isalpha():
                    break
            else:
                rest.append((part.start(), core))
    yield from sure
    if len({found.text for found in sure}) > 1:
        yield from loose
        if len(sure) + len(loose) > _FAR_LEET * len(text.split()):
            yield from (
                Found(at, at + len(core), made, "leet")
                for at, core in rest
                if (made := _known_leet(core) or _spelt_out(core))
            )


def _cores(core: str) -> list[tuple[int, int]]:
    """The token, and without brackets and marks around it."""
    end = len(core.rstrip(_BRACKETS))
    lead = len(core) - len(core.lstrip(_BRACKETS))
    if end <= lead:
        return [(0, len(core))]
    tries = (
        ((0, end), (0, len(core)), (lead, end)) if _known_leet(core[:end]) else ((lead, end), (0, end), (0, len(core)))
    )
    return list(dict.fromkeys(tries)) if not core[lead:end].isalpha() else [(lead, end)]


def _plain_signs(token: str) -> str:
    for drawn, sign in _DRAWN.items():
        if drawn in token:
            token = token.replace(drawn, sign)
    return token.lower()


def _drawn_like(token: str) -> tuple[str, ...]:
    """Known words that look like a token in leet, where i and l, b and g are one."""
    key = token.translate(_CLASS)
    return (*_leet_words(own_words()).get(key, ()), *_leet_words().get(key, ()))


@lru_cache(maxsize=128)
def _leet_words(own: frozenset[str] | None = None) -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for word in common_words() if own is None else own:
        if len(word) > 1:
            key = word.translate(_CLASS)
            table[key] = (*table.get(key, ()), word)
    return table


def _known_leet(token: str) -> str:
    """The most common word that a token can stand for; empty if none."""
    lower, known = _plain_signs(token), words()
    found = [
        word
        for word in _drawn_like(lower)
        if all(letter == sign or letter in _LEET.get(sign, "") for letter, sign in zip(word, lower, strict=True))
    ]
    return min(found, key=lambda word: known[word], default="")


def _spelt_out(token: str) -> str:
    """A token of a text in leet that is no known word, in the letters that read best; empty if it is a number."""
    lower = _plain_signs(token)
    if lower.isdigit() or not any(sign in _LEET for sign in lower) or not any("a" <= sign <= "z" for sign in lower):
        return ""
    made = [""]
    for sign in lower[:30]:
        made = [start + letter for start in made for letter in _LEET.get(sign, sign)]
        made = sorted(made, key=bits)[:8]
    return made[0] if made[0].isalpha() else ""


def _unleet(token: str) -> str:
    if len(token) > 30 or token.isalpha():
        return ""
    if len(token) == 1:
        return {"1": "i", "4": "a", "!": "i", "@": "a", "^": "a"}.get(token, "")
    if not _NO_LEET.match(token) and (found := _known_leet(token)):
        return found
    lower = token.lower()
    letters = sum("a" <= char <= "z" for char in lower)
    inner = lower[1:-1]
    if len(token) < 4 or letters < 0.4 * len(token) or _CODE.match(token) or not token.isalnum() or inner.isalpha():
        return ""
    best = _spelt_out(token)
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


@lru_cache(maxsize=128)
def _scrambles(own: frozenset[str] | None = None) -> dict[tuple[str, str, str], str]:
    """Words by their first and last letters and those between, in order: common ones, or the constitution's own."""
    table: dict[tuple[str, str, str], str] = {}
    for word, rank in (common_words() if own is None else dict.fromkeys(own, OWN_RANK)).items():
        if len(word) > 3 and word.isascii() and rank < 4000:
            table.setdefault(_shuffled(word), word)
    return table


def _shuffled(word: str) -> tuple[str, str, str]:
    return word[0], word[-1], "".join(sorted(word[1:-1]))


def _plain(word: str) -> str:
    made = unicodedata.normalize("NFD", word.translate(_PLAIN))
    return "".join(char for char in made if not unicodedata.combining(char))


def _lookalike(word: str) -> str:
    """The common word that an unknown one looks like, where rn is m, vv is w, and i is l; empty if none."""
    if 3 < len(word) < 20:
        for drawn, letter in (("rn", "m"), ("vv", "w")):
            if drawn in word and (made := word.replace(drawn, letter)) in words():
                return made
        if "i" in word or "l" in word:
            return _upright().get(word.replace("l", "i"), "")
    return ""


@cache
def _upright() -> dict[str, str]:
    """Common words by what they are if every l is an i."""
    ranked = sorted((word for word in common_words() if "i" in word or "l" in word), key=common_words().__getitem__)
    return {word.replace("l", "i"): word for word in reversed(ranked)}


ACCENTS = "accents"  # in a view's trace: letters without them


def _word_by_word(glance: Glance) -> Iterator[Found]:
    """What can be told from an unknown word alone."""
    known, scrambles, own, ours = words(), _scrambles(), _scrambles(own_words()), own_words()
    accents: dict[str, str] = {}
    rest: dict[str, str] = {}
    stretched: dict[str, str] = {}
    swapped: dict[str, str] = {}
    alike: dict[str, str] = {}
    glued: dict[str, str] = {}
    for word in glance.unknown:
        if not word.isascii() and (plain := _plain(word)) != word and plain.isascii():
            (accents if plain in known else rest)[word] = plain
        if ours and len(word) > 8 and any(len(one) > 4 and one in word for one in ours):
            glued[word] = segment(word)
        elif word.isascii() and (made := _lookalike(word)):
            alike[word] = made
        elif _THRICE.search(word):
            for pattern in (r"\1", r"\1\1"):
                made = _THRICE.sub(pattern, word)
                if made in known and len(made) > 2:
                    stretched[word] = made
                    break
        elif (
            3 < len(word) < 20
            and word.isascii()
            and (key := _shuffled(word))
            and (made := own.get(key) or scrambles.get(key, ""))
            and (bits(word) > bits(made) + 0.6 or made in ours)
        ):
            swapped[word] = made
    if max(map(len, accents), default=0) < 3:
        accents = {}  # a word of two letters is one in some language or other
    if len(accents) > len(rest):
        accents |= rest
    for name, table in ((ACCENTS, accents), ("letters repeated", stretched), ("letters swapped", swapped),
                        ("look-alikes", alike), ("words parted", glued)):  # fmt: skip
        for start, end, made in glance.respell(table):
            yield Found(start, end, made, name)


_CHAIN = re.compile(r"[^\W\d_]+(?:[_+][^\W\d_]+){3,}")


def _chained(glance: Glance) -> Iterator[Found]:
    """Words_with_another_sign for the space."""
    if glance.text.count("_") + glance.text.count("+") < 3:
        return
    for run in _CHAIN.finditer(glance.text):
        made = run[0].replace("_", " ").replace("+", " ")
        if sum(len(word) > 2 for word in made.split()) > 2 and readable(made, surely=True):
            yield Found(run.start(), run.end(), made, "words joined")


def respelled(glance: Glance) -> Iterator[list[Found]]:
    """All odd spellings undone, in one view."""
    spans = disjoint((*apart(glance), *_chained(glance), *_leet(glance), *_pieced(glance), *_word_by_word(glance)))
    if spans:
        yield spans
