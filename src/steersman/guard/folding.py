"""Text without the differences that do not change a word: case, vowel points, the tonos of Greek capitals.

Folded text may have another length than the text it comes from (ß becomes ss), so every place is traced back.
Accents stay where they make another word (schwül).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Case folding makes several letters of these, or they are marks that belong to the letter before. All others keep
# their place; a test compares this with Python's tables.
_SPECIAL = re.compile(
    "[\u00df\u0130\u0149\u01f0\u0390\u03b0\u0587\u1e96-\u1e9f\u1f50-\u1fff\ufb00-\ufb17"
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]"
)
# Written or left out at will: Hebrew and Arabic vowel points and stretching.
_OPTIONAL = re.compile("[\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]")
_ASCII = re.compile("[\x00-\x7f]+(?![\u0300-\u036f])")  # backs off before a letter with a mark
_MARK = re.compile("[\u0300-\u036f]")
# Letters that readers take for one another: the Turkish i without a dot and ours; ё and е; Greek with and without
# its accent, which capitals do not have.
_SAME = str.maketrans("ıёάέήίόύώϊϋΐΰ", "iеαεηιουωιυιυ")


def folded(text: str) -> tuple[str, Sequence[int] | None]:
    """The folded text, and for each of its characters and its end the place in the text; None: the same place."""
    if text.isascii():
        return text.lower(), None
    if not _SPECIAL.search(text):
        return text.casefold().translate(_SAME), None
    out: list[str] = []
    origin: list[int] = []
    at = 0
    while at < len(text):
        if run := _ASCII.match(text, at):
            out.append(run[0].lower())
            origin += range(at, run.end())
            at = run.end()
            continue
        end = at + 1
        while end < len(text) and _MARK.match(text, end):
            end += 1
        new = _folded_letter(text[at:end])
        out.append(new)
        origin += [at] * len(new)
        at = end
    return "".join(out), [*origin, len(text)]


def _folded_letter(cluster: str) -> str:
    """One letter with its marks."""
    if _OPTIONAL.match(cluster):
        return ""
    # The capital İ folds to an i and a dot above it.
    plain = unicodedata.normalize("NFC", cluster).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFC", plain).translate(_SAME)
