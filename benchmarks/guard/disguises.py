"""What a capable model makes of a disguised request: every decoding of a text that the upstream of our tests knows.

This stands on the attacker's side. It shares no code with `steersman.guard`, so that a decoding which the guard lacks
shows as an attack that works. Ecoji, Base2048, ASCII art and rare confusables are decoded with the packages that the
attack tools use, where the environment has them (`ecoji`, `mikeshardmind-base2048`, `art`, `confusable_homoglyphs`).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import io
import json
import quopri
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

KEYS = ("lemon",)  # of a Vigenère cipher, agreed with the attacker
DASHES = """
.- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --..
"""
MORSE = dict(zip(DASHES.split(), "abcdefghijklmnopqrstuvwxyz", strict=True))
BRAILLE = dict(zip("⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵", "abcdefghijklmnopqrstuvwxyz", strict=True))
SPELLING = """
alfa bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo sierra
tango uniform victor whiskey xray yankee zulu alpha juliet x-ray
"""
NATO = frozenset(SPELLING.split())
LEET = str.maketrans("0134578926@$!|+(<", "oieastbgzgasiitcc")


# ── a text in letters alone ──────────────────────────────────────────────────────────────────────────────────────────
@lru_cache(maxsize=1)
def _confusables() -> dict[int, str]:
    """Characters that look like a Latin letter: the tables of the attack tools, where they are installed."""
    table: dict[str, str] = {}
    try:
        from confusable_homoglyphs.confusables import confusables_data
    except ImportError:
        confusables_data = {}
    for latin in map(chr, range(0x21, 0x7F)):
        for entry in confusables_data.get(latin, ()):
            table.setdefault(entry["c"], latin)
    by_hand = "аaсcеeіiјjоoрpѕsхxуyոnвbκkսuτtнhмmтtкkгrпnдdлlоoзzьbѵvԁdɡgһhᴀaοoαaρpνvυuιiεeηnβbγyσo"
    table.update({by_hand[i]: by_hand[i + 1] for i in range(0, len(by_hand), 2)})
    for start in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6):  # squared, circled and regional letters
        table.update({chr(start + i): chr(97 + i) for i in range(26)})
    return str.maketrans({sign: latin for sign, latin in table.items() if len(sign) == 1})


def letters(text: str) -> str:
    """Lower-case Latin letters of a text: marks, look-alikes, leet, spaces and punctuation are folded away."""
    if not text.isascii():
        once = unicodedata.normalize("NFKD", text.translate(_confusables())).casefold()
        text = unicodedata.normalize("NFKD", once.translate(_confusables()))  # look-alikes that had been composed
    leet = text.casefold().replace("/\\", "a").replace("\\/", "v").translate(LEET)
    return re.sub(r"[^a-z]", "", leet).replace("l", "i")  # 1 and | are read as either


# ── decodings, each from a text to texts ─────────────────────────────────────────────────────────────────────────────
def _printable(raw: bytes) -> Iterator[str]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return
    if len(text) > 7 and sum(sign.isprintable() or sign.isspace() for sign in text) > 0.95 * len(text):
        yield text


def _attempt(decode: Callable[[str], bytes], found: str) -> Iterator[str]:
    try:
        yield from _printable(decode(found))
    except (ValueError, binascii.Error, OverflowError):
        return


def _pieces(text: str) -> list[str]:
    """Lines and what follows a colon on them: where an encoded string stands in a template."""
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 7]
    tails = [line.split(": ", 1)[1] for line in lines if ": " in line]
    return [*lines, *tails, text.strip()]


def bases(text: str) -> Iterator[str]:
    for found in re.findall(r"[A-Za-z0-9+/_-]{8,}={0,2}", text):
        standard = found.rstrip("=").replace("-", "+").replace("_", "/")
        yield from _attempt(lambda s: base64.b64decode(s + "=" * (-len(s) % 4), validate=True), standard)
    for found in re.findall(r"[A-Z2-7]{8,}=*", text):
        yield from _attempt(base64.b32decode, found)
    for found in re.findall(r"(?:[0-9A-Fa-f]{2}[ ,:]?){8,}", text.replace("0x", "").replace("\\x", "")):
        yield from _attempt(bytes.fromhex, re.sub(r"[ ,:]", "", found))
    for piece in _pieces(text):
        joined = re.sub(r"\s", "", piece)
        yield from _attempt(base64.b85decode, joined)
        yield from _attempt(base64.a85decode, joined.removeprefix("<~").removesuffix("~>"))


def uu(text: str) -> Iterator[str]:
    def line(found: str) -> bytes:
        return binascii.a2b_uu(found)

    whole = []
    for piece in text.split("\n"):
        for start in (piece, piece.split(": ", 1)[-1]):
            size = (ord(start[0]) - 32) & 63 if start and " " <= start[0] <= "`" else 0
            if (
                0 < size < 46 and abs(len(start.rstrip()) - 1 - (size + 2) // 3 * 4) < 3
            ):  # spaces at its end may be gone
                with contextlib.suppress(ValueError, binascii.Error):
                    whole.append(line(start))
                break
    yield from _printable(b"".join(whole))
    # A word at a time, as PyRIT does it: each word has its own length.
    words, rest = [], text
    while rest:
        size = (ord(rest[0]) - 32) & 63
        width = (size + 2) // 3 * 4
        if not 0 < size < 46 or len(rest) < width:
            break
        try:
            words.append(line(rest[: width + 1]))
        except (ValueError, binascii.Error):
            break
        rest = rest[width + 1 :].lstrip(" \n") if width + 1 < len(rest) else ""
    yield from _printable(b" ".join(words))


def numbers(text: str) -> Iterator[str]:
    for width in (16, 8, 7):
        found = re.findall(rf"\b[01]{{{width}}}\b", text)
        if len(found) > 5:
            yield "".join(chr(int(bits, 2)) for bits in found)
    joined = re.search(r"(?:[01]{8}){6,}", re.sub(r"\s", "", text))
    if joined:
        yield from _printable(int(joined[0], 2).to_bytes(len(joined[0]) // 8, "big"))
    decimals = re.findall(r"(?<![\d.])\d{2,3}(?![\d.])", text)
    if len(decimals) > 7:
        yield "".join(chr(int(number)) for number in decimals if int(number) < 0x110000)


def escapes(text: str) -> Iterator[str]:
    yield unquote(text.replace("+", " "))
    yield html.unescape(text)
    if "=" in text:
        yield quopri.decodestring(text.encode()).decode("utf-8", "replace")
    if "\\u" in text or "\\x" in text:
        yield re.sub(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})", lambda m: chr(int(m[1] or m[2], 16)), text)


def codes(text: str) -> Iterator[str]:
    """Morse, Braille and the spelling alphabet."""
    yield "".join(MORSE.get(sign, " ") for sign in re.findall(r"[.-]+|/", text))
    yield "".join(BRAILLE.get(sign, " ") for sign in text)
    words = re.findall(r"[a-z-]+", text.lower())
    yield "".join(word[0] for word in words if word in NATO)


def _alphabet(shift: Callable[[int], int]) -> dict[int, str]:
    return {first + i: chr(first + shift(i) % 26) for first in (65, 97) for i in range(26)}


SHIFTS = [*(_alphabet(lambda i, by=by: i - by) for by in range(1, 26)), _alphabet(lambda i: 25 - i)]


def ciphers(text: str) -> Iterator[str]:
    """Every Caesar cipher, Atbash, and Vigenère with the agreed keys."""
    if len(text) > CIPHERED:
        return
    yield from (text.translate(table) for table in SHIFTS)
    for key in KEYS:
        place, out = 0, []
        for sign in text:
            if sign.isascii() and sign.isalpha():
                sign = sign.translate(SHIFTS[(ord(key[place % len(key)]) - 98) % 26])
                place += 1
            out.append(sign)
        yield "".join(out)


def orders(text: str) -> Iterator[str]:
    """Backwards, by words, down the first characters of lines, and the strings of a program in either direction."""
    yield text[::-1]
    words = text.split()
    yield " ".join(word[::-1] for word in words)
    yield " ".join(reversed(words))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    yield "".join(line[0] for line in lines)
    yield "".join(line[0] for line in lines if re.match(r"\S = \d", line))
    strings = re.findall(r"\"([^\"]*)\"|'([^']*)'", text)
    quoted = [first or second for first, second in strings]
    yield " ".join(quoted)
    yield " ".join(reversed(quoted))


def invisible(text: str) -> Iterator[str]:
    """Tag characters, variation selectors and bits in invisible operators."""
    yield "".join(chr(ord(sign) - 0xE0000) for sign in text if 0xE0020 <= ord(sign) <= 0xE007E)
    selectors = [ord(s) - 0xFE00 if ord(s) < 0xFE10 else ord(s) - 0xE0100 + 16 for s in text if _selector(s)]
    yield "".join(map(chr, selectors))
    yield "".join(chr(max(value - 16, 0)) for value in selectors)  # garak counts from the supplement's first
    for zero, one in (("\u2062", "\u2064"), ("\u200b", "\u200c"), ("\u2064", "\u2062")):
        bits = "".join("0" if sign == zero else "1" for sign in text if sign in (zero, one))
        whole = len(bits) // 8 * 8
        if whole:
            yield from _printable(int(bits[:whole], 2).to_bytes(whole // 8, "big"))
    words = re.findall("[\u2062\u2064]+", text)  # garak's: as many bits as a character needs, which is 7 for letters
    yield " ".join(
        "".join(chr(int("".join("01"[s == "\u2064"] for s in word[i : i + 7]), 2)) for i in range(0, len(word), 7))
        for word in words
    )


def _selector(sign: str) -> bool:
    return 0xFE00 <= ord(sign) <= 0xFE0F or 0xE0100 <= ord(sign) <= 0xE01EF


def chameleon(text: str) -> Iterator[str]:
    """CodeChameleon's encryptions: words backwards, every second word first, sorted by length, or in a tree."""
    for found in re.findall(r"problem you need to solve is: (.*)", text):
        words = found.split()
        yield " ".join(reversed(words))
        half = (len(words) + 1) // 2
        yield " ".join(word for pair in zip(words[:half], [*words[half:], ""], strict=False) for word in pair)
        try:
            tree = json.loads(found)
        except ValueError:
            continue
        if isinstance(tree, list):
            pairs = [pair for entry in tree for pair in entry.items()]
            yield " ".join(word for word, place in sorted(pairs, key=lambda pair: pair[1]))
        elif isinstance(tree, dict):
            yield " ".join(_in_order(tree))


