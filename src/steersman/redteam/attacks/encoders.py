"""Ways to write a text so that a filter does not read it: the codes that the encoding attacks and others use.

Each takes a text and a source of randomness, and returns it in the code. What a code has no sign for stays as it is, so
that no goal is ever empty. They are written for the attacks alone: the guard's decoders, which must undo them, share
nothing with them, and a test holds the two against each other.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Callable
from random import Random

Encoder = Callable[[str, Random], str]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD = re.compile(r"[A-Za-z]+")
_VOWELS = "aeiou"


def as_bytes(text: str) -> bytes:
    """UTF-8; half a surrogate pair, which has none, is written as a question mark."""
    return text.encode("utf-8", errors="replace")


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def base_64(text: str, _: Random) -> str:
    """Base64."""
    return base64.b64encode(as_bytes(text)).decode("ascii")


def base_32(text: str, _: Random) -> str:
    """Base32."""
    return base64.b32encode(as_bytes(text)).decode("ascii")


def base_85(text: str, _: Random) -> str:
    """Base85."""
    return base64.b85encode(as_bytes(text)).decode("ascii")


def hexadecimal(text: str, _: Random) -> str:
    """Two hexadecimal digits a byte."""
    return as_bytes(text).hex()


def binary(text: str, _: Random) -> str:
    """Eight bits a byte."""
    return " ".join(f"{byte:08b}" for byte in as_bytes(text))


def decimal(text: str, _: Random) -> str:
    """The number of each byte."""
    return " ".join(str(byte) for byte in as_bytes(text))


def percent(text: str, _: Random) -> str:
    """Percent-encoding of every byte, as in addresses of the web."""
    return "".join(f"%{byte:02X}" for byte in as_bytes(text))


def entities(text: str, _: Random) -> str:
    """Every character as a numeric entity of HTML."""
    return "".join(f"&#{ord(char)};" for char in text)


# ── letters for letters ──────────────────────────────────────────────────────────────────────────────────────────────
def _table(letters: str) -> dict[int, int]:
    return str.maketrans(LETTERS + LETTERS.upper(), letters + letters.upper())


def caesar(text: str, _: Random) -> str:
    """Every letter three places on."""
    return text.translate(_table(LETTERS[3:] + LETTERS[:3]))


def rot_13(text: str, _: Random) -> str:
    """Every letter thirteen places on."""
    return text.translate(_table(LETTERS[13:] + LETTERS[:13]))


def atbash(text: str, _: Random) -> str:
    """A for Z, B for Y."""
    return text.translate(_table(LETTERS[::-1]))


def leet(text: str, _: Random) -> str:
    """Digits for letters."""
    return text.translate(str.maketrans("aeiostAEIOST", "431057431057"))


def full_width(text: str, _: Random) -> str:
    """The full-width forms of East Asian typography."""
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text)


def bold(text: str, _: Random) -> str:
    """Bold letters of mathematics."""
    table = {ord(char): 0x1D41A + at for at, char in enumerate(LETTERS)}
    return text.translate(table | {ord(char.upper()): 0x1D400 + at for at, char in enumerate(LETTERS)})


_LOOKALIKES = str.maketrans("aeopcyxisjhABEKMHOPCTX", "аеорсухіѕјһАВЕКМНОРСТХ")


def confusables(text: str, _: Random) -> str:
    """Cyrillic letters that look like the Latin ones."""
    return text.translate(_LOOKALIKES)


_TURNED = str.maketrans("abcdefghijklmnopqrstuvwxyz?!.", "ɐqɔpǝɟƃɥᴉɾʞlɯuodbɹsʇnʌʍxʎz¿¡˙")


def upside_down(text: str, _: Random) -> str:
    """Letters turned upside down, from the last to the first."""
    return text.lower().translate(_TURNED)[::-1]


# ── signs for letters ────────────────────────────────────────────────────────────────────────────────────────────────
_MORSE_SIGNS = """
.- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --..
----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----.
.-.-.- --..-- ..--.. .----. -.-.-- -..-. -.--. -.--.- .-... ---... -.-.-. -...- .-.-. -....- .-..-. .--.-.
"""
_NATO_WORDS = """
Alfa Bravo Charlie Delta Echo Foxtrot Golf Hotel India Juliett Kilo Lima Mike
November Oscar Papa Quebec Romeo Sierra Tango Uniform Victor Whiskey Xray Yankee Zulu
"""
MORSE = dict(zip(LETTERS + "0123456789.,?'!/()&:;=+-\"@", _MORSE_SIGNS.split(), strict=True))
NATO = dict(zip(LETTERS, _NATO_WORDS.split(), strict=True))
_DOTS = "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵"
_BRAILLE = dict(zip(LETTERS + ",.!?;:-'", _DOTS + "⠂⠲⠖⠦⠆⠒⠤⠄", strict=True))


def without_accents(text: str) -> str:
    """Letters without their marks, where they have an ordinary one."""
    return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))


def _spelled(text: str, signs: dict[str, str]) -> str:
    words = without_accents(text).lower().split()
    return " / ".join(" ".join(signs.get(char, char) for char in word) for word in words)


def morse(text: str, _: Random) -> str:
    """Morse code, with a slash between words."""
    return _spelled(text, MORSE)


def nato(text: str, _: Random) -> str:
    """The spelling alphabet of NATO, with a slash between words."""
    return _spelled(text, NATO)


def braille(text: str, _: Random) -> str:
    """Braille of grade 1, in small letters; a sign says that digits follow."""
    made, number = [], False
    for char in without_accents(text).lower():
        if char.isascii() and char.isdigit():
            made.append(("" if number else "⠼") + _DOTS["1234567890".index(char)])
            number = True
        else:
            made.append(_BRAILLE.get(char, char))
            number = False
    return "".join(made)


# ── order and gaps ───────────────────────────────────────────────────────────────────────────────────────────────────
def reverse(text: str, _: Random) -> str:
    """From the last character to the first."""
    return text[::-1]


def words_reversed(text: str, _: Random) -> str:
    """Each word from its last letter to its first, in the order of the text."""
    return _WORD.sub(lambda word: word[0][::-1], text)


def spaced(text: str, _: Random) -> str:
    """A space between letters, three between words."""
    return "   ".join(" ".join(word) for word in text.split())


def zero_width(text: str, _: Random) -> str:
    """A zero-width space behind every character."""
    return "\u200b".join(text)


def hyphenated(text: str, random: Random) -> str:
    """Longer words in two parts with a hyphen between them."""

    def cut(word: re.Match[str]) -> str:
        at = random.randrange(2, len(word[0]) - 1)
        return f"{word[0][:at]}-{word[0][at:]}"

    return re.sub(r"[A-Za-z]{5,}", cut, text)


def pig_latin(text: str, _: Random) -> str:
    """The consonants that a word begins with move to its end, and -ay follows; -way where it begins with a vowel."""

    def turned(word: re.Match[str]) -> str:
        letters = word[0].lower()
        start = next((at for at, char in enumerate(letters) if char in _VOWELS or (at and char == "y")), 0)
        return letters[start:] + letters[:start] + "ay" if start else letters + "way"

    return _WORD.sub(turned, text)


def without_vowels(text: str, _: Random) -> str:
    """Words without the vowels inside them."""
    return _WORD.sub(lambda word: word[0][0] + re.sub(f"(?i)[{_VOWELS}]", "", word[0][1:]), text)


# ── what is not seen ─────────────────────────────────────────────────────────────────────────────────────────────────
_COVER = "Good morning! I hope that you are well today, and that it is sunny where you are."


def tag_characters(text: str, _: Random) -> str:
    """A greeting, and behind it the text in tag characters, which are not shown."""
    return _COVER + "".join(chr(0xE0000 + ord(char)) if " " <= char <= "~" else char for char in text)


def _selector(byte: int) -> str:
    return chr(0xFE00 + byte) if byte < 16 else chr(0xE0100 + byte - 16)


def emoji_smuggling(text: str, _: Random) -> str:
    """One emoji that carries every byte of the text as a variation selector."""
    return "😊" + "".join(map(_selector, as_bytes(text)))


def variation_selectors(text: str, _: Random) -> str:
    """A greeting with the bytes of the text strewn between its letters as variation selectors."""
    data = as_bytes(text)
    share = -(-len(data) // len(_COVER))
    parts = (data[at * share : (at + 1) * share] for at in range(len(_COVER)))
    return "".join(char + "".join(map(_selector, part)) for char, part in zip(_COVER, parts, strict=True))


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────
_FONT = """
.###. ####. .#### ####. ##### ##### .#### #...# ##### ....# #...# #.... #...#
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ....# #..#. #.... ##.##
##### ####. #.... #...# ####. ####. #..## ##### ..#.. ....# ###.. #.... #.#.#
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. #...# #..#. #.... #...#
#...# ####. .#### ####. ##### #.... .#### #...# ##### .###. #...# ##### #...#

