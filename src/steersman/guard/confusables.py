"""Letters in a foreign dress, read as the Latin letters that they stand in for.

A word that mixes scripts ("pаsswоrd" with Cyrillic а and о) is written to be read as Latin, and so is a word of another
script all of whose letters look Latin, amid Latin text. A Russian or Greek word stays. Most characters are recognised
by their Unicode names; the tables below hold those whose look differs from their name. (Unicode Technical Standard 39
calls this the skeleton; its table of confusables is not used.)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache

Change = tuple[int, int, str]

# By their look: what stands in for a Latin letter, in scripts with few or no such names.
_LOOKS = {
    "a": "аαɑ⍺ꓮᎪΑАаﻬ𐊠₳ค卂ä∀Λᗅ𖽀",
    "b": "вƅьЬᏏᖯβΒВᏴꓐ฿๒乃ßƄᑲꞴᗷ𐊂𐊡𐌁",
    "c": "сϲⅽᴄⲥСᏟꓚᑕ¢₵匚૮ꮯ𐐽🝌𑣲Ⲥ𐊢𐌂𐐕𐔜",
    "d": "ԁⅾᏧᑯꓒժᎠꓓᗞᗪძ",
    "e": "еҽ℮ꬲɛεΕЕᎬꓰ€乇єэɘⴹ𑢦𑢮𐊆",
    "f": "ꞙẝϝքƒꓝᖴ千ꬵ𝈓Ϝ𑣂𑢢𐊇𐊥𐔥",
    "g": "ɡցᶃԌᏀᏳꓖɢƍ",
    "h": "һհᏂΗНᎻꓧᕼнℏ卄ዘђⲎ𐋏",
    "i": "іıɩɪιᎥⅰΙІӀǀߊלוןןاⵏᛁꓲíїꙇꭵ𑣃",
    "j": "јϳʝЈᎫꓙʲنﻧͿᒍ",
    "k": "κкⲕΚКᏦꓗᛕҡ₭Ⲕ𐔘",
    "l": "ⅼℓӏᏞꓡᒪւʟ˪Ⲑ⏽𐌠ƖⲒ𖼨𐊊𐌉𝈪Ⳑ𖼖𑢣𑢲𐐛𐔦",
    "m": "мⅿΜМᎷꓟᗰϻ爪៣ϺⲘᛖ𐊰𐌑",
    "n": "ոռпηղΝꓠɴиийกиñⲚ𐔓",
    "o": "оοօסهھہہەంಂംං०੦૦௦౦೦൦๐໐၀σᴏⲟ०OΟОՕⵔዐഠ𐐬ဝ◯○●〇٥۵ºθØᴑꬽჿ𐓪𑣈𑣗Ⲟଠ𐓂ꓳ𑢵𐊒𐊫𐐄𐔖",
    "p": "рρϱⲣΡРᏢꓑᑭþ卩ק⍴Ⲣ𐊕",
    "q": "ԛգզϙႳⵕ۹",
    "r": "гꭇꭈᴦⲅᎡᏒꓣᖇгя尺ʀꮁ𝈖Ʀ𐒴𖼵",
    "s": "ѕꮪꜱЅՏᏕᏚꓢ§丂รƽ𑣁𐑈𖼺𐊖𐐠",
    "t": "тττΤТᎢꓔтŧ₮丅†🝨𖼊𑢼𐊗𐊱𐌕",
    "u": "υսᴜʋՍꓴᑌμυцυ∪ยꞟ𐓶𑣘ሀ𐓎𖽂𑢸",
    "v": "νѵᴠⅴטᏙꓦᐯѴ∨√𑜆ꮩ𑣀𝈍ⴸꛟ𖼈𑢠𐔝",
    "w": "ѡԝաᏔꓪᎳшщωɯฬ₩山𑜊𑜎𑜏ꮃ𑣯Ԝ",
    "x": "хⅹᕁᕽΧХꓫχ×᙭乂ҳ᙮╳𐌢𑣬ꞳⲬⵝᚷ𐊐𐊴𐌗𐔧",
    "y": "уүγỿʏΥҮꓬᎩчყў¥ץㄚɣ𑣜ⲨУᎽ𖽃𑢤𐊲",
    "z": "ᴢꮓΖꓜᏃʐ乙𑣄𐋵𑢩",
}
# By the tail of the name, for Greek, Coptic and Cyrillic characters of whatever style.
_TAILS = {
    "ALPHA": "a", "BETA": "b", "EPSILON": "e", "ZETA": "z", "ETA": "n", "IOTA": "i", "KAPPA": "k", "NU": "v",
    "OMICRON": "o", "RHO": "p", "SIGMA": "o", "TAU": "t", "UPSILON": "u",
    "CHI": "x", "GAMMA": "y", "OMEGA": "w", "LUNATE SIGMA": "c",
    "MU": "u", "DELTA": "d",
}  # fmt: skip
_SCRIPTS = (
    "CYRILLIC",
    "GREEK",
    "COPTIC",
    "ARMENIAN",
    "CHEROKEE",
    "LISU",
    "DESERET",
    "WARANG",
    "MIAO",
    "CARIAN",
    "LYCIAN",
)
_LOOK = {char: letter for letter, chars in _LOOKS.items() for char in chars}
_NAMED = re.compile(
    r"LATIN (?:SUBSCRIPT |LETTER |SMALL |CAPITAL |LETTER |MODIFIER )*(?:SMALL )?(?:CAPITAL )?([A-Z])(?: WITH .*)?$"
)
_BOXED = re.compile(
    r"(?:NEGATIVE |CROSSED |RAISED )?(?:CIRCLED|SQUARED|PARENTHESIZED) LATIN (?:CAPITAL|SMALL) LETTER ([A-Z])$"
)

# Characters that a text shows as nothing or takes back: controls but tab and line ends, terminal colours.
_CONTROL = re.compile(r"\x1b\[[0-9;?]{0,32}[ -/]{0,8}[@-~]|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_STYLED = re.compile(
    "[\u02b0-\u02b8\u02e1-\u02e3\u1d00-\u1dbf\u2071\u207f\u2090-\u209c\u2c7c\ua7f2-\ua7f4\ua7f8\ua7f9\u0250-\u02af"
    "\ua730\ua731\u1e9b\u249c-\u24e9\U0001f110-\U0001f189\ufb50-\ufdff\ufe70-\ufefc\U0001df00-\U0001df2a]"
)
_FLAGS = re.compile("[\U0001f1e6-\U0001f1ff](?:[\\s.,-]?[\U0001f1e6-\U0001f1ff])*")
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_STACKED = re.compile(f"[^{_MARKS}\\s]?[{_MARKS}]+")
_MARK = re.compile(f"[{_MARKS}]")
_ELONGATED = re.compile("\u0640+")
_TOKEN = re.compile(r"[^\x00-/:-@\[-`{-\x7f\s]+")  # of ASCII only letters and digits


@lru_cache(maxsize=20_000)
def latin(char: str) -> str:
    """The Latin letter that a character stands in for; empty if none."""
    if char in _LOOK:
        return _LOOK[char]
    name = unicodedata.name(char, "")
    if found := _NAMED.match(name):
        return found[1].lower()
    if any(script in name for script in ("GREEK", "COPTIC", "MATHEMATICAL")):
        return next((letter for tail, letter in _TAILS.items() if name.endswith(f" {tail}")), "")
    if (other := char.swapcase()) in _LOOK:
        return _LOOK[other]
    digit = unicodedata.decimal(char, None)
    if digit is not None and not char.isascii():
        return {0: "o", 1: "l"}.get(digit, str(digit))
    return ""


@lru_cache(maxsize=5_000)
def styled(char: str) -> str:
    """A superscript, small-capital, boxed or presentation form as a plain letter; itself if it is none."""
    name = unicodedata.name(char, "")
    if found := _BOXED.match(name) or _NAMED.match(name):
        return found[1] if "CAPITAL LETTER" in name and "SMALL CAPITAL" not in name else found[1].lower()
    plain = unicodedata.normalize("NFKC", char)
    return plain if plain.isalpha() else latin(char) or char


def _taken_back(text: str) -> Iterator[Change]:
    """A character and the backspace that deletes it."""
    if "\b" not in text:
        return
    kept: list[int] = []
    gone: list[int] = []
    for at, char in enumerate(text):
        if char != "\b":
            kept.append(at)
            continue
        gone.append(at)
        if kept:
            gone.append(kept.pop())
    for at in sorted(gone):
        yield at, at + 1, ""


def _controls(text: str) -> Iterator[Change]:
    for found in _CONTROL.finditer(text):
        yield found.start(), found.end(), ""


def _styles(text: str) -> Iterator[Change]:
    if text.isascii():
        return
    for found in _STYLED.finditer(text):
        made = styled(found[0])
        if made != found[0]:
            yield found.start(), found.end(), made
    for found in _ELONGATED.finditer(text):
        yield found.start(), found.end(), ""


def _flags(text: str) -> Iterator[Change]:
    """Letters as flags; a pair alone is a flag."""
    if text.isascii():
        return
    runs = list(_FLAGS.finditer(text))
    if all(len(run[0]) == 2 for run in runs):
        return
    for run in runs:
        letters = "".join(chr(ord(char) - 0x1F1E6 + 97) if char >= "\U0001f1e6" else char for char in run[0])
        yield run.start(), run.end(), letters


def _marks(text: str) -> Iterator[Change]:
    """Marks that no letter has: strikes, and stacks, with the mark that came first."""
    if text.isascii() or not _MARK.search(text):
        return
    for found in _STACKED.finditer(text):
        base = "" if _MARK.match(found[0]) else found[0][0]
        if base and not base.isascii() and "LATIN" in unicodedata.name(base, ""):
            base = unicodedata.normalize("NFD", base)[0]
        yield found.start(), found.end(), base


def _mixed(text: str) -> Iterator[Change]:
    """Words that mix scripts, and words of look-alikes alone amid Latin text."""
    if text.isascii():
        return
    tokens = [(found, _fold(found[0])) for found in _TOKEN.finditer(text) if not found[0].isascii()]
    if all(made == found[0] for found, (_, made) in tokens):
        return
    ascii_letters = len(re.findall("[A-Za-z]", text))
    mixed = any(kind == "mixed" for _, (kind, _) in tokens)
    foreign = sum(len(found[0]) for found, (kind, _) in tokens if kind == "own")
    for found, (kind, made) in tokens:
        if made == found[0]:
            continue
        if kind == "mixed" or (kind == "alike" and (mixed or len(made) > 1) and ascii_letters >= foreign):
            yield found.start(), found.end(), made


@lru_cache(maxsize=5_000)
def _fold(token: str) -> tuple[str, str]:
    """What a token is, and how it reads in Latin: "mixed", "alike" (all look Latin), or "own" (its own script)."""
    foreign = [char for char in token if not char.isascii() and not _is_latin(char)]
    own = len(token) - len(foreign)
    folded = [latin(char) for char in foreign]
    if not foreign or not any(folded):
        return "own", token
    made = "".join(
        char if char.isascii() or _is_latin(char) or not latin(char) else _cased(char, latin(char)) for char in token
    )
    scripts = {unicodedata.name(char, "?").split(" ")[0] for char in foreign}
    letters = any(char.isalpha() for char in token if char.isascii() or _is_latin(char))
    if (own and letters) or (len(scripts) > 1 and all(folded)):
        return "mixed", made
    return ("alike", made) if all(folded) else ("own", token)


def _cased(char: str, letter: str) -> str:
    return letter.upper() if char.isupper() else letter


@lru_cache(maxsize=5_000)
def _is_latin(char: str) -> bool:
    name = unicodedata.name(char, "")
    return name.startswith("LATIN") and "LETTER SMALL CAPITAL" not in name and char not in "ɑɡɩƒɛʋ"


def dress() -> tuple[Callable[[str], Iterator[Change]], ...]:
    """The steps that undo dress, in order; each tells where a text changes, and to what."""
    return (_taken_back, _controls, _styles, _flags, _marks, _mixed)


def is_undressed(text: str) -> bool:
    """Whether there is nothing to undo, told at a glance."""
    return text.isascii() and not _CONTROL.search(text) and "\b" not in text
