"""Readings of the words of a text: with letters shifted, reversed or upside down.

Each function yields lists of what it found; a list makes one view. Words are looked up under all ciphers at once, which
costs microseconds, and a reading is kept only where more words are known in it than stood there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from steersman.guard.assembly import acrostics, joined_strings, ordered, tree
from steersman.guard.decoders import Found, encoded
from steersman.guard.lexicon import CIPHERED, OWN_RANK, Glance, common_words, own_words, readable, words
from steersman.guard.spelling import respelled

Reading = Callable[[Glance], Iterator[list[Found]]]

_ABC = "abcdefghijklmnopqrstuvwxyz"
_ENOUGH = 8  # letters in known words that a cipher must bring to light
_ENOUGH_WHEN_TOLD = 5  # where the text speaks of a cipher
_TOLD = re.compile(r"(?i)\b(?:rot[ -]?\d|caesar|cipher|decode|decrypt|atbash|backwards?|encoded|unscramble)\b")


def _table(letters: str) -> dict[int, int]:
    return str.maketrans(_ABC + _ABC.upper(), letters + letters.upper())


SHIFTS: dict[str, dict[int, int]] = {
    **{f"rot{by}": _table(_ABC[by:] + _ABC[:by]) for by in range(1, 26)},
    "Atbash": _table(_ABC[::-1]),
}
_UNSHIFTS = {
    **{f"rot{by}": _table(_ABC[-by:] + _ABC[:-by]) for by in range(1, 26)},
    "Atbash": SHIFTS["Atbash"],
}


@lru_cache(maxsize=128)
def _ciphered(own: frozenset[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Each common word, or each of the constitution's own, under each cipher, with the ciphers that give it."""
    table: dict[str, tuple[str, ...]] = {}
    for word, rank in (common_words() if own is None else dict.fromkeys(own, OWN_RANK)).items():
        if rank >= CIPHERED or len(word) < 2 or (len(word) == 2 and rank > 60):
            continue
        for name, undo in (*_UNSHIFTS.items(), ("reversed", None)):
            if undo is not None and not word.isascii():
                continue
            made = word[::-1] if undo is None else word.translate(undo)
            table[made] = (*table.get(made, ()), name)
    return table


def ciphers(glance: Glance) -> Iterator[list[Found]]:
    """Stretches in which a cipher of letters, or reading backwards, brings known words to light."""
    known, common, own = words(), _ciphered(), _ciphered(own_words())
    told = [word for word in glance.unknown if word in common or word in own]
    if not told:
        return
    votes: dict[str, int] = {}
    for word in told:
        for name in (*common.get(word, ()), *own.get(word, ())):
            votes[name] = votes.get(name, 0) + len(word)
    enough = _ENOUGH_WHEN_TOLD if _TOLD.search(glance.text) else _ENOUGH
    best = sorted((name for name in votes if votes[name] >= enough), key=lambda name: (-votes[name], name))[:3]
    if not best:
        return
    table = {word: (*common.get(word, ()), *own.get(word, ())) for word in set(glance.words)}
    for name in best:
        gains = []
        seen: set[str] = set()
        for word in glance.words:
            if name in table[word]:
                new = word not in seen
                gains.append(len(word) * (1.0 if new else 0.1) * (0.3 if word in known else 1.0))
                seen.add(word)
            else:
                gains.append(-1.0 * len(word) if word in known and len(word) > 1 else -0.35 * len(word))
        first, last, gain = _stretch(gains)
        if gain < enough * 0.75 or gain < 0.3 * sum(map(len, glance.words[first:last])):
            continue
        hits = {word for word in glance.words[first:last] if word in glance.unknown and name in table[word]}
        if len(hits) < 2 and (enough == _ENOUGH or len(glance.words) > 3 * len(hits) + 12):
            continue
        while last < len(glance.words) and (glance.words[last] not in known or len(glance.words[last]) == 1):
            last += 1
        while first and (glance.words[first - 1] not in known or len(glance.words[first - 1]) == 1):
            first -= 1
        yield from _deciphered(glance.text, glance.places[first][0], glance.places[last - 1][1], name)


def _stretch(gains: list[float]) -> tuple[int, int, float]:
    """The part with the largest sum."""
    best, first, last, total, start = 0.0, 0, 0, 0.0, 0
    for at, gain in enumerate(gains):
        if total <= 0:
            total, start = 0.0, at
        total += gain
        if total > best:
            best, first, last = total, start, at + 1
    return first, last, best


