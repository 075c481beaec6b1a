"""Encodings that stand in a text as a stretch of their own: base64, hex, Morse, hidden characters and the like.

A decoder takes a text and yields what it found, with its place. It must be cheap where its encoding is absent, and
linear in the text where it is not. What it yields is text that people could read, or text that may be encoded once
more.
"""

from __future__ import annotations

import base64
import binascii
import html
import quopri
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from steersman.guard.alphabets import large_alphabets, uuencoded
from steersman.guard.lexicon import readable, segment
from steersman.guard.signals import braille, morse, nato, numbers, tap

LONGEST_NUMBER = 400  # characters of base58 and its like, whose decoding takes quadratic time


class Found(NamedTuple):
    """What stood encoded in a text.

    ``layered``: what was found may be encoded again, so that alone it need not be readable. ``kind``: as in `Piece`.
    """

    start: int
    end: int
    text: str
    name: str
    layered: bool = False
    kind: str = "block"


def disjoint(found: Iterable[Found]) -> list[Found]:
    """Those that overlap none before them, by place."""
    kept: list[Found] = []
    for one in found:
        at = bisect_left(kept, (one.start,))
        if at < len(kept) and kept[at].start < max(one.end, one.start + 1):
            continue
        if at and kept[at - 1].end > one.start:
            continue
        kept.insert(at, one)
    return kept


Decoder = Callable[[str], Iterable[Found]]

_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_BLANKS = str.maketrans("", "", "\t\n\r\u200b\u200c\u200d\u2060\ufeff\xad")


def as_text(data: bytes, least: int = 3) -> str:
    """Bytes as text that can be shown; empty if they are none."""
    if len(data) < least:
        return ""
    try:
        if len(data) % 2 == 0 and data[1::2].count(0) > len(data) // 3:
            text = data.decode("utf-16-le")
        else:
            text = data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return text if text.translate(_BLANKS).isprintable() and text.strip() else ""


def _worth(text: str) -> bool:
    """Whether decoded text is language, or long enough not to be printable by chance."""
    if len(text) < 12:
        return readable(text, surely=len(text) < 7)
    return True


# ── what shows nothing ───────────────────────────────────────────────────────────────────────────────────────────────
_TAGS = re.compile("(?<!\U0001f3f4)[\U000e0001\U000e0020-\U000e007f]+")


def tags(text: str) -> Iterator[Found]:
    """Tag characters, an invisible ASCII; not those that make a flag of a region."""
    if text.isascii():
        return
    for run in _TAGS.finditer(text):
        letters = "".join(chr(ord(char) - 0xE0000) for char in run[0] if "\U000e0020" <= char <= "\U000e007e")
        if letters:
            yield Found(run.start(), run.end(), letters, "tag characters", layered=True)


def selectors(text: str) -> Iterator[Found]:
    """Bytes as variation selectors, in one run or strewn."""
    if text.isascii():
        return
    runs = list(_SELECTORS.finditer(text))
    if len(runs) < 4:
        return
    codes = [ord(run[0]) - (0xFE00 if run[0] <= "\ufe0f" else 0xE0100 - 16) for run in runs]
    for shift in (0, -16):
        if (
            min(codes) + shift >= 0
            and (made := as_text(bytes(number + shift for number in codes if number + shift < 256)))
            and (made.isascii() or shift == 0)
        ):
            yield Found(runs[0].start(), runs[-1].end(), made, "variation selectors", layered=True)
            return


_UNSEEN = re.compile(f"[{_INVISIBLE}]")


