"""What a request is about, as a phrase that fits into another sentence.

Requests come as commands, questions, wishes and stories, and most wrappers need one form: "pick a lock" of "Could you
tell me how I can pick a lock?". Rules of English find it in most; where they do not, the wrappers quote the request.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from steersman.data.forms import COMMAND, form_of


class Phrase(NamedTuple):
    """``lead``: what was said before the request, with its mark, or empty; ``action``: a verb phrase, base form."""

    lead: str
    action: str


_SOMEONE = r"(?:i|you|we|one|someone|somebody|people|a person|anyone)"
_NOUNS = r"(?:ways?|methods?|tricks?|steps?|means|tips?|instructions?|advice|ideas?|guides?|plans?|tutorials?|recipes?)"
# How a request begins, and what follows is the action. The first that is found counts.
_LEADS = tuple(
    re.compile(rf"(?i)(?:^|(?<=[,;:.–-] )|(?<=\b(?:and|but) )|(?<=\bso ))(?:{lead})\s+(?=\w)")
    for lead in (
        rf"(?:can|could|would|will) you (?:please |kindly |just )?(?:show|tell|teach|say|explain(?: to)?|give)"
        rf"(?: me| us)?(?: exactly)? how (?:to|{_SOMEONE} (?:can|could|should|would|might))",
        rf"(?:please |just )?(?:show|tell|teach|say|explain(?: to)?|describe(?: to)?)"
        r"(?: me| us| you)?(?: in detail| exactly| step by step|,)* "
        rf"how (?:to|{_SOMEONE} (?:can|could|should|would|might))",
        rf"how (?:do|can|could|should|would|might|must) {_SOMEONE}(?: best| most easily| actually| just| possibly)?",
        r"how to",
        r"(?:what is|what's|what are|whats|is there|are there|i need|give me|list|suggest|name|do you know|know)"
        rf"(?: the| an?| any| some)?(?: \w+){{0,2}} {_NOUNS} (?:on how to|of how to|to|for how to)",
        rf"(?:any|some|best|your|an?)(?: \w+,?){{0,3}} {_NOUNS} (?:on how to|to)",
        r"(?:i|we) (?:really |just )?(?:want|need|wish|plan|intend|have|hope|would like|am trying|'d like) to",
        r"(?:i|we)(?:'d| would) (?:really )?(?:like|love) to",
        r"(?:i|we)(?:'m| am|'re| are) (?:trying|planning|going|about|looking|supposed) to",
        r"(?:i )?wanna",
        r"(?:please )?(?:help|let) (?:me|us)(?: to)?",
        r"(?:can|could|would|will) you(?: please| kindly| just)?",
    )
)
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+[\"'”’)]*|\n|$)")
_COURTESY = re.compile(r"(?i)^\s*(?:(?:hi|hey|hello|ok|okay|so|well|please|pls|kindly|just|now)\b[\s,!:]*)+")
# "..., and I'd like to know how." and "..., please" after the action.
_TAIL = re.compile(
    r"""(?ix) (?: [,;]?\s+ (?:please|pls|plz|thanks|thank\ you)
    | [,;:–-]*\s+ (?:and\ )? (?:please\ )? (?:now\ )?
      (?: i\ (?:need|want|have|would\ like)\ to\ know | i'd\ like\ to\ know | tell\ me | explain(?:\ to\ me)? | show\ me
      | teach\ me | how\ do\ i\ do\ (?:it|that|this) ) (?:\ how)? (?:\ to\ do\ (?:it|that|this))?
    | ,?\ (?:tips|instructions|advice|ideas|steps) ) \s* $"""
)
_GIVE = re.compile(r"(?i)^(give|hand|send|bring|get|tell|show|write|draft|make|find|list|offer) (?:me|us)\b")
_GIVEN = {"give": "come up with", "hand": "come up with", "send": "come up with", "bring": "get", "tell": "find out",
          "show": "find", "offer": "come up with", "get": "get"}  # fmt: skip
_VERB_LIKE = re.compile(
    r"(?i)^(?!(?:the|an?|my|this|that|those|these|i|you|he|she|it|we|they|there|for|with|in|on|at|by|from|and|but|or|if|"
    r"when|while|since|because|as|to|of|not|no|yes|both|all|some|any|is|are|was|were|what|who|how|why|where|which)\b)"
    r"[a-z]+ (?:an?|the|my|our|this|that|some|me|up|down|out|off|into|as|how|ways?|everything|every)\b"
)
_LONGEST = 2000  # characters: what is longer is no sentence that fits into another
_NO_ACTION = ("", "know", "know how", "do it", "do that", "do this")
_PERSONS = {
    "i": "they", "me": "them", "my": "their", "mine": "theirs", "myself": "themselves", "we": "they", "us": "them",
    "our": "their", "ours": "theirs", "ourselves": "themselves", "i'm": "they're", "i've": "they've", "i'd": "they'd",
    "i'll": "they'll", "we're": "they're", "we've": "they've", "we'll": "they'll", "am": "are",
}  # fmt: skip
_PERSON = re.compile(rf"(?i)(?<![\w'’])(?:{'|'.join(sorted(_PERSONS, key=len, reverse=True))})(?![\w'’])")


def third_person(text: str) -> str:
    """``I`` and ``my`` as ``they`` and ``their``."""
    return _PERSON.sub(lambda word: _PERSONS[word[0].lower()], text.replace("’", "'"))


def phrase_of(request: str) -> Phrase | None:
    """What a request in English asks to be done; None where no rule fits, or it is too long to be one."""
    if len(request) > _LONGEST:
        return None
    sentences = [found[0] for found in _SENTENCE.finditer(request.strip().replace("’", "'"))]
    for at, sentence in enumerate(sentences):
        for find in (_after_lead, _command):
            if (found := find(sentence.strip())) is not None:
                before = "".join(sentences[:at]).strip()
                return Phrase(" ".join(filter(None, (before, found.lead))), found.action)
    return None


def _after_lead(sentence: str, inner: bool = True) -> Phrase | None:
    text = _COURTESY.sub("", sentence)
    for pattern in _LEADS:
        if (found := pattern.search(text)) and (action := _trimmed(text[found.end() :])) not in _NO_ACTION:
            within = _after_lead(action, inner=False) if inner else None
            if within and not within.lead:  # "I'd like to show you how to"
                action = within.action
            return Phrase(text[: found.start()].strip(), _as_done(action))
    return None


def _command(sentence: str) -> Phrase | None:
    text = _COURTESY.sub("", sentence)
    if form_of(text) == COMMAND or _VERB_LIKE.match(text):
        action = _trimmed(text)
        return Phrase("", _as_done(action[:1].lower() + action[1:])) if " " in action else None
    return None


def _trimmed(text: str) -> str:
    before = None
    while text != before:
        before = text
        text = _TAIL.sub("", text.strip().rstrip(".!?,;:…")).strip()
    return text


def _as_done(action: str) -> str:
    """What was to be given to me is something that they come up with."""
    given = _GIVE.match(action)
    if given:
        verb = given[1].lower()
        action = _GIVEN.get(verb, verb) + action[given.end() :]
    return third_person(action)
