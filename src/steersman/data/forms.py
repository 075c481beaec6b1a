"""The form of a request (question, command, wish ...), and whether demonstrations let form tell a refusal.

Demonstrations in which commands are refused and questions are answered teach the form and not the rule: a shortcut
(Geirhos et al. 2020, arXiv:2004.07780) that an evaluation by the same authors does not show. So `steersman data check`
counts refusals by form, and by first word, and names the forms that hardly occur.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from steersman.stats import Estimate, independent_difference, wilson
from steersman.types import Demonstration, Text, messages_of, plain_text

TAG = "form:"
CONVERSATION, POLITE, QUESTION, WISH, COMMAND, TERSE, STORY = FORMS = (
    "conversation", "polite", "question", "wish", "command", "terse", "story",
)  # fmt: skip
RARE = 0.02  # a form with a smaller share of the rows is named
CLEAR = 0.1  # a difference of refusal rates that matters, if its interval excludes 0
FIRST_WORDS_FROM = 12  # rows that begin with a word, before it is looked at
TERSE_WORDS = 5

_ASKS = re.compile(
    r"""(?ix) ^ (?: what | who | whose | which | where | when | why | how | is | are | am | was | were | does | did
    | do (?= \s (?:you|i|we|they|he|she|it|people|these|those|all|any|most|my|your|our) \b)
    | can | could | should | would | will | has | have | may | might | shall | what's | who's | how's | where's | isn't
    | don't | doesn't | can't | wer | wie | was | wo | wann | warum | welche[rsnm]? | kann | darf | ist | sind | qui
    | que | quel(?:le)?s? | comment | pourquoi | où | quand | combien | est-ce | qué | quién | cómo | cuándo | dónde
    | cuánto | cuál ) \b"""
)
_POLITE = re.compile(r"(?i)\b(?:please|could you|would you (?:mind|be)|kindly|bitte|s'il (?:te|vous)|por favor)\b")
_WISHES = re.compile(
    r"(?i)^(?:i (?:want|wish|need|would like|'d like)|i'd (?:like|love)|help me|looking for|we need)\b"
)
_COMMANDS = frozenset(
    """
    add advise analyse analyze answer argue arrange ask assign assume brainstorm build calculate categorise
    categorize change check choose cite classify combine come compare compile complete compose compute conclude
    consider construct continue contrast convert convince correct count create criticise critique debate deduce
    define delete demonstrate derive describe design detail determine develop devise differentiate discuss
    divide do draft draw edit elaborate elucidate estimate evaluate examine expand explain explore express extract
    fill find fix form formulate gather generate give guess help highlight hypothesise identify illustrate
    imagine improve include infer insert instruct interpret invent judge let list look make match measure
    mention modify name narrate note offer order organise organize outline paraphrase pick plan play point
    predict prepare present pretend produce propose prove provide put qualify rank rate read rearrange recall
    recommend reconstruct reduce reformulate rename render reorder rephrase replace report research respond
    reverse review rewrite role say search select sell send share shorten show simplify simulate solve sort
    specify spell spot start state structure suggest sum summarise summarize take teach tell think touch trace
    track transform translate try turn update use verify weigh write
    """.split()  # noqa: SIM905
)


def form_of(prompt: Text, tags: Iterable[str] = ()) -> str:
    """The form of a request: what a tag ``form:...`` says, else by patterns of English and first words."""
    tagged = next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), "")
    if tagged:
        return tagged
    if not isinstance(prompt, str):
        return CONVERSATION if sum(message.role != "system" for message in prompt) > 1 else form_of(prompt[-1].content)
    text, words = prompt.strip(), prompt.split()
    first = words[0].lower().strip(".,:;!?\"'") if words else ""
    if _POLITE.search(text):
        return POLITE
    if _ASKS.match(text) or text.endswith("?"):
        return QUESTION
    if _WISHES.match(text):
        return WISH
    if first in _COMMANDS:
        return COMMAND
    return TERSE if len(words) <= TERSE_WORDS else STORY


class Refusals(NamedTuple):
    """How often the demonstrations of one form, or with one first word, refuse, and the difference from the others."""

    name: str
    refused: Estimate
    difference: Estimate

    @property
    def tells(self) -> bool:
        """Whether this form predicts a refusal, or an answer."""
        low, high = self.difference.low, self.difference.high
        return abs(self.difference.value) >= CLEAR and (low > 0 or high < 0)


class FormReport(NamedTuple):
    """Refusals of the demonstrations by form and by first word; forms that hardly occur."""

    forms: list[Refusals]
    first_words: list[Refusals]
    missing: list[str]
    share: float  # of all demonstrations, those that refuse

    def json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "missing": self.missing,
            "share": self.share,
            **{
                name: [
                    {
                        "name": row.name,
                        "refused": row.refused.json(),
                        "difference": row.difference.json(),
                        "tells": row.tells,
                    }
                    for row in rows
                ]
                for name, rows in (("forms", self.forms), ("first_words", self.first_words))
            },
        }


def check_forms(demonstrations: Sequence[Demonstration], refuses: Callable[[str, str], bool]) -> FormReport:
    """Whether form tells a refusal: the rate at which each form, and each first word, is refused.

    Args:
        refuses: whether a completion, the second text, refuses the prompt.
    """
    rows = [(row, refuses(plain_text(row.prompt), row.completion)) for row in demonstrations]
    forms = _by(rows, lambda row: form_of(row.prompt, row.tags), least=1)
    words = _by(rows, lambda row: _first_word(row.prompt), least=FIRST_WORDS_FROM)
    counts = {form.name: form.refused.n for form in forms}
    missing = [form for form in FORMS if counts.get(form, 0) < RARE * len(rows)]
    share = sum(refused for _, refused in rows) / max(1, len(rows))
    return FormReport(forms, [word for word in words if word.tells], missing, share)


def _first_word(prompt: Text) -> str:
    words = re.findall(r"[^\W\d_']+", messages_of(prompt)[-1].content.lower())
    return words[0] if words else ""


def _by(rows: Sequence[tuple[Demonstration, bool]], key: Callable[[Demonstration], str], least: int) -> list[Refusals]:
    groups: dict[str, list[bool]] = {}
    for row, refuses in rows:
        groups.setdefault(key(row), []).append(refuses)
    refused, total = sum(refuses for _, refuses in rows), len(rows)
    found = []
    for name, own in groups.items():
        if len(own) >= least:
            rate = wilson(sum(own), len(own))
            others = wilson(refused - sum(own), total - len(own))
            found.append(Refusals(name, rate, independent_difference(others, rate)))
    return sorted(found, key=lambda row: -row.refused.n)