def sneaky_bits(text: str) -> Iterator[Found]:
    """Bits as two invisible characters."""
    if text.isascii():
        return
    places = [found.start() for found in _UNSEEN.finditer(text)]
    if len(places) < 16:
        return
    signs = [text[place] for place in places]
    kinds = sorted(set(signs), key=signs.count, reverse=True)
    if len(kinds) < 2:
        return
    if len(kinds) == 3:  # the third parts the letters
        for zero, one in (kinds[:2], kinds[1::-1]):
            written = "".join("0" if sign == zero else "1" if sign == one else " " for sign in signs).split()
            letters = [int(group, 2) for group in written if len(group) < 20]
            of_letters = "".join(map(chr, letters)) if all(9 <= letter < 0xD800 for letter in letters) else ""
            of_words = " ".join(_shortest_bits(word[:400]) for word in written)  # the third parts the words
            for made in (of_words, of_letters) if max(map(len, written)) > 8 else (of_letters, of_words):
                if made.translate(_BLANKS).isprintable() and readable(made):
                    yield Found(places[0], places[-1] + 1, made, "invisible bits")
                    return
    kinds = kinds[:2]
    for zero, one in (kinds, kinds[::-1]):
        bits = "".join("0" if sign == zero else "1" for sign in signs if sign in (zero, one))
        for width in (8, 7, 16):
            groups = [int(bits[at : at + width], 2) for at in range(0, len(bits) - width + 1, width)]
            made = as_text(bytes(group & 255 for group in groups)) if all(group < 256 for group in groups) else ""
            if made and len(groups) * width > len(bits) - width and readable(made):
                yield Found(places[0], places[-1] + 1, made, "invisible bits")
                return


def _shortest_bits(word: str) -> str:
    """Letters without their leading zeros: mostly seven bits, six of digits and signs, eight of accented letters."""
    best: list[tuple[float, str]] = [(0.0, ""), *([(float("inf"), "")] * len(word))]
    for end in range(6, len(word) + 1):
        for size in (6, 7, 8):
            if size <= end and word[end - size] == "1":
                letter = chr(int(word[end - size : end], 2))
                price = 1.0 if letter.islower() and size == 7 else 2.0 if letter.isupper() and size == 7 else 4.0
                price += 6.0 * (not letter.isalpha() and letter not in "'-,.?!:;0123456789")
                if best[end - size][0] + price < best[end][0]:
                    best[end] = best[end - size][0] + price, best[end - size][1] + letter
    return best[-1][1]


_OVERRIDE = re.compile("\u202e([^\u202c\u202d\n]{2,})[\u202c\u202d\n]?")


def bidi(text: str) -> Iterator[Found]:
    """Text that is shown in reverse."""
    for run in _OVERRIDE.finditer(text):
        made = run[1][::-1]
        if readable(made):
            yield Found(run.start(1), run.end(1), made, "right-to-left override", kind="reversed")


# ── bytes as letters ─────────────────────────────────────────────────────────────────────────────────────────────────
_B64_TOKEN = re.compile(r"(?<![A-Za-z0-9+/_-])(?![A-Za-z]?[a-z_/-]+(?![A-Za-z0-9+/_-]))[A-Za-z0-9+/_-]{8,}={0,2}")
_B64_SHORT = re.compile(
    r"(?<![^\s\"'`(\[:,])[A-Za-z0-9+/]{4}(?:[ ]{1,2}[A-Za-z0-9+/]{4}){4,}(?:[ ]{1,2}[A-Za-z0-9+/=]{2,4})?"
)
_TAIL = re.compile(r"\s{1,3}[A-Za-z0-9+/_-]{1,75}={0,2}(?![^\s\"'`.,;:)\]}])")
_GAP = re.compile(r"(?:[ \t]?\\?\r?\\?\n[ \t>]{0,8}|\\n|\"\s{0,3}\+?\s{0,3}\"|'\s{0,3}\+?\s{0,3}'|[ ]{1,2})")


def _lettered(token: str) -> bool:
    """Whether a run of letters is too plain to be base64: a word, a name, a line of dashes."""
    core = token.strip("-_/+=")
    return (core.isalpha() and (core[1:].islower() or core.isupper())) or len(set(core)) < 5


def _base64(token: str) -> str:
    core = re.sub(r"[^A-Za-z0-9+/_-]", "", token).translate(str.maketrans("-_", "+/"))
    core = core[: len(core) - 1] if len(core) % 4 == 1 else core
    try:
        return as_text(binascii.a2b_base64(core + "=" * (-len(core) % 4)))
    except (binascii.Error, ValueError):
        return ""


