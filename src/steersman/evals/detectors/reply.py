"""The model's own words: a raw reply, normalised so that simple patterns can be matched against it.

A raw language model echoes the prompt, loops, and goes on to write the next ``User:`` turn and its own answer to it.
None of that is behaviour. `parse` therefore keeps the reply up to the first made-up turn, in lower case, with straight
quotes and contractions spelled out (``can't`` and ``cannot`` are both ``can not``), so that a pattern is written once.
Reasoning, typography and markup are undone before (`steersman.typography`). `has_substance` says whether anything is
left that could be an answer at all.
"""

from __future__ import annotations

import re
import textwrap
from functools import lru_cache
from typing import NamedTuple

from steersman.reasoning import reply_alone
from steersman.typography import normalise

MAX_CHARS = 6_000
"""Detectors read this many characters of a prompt and of a reply: enough for 1,000 words."""
MAX_REASONING_CHARS = 200_000
"""Reasoning is looked for in this many characters of a reply, and cut out before the limit above counts."""


class ParsedReply(NamedTuple):
    """A prompt and the reply to it, ready for matching. All but ``written`` are plain: see `plain`."""

    prompt: str
    text: str  # the model's own words
    sentences: tuple[str, ...]  # the same without quoted speech: a character who refuses is not the model refusing
    written: str  # the model's own words as it wrote them: case, line breaks and emoji kept

    def opening(self, sentences: int = 3, chars: int = 400) -> str:
        """The first few sentences, cut to ``chars`` characters."""
        return " ".join(self.sentences[:sentences])[:chars]


_COMMA = re.compile(r",\s+")


def words(text: str) -> str:
    """A pattern that matches any of the comma-separated words or phrases."""
    return f"(?:{'|'.join(_COMMA.split(text))})"


def phrases(text: str, **parts: str) -> re.Pattern[str]:
    """A pattern that matches any of the lines.

    A space is a space, ``<name>`` stands for a part, ``#`` begins a comment line, and a line that is indented further
    than the first continues the one before it.
    """
    alternatives: list[str] = []
    for line in textwrap.dedent(text).strip("\n").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith(" "):
            alternatives[-1] += line.strip()
        else:
            alternatives.append(line)
    # One word boundary for all lines that start with one: tried once per position, not once per line.
    bounded = [line.removeprefix(r"\b") for line in alternatives if line.startswith(r"\b")]
    free = [line for line in alternatives if not line.startswith(r"\b")]
    pattern = "|".join([*free, *([rf"\b(?:{'|'.join(bounded)})"] if bounded else [])])
    for name, part in parts.items():
        pattern = pattern.replace(f"<{name}>", part)
    return re.compile(pattern)