def _in_order(tree: dict[str, Any] | None) -> list[str]:
    return [] if tree is None else [*_in_order(tree.get("left")), str(tree["value"]), *_in_order(tree.get("right"))]


def packaged(text: str) -> Iterator[str]:
    """What the attack tools' own packages decode, where they are installed."""
    try:
        import base2048

        for piece in _pieces(text):
            try:
                yield from _printable(base2048.decode(piece))
            except Exception:  # its own class, or IndexError
                continue
    except ImportError:
        pass
    try:
        import ecoji

        for piece in _pieces(text):
            out = io.BytesIO()
            try:
                ecoji.decode(io.StringIO(piece), out)
            except Exception:  # it raises whatever comes
                continue
            yield from _printable(out.getvalue())
    except ImportError:
        pass


def pictures(text: str) -> Iterator[str]:
    """ASCII art in two fonts, read from left to right."""
    if text.count("\n") < 4 or not re.search(r"[|_/\\.]{2}", text):
        return
    for font in ("standard", "block"):
        glyphs = _glyphs(font)
        rows = text.split("\n")
        for first in range(2):
            yield _read(rows[first:], glyphs)


@lru_cache(maxsize=4)
def _glyphs(font: str) -> list[tuple[str, list[str]]]:
    try:
        from art import text2art
    except ImportError:
        return []
    signs = string.ascii_letters + ".?'"
    return [(sign, text2art(sign, font=font).rstrip("\n").split("\n")) for sign in signs]


