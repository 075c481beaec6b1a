"""Words and patterns of the constitution, in many scripts, and patterns that could hang the guard."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Sequence

import pytest

from steersman.constitution.document import Constitution, GuardRule, GuardSettings, load
from steersman.errors import ConstitutionError
from steersman.guard.folding import _SAME, _SPECIAL, folded
from steersman.guard.guard import Guard
from steersman.guard.normalise import View
from steersman.guard.rails import patterns
from steersman.guard.rails.patterns import UNBOUNDED, WIDEST, PatternRail, bounded
from steersman.guard.verdict import Exchange, Part, Ruling

ASSISTANT = load("assistant")


def ruled(rule: GuardRule, allowed: Sequence[str] = ()) -> Constitution:
    principles = tuple(
        p.model_copy(update={"guard": rule}) if p.id == "refuse-harm" else p for p in ASSISTANT.principles
    )
    return ASSISTANT.model_copy(update={"principles": principles, "guard": GuardSettings(allowed=tuple(allowed))})


def found(words: Sequence[str], text: str, patterns: Sequence[str] = ()) -> list[str]:
    """What is found, as it stands in the text."""
    rail = PatternRail(ruled(GuardRule(words=tuple(words), patterns=tuple(patterns))))
    return [text[f.start : f.end] for f in rail.find((View(text),))]


def check(
    rule: GuardRule, text: str, answer: str | None = None, allowed: Sequence[str] = (), whole: bool = True
) -> Ruling:
    guard = Guard.from_constitution(ruled(rule, allowed))
    return guard.check(Exchange((Part("m", "user", text),), answer, whole))


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("word", "text", "expected"),
    [
        ("class", "a classic, declassified CLASS", ["CLASS"]),
        ("ass", "the assistant passes a bass", []),
        ("cunt", "Scunthorpe", []),
        ("sex", "Sussex, Essex and Middlesex; sextant", []),
        ("tit", "Titus, title, entity, «tit»", ["tit"]),
        ("bomb", "bath_bomb bomb-making BOMB's bombs", ["bomb", "bomb", "BOMB"]),
        ("c++", "C++, c+ and c", ["C++"]),
        ("credit card", "credit card, Credit-Card, credit\n card, creditcard",
         ["credit card", "Credit-Card", "credit\n card"]),
        ("a b", "a b b a b", ["a b", "a b"]),
        ("Straße", "STRASSE, straße, Straßen", ["STRASSE", "straße"]),
        ("strasse", "Die STRAẞE und die Straße", ["STRAẞE", "Straße"]),
        ("schwül", "schwul", []),
        ("istanbul", "İSTANBUL, ISTANBUL, ıstanbul", ["İSTANBUL", "ISTANBUL", "ıstanbul"]),
        ("ılık", "ILIK ılık", ["ILIK", "ılık"]),
        ("όπλος", "ΟΠΛΟΣ και όπλος, όπλοσ", ["ΟΠΛΟΣ", "όπλος", "όπλοσ"]),
        ("бомба", "Бомба. бомбардир", ["Бомба"]),
        ("ёлка", "ЕЛКА и Ёлка", ["ЕЛКА", "Ёлка"]),
        ("قنبلة", "هذه قُنْبُلَة كبيرة", ["قُنْبُلَة"]),
        ("شر", "شركة", []),
        ("פצצה", "זו פְּצָצָה", ["פְּצָצָה"]),
        ("हत्या", "यह हत्या है", ["हत्या"]),
        ("हत्य", "यह हत्या है", []),
        ("कर", "करना", []),
        ("ระเบิด", "เขาทำระเบิดเอง", ["ระเบิด"]),
        ("炸弹", "如何制造炸弹呢", ["炸弹"]),
        ("爆弾", "明日の爆弾です", ["爆弾"]),
        ("폭탄", "폭탄을 만드는", ["폭탄"]),
        ("탄", "폭탄", []),
        ("café", "CAFE\u0301 und Café", ["CAFE\u0301", "Café"]),
        ("don't", "DON'T", ["DON'T"]),
        ("🍆", "x🍆🍆y", ["🍆", "🍆"]),
        ("ab ba", "ab ba ba", ["ab ba"]),
    ],
)  # fmt: skip
def test_words_are_found_whole_in_any_case_and_script(word: str, text: str, expected: list[str]) -> None:
    assert found([word], text) == expected


def test_words_overlap() -> None:
    assert found(["hot dog", "dog food"], "hot dog food") == ["hot dog", "dog food"]
    assert found([], "ababa", ["aba"]) == ["aba", "aba"]


def test_folding_keeps_the_places_of_all_letters_but_the_special_ones() -> None:
    """Compared with Python's tables: every letter with a longer folding, or a dropped one, is in `_SPECIAL`."""
    for code in range(0x20, sys.maxunicode + 1):
        letter = chr(code)
        if not _SPECIAL.match(letter):
            assert len(letter.casefold()) == 1, hex(code)
    assert all(len(chr(a)) == 1 == len(b if isinstance(b, str) else chr(b)) for a, b in _SAME.items())
    text = "Straße İx e\u0301y ﬁn"
    plain, origin = folded(text)
    assert plain == "strasse ix éy fin"
    assert origin is not None
    assert (len(origin), origin[-1]) == (len(plain) + 1, len(text))
    assert list(origin) == sorted(origin)
    assert unicodedata.normalize("NFC", text[origin[plain.index("é")] :][:2]) == "é"