def encoded(token: str) -> bool:
    """Whether a run of letters and digits is base64 or hex of text."""
    try:
        made = as_text(bytes.fromhex(token)) or _base64(token)
    except ValueError:
        made = _base64(token)
    return len(made) > 8 and _worth(made)


def base_64(text: str) -> Iterator[Found]:
    """Base64, standard or for URLs, with or without padding, in one line or several."""
    groups: list[list[re.Match[str]]] = []
    for token in _B64_TOKEN.finditer(text):
        if _lettered(token[0]):
            continue
        if groups and _GAP.fullmatch(text, groups[-1][-1].end(), token.start()):
            groups[-1].append(token)
        else:
            groups.append([token])
    for group in groups:
        start, end = group[0].start(), group[-1].end()
        if tail := len(group[-1][0]) >= 16 and _TAIL.match(text, end):
            made = _base64(text[start : tail.end()])
            if made and _worth(made) and _base64(text[start:end]) != made and not tail[0].strip().islower():
                yield Found(start, tail.end(), made, "base64", layered=True)
                continue
        made = _base64(re.sub(r"\\[nr]", "", text[start:end])) if len(group) > 1 else ""
        if made and _worth(made):
            yield Found(start, end, made, "base64", layered=True)
            continue
        for token in group:
            made = _base64(token[0])
            if made and _worth(made):
                yield Found(token.start(), token.end(), made, "base64", layered=True)
    if "    " not in text:
        for run in _B64_SHORT.finditer(text):
            made = _base64(run[0])
            if made and readable(made):
                yield Found(run.start(), run.end(), made, "base64", layered=True)


_B32 = re.compile(r"(?<![A-Za-z0-9])(?:[A-Z2-7]{8,}|[a-z2-7]{16,})(?:\s[A-Z2-7]{8,}){0,400}={0,6}(?![A-Za-z0-9])")


def base_32(text: str) -> Iterator[Found]:
    """Base32."""
    for run in _B32.finditer(text):
        core = re.sub(r"[\s=]", "", run[0]).upper()
        if core.isalpha() and len(core) < 16 and "=" not in run[0]:
            continue
        core = core[: len(core) // 8 * 8 + (0, 0, 2, 2, 4, 5, 5, 7)[len(core) % 8]]
        try:
            made = as_text(base64.b32decode(core + "=" * (-len(core) % 8)))
        except (binascii.Error, ValueError):
            continue
        if made and _worth(made):
            yield Found(run.start(), run.end(), made, "base32", layered=True)


_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x|\\\\x|x)?[0-9A-Fa-f]{2}[\s,:;|_-]{0,2}){4,}(?![0-9A-Za-z])")


def base_16(text: str) -> Iterator[Found]:
    """Hexadecimal digits, bare, spaced, or with 0x or \\x before each pair."""
    for run in _HEX.finditer(text):
        pairs = re.findall(r"[0-9A-Fa-f]{2}", re.sub(r"0x|\\+x|[x%]", " ", run[0]))
        core = "".join(pairs)
        if core.isalpha() or len(core) < 8:
            continue
        made = as_text(bytes.fromhex(core))
        if made and _worth(made) and not (core.isdigit() and not readable(made)):
            yield Found(run.start(), run.end() - (len(run[0]) - len(run[0].rstrip())), made, "hex", layered=True)


_B85 = re.compile(r"<~.*?~>|[!-~]{10,}", re.DOTALL)
_SIGNS = frozenset("!#$%&*+;<=>?@^`{|}~\\")
_BRACKETED = re.compile(r"\w\(\w*\)|^https?:|::|->|\.\w{3,}\(")  # code and addresses


def base_85(text: str) -> Iterator[Found]:
    """Ascii85 and base85."""
    for run in _B85.finditer(text):
        token = run[0]
        if not token.startswith("<~") and not (len(set(token) & _SIGNS) > 1 and not _BRACKETED.search(token)):
            continue
        if len(token) > 20_000:
            continue
        for core in dict.fromkeys((token, token.strip("\"'`"), token.rstrip(".,;:"))):
            made = _base85(core)
            if made and _worth(made) and readable(made):
                yield Found(run.start(), run.end(), made, "base85", layered=True)
                break