def _read(rows: list[str], glyphs: list[tuple[str, list[str]]]) -> str:
    width, at, out = max(map(len, rows), default=0), 0, []
    padded = [row.ljust(width) for row in rows]
    while at < width:
        for letter, glyph in glyphs:
            size = max(map(len, glyph))
            if size and all(row[at : at + size] == part.ljust(size) for row, part in zip(padded, glyph, strict=False)):
                out.append(letter)
                at += size
                break
        else:
            at += 1
    return "".join(out)


CONTAINERS = (bases, uu, numbers, escapes, codes, invisible, packaged)  # what may hold another encoding
DECODINGS = (pictures, *CONTAINERS, orders, chameleon, ciphers)
LONGEST = 20_000  # characters of a text that are looked at
CIPHERED = 4000  # nobody enciphers more than this by hand, and pictures are longer


def readings(text: str) -> Iterator[str]:
    """The text, everything that can be decoded from it, and decodings of what came out of an encoding."""
    text = text[:LONGEST]
    seen, inside = {text}, []
    yield text
    for decode in DECODINGS:
        for found in decode(text):
            if len(found) > 7 and found not in seen:
                seen.add(found)
                yield found
                if decode in CONTAINERS:
                    inside.append(found)
    for outer in inside[:12]:
        for decode in DECODINGS:
            for found in decode(outer):
                if len(found) > 7 and found not in seen:
                    seen.add(found)
                    yield found