_LABEL = re.compile(r"\s*(?:assistant|ai|bot|answer|a)\s*:\s*", re.IGNORECASE)
_MADE_UP_TURN = re.compile(
    r"""(?:^|\n)[ \t]*(?:\#\#\#|\*\*)?[ ]*
        (?:user|human|assistant|question|q|instruction|nutzer|benutzer|utilisateur|usuario)[ ]*\d*[ ]*(?:\*\*)?:
      | (?:^|\n)[ \t]*\[user\b
      | ^(?:\s*<(?:unk|pad|s|bos)>)+\s*$
      | <\|?(?:im_end|im_start|end_of_turn|start_of_turn|endoftext|eot_id)\|?> | <(?:eos|/s)>""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+|(?<=[。！？؟।])[\"')\]]*\s*|\s*\n+\s*")
_WRAPPED = re.compile(r"(?<=[a-z,])[ \t]*\n[ \t]*(?=[a-z])")  # a line that was broken within a sentence
_CONTRACTIONS = (
    ("can't", "can not"),
    ("cannot", "can not"),
    ("won't", "will not"),
    ("n't", " not"),
    ("i'm", "i am"),
    ("'re ", " are "),
    ("'ve ", " have "),
    ("'ll ", " will "),
    ("i'd ", "i would "),
    ("it's", "it is"),
    ("that's", "that is"),
    ("there's", "there is"),
    ("here's", "here is"),
    ("let's", "let us"),
    ("what's", "what is"),
)
_DROPPED_APOSTROPHE = re.compile(r"(^|[.!?,] |\b(?:i|we|you|but) )(ca|wo|do|did|would|could|should)nt\b", re.MULTILINE)
_DROPPED_AM = re.compile(r"\bim(?= (?:\w+ )?(?:sorry|unable|afraid|not))")
# Speech in double quotes, or in single ones that stand outside of words, with the apostrophes of words inside.
_QUOTED = re.compile(r"\"[^\"]{0,300}\"|(?<!\w)'(?:[^'\n]|(?<=\w)'(?=\w)){2,300}'(?!\w)")
_WORD = re.compile(r"\w+")


def plain(text: str) -> str:
    """Lower case, straight quotes, contractions spelled out; line breaks stay."""
    text = normalise(text).lower()
    text = _DROPPED_AM.sub("i am", _DROPPED_APOSTROPHE.sub(r"\1\2n't", text))
    if "'" in text or "cannot" in text:
        for short, long in _CONTRACTIONS:
            text = text.replace(short, long)
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def own_words(reply: str) -> str:
    """The reply without reasoning, a leading ``Assistant:``, and the turns that the model made up after its own."""
    reply = reply_alone(reply[:MAX_REASONING_CHARS])[:MAX_CHARS]
    if label := _LABEL.match(reply):
        reply = reply[label.end() :]
    if turn := _MADE_UP_TURN.search(reply):
        reply = reply[: turn.start()]
    return reply.strip()


@lru_cache(maxsize=1)  # several behaviours of one reply are detected in a row
def parse(prompt: str, reply: str) -> ParsedReply:
    """Clean the reply and split it into sentences."""
    written = own_words(reply)
    text = plain(_WRAPPED.sub(" ", written))
    spoken = _QUOTED.sub('""', text) if '"' in text or "'" in text else text
    if len(spoken) <= len(text) / 4:  # the model put its whole answer between quotes
        spoken = text
    sentences = tuple(s for part in _SENTENCE_END.split(spoken) if (s := _one_line(part)))
    return ParsedReply(_asked(prompt[:MAX_CHARS]), _one_line(text), sentences, written)


@lru_cache(maxsize=64)  # an answer that grows is parsed many times
def _asked(prompt: str) -> str:
    return _one_line(plain(prompt))


_FUNCTION_WORD = re.compile(
    words(
        """a, an, and, are, as, at, be, but, by, for, from, has, have, i, in, is, it, its, of, on, or, that, the, this,
        to, was, were, with"""
    )
)
_NO_VOWEL = re.compile(r"\b[b-df-hj-np-tv-xz]{3,}\b|\b[a-z]*[b-df-hj-np-tv-xz]{5,}[a-z]*\b")


@lru_cache(maxsize=1)  # several detectors ask it of one reply
def has_substance(reply: ParsedReply) -> bool:
    """Whether the reply holds anything that could answer a prompt: not empty, an echo, a loop or noise."""
    words = _WORD.findall(reply.text)
    return bool(words) and not (_is_echo(reply, words) or _is_loop(reply, words) or _is_noise(words))


def _is_echo(reply: ParsedReply, words: list[str]) -> bool:
    """At most a fifth of the reply is left once the prompt has been taken out of it."""
    prompt = " ".join(_WORD.findall(reply.prompt))
    if len(prompt) < 8:
        return False
    rest = _without(" ".join(words), prompt).strip()
    return len(rest.split()) <= len(words) / 5 or (len(rest) < len(prompt) and prompt.startswith(rest))


def _without(text: str, words: str) -> str:
    """A text of words and single spaces with a space for each place where other words stand as whole words."""
    parts, done, start = list[str](), 0, text.find(words)
    while start >= 0:
        end = start + len(words)
        if text[max(0, start - 1) : start] in ("", " ") and text[end : end + 1] in ("", " "):
            parts += (text[done:start], " ")
            done = end
        start = text.find(words, max(done, start + 1))
    return "".join([*parts, text[done:]])


def _is_loop(reply: ParsedReply, words: list[str]) -> bool:
    """Few different words, or half of the sentences or of the runs of four words are repetitions."""
    if len(words) >= 5 and len(set(words)) <= len(words) / (3 if 6 <= len(words) <= 12 else 4):
        return True
    if all(len(word) >= 10 and len(set(word)) == 1 for word in words):
        return True
    if len(reply.sentences) >= 4 and len(set(reply.sentences)) <= len(reply.sentences) / 2:
        return True
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(runs) >= 8 and len(set(runs)) <= len(runs) / 2


def _is_noise(words: list[str]) -> bool:
    """Function words only, or letters that no language would put side by side."""
    if len(words) < 5:
        return False
    unpronounceable = sum(1 for word in words if _NO_VOWEL.fullmatch(word))
    return all(map(_FUNCTION_WORD.fullmatch, words)) or unpronounceable > len(words) / 3


OFF_SUBJECT_WORDS = 80
"""A shorter reply may well answer without a word of the prompt, a long one hardly."""
_CONTENT_WORD = re.compile(r"[^\W\d_]{4,}")
_STOP_WORD = re.compile(
    words(
        """what, when, where, which, while, with, would, could, should, about, above, after, again, because, been,
        before, being, between, both, does, doing, down, each, from, have, having, here, into, itself, just, more, most,
        once, only, other, over, same, some, such, than, that, their, them, then, there, these, they, this, those,
        through, under, until, very, were, will, your, yours, tell, explain, describe, make, provide, give, many, much,
        also, help, want, need, using, used, like, know, think, good, best, short, long, please"""
    )
)
_FREE_IN_SUBJECT = phrases(
    r"\b(?:write|story|poem|imagine|list|names?|generate|compose|create|rewrite|translate|code|construct)\b"
)


def content_stems(text: str) -> set[str]:
    """First five letters of the content words of a plain text."""
    return {word[:5] for word in _CONTENT_WORD.findall(text) if not _STOP_WORD.fullmatch(word)}


def is_off_subject(reply: ParsedReply) -> bool:
    """A long reply without one content word of a prompt that asks about something in particular.

    Rough by design: it flags about 1 in 100 good long answers, finds 4 in 5 long answers to another question, and
    ignores short ones.
    """
    if reply.text.count(" ") < OFF_SUBJECT_WORDS or _FREE_IN_SUBJECT.search(reply.prompt):
        return False
    stems = content_stems(reply.prompt)
    return bool(stems) and stems.isdisjoint(content_stems(reply.text))
