"""Text as a reader sees it: what typography, markup and invisible characters do to words is undone.

A pattern for "can't" should find it with a curly apostrophe, as an HTML entity, with emphasis on some of its letters,
with a zero-width space inside and in full-width letters, since a reader does. Whoever matches patterns normalises
first, with `normalise`, so that no pattern needs to know.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Soft hyphen, joiners, marks of direction, word joiner, variation selectors, tags: they show nothing.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Letters and signs in another dress: full width, half width, ligatures, circled, mathematical. Not superscripts and
# fractions, which NFKC would turn into other numbers: 2⁵ is not 25.
_DRESSED = re.compile(
    "[\uff01-\uff9f\ufb00-\ufb06\u24b6-\u24e9\u2100-\u214f\U0001d400-\U0001d7ff\U0001f130-\U0001f149]+"
)
_MARKED = re.compile(r".?[^\x00-\x7f]+", re.DOTALL)  # letters that marks may come together with
_APOSTROPHES = "’‘‛`´ʼʹʻʽˈ′\ua78c\u055a\u05f3\u0060\u1fbd\u1fbf"
_DOUBLE_QUOTES = "“”„‟«»″〝〞〟「」『』❝❞＂"
_QUOTES = {**dict.fromkeys(_APOSTROPHES, "'"), **dict.fromkeys(_DOUBLE_QUOTES, '"')}
_ENTITY = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")  # as in html.unescape
_TAG = re.compile(r"</?(?:b|i|em|strong|u|mark|span|p|br|s)\b[^<>]{0,80}>", re.IGNORECASE)
# Emphasis touches what it marks. A bullet, a product (2 * 3) and snake_case stay.
_EMPHASIS = re.compile(
    r"(?<![\w*])\*{1,3}(?=[^\s*])|(?<=[^\s*\d])\*{1,3}(?=[^*\d]|$)|(?<!\w)_{1,3}(?=\w)|(?<=[\w.,!?'\"])_{1,3}(?!\w)"
)


@dataclass(frozen=True)
class Step:
    """One thing that is undone: whether a text could hold it, what it looks like, and what stands there instead."""

    possible: Callable[[str], bool]
    pattern: re.Pattern[str]
    replacement: Callable[[re.Match[str]], str]

    def __call__(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Where a text changes, in order, and what it changes to."""
        if self.possible(text):
            for found in self.pattern.finditer(text):
                made = self.replacement(found)
                if made != found[0]:
                    yield found.start(), found.end(), made


def _dressed(text: str) -> bool:
    return not text.isascii()


def _apart(text: str) -> bool:
    return not unicodedata.is_normalized("NFC", text)


# In this order: an entity may name an invisible character, and marks come together once nothing stands between them.
STEPS = (
    Step(lambda text: "&" in text, _ENTITY, lambda found: html.unescape(found[0])),
    Step(_dressed, _INVISIBLE, lambda found: ""),
    Step(_dressed, _SPACE, lambda found: " "),
    Step(_dressed, _DRESSED, lambda found: unicodedata.normalize("NFKC", found[0])),
    Step(_apart, _MARKED, lambda found: unicodedata.normalize("NFC", found[0])),
    Step(lambda text: True, re.compile(f"[{''.join(_QUOTES)}]"), lambda found: _QUOTES[found[0]]),
    Step(lambda text: "<" in text, _TAG, lambda found: ""),
    Step(lambda text: "*" in text or "_" in text, _EMPHASIS, lambda found: ""),
)


def is_plain(text: str) -> bool:
    """Whether `normalise` has nothing to do, told at a glance."""
    return text.isascii() and not any(mark in text for mark in "*_&<`")


def normalise(text: str) -> str:
    """One spelling of every word: straight quotes, no invisible characters, no emphasis, no HTML entities.

    Case and line breaks stay, and so do superscripts and fractions. The result may be shorter than the text.
    """
    if is_plain(text):
        return text
    for step in STEPS:
        if step.possible(text):
            text = step.pattern.sub(step.replacement, text)
    return text