def _deciphered(text: str, start: int, end: int, name: str) -> Iterator[list[Found]]:
    part = text[start:end]
    if name != "reversed":
        yield [Found(start, end, part.translate(SHIFTS[name]), name, kind="same")]
        return
    yield [Found(start, end, part[::-1], "reversed", kind="reversed")]
    yield [Found(start + word.start(), start + word.end(), word[0][::-1], "words reversed", kind="reversed")
           for word in re.finditer(r"[^\W_]+(?:['’][^\W_]+)?", part)]  # fmt: skip


_ROT47_WORD = re.compile(r"(?<![!-~])[2-9:-K]{2,}(?![!-~])")  # lower-case words under it
_ROT47 = str.maketrans({chr(33 + at): chr(33 + (at + 47) % 94) for at in range(94)})


def rot47(glance: Glance) -> Iterator[list[Found]]:
    """All printable characters shifted by 47."""
    text = glance.text
    if len(_ROT47_WORD.findall(text)) < 2:
        return
    tokens = list(re.finditer(r"[!-~]+", text))
    known = words()
    gains = []
    for token in tokens:
        made = token[0].translate(_ROT47).lower().strip(".,;:!?\"'()")
        plain = token[0].lower().strip(".,;:!?\"'()") in known
        gains.append(
            float(len(made))
            if made in known and not plain and len(made) > 1
            else -1.0 * len(token[0]) * (1 if plain else 0.35)
        )
    first, last, gain = _stretch(gains)
    if gain < 6:
        return
    start, end = tokens[first].start(), tokens[last - 1].end()
    while last < len(tokens) and not tokens[last][0].isalpha():
        end, last = tokens[last].end(), last + 1
    yield [Found(start, end, text[start:end].translate(_ROT47), "rot47", kind="same")]


def pig_latin(glance: Glance) -> Iterator[list[Found]]:
    """Owhay otay."""
    text, known = glance.text, words()
    if sum(word.endswith("ay") for word in glance.unknown) < 3:
        return
    spans = []
    for token in re.finditer(r"[^\W\d_]+(?:-[^\W\d_]+)?", text):
        word = token[0].lower().replace("-", "")
        if word in known or not word.endswith("ay") or len(word) < 4:
            continue
        stem = word[:-2]
        options = [stem[-size:] + stem[:-size] for size in (4, 3, 2, 1) if size < len(stem)]
        options += [stem[:-1]] if stem[-1] in "wyh" else []
        options.append(stem)
        made = next((option for option in options if option in known), "")
        spans.append(Found(token.start(), token.end(), made or options[0], "pig Latin"))
    if sum(found.text in known for found in spans) >= 3:
        yield spans


_FLIPPED = dict(
    zip(
        "ɐqɔpǝɟƃɓɥᴉıɾʞlʃɯuodbɹsʇnʌʍxʎz¿¡˙∀ƆƎℲ⅁פHIſ⅂WNԀΌᴚS⊥∩ΛMX⅄",
        "abcdefgghiijkllmnopqrstuvwxyz?!.acefgghijlmnpqrstuvwxy",
        strict=True,
    )
)
_UPSIDE = re.compile("[ɐɔǝɟƃɓɥᴉɾʞɯɹʇʌʍʎ]")


def upside_down(glance: Glance) -> Iterator[list[Found]]:
    """Letters that stand on their heads, read from the end."""
    text = glance.text
    if text.isascii() or len(_UPSIDE.findall(text)) < 3:
        return
    for line in re.finditer(r"[^\n]+", text):
        made = "".join(_FLIPPED.get(char, char) for char in reversed(line[0]))
        if len(_UPSIDE.findall(line[0])) > 2 and readable(made):
            yield [Found(line.start(), line.end(), made, "upside down", kind="reversed")]


_DENSE = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/=_-]{16,}")


def dense(glance: Glance) -> Iterator[list[Found]]:
    """Base64 or hex of which the letters are shifted, or the order reversed: no words tell, but the bytes do."""
    spans: dict[str, list[Found]] = {}
    for token in _DENSE.finditer(glance.text):
        core = token[0]
        if (core.isalpha() and (core[1:].islower() or core.isupper())) or len(set(core)) < 5 or encoded(core):
            continue
        for name in ("reversed", "rot13", "Atbash"):
            made = core[::-1] if name == "reversed" else core.translate(SHIFTS[name])
            if encoded(made):
                kind = "reversed" if name == "reversed" else "same"
                spans.setdefault(name, []).append(Found(token.start(), token.end(), made, name, True, kind))
                break
    yield from spans.values()


READINGS: tuple[Reading, ...] = (
    respelled,
    ciphers,
    dense,
    rot47,
    pig_latin,
    upside_down,
    joined_strings,
    ordered,
    tree,
    acrostics,
)
