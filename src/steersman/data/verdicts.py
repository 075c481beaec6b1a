"""Which answer is meant: by a word that a rater chose, and by the name of a field.

Two fields are left and right by their names (``answer_a`` and ``answer_b``), never by their order in a file: a
database may sort the keys of an object, and the wrong answer would be trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.data.turns import Row
from steersman.errors import DataError

_NOUN = r"(?:model|output|response|answer|assistant|completion|option|text|candidate|reply)"
# "1", "A", "model_b", "[[A]]", "A > B", "first is slightly better", "I prefer the left answer"
_VERDICT = re.compile(
    rf"(?:i )?(?:prefer |choose |better is )?(?:the )?(?:{_NOUN} ?)?(1|a|first|left|2|b|second|right)"
    rf"(?: ?>+ ?[ab12]| (?:{_NOUN} )?(?:is )?(?:(?:slightly|much|significantly|clearly|far|strongly) )?"
    rf"(?:better|best|preferred|chosen|wins?)| (?:{_NOUN}|one))?"
)
_FIRST = {"1", "a", "first", "left"}
_TIE = re.compile(
    r"0|1\.5|tie|tied|draw|equal|equally good|same|the same|c|both|both good|both are good|both are equally good"
    r"|about the same|no difference|no preference|neither(?: is|) better|a ?={1,2} ?b"
)
_BOTH_BAD = re.compile(r"tie \(?both ?bad\)?|both ?bad|both are bad|both are equally bad|equally bad|both unacceptable")
_MARKS = (
    ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    ("a", "b", "c", "d", "e", "f", "g", "h", "i"),
    ("first", "second", "third", "fourth"),
    ("left", "right"),
)
_ANSWER = re.compile(r"answer|response|output|completion|reply|option|candidate|generation|text")
# Fields that say what the answers answer: left out, they would change what a row means.
CONTEXT = ("context", "system", "system_prompt", "history", "chat_history", "conversation", "document", "passage")


def verdict(value: Any, fields: Sequence[str] = ()) -> Row | None:
    """What a rater said of two answers as ``ranking`` or ``both_bad``; None if that is neither.

    Args:
        fields: the names of the answers' fields, one of which may be all that was said.
    """
    for place, name in enumerate(fields):
        if str(value).strip() == name:
            return {"ranking": [1 if i == place else 2 for i in range(len(fields))]}
    if len(fields) > 2 or isinstance(value, bool):
        return None
    text = " ".join(re.sub(r"[_\-\[\].,!]+", " ", str(value).lower().removesuffix(".0")).split())
    text = "1.5" if text == "1 5" else text
    if _BOTH_BAD.fullmatch(text):
        return {"both_bad": True}
    if _TIE.fullmatch(text):
        return {"ranking": [1, 1]}
    if found := _VERDICT.fullmatch(text):
        return {"ranking": [1, 2] if found[1] in _FIRST else [2, 1]}
    return None


def by_number(names: Sequence[str]) -> list[str]:
    """The names that differ only by a mark (1 and 2, a and b, left and right ...), in the order of their marks.

    Of several such groups the one that is called answers; nothing if there is none, or still several.
    """
    groups: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        for family, marks in enumerate(_MARKS):
            for found in re.finditer(r"\d+" if not family else r"[a-z]+", plain):
                if found[0] in marks:
                    stem = f"{plain[: found.start()]}#{plain[found.end() :]}"
                    groups.setdefault((stem, family), {})[marks.index(found[0])] = name
    whole = [
        [own[i] for i in sorted(own)]
        for own in groups.values()
        if len(own) > 1 and sorted(own) == list(range(min(own), min(own) + len(own))) and min(own) < 2
    ]
    named = [group for group in whole if _ANSWER.search(group[0].lower())]
    return whole[0] if len(whole) == 1 else named[0] if len(named) == 1 else []


def by_rating(ratings: Mapping[str, Any], fields: Sequence[str]) -> list[int]:
    """The ranks of answers, the highest rated first, from ratings by the name of what was rated, or of the question.

    Raises:
        DataError: a rating is no number, or it is not said which answer each is about.
    """
    suffixed = {re.sub(r"[-_.]?(?:rating|score|quality)[-_.]?", "", name): value for name, value in ratings.items()}
    numbered = by_number(list(ratings))
    for own in (ratings, suffixed):
        if own.keys() and own.keys() <= set(fields):
            values = [own.get(name) for name in fields]
            break
    else:
        if len(numbered) != len(fields) or len(ratings) != len(fields):
            what = f"{len(ratings)} rating(s) {', '.join(map(repr, ratings))} for the answers {', '.join(fields)}"
            raise DataError(f"{what}: which is about which is not said; name a rating after its answer's field")
        values = [ratings[name] for name in numbered]
    for name, value in zip(fields, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"the rating of {name!r} must be a number, found {str(value)[:60]!r}")
    return ranks_of([float(value) for value in values if value is not None])


def ranks_of(scores: Sequence[float]) -> list[int]:
    """The ranks of answers by their scores, 1 for the highest; equal scores tie, as in sports: 1, 1, 3."""
    return [1 + sum(other > own for other in scores) for own in scores]


def sides(names: Sequence[str], prompt: str) -> list[str]:
    """The fields of a pair's answers, the left one first.

    Raises:
        DataError: their names do not tell.
    """
    found = ["first", "second"] if {"first", "second"} <= set(names) else by_number(names)
    if len(found) == 2:
        return found
    raise DataError(
        f"which of {', '.join(map(repr, names)) or 'no field'} was on the left cannot be told from their names, and "
        f"not from their order, which databases change: say it by --columns prompt={prompt},first=LEFT,second=RIGHT"
    )


def without_context(names: Sequence[str]) -> None:
    """Refuse a field beside the prompt that belongs to it."""
    if found := [name for name in names if name.lower() in CONTEXT]:
        raise DataError(
            f"the field {found[0]!r} is neither the prompt nor an answer; if the answers are about it, put it before "
            f"the prompt by --columns prompt={found[0]}+PROMPT,..., or take it out"
        )
