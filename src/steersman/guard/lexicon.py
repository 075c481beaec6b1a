"""What reads like language: common words of ten languages, and how likely one letter follows another in English.

The guard decodes a text only where the result reads better than what stood there. `words.txt` has the words; it and
the table of letter pairs were counted in this project's own texts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property, lru_cache
from pathlib import Path

WORD = re.compile(r"[^\W\d_]+")  # letters of any script
_GAPS = {code: " " for code in range(128) if not chr(code).isalpha()}
CIPHERED = 2500  # that many of the most frequent words are looked for under every cipher
OWN_RANK = 1000  # of a word that only the constitution has
UNREADABLE_BITS = 4.6  # per letter pair; English has 3.4, German and French 3.9, random letters 5.9

# -log2 of the probability of a letter (column) after a letter (row), rounded; space first. 9: practically never.
_PAIRS = """
935455465487555548533684969 396559749496362969443367959 437992999479399399466499949 339792993395699299594699969
149973989499479499559779969 259544589789564879334968679 349994599399599299495299949 249973974599696599429599989
339992999499999299999695799 979478355669995562349543969 999639991999899999289959299 239991999399785889949799989
339952799398489459466959999 326993599499959429969699959 159333749697897499954779979 388769588796533549265375999
449993596399599299569273699 789999799999999999699999999 979259462979397846399645789 959159694995597849469943697
999249893992399899399556797 979457675969699364969232999 989539991999399999499999999 989339993992399895399559999
979349595998599999919993899 979198894999799979279956999 999247892999499699499996396 954
""".replace(" ", "").replace("\n", "")


_OWN: ContextVar[frozenset[str]] = ContextVar("own words", default=frozenset())


@contextmanager
def also_known(own: frozenset[str]) -> Iterator[None]:
    """Words, in lower case, that are known for the time being: a constitution's own, which no list of words has."""
    token = _OWN.set(own)
    try:
        yield
    finally:
        _OWN.reset(token)


def own_words() -> frozenset[str]:
    """Those of `also_known`."""
    return _OWN.get()


def words() -> dict[str, int]:
    """Each known word with its rank within its language, from 0."""
    return _with(_OWN.get())


@lru_cache(maxsize=128)
def _with(own: frozenset[str]) -> dict[str, int]:
    return {**dict.fromkeys(own, OWN_RANK), **common_words()} if own else common_words()


@cache
def common_words() -> dict[str, int]:
    """Those of every constitution."""
    text = Path(__file__).with_name("words.txt").read_text(encoding="utf-8")
    ranks: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        for rank, word in enumerate(line.split()[1:]):
            ranks[word] = min(rank, ranks.get(word, rank))
    return ranks


def bits(letters: str) -> float:
    """Mean surprise of a letter after the one before it, in bits; ``letters`` are a to z and spaces in lower case."""
    if len(letters) < 2:
        return 9.0
    codes = [max(0, ord(letter) - 96) if "a" <= letter <= "z" else 0 for letter in letters]
    return sum(int(_PAIRS[27 * a + b]) for a, b in itertools.pairwise(codes)) / (len(codes) - 1)


def known_share(text: str) -> float:
    """Share of the letters of a text that stand in common words."""
    found = WORD.findall(text.lower())
    total = sum(map(len, found))
    known = words()
    return sum(len(word) for word in found if word in known) / total if total else 0.0


def readable(text: str, *, surely: bool = False) -> bool:
    """Whether a person could read a text: mostly letters, in common words or in pairs that language has.

    Args:
        text: what was decoded.
        surely: only common words count, and they must be most of it.
    """
    text = text[:2000]
    visible = sum(not letter.isspace() for letter in text)
    letters = sum(map(len, WORD.findall(text)))
    if letters < 3 or letters < 0.6 * visible:
        return False
    share = known_share(text)
    if surely:
        return share >= 0.6
    if share >= 0.3:
        return True
    lower = text.lower()
    latin = sum("a" <= letter <= "z" for letter in lower)
    if latin < letters / 2:
        return letters >= 0.8 * visible  # another script: that its bytes are valid is evidence enough
    return letters >= 6 and bits(" ".join(WORD.findall(lower))) < UNREADABLE_BITS


def segment(letters: str) -> str:
    """Words without spaces, with spaces again: the cheapest way to cut them into common words and rare rests.

    Args:
        letters: lower case, no spaces; what is longer than 4,000 stays as it is.
    """
    if len(letters) > 4000:
        return letters
    known, size = words(), len(letters)
    cost, back = [0.0] + [float("inf")] * size, [0] * (size + 1)
    for end in range(1, size + 1):
        for start in range(max(0, end - 16), end):
            rank = known.get(letters[start:end])
            length = end - start
            price = cost[start] + (6.0 + rank**0.25 if rank is not None else 10.0 + 3.9 * length)
            if price < cost[end]:
                cost[end], back[end] = price, start
    cuts, end = [], size
    while end:
        cuts.append(letters[back[end] : end])
        end = back[end]
    return " ".join(reversed(cuts))


class Glance:
    """The words of a text, found once for all readings.

    Attributes:
        text: the text.
        words: its words in lower case, in order.
        unknown: those that are no common words.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        lower = text.lower() if "\u0130" not in text else text.replace("\u0130", "I").lower()
        self.words = lower.translate(_GAPS).split() if lower.isascii() else WORD.findall(lower)
        self.unknown = set(self.words).difference(words())

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Start and end of each word."""
        return [word.span() for word in WORD.finditer(self.text)]

    def respell(self, table: dict[str, str]) -> list[tuple[int, int, str]]:
        """Where the words of a table stand, and what it has for them."""
        if not table:
            return []
        return [(*self.places[at], table[word]) for at, word in enumerate(self.words) if word in table]