def _base85(core: str) -> str:
    for decode in (base64.b85decode, lambda data: base64.a85decode(data, adobe=core.startswith("<~"))):
        try:
            if made := as_text(decode(core.encode("ascii"))):
                return made
        except (ValueError, binascii.Error, OverflowError):
            continue
    return ""


_DENSE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{11,400}(?![A-Za-z0-9])")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def base_58(text: str) -> Iterator[Found]:
    """Base58 and base62, which read all their digits as one number."""
    for run in _DENSE.finditer(text):
        token = run[0]
        if (token.isalpha() and (token[1:].islower() or token.isupper())) or token.isdigit() or token.lower() == token:
            continue
        for name, digits in (("base58", _BASE58), ("base62", _BASE62)):
            number = 0
            if set(token) - set(digits):
                continue
            for digit in token:
                number = number * len(digits) + digits.index(digit)
            made = as_text(number.to_bytes((number.bit_length() + 7) // 8, "big"))
            if made and _worth(made) and readable(made):
                yield Found(run.start(), run.end(), made, name, layered=True)
                break


def large(text: str) -> Iterator[Found]:
    """Base2048, Base65536, Ecoji, and uuencoded lines or words."""
    for start, end, data, name in (*large_alphabets(text), *uuencoded(text)):
        made = as_text(data)
        if made and readable(made):
            yield Found(start, end, made, name, layered=True)


# ── escapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
_ESCAPES = re.compile(
    r"(?:\\+u\{[0-9A-Fa-f]{1,6}\}|\\+u[0-9A-Fa-f]{4}|\\+U[0-9A-Fa-f]{8}|\\+x[0-9A-Fa-f]{2}|\\+x\{[0-9A-Fa-f]{1,6}\}"
    r"|(?:\\[0-7]{3})(?=\\|$|[^0-9])|[Uu]\+[0-9A-Fa-f]{4,6}[ ,;]?|%u[0-9A-Fa-f]{4})+"
)
_ESCAPE = re.compile(r"(\\+x|%u|\\+u|\\+U|[Uu]\+|\\)\{?([0-9A-Fa-f]+)\}?")


def escapes(text: str) -> Iterator[Found]:
    """Characters written as their numbers, as in programming languages: \\u0068, \\x68, \\150, U+0068."""
    if "\\" not in text and "+" not in text and "%u" not in text:
        return
    for run in _ESCAPES.finditer(text):
        parts = _ESCAPE.findall(run[0])
        octal = all(sign == "\\" for sign, _ in parts)
        values = [int(digits, 8 if sign == "\\" else 16) for sign, digits in parts]
        if any(value > 0x10FFFF for value in values):
            continue
        made = ""
        if octal or all(sign.endswith("x") for sign, _ in parts):
            made = as_text(bytes(values), 1) if max(values) < 256 else ""
        made = made or "".join(map(chr, values))
        made = made.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs of surrogates
        if made.translate(_BLANKS).isprintable():
            yield Found(run.start(), run.end(), made, "escapes", layered=len(made) < 4)


_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


def percent(text: str) -> Iterator[Found]:
    """Percent-encoding, as in addresses."""
    if "%" in text:
        for run in _PERCENT.finditer(text):
            made = as_text(bytes.fromhex(run[0].replace("%", "")), 1) or (" " if run[0] == "%20" else "")
            if made:
                yield Found(run.start(), run.end(), made, "percent-encoding", layered=len(made) > 3)
        if "+" in text and "%" in text and " " not in text:
            for plus in re.finditer(r"\+", text):
                yield Found(plus.start(), plus.end(), " ", "percent-encoding")


_QUOTED = re.compile(r"(?:=[0-9A-Fa-f]{2})+|=\r?\n")
_QUOTED_BLANKS = re.compile(r"[^\W\d_][.,;:!?]?=20[^\W\d_]+[.,;:!?]?=20[^\W\d_]")  # words with encoded spaces


def quoted_printable(text: str) -> Iterator[Found]:
    """Quoted-printable, the encoding of mail."""
    if "=" not in text:
        return
    runs = list(_QUOTED.finditer(text))
    mail = any(len(run[0]) >= 9 or run[0][-1] == "\n" or (run[0][1] in "CDEcde" and len(run[0]) > 3) for run in runs)
    if not mail and not _QUOTED_BLANKS.search(text):
        return  # x=20, y=30 is code
    for run in runs:
        data = quopri.decodestring(run[0])
        made = as_text(data, 1) or (" " if data.isspace() else "")
        if made or not data:
            yield Found(run.start(), run.end(), made, "quoted-printable", layered=len(made) > 3)


_CHRS = re.compile(
    r"(?:String\.)?fromCharCode\s?\(([\d, ]{4,4000})\)|(?:chr|char|unichr)\s?\(\s?(0x[0-9a-f]{2}|\d{2,3})\s?\)", re.I
)


def char_calls(text: str) -> Iterator[Found]:
    """chr(104) + chr(105), and lists of numbers in such calls."""
    lower = text.lower()
    if not any(call in lower for call in ("chr(", "char(", "charcode(", "chr (", "char (", "charcode (")):
        return
    runs: list[tuple[int, int, str]] = []
    for call in _CHRS.finditer(text):
        values = [int(number, 0) for number in re.findall(r"0x[0-9a-fA-F]{2}|[1-9]\d{0,5}", call[1] or call[2])]
        made = "".join(chr(value) for value in values if value < 0xD800)
        if runs and re.fullmatch(r"[\s+.&,]{0,4}", text[runs[-1][1] : call.start()]):
            runs[-1] = (runs[-1][0], call.end(), runs[-1][2] + made)
        else:
            runs.append((call.start(), call.end(), made))
    for start, end, made in runs:
        if len(made) > 1 and made.translate(_BLANKS).isprintable():
            yield Found(start, end, made, "character codes", layered=True)


_BITS = re.compile(r"(?<!\d)(?:(?:0b)?[01]{6,16}[\s,;|-]{1,2}){2,}(?:0b)?[01]{6,16}(?!\d)|(?<!\d)[01]{24,}(?!\d)")


def binary(text: str) -> Iterator[Found]:
    """Bits, in groups of 7, 8 or 16."""
    if "01" not in text and "10" not in text:
        return
    for run in _BITS.finditer(text):
        groups = re.findall(r"[01]+", run[0].replace("0b", ""))
        if len(groups) == 1:
            widths = [width for width in (8, 7, 16) if len(groups[0]) % width == 0]
            tries = [[groups[0][at : at + width] for at in range(0, len(groups[0]), width)] for width in widths]
        else:
            tries = [groups]
        for tried in tries:
            values = [int(group, 2) for group in tried]
            made = as_text(bytes(values)) if max(values) < 256 else "".join(map(chr, values))
            if made and made.translate(_BLANKS).isprintable() and _worth(made):
                yield Found(run.start(), run.end(), made, "binary", layered=True)
                break


def signals(text: str) -> Iterator[Found]:
    """Codes of signs for letters: Morse, Braille, NATO's alphabet, numbers of letters, taps."""
    for decode in (morse, braille, nato, numbers, tap):
        for start, end, made, name in decode(text):
            if " " not in made and len(made) > 8 and made.isalpha():
                made = segment(made.lower())
            yield Found(start, end, made, name)


def entities(text: str) -> Iterator[Found]:
    """HTML entities that typography has left, where an ampersand was encoded itself."""
    if "&" in text:
        for run in re.finditer(r"(?:&#?\w{1,8};)+", text):
            made = html.unescape(run[0])
            if made != run[0]:
                yield Found(run.start(), run.end(), made, "HTML entities", layered=True)


HIDDEN: tuple[Decoder, ...] = (tags, selectors, sneaky_bits, bidi)
# Those first whose result cannot be chance.
WRITTEN: tuple[Decoder, ...] = (
    base_16, binary, base_32, base_64, base_85, large, base_58, escapes, char_calls, signals, percent,
    quoted_printable, entities,
)  # fmt: skip
