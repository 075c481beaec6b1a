"""Text as a reader sees it: what typography, markup and invisible characters do to words is undone.

A pattern for "can't" should find it with a curly apostrophe, as an HTML entity, with emphasis on some of its letters,
with a zero-width space inside and in full-width letters, since a reader does. Whoever matches patterns normalises
first, with `normalise`, so that no pattern needs to know.
"""

from __future__ import annotations

import html
import re
import unicodedata

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
_APOSTROPHES = "’‘‛`´ʼʹʻʽˈ′\ua78c\u055a\u05f3\u0060\u1fbd\u1fbf"
_DOUBLE_QUOTES = "“”„‟«»″〝〞〟「」『』❝❞＂"
_QUOTES = str.maketrans({**dict.fromkeys(_APOSTROPHES, "'"), **dict.fromkeys(_DOUBLE_QUOTES, '"')})
_TAG = re.compile(r"</?(?:b|i|em|strong|u|mark|span|p|br|s)\b[^<>]{0,80}>", re.IGNORECASE)
# Emphasis touches what it marks. A bullet, a product (2 * 3) and snake_case stay.
_EMPHASIS = re.compile(
    r"(?<![\w*])\*{1,3}(?=[^\s*])|(?<=[^\s*\d])\*{1,3}(?=[^*\d]|$)|(?<!\w)_{1,3}(?=\w)|(?<=[\w.,!?'\"])_{1,3}(?!\w)"
)


def normalise(text: str) -> str:
    """One spelling of every word: straight quotes, no invisible characters, no emphasis, no HTML entities.

    Case and line breaks stay, and so do superscripts and fractions. The result may be shorter than the text.
    """
    if text.isascii() and not any(mark in text for mark in "*_&<`"):
        return text
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        text = _SPACE.sub(" ", _INVISIBLE.sub("", text))
        text = unicodedata.normalize("NFC", _DRESSED.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text))
    text = text.translate(_QUOTES)
    if "<" in text:
        text = _TAG.sub("", text)
    return _EMPHASIS.sub("", text) if "*" in text or "_" in text else text
