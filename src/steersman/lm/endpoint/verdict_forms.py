"""The verdict in a judge's text: which option it states, and where.

Judges say it in many forms: "(A)", "**B**", "[[A]]", "\\boxed{A}", `{"answer": "A"}`, "The answer is (B).", "I choose
A", "B keeps the rule better.", at the beginning or after their reasons. They count in this order:

1. a reply that is nothing but an option;
2. a conclusion: a marked verdict ([[A]], a box, a field of JSON), a last line that is an option, "the answer is B";
3. an opening: an option that stands alone at the beginning;
4. a comparison: "B is better", and among several those that sum up ("overall", "therefore");
5. an option in brackets, or one at the end of a few words, if no other option is mentioned.

Statements of one kind that differ are no verdict unless the text ends with one; nor are an opening and a conclusion
that differ. "Not A" does not mean B. Of a text that was cut off, only what cannot be taken back counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

_LETTER = "0-9A-Za-z\u00c0-\u052f"  # not Chinese or Japanese, which puts no space between words
# In a text, an option becomes one sign that no text has: one range for bare ones, one for those in brackets or quotes.
_BARE, _BRACKETED, _FILL = 0xE000, 0xE100, "\uf8ff"
_ONE, _STRONG, _GAP = "[\ue000-\ue1ff]", "[\ue100-\ue1ff]", "[^\\w\ue000-\ue1ff]"
_NOUN = (
    r"(?:option|answer|response|choice|assistant|candidate|reply|completion|model|output|version|alternative|antwort"
    r"|réponse|respuesta|risposta|resposta|ответ|вариант|选项|回答)"
)
_CUE = (
    r"(?:(?<![{L}])(?:answer|verdict|choice|decision|judge?ment|conclusion|winner|preference|selection|pick|vote|result"
    r"|option|response|(?:better|best|superior|preferred|winning)(?:\s+one)?|antwort|réponse|respuesta|risposta|resposta"
    r"|antwoord|odpowiedź|cevap|ответ)(?![{L}])|答案|答え|回答|判断|结论|정답|선택)"
).replace("{L}", _LETTER)
_IS = (
    rf"(?:(?<![{_LETTER}])(?:is|was|would be|should be|must be|will be|goes to|ist|est|es|è|é|jest)(?![{_LETTER}])"
    r"|[:=→–—-]|是|为|は|은|는)"
)
_FILLER = re.compile(
    r"(?:clearly|therefore|thus|hence|still|indeed|that|the|one|for|in|favou?r|of|best|better|again|overall|is|be|to|with"
    rf"|text|correct|final|my|\w+ly|{_NOUN})\Z",
    re.IGNORECASE,
)
_CHOOSE = (
    r"(?:choos(?:e|ing)|chose|pick(?:ing|ed)?|prefer|select(?:ing|ed)?|vot(?:e|ing) for|go(?:ing)? with|opt(?:ing)? for"
    r"|favou?r|lean(?:ing)? towards?|decid(?:e|ing) (?:on|for)|settl(?:e|ing) on|recommend|answer|say|in favou?r of)"
)
_NOT = re.compile(
    r"\b(?:not|never|neither|nor|hardly|if|whether|unless|than|over|instead of|rather than|unlike|worse|worst|less"
    r"|weaker|inferior|fails?|lacks?|except|suppose|cannot|doubt|wrong|could|might|may|maybe|perhaps|going to say"
    r"|some would|others would)\b|n't\b",
    re.IGNORECASE,
)
_KEY = (
    r"[\"'](?!\w*(?:wors|reject|los[es]|bad|wrong|weak|inferior))\w*(?:answer|choice|verdict|winner|prefer|better|best"
    r"|chosen|decision|selection|selected|pick|result|label|option|judge?ment|response)\w*[\"']\s*[:=]"
)
_TAG = r"(?:final_?)?(?:answer|verdict|choice|decision|winner|preference)"
_BETTER = (
    r"(?:better|best|preferable|preferred|stronger|superior|(?:the )?winner|correct|right (?:one|answer|choice)"
    r"|more (?:honest|helpful|harmless|truthful|accurate|appropriate|suitable|ethical|aligned|faithful))\b"
)
_ADVERB = r"(?:\w+ly|much|a bit|slightly|still|the|a|far|by far|somewhat|overall|also|to be|in fact)"
_KEEPS = (
    r"(?:keeps?|follows?|adheres?|complies|comply|respects?|obeys?|honou?rs?|satisf(?:y|ies)|meets?|upholds?|fulfil\w*"
    r"|serves?|does|reflects?|embodies|aligns?|fits?|matches)\b"
)
_SUMS_UP = re.compile(
    r"\b(?:overall|therefore|thus|hence|so|in (?:conclusion|sum|total|the end)|ultimately|finally|on balance|all in all"
    r"|consequently|final)\b",
    re.IGNORECASE,
)
_CLAUSE_ENDS = re.compile(
    r"[.!?;]+(?=\s|$)|\n|,?\s+\b(?:but|while|whereas|although|though|yet|however)\b", re.IGNORECASE
)
_DENIED = re.compile(
    rf"{_FILL}*\s+(?:(?:is|does|do|has|seems|would|can|clearly)\s*)*(?:was\b|{_NOT.pattern})", re.IGNORECASE
)
_IF = re.compile(r"[^.!?;\n]{0,20}\bif\b", re.IGNORECASE)
_TOGETHER = re.compile(rf"{_FILL}*\s*(?:\bor\b|\band\b|/|,|\bvs\b\.?|&)\s*(?:{_NOUN}\s*)?{_FILL}*{_ONE}", re.IGNORECASE)
_MARKUP = re.compile(r"</?[\w|｜:]{1,40}>|\\(?:text|math)\w*(?=\{)|\\(?:bf|rm|displaystyle)\b")
_SHORT = 120  # characters: of a text that was cut off, what stands so near its beginning is no train of thought
_FEW = 8  # words

Why = Literal["no_option", "ambiguous"]
_Found = tuple[int, int]  # an option, and where it stands


@dataclass(frozen=True)
class Verdict:
    """The option that a text states, and the place in the text where it does."""

    option: int
    start: int


def plain(text: str) -> tuple[str, list[int]]:
    """A text without emphasis, invisible characters and odd widths, and the place in it of each remaining character."""
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if character in "*`~" or unicodedata.category(character) in ("Cf", "Co", "Mn"):
            continue
        simple = "\n" if character == "\u010a" else " " if character in "\u2581\u0120" else character
        simple = unicodedata.normalize("NFKC", simple).translate({0x2019: "'", 0x201C: '"', 0x201D: '"'})
        characters += simple
        places += [place] * len(simple)
    # Underscores are no part of a word at its ends.
    return re.sub(rf"(?<![{_LETTER}])_+|_+(?![{_LETTER}])", _blank, "".join(characters)), places


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def verdict_in(text: str, options: Sequence[str], *, cut_off: bool = False) -> Verdict | Why:
    """The verdict in a text without reasoning blocks; or why there is none."""
    marked, places = plain(text)
    forms = _Forms(marked, options)
    found = forms.whole() or forms.stated(cut_off)
    return found if isinstance(found, str) else Verdict(found[0], places[found[1]])


class _Forms:
    """A text's statements of one set of options."""

    def __init__(self, text: str, options: Sequence[str]) -> None:
        self.folded = [option.casefold() for option in options]
        self.marked, bare = text, _MARKUP.sub(_blank, text)
        escaped = sorted((re.escape(option) for option in options), key=len, reverse=True)
        self.any_case = rf"(?<![{_LETTER}])(?P<x>(?i:{'|'.join(escaped)}))(?![{_LETTER}+])"
        bracketed = rf"[(\[{{\"'<]\s*(?:(?i:{_NOUN})\s*)?{self.any_case}\s*[)\]}}\"'>]"
        # "a" is an article, "yes" is Yes. "A-level", "A+", "A/B" and "A's" are no options; nor is an A before a noun.
        words = "|".join(option if len(option) == 1 else f"(?i:{option})" for option in escaped)
        follows = (
            "because|since|as|for|over|rather|instead|due|to|than|given|by|in|on|with|is|was|has|and|or|if|does|seems|wins"
            f"|beats|appears|looks|better|not|but|vs|\\w+ly|{_KEEPS}"
        )
        noun_after_article = rf"(?!(?<=[AI])[ \t]+(?!(?:{follows})\b)[a-z])"
        single = rf"(?<![{_LETTER}])(?<![{_LETTER}][-/+&'])(?P<x>{words})(?![{_LETTER}])(?![-/'&+][{_LETTER}]|\+)"
        self.text = self._signed(self._signed(bare, bracketed, _BRACKETED), single + noun_after_article, _BARE)

    def _signed(self, text: str, pattern: str, kind: int) -> str:
        """The text with a sign in place of each option that a pattern finds, as long as before."""

        def sign(match: re.Match[str]) -> str:
            before, after = match.start("x") - match.start(), match.end() - match.start("x") - 1
            return _FILL * before + chr(kind + self._option(match["x"])) + _FILL * after

        return re.sub(pattern, sign, text)

    def _option(self, said: str) -> int:
        return self.folded.index(said.casefold())

    def _at(self, place: int) -> _Found:
        return ord(self.text[place]) % 0x100, place

    def _clause_before(self, place: int) -> str:
        ends = [end.end() for end in _CLAUSE_ENDS.finditer(self.text, 0, place)]
        return self.text[ends[-1] if ends else 0 : place]

    # the forms ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def whole(self) -> _Found | None:
        """Nothing but an option, perhaps with a word for it."""
        words = rf"(?:(?:the|my|final|best|better|correct|preferred)\s+)*(?:{_NOUN}\s*)?"
        text = _MARKUP.sub(_blank, self.marked)
        found = re.fullmatch(rf"[\W_]*{words}[\W_]*{self.any_case}[\W_]*", text, re.IGNORECASE)
        return (self._option(found["x"]), found.start("x")) if found else None

    def stated(self, cut_off: bool) -> _Found | Why:
        """The verdict by a conclusion, an opening, a comparison or a mention, in this order."""
        conclusion, opening = self._conclusion(cut_off), self._opening(cut_off)
        if conclusion == "ambiguous" or (conclusion and opening and conclusion[0] != opening[0]):
            return "ambiguous"
        return conclusion or opening or ("no_option" if cut_off else self._comparison() or self._mention())

    def _conclusion(self, cut_off: bool) -> _Found | Literal["ambiguous"] | None:
        if found := sorted(self._marks(), key=lambda found: found[1]):
            return self._last(found)
        end = len(self.text.rstrip())
        start = self.text.rfind("\n", 0, end) + 1
        words = rf"(?:(?:the|my|final|best|better|correct|preferred|so|thus|therefore)\W+)*(?:{_NOUN}\W*?)?"
        line = re.compile(rf"{_GAP}*{words}{_GAP}*({_ONE}){_GAP}*", re.IGNORECASE).fullmatch(self.text, start, end)
        if line and start and not cut_off:
            return self._at(line.start(1))
        said = sorted(self._sayings(), key=lambda found: found[1])
        return self._last(said) if said and (not cut_off or len(self.text) <= _SHORT) else None

    def _marks(self) -> Iterator[_Found]:
        """[[A]], a box, a tag, a field of JSON; and [[A>B]], in which the larger one is meant."""
        x, noun = self.any_case, rf"[\W_]*(?:{_NOUN}\W*)?"
        for pattern in (
            rf"\[\[{noun}{x}[\W_]*?\]\]",
            rf"\\f?boxed\s*\{{(?:\W*\\\w+)?{noun}{x}\W*?\}}",
            rf"<{_TAG}>{noun}{x}[\W_]*?(?:</|\Z)",
            rf"{_KEY}\s*[\"'(\[]*\s*(?:{_NOUN}\W*)?{x}[)\]\"'.]*\s*(?=[,}}\]\n]|\Z)",
        ):
            for match in re.finditer(pattern, self.marked, re.IGNORECASE):
                yield self._option(match["x"]), match.start("x")
        for match in re.finditer(
            rf"(?:\[\[|^)\W*?{x}[)\]\s]*([>≻]+|[<≺]+)[(\[\s]*(?P<y>\w+)[\W_]*?(?:\]\]|$)", self.marked, re.MULTILINE
        ):
            if match["y"].casefold() in self.folded:
                name = "x" if match[2][0] in ">≻" else "y"
                yield self._option(match[name]), match.start(name)

    def _sayings(self) -> Iterator[_Found]:
        """ "The answer is B", "Verdict: B", "I choose B"; not "is it A or B?", "if B is better, ..." or "not A"."""
        between = rf"(?P<between>[^.!?{_ONE[1:-1]}]{{0,40}}?)(?P<one>{_ONE})"
        is_ = rf"{_CUE}(?:[ \t]+[\w']+){{0,6}}?\s*{_IS}{between}"
        heading = rf"^{_GAP}*(?:\w+ )?{_CUE}{_GAP}*\n(?P<between>\s*)(?P<one>{_ONE}){_GAP}*?$"
        choose = (
            rf"(?<![{_LETTER}]){_CHOOSE}(?![{_LETTER}]){between}(?!{_FILL}*\s+(?:is|was|does|has|seems|wins|{_KEEPS}))"
        )
        so = rf"{_SUMS_UP.pattern}{between}(?={_GAP}*?(?:$|[.!]))"
        for pattern in (is_, heading, choose, so):
            for match in re.finditer(pattern, self.text, re.IGNORECASE | re.MULTILINE):
                other = [word for word in re.findall(r"\w+", match["between"]) if not _FILLER.match(word)]
                before = self._clause_before(match.start()) + match[0]
                if not other and not _NOT.search(before) and not _TOGETHER.match(self.text, match.end("one")):
                    yield self._at(match.start("one"))

    def _opening(self, cut_off: bool) -> _Found | None:
        """An option alone at the beginning; not the first of a list of both."""
        after = (
            r"(?:\s*\n|\s*\Z|\s+(?:because|since)\b" + ("" if cut_off else r"|\s*[:.,;!–—-]+(?=\s|\Z)|\s+as\b") + ")"
        )
        match = re.match(rf"{_GAP}*(?:{_NOUN}{_GAP}*)?({_ONE}){_FILL}*[)\]\"']*{after}", self.text, re.IGNORECASE)
        if not match or _TOGETHER.match(self.text, match.end(1)):
            return None
        found = self._at(match.start(1))
        item = rf"(?m)^{_GAP}*?(?:(?i:{_NOUN})\s*)?({_ONE}){_FILL}*(?=\s*[:.)–—-]|[ \t]*$)|({_ONE}){_FILL}*\s*:"
        listed = re.finditer(item, self.text[match.end() :])
        others = {ord(other[1] or other[2]) % 0x100 for other in listed} - {found[0]}
        return None if others else found

    def _comparison(self) -> _Found | Literal["ambiguous"] | None:
        """ "B is better", "B keeps the rule better"; among several, those that sum up."""
        adverbs, ends = rf"(?:{_ADVERB}\s+)*", [0, *(end.end() for end in _CLAUSE_ENDS.finditer(self.text))]
        comparing = re.compile(
            rf"({_ONE}){_FILL}*\s+(?:(?:is|was|seems|appears|looks|would be)\s+{adverbs}{_BETTER}|{adverbs}(?:wins"
            rf"|beats|outperforms|prevails)\b|{adverbs}{_KEEPS}[^{_ONE[1:-1]}]{{0,80}}?\b(?:better|best|more)\b)",
            re.IGNORECASE,
        )
        claims, sums = [], []
        for start, end in zip(ends, [*ends[1:], len(self.text)], strict=True):
            match = comparing.search(self.text, start, end)
            if match and not _NOT.search(self.text[start : match.end()]) and not _IF.match(self.text, match.end()):
                claims.append(self._at(match.start(1)))
                if _SUMS_UP.search(self.text, start, end):
                    sums.append(claims[-1])
        said = sums or claims
        return (said[-1] if len({option for option, _ in said}) == 1 else "ambiguous") if said else None

    def _mention(self) -> _Found | Why:
        """The only option that is mentioned, if it is in brackets or at the end of a few words, and not negated."""
        found = [self._at(match.start()) for match in re.finditer(_ONE, self.text)]
        if len({option for option, _ in found}) != 1:
            return "ambiguous" if found else "no_option"
        brackets = [place for _, place in found if re.match(_STRONG, self.text[place])]
        few = len(re.findall(r"\w+", self.text)) < _FEW and re.fullmatch(rf"{_GAP}*", self.text[found[-1][1] + 1 :])
        place = brackets[0] if brackets else found[-1][1] if few else None
        if place is None or _NOT.search(self._clause_before(place)) or _DENIED.match(self.text, place + 1):
            return "no_option"
        return self._at(place)

    def _last(self, found: Sequence[_Found]) -> _Found | Literal["ambiguous"]:
        """The one that is meant by several: all the same, or the last if the text's last line has no other."""
        if len({option for option, _ in found}) == 1:
            return found[0]
        line = self.text.rstrip().rfind("\n") + 1
        last = [one for one in found if one[1] >= line]
        return last[-1] if line and len({option for option, _ in last}) == 1 else "ambiguous"
