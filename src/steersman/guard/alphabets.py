"""Bytes in an alphabet of more than 256 letters, Base2048, Base65536 and Ecoji, and in that of uuencode.

Such a text looks like one of a strange script, or like a row of pictures, and every letter stands for more than a byte.
A run of letters is decoded only if its first bytes are ASCII, so that words of real scripts cost next to nothing.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

LONGEST = 20_000  # characters of a run, whose bits are one number
_TAIL = {letter: place for place, letter in enumerate("།༎༏༐༑༆༈༒")}  # three bits or fewer, at the end of Base2048
_NOTHING = "\u2615"  # Ecoji's letter for bytes that are missing
_LAST_BYTE = {"\u269c": 0, "\U0001f3cd": 1, "\U0001f4d1": 2, "\U0001f64b": 3}  # the fourth letter of four bytes
_LAST_BLOCK = 0x1500  # Base65536: the last byte of an odd number of them
_STRANGE = re.compile(r"[^\x00-\x7f]{4}")
_PICTURES = re.compile("[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]")


@cache
def _places(name: str) -> dict[str, int]:
    """Each letter of an alphabet with its place; of Base65536 the blocks of 256 letters."""
    text = Path(__file__).with_name("alphabets.txt").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
    letters: list[str] = []
    for part in line.split()[1:]:
        first, _, last = part.partition("-")
        letters += map(chr, range(int(first, 16), int(last or first, 16) + 1))
    return {letter: place for place, letter in enumerate(letters)}


@cache
def _runs(name: str) -> re.Pattern[str]:
    """At least six letters of an alphabet that stand together."""
    letters = _places(name).keys() | {"base2048": _TAIL.keys(), "ecoji": {_NOTHING, *_LAST_BYTE}}[name]
    return re.compile(f"[{''.join(sorted(letters))}](?:\n?[{''.join(sorted(letters))}]){{5,}}")


def base_2048(run: str) -> bytes:
    """Eleven bits a letter; the last one has those that are missing to a byte. Empty: it is none."""
    known, bits, count = _places("base2048"), 0, 0
    for at, letter in enumerate(run):
        last = at == len(run) - 1
        width = 11 - (count + 11) % 8 if last else 11
        if letter in _TAIL and last:
            width, value = -count % 8, _TAIL[letter]
        else:
            value = known.get(letter, -1)
        if not 0 <= value < 1 << width:
            return b""
        bits, count = bits << width | value, count + width
    return b"" if count % 8 else bits.to_bytes(count // 8, "big")


def ecoji(run: str) -> bytes:
    """Ten bits a letter, five bytes in four letters. Empty: it is none."""
    known, out = _places("ecoji"), bytearray()
    for at in range(0, len(run) - 3, 4):
        four = run[at : at + 4]
        size = 4 if four[3] in _LAST_BYTE else 5
        size = four.index(_NOTHING) if _NOTHING in four else size
        bits = 0
        for letter in four:
            bits = bits << 10 | (_LAST_BYTE[letter] << 8 if letter in _LAST_BYTE else known.get(letter, 0))
        out += bits.to_bytes(5, "big")[:size]
    return bytes(out) if len(run) % 4 == 0 else b""


def base_65536(run: str) -> bytes:
    """Two bytes a letter, the first of them its place in a block. Empty: it is none."""
    blocks, out = _places("base65536"), bytearray()
    for at, letter in enumerate(run):
        first, block = ord(letter) & 255, ord(letter) >> 8
        if block == _LAST_BLOCK >> 8 and at == len(run) - 1:
            out.append(first)
        elif (second := blocks.get(chr(block), -1)) >= 0:
            out += bytes((first, second))
        else:
            return b""
    return bytes(out)


def large_alphabets(text: str) -> Iterator[tuple[int, int, bytes, str]]:
    """Start, end, bytes and name of what stands in a large alphabet; ASCII comes first in it."""
    if text.isascii() or not _STRANGE.search(text):
        return
    tries: list[tuple[str, re.Pattern[str], Callable[[str], bytes], int]] = [
        ("Base2048", _runs("base2048"), base_2048, 3)
    ]
    if _PICTURES.search(text):
        tries.append(("Ecoji", _runs("ecoji"), ecoji, 4))
    if _WIDE.search(text):
        tries.append(("Base65536", _WIDE, base_65536, 2))
    for name, runs, decode, ahead in tries:
        for run in runs.finditer(text):
            letters = run[0].replace("\n", "")[:LONGEST]
            if (first := decode(letters[: 8 * ahead] if len(letters) > 8 * ahead else letters)[:3]) and (
                all(32 <= byte < 127 or byte in (9, 10, 13) for byte in first)
            ):
                yield run.start(), run.end(), decode(letters), name


_WIDE = re.compile("[\u3400-\uabff\U00010000-\U0002ffff\u1500-\u15ff]{6,}")


_UU_LINE = re.compile(r"^[!-M][ -`]{4,61}$", re.MULTILINE)
_UU_WORDS = re.compile(r"(?:^|: )([!-M][ -`]{8,})$", re.MULTILINE)


def uuencoded(text: str) -> Iterator[tuple[int, int, bytes, str]]:
    """Start, end, bytes and name of uuencoded lines, or words."""
    lines: list[tuple[int, int, bytes]] = []
    for line in _UU_LINE.finditer(text):
        size = ord(line[0][0]) - 32
        body = line[0][1:]
        if not 0 <= len(body) - (size + 2) // 3 * 4 <= 1 and len(body) < (size * 8 + 5) // 6:
            continue
        try:
            data = binascii.a2b_uu(line[0].encode("ascii") + b"\n")
        except (binascii.Error, ValueError):
            continue
        if lines and line.start() - lines[-1][1] <= 2:
            lines[-1] = (lines[-1][0], line.end(), lines[-1][2] + data)
        else:
            lines.append((line.start(), line.end(), data))
    for start, end, data in (*lines, *_by_words(text)):
        yield start, end, data.rstrip(b"\0"), "uuencode"


def _by_words(text: str) -> Iterator[tuple[int, int, bytes]]:
    """Uuencoded words, each with a length of its own, one behind the other."""
    for line in _UU_WORDS.finditer(text):
        at, words = line.start(1), list[bytes]()
        while at < line.end(1):
            size = ord(text[at]) - 32
            width = 1 + (size + 2) // 3 * 4
            if not 0 < size < 46:
                break
            try:
                words.append(binascii.a2b_uu(text[at : min(at + width, line.end(1))]))
            except (binascii.Error, ValueError):
                break
            at += width
            while at < line.end(1) and text[at] == " ":
                at += 1
        else:
            if len(words) > 1:
                yield line.start(1), line.end(1), b" ".join(words)