#...# .###. ####. .###. ####. .#### ##### #...# #...# #...# #...# #...# #####
##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#.
#.#.# #...# ####. #.#.# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#..
#..## #...# #.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## .#.#. ..#.. .#...
#...# .###. #.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. #####
"""
_GLYPHS = {
    letter: rows
    for block, letters in zip(_FONT.strip().split("\n\n"), (LETTERS[:13], LETTERS[13:]), strict=True)
    for letter, *rows in zip(letters, *(line.split() for line in block.split("\n")), strict=True)
}
_MASKED = re.compile(r"[A-Za-z]{4,12}")


def drawn(word: str) -> str:
    """A word of Latin letters, five lines high and five signs wide a letter."""
    glyphs = [_GLYPHS[letter] for letter in word.lower()]
    return "\n".join("  ".join(glyph[row] for glyph in glyphs).replace(".", " ").rstrip() for row in range(5))


def ascii_art(text: str, _: Random) -> str:
    """The longest word as a picture, and the text with [MASK] in its place; a text without a longer word stays."""
    found = max(_MASKED.finditer(text), key=lambda word: len(word[0]), default=None)
    if found is None:
        return text
    return f"[MASK] is this word:\n\n{drawn(found[0])}\n\n{text[: found.start()]}[MASK]{text[found.end() :]}"


# ── one inside another ───────────────────────────────────────────────────────────────────────────────────────────────
def nested(text: str, random: Random) -> str:
    """Base64 of ROT13."""
    return base_64(rot_13(text, random), random)


def twice_nested(text: str, random: Random) -> str:
    """Hexadecimal digits of base64 of the text reversed."""
    return hexadecimal(base_64(reverse(text, random), random), random)
