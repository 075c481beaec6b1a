"""How far the end of an unfinished text may still be the start of something encoded, so that a stream can hold it back.

Base64, hex, Morse, spaced letters and the like can be read only once there is enough of them. While a text grows, its
tail of tokens that are no plain words stays open; the first plain word closes it. What is put together from places far
apart (variables, first letters of lines, a text that is reversed as a whole) cannot be told from the tail: that is seen
when the text is judged, not held back.
"""

from __future__ import annotations

import re
from functools import lru_cache

from steersman.guard.lexicon import bits, words
from steersman.guard.signals import NATO

LONGEST_HELD = 1024  # characters; what has been open for longer is let go

_UNLIKELY_BITS = 5.2  # of a letter pair in a single word; a word under a cipher has more

# Scripts that write no spaces: there every letter is a word.
_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff66-\uff9f\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_UNSPACED}\u3001\u3002]|[^\s{_UNSPACED}]+")
_EDGES = ".,;:!?\"'()[]{}“”‘’«»…—–*_`#>"


def open_run(text: str) -> int:
    """From which character on a text may still be the beginning of something encoded; its length if nothing is open.

    The last word is always open, since more of it may come; so is every token before it that is no plain word, such as
    a number, a single letter, a run of dots or letters that no language has, back to the nearest plain word, but at
    most `LONGEST_HELD` characters. It never falls while a text grows: ``open_run(text) <= open_run(text + more)``.
    """
    base = max(0, len(text) - LONGEST_HELD - 256)
    tokens = [found.span() for found in _TOKEN.finditer(text, base)]
    start = len(text)
    if tokens and tokens[-1][1] == len(text):
        start = tokens.pop()[0]
    for first, last in reversed(tokens):
        if is_plain_token(text[first:last][:64]):
            break
        start = first
    return max(start, len(text) - LONGEST_HELD)


@lru_cache(maxsize=20_000)
def is_plain_token(token: str) -> bool:
    """Whether a token is a word of some language as it stands, so that it can belong to no encoding around it."""
    core = token.strip(_EDGES).lower()
    parts = re.split(r"[-'’/]", core)
    if any(part and not part.isalpha() for part in parts) or not any(parts):
        return False
    if not core.isascii():
        return True
    if any(len(part) == 1 for part in parts[:-1]) or len(core) < 2 or core in NATO:
        return False
    if core in words() or "".join(parts) in words():
        return True
    return (
        len(core) > 2 and all(len(part) < 3 or bits(f" {part} ") < _UNLIKELY_BITS for part in parts) and _cased(token)
    )


def _cased(token: str) -> bool:
    """Whether the letters are cased as in a word: base64 mixes them."""
    core = token.strip(_EDGES)
    return core.isupper() or core[1:].islower() or any(mark in core for mark in "-'’/")