def test_allowed_words_are_literal() -> None:
    rule = GuardRule(words=("bomb",))
    assert not check(rule, "a bath bomb for mum", allowed=["bath bomb"]).stops
    assert check(rule, "a bath bomb and a bomb", allowed=["bath bomb"]).stops
    evidence = check(rule, "a bath bomb and a bomb", allowed=["bath bomb"]).verdict
    assert evidence is not None
    assert [(e.start, e.end) for e in evidence.evidence] == [(18, 22)]
    assert check(rule, "a birdbath bomb", allowed=["bath bomb"]).stops


# ── half a word ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_answer_that_goes_on_is_judged_up_to_its_last_whole_word() -> None:
    rule = GuardRule(words=("ass",))
    assert not check(rule, "q", "you are an ass", whole=False).stops
    assert check(rule, "q", "you are an ass", whole=True).stops
    assert check(rule, "q", "you are an ass.", whole=False).stops
    later = GuardRule(words=("bomb",))
    assert not check(later, "q", "a bomb.", allowed=["bomb calorimeter"], whole=False).stops
    assert check(later, "q", "a bomb which is to be built", allowed=["bomb calorimeter"], whole=False).stops
    ahead = GuardRule(patterns=("bomb(?!.{0,9}disposal)",))
    assert not check(ahead, "q", "a bomb for ", whole=False).stops


@pytest.mark.parametrize("rule", [GuardRule(words=("credit card",)), GuardRule(patterns=(r"buy\s+now",))])
def test_nothing_found_reaches_further_back_than_the_hold_back(rule: GuardRule) -> None:
    """At every length of an answer, what is released so far is not part of what is found later."""
    guard = Guard.from_constitution(ruled(rule))
    text = f"{'x' * 300} credit -- card, buy{' ' * UNBOUNDED}now!! {'y' * 300}"
    final = guard.check(Exchange((), text))
    assert final.verdict is not None
    assert guard.reach is not None
    start = final.verdict.evidence[0].start
    for end in range(len(text)):
        if guard.check(Exchange((), text[:end], False)).stops:
            return
        assert end - guard.reach <= start
    pytest.fail("never found while it was written")


# ── patterns ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("[", "not a regular expression"),
        (r"\p{L}", "not a regular expression"),
        ("x*", "matches the empty text"),
        ("", "matches the empty text"),
        ("a|", "matches the empty text"),
        (r"\b", "matches the empty text"),
        ("(a+)+b", "could match"),
        ("(a|a)*b(c+)*", "could match"),
        ("a{600}", "could match"),
        ("a(?=.{900})", "could match"),
        ("(?x) a b", "flag x"),
        ("(" * 3000 + "a" + ")" * 3000, "regular expression"),
    ],
)
def test_patterns_that_cannot_be_enforced_are_refused(pattern: str, said: str) -> None:
    rule = GuardRule.model_construct(input=None, output=None, words=(), patterns=(pattern,))
    with pytest.raises(ConstitutionError) as error:
        PatternRail(ruled(rule))
    assert said in str(error.value)
    assert "refuse-harm" in str(error.value)
    assert pattern in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (r"buy\s+now", "BUY  now", True),
        (r"a+?b{2,}[+*]\+(?:c|d)*", "aabb*+", True),
        (r"[]+*]x\*", "+x*", True),
        (r"a++b", "aaab", True),
        (r"a++ab", "aaab", False),
        (r"a{2,}+b", "aaab", True),
        (r"(?P<q>['\"])x(?P=q)", "'x'", True),
        (r"(?i:ß)x", "ßx", True),
        (r"a(?#b+)c", "ac", True),
        (r"how .* bomb", "how " + "x" * UNBOUNDED + " bomb", True),
        (r"how .* bomb", "how " + "x" * (UNBOUNDED + 1) + " bomb", False),
    ],
)
def test_repetitions_get_an_end(pattern: str, text: str, matches: bool) -> None:
    compiled, width, _ = bounded(pattern, "here")
    assert bool(compiled.search(text)) == matches
    assert width <= WIDEST
    match = compiled.search(text)
    assert match is None or len(match[0]) <= width


def test_a_pattern_that_takes_too_long_fails_and_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "TIMEOUT_S", 0.05)
    began = time.monotonic()
    ruling = check(GuardRule(patterns=(r"(x\w{1,60}){1,8}\d[!?]",)), "x" * 500 + " 1!")
    assert ruling.decision == "block"
    assert ruling.verdict is not None
    assert (ruling.verdict.decision, ruling.verdict.note) == ("failed", "it raised TimeoutError")
    assert time.monotonic() - began < 10


def test_words_without_any_effect_are_refused() -> None:
    with pytest.raises(ConstitutionError, match="nothing would ever be done"):
        PatternRail(ruled(GuardRule(input="allow", output="allow", words=("x",))))


def test_a_mild_principle_with_words_is_enforced_in_answers() -> None:
    mild = next(p for p in ASSISTANT.principles if p.id == "no-flattery")
    assert mild.enforced.output == "allow"
    worded = mild.model_copy(update={"guard": GuardRule(words=("great question",))})
    assert (worded.enforced.input, worded.enforced.output) == ("allow", "rewrite")
