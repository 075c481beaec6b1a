"""Codes that write each letter as a sign: Morse, Braille, the NATO alphabet, numbers, taps.

Each function yields start, end, the letters, and the code's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from steersman.guard.lexicon import readable, segment

Sign = tuple[int, int, str, str]

_MORSE_SIGNS = """
.- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-.
... - ..- ...- .-- -..- -.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----.
.-.-.- --..-- ..--.. .----. -.-.-- -..-. -.--. -.--.- .-... ---... -.-.-. -...- .-.-. -....- ..--.- .-..-. .--.-. ..-..
.-.-
"""
_MORSE_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?'!/()&:;=+-_\"@éä"
_MORSE = dict(zip(_MORSE_SIGNS.split(), _MORSE_LETTERS, strict=False)) | {
    "---.": "ö", "..--": "ü", "--.--": "ñ", ".--.-": "á", "...--..": "ß", "-.-..": "ç"
}  # fmt: skip
_ALIKE = str.maketrans(
    {**dict.fromkeys("•·∙●⋅◦˙*⚫🔴", "."), **dict.fromkeys("−–—‒―_▬━➖➖🔵", "-"), "|": "/", "\n": "/"}
)
_MORSE_RUN = re.compile(r"[.\-•·∙●⋅*−–—‒―_▬━]{1,7}(?:[ /|\n\t]{1,5}[.\-•·∙●⋅*−–—‒―_▬━]{1,7}){3,}")

_DOTS = dict(
    zip([1, 3, 9, 25, 17, 11, 27, 19, 10, 26, 5, 7, 13, 29, 21, 15, 31, 23, 14, 30, 37, 39, 58, 45, 61, 53],
        "abcdefghijklmnopqrstuvwxyz", strict=True)
) | {2: ",", 50: ".", 22: "!", 38: "?", 6: ";", 18: ":", 36: "-", 4: "'", 0: " ", 63: "é"}  # fmt: skip
_BRAILLE_RUN = re.compile("[\u2800-\u28ff](?:[\u2800-\u28ff \n]*[\u2800-\u28ff])?")

_NATO_WORDS = """alfa bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa
quebec romeo sierra tango uniform victor whiskey xray yankee zulu alpha juliet x-ray whisky"""
NATO = {word: word[0] for word in _NATO_WORDS.split()}
_NATO_KEYS = frozenset(NATO)
_NATO_WORD = "|".join(sorted(NATO, key=len, reverse=True))
_NATO_GAP = r"(?:[ ,\-–/|.]{1,3}|\s?[(\[<]space[)\]>]\s?|\n|\s[^\w\s]{1,2}\s?|\d)+"
_NATO_RUN = re.compile(rf"\b(?:{_NATO_WORD})\b(?:{_NATO_GAP}(?:{_NATO_WORD})\b){{2,}}", re.IGNORECASE)

_NUMBERS = re.compile(r"(?<![\d.])\d{1,3}(?:[ ,;:|/\n\t.–-]{1,4}\d{1,3}){3,}(?![\d])")
_TAPS = re.compile(r"\.{1,5} \.{1,5}(?:[ /|,;]{1,5}\.{1,5} \.{1,5}){2,}")
_SQUARE = "abcdefghijlmnopqrstuvwxyz"  # five by five, k written as c


def morse(text: str) -> Iterator[Sign]:
    """Morse code, in dots and dashes of many looks, or in two pictures."""
    for run in _MORSE_RUN.finditer(text):
        made = _from_morse(run[0].translate(_ALIKE))
        if made and readable(made):
            yield run.start(), run.end(), made, "Morse"
    if not text.isascii():
        yield from _pictures(text)


def _from_morse(code: str) -> str:
    separator = "/" if "/" in code else r"\s{2,}"
    words = []
    for word in re.split(rf"\s*{separator}[\s/]*", code.strip()):
        letters = [_MORSE.get(sign, "") for sign in word.split()]
        if letters.count("") > len(letters) * 0.2:
            return ""
        words.append("".join(letters))
    made = " ".join(words)
    return segment(made) if len(words) == 1 and len(made) > 8 else made


def _pictures(text: str) -> Iterator[Sign]:
    """Two pictures for dot and dash."""
    for run in re.finditer(r"[^\x00-\x1f\x21-\x2e\x30-\x7b\x7d-\x7f]{16,}", text):
        signs = [sign for sign in dict.fromkeys(run[0]) if sign not in " /|" and not sign.isalnum()]
        if len(signs) != 2:
            continue
        for dot, dash in (signs, signs[::-1]):
            made = _from_morse(run[0].replace(dot, ".").replace(dash, "-").replace("|", "/"))
            if made and readable(made, surely=True):
                yield run.start(), run.end(), made, "Morse"
                break


def braille(text: str) -> Iterator[Sign]:
    """Braille of grade 1."""
    if text.isascii():
        return
    for run in _BRAILLE_RUN.finditer(text):
        made, capital, number = [], False, False
        for char in run[0]:
            cell = ord(char) - 0x2800
            if not 0 <= cell < 256:
                made.append(char)
                number = False
            elif cell == 32:
                capital = True
            elif cell == 60:
                number = True
            else:
                letter = _DOTS.get(cell, "")
                if number and letter in "abcdefghij":
                    letter = "1234567890"["abcdefghij".index(letter)]
                made.append(letter.upper() if capital else letter)
                capital = False
        letters = "".join(made)
        if readable(letters):
            yield run.start(), run.end(), letters, "Braille"


def nato(text: str) -> Iterator[Sign]:
    """The spelling alphabet of NATO."""
    if len(_NATO_KEYS & set(text.lower().replace(",", " ").replace("-", " ").split())) < 2:
        return
    for run in _NATO_RUN.finditer(text):
        code = re.sub(r"[(\[<]space[)\]>]|\s[/|]\s|\n|  +", " \0 ", run[0], flags=re.IGNORECASE)
        made = re.sub(
            rf"\b({_NATO_WORD})\b|[ ,\-–.]", lambda found: NATO.get(found[0].lower(), ""), code, flags=re.IGNORECASE
        )
        letters = re.sub("\0+", " ", made)
        letters = segment(letters.lower()) if len(letters) > 8 and letters.isalpha() else letters
        if readable(letters):
            yield run.start(), run.end(), letters, "NATO alphabet"


def numbers(text: str) -> Iterator[Sign]:
    """Letters as numbers: decimal or octal codes, places in the alphabet, places in a square of five by five."""
    for run in _NUMBERS.finditer(text):
        found = [(int(number), number, gap) for number, gap in re.findall(r"(\d+)(\D*)", run[0])]
        values = [value for value, _, _ in found]
        if len(values) > 5000:
            values, found = values[:5000], found[:5000]
        top = max(values)
        tries: list[tuple[str, str]] = []
        if top <= 26 and min(values) > 0:
            tries.append(("letter numbers", _spelled(found, lambda number: chr(96 + int(number)))))
        if top <= 55 and min(values) >= 11 and all(set(number) <= set("12345") for _, number, _ in found):
            tries.append(("tap code", _spelled(found, lambda number: _SQUARE[5 * int(number[0]) + int(number[1]) - 6])))
        if top > 64 and all(value in (9, 10, 13) or 32 <= value < 256 for value in values):
            tries.append(("character codes", "".join(map(chr, values))))
        if top > 99 and not any(set(number) & set("89") for _, number, _ in found):
            octal = [int(number, 8) for _, number, _ in found]
            if all(32 <= value < 127 or value == 10 for value in octal):
                tries.append(("octal", "".join(map(chr, octal))))
        for name, made in tries:
            if made.replace("\n", "").replace("\t", "").isprintable() and readable(
                made, surely=name != "character codes"
            ):
                yield run.start(), run.end(), made, name
                break


def _spelled(found: list[tuple[int, str, str]], letter: Callable[[str], str]) -> str:
    """Letters with a space where the gap between two numbers is not the usual one."""
    gaps = [gap for _, _, gap in found[:-1]]
    usual = max(sorted(set(gaps)), key=gaps.count) if gaps else ""
    parts = [letter(number) + ("" if gap == usual else " ") for _, number, gap in found]
    made = "".join(parts).strip()
    return segment(made) if " " not in made else made


def tap(text: str) -> Iterator[Sign]:
    """Taps, two groups of dots for a letter."""
    if ". ." not in text:
        return
    for run in _TAPS.finditer(text):
        pairs = re.findall(r"(\.{1,5}) (\.{1,5})([ /|,;]*)", run[0])
        found = [(0, f"{len(first)}{len(second)}", gap) for first, second, gap in pairs]
        made = _spelled(found, lambda number: _SQUARE[5 * int(number[0]) + int(number[1]) - 6])
        if readable(made, surely=True):
            yield run.start(), run.end(), made, "tap code"
