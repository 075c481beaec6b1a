"""What a model writes before its answer: reasoning in tags, in channels, or under its own headings.

Families mark it differently (`<think>`, `[THINK]`, `<|begin_of_thought|>`, `<seed:think>`, Harmony's channels). A chat
template may have opened the block in the prompt, so that a reply holds its end alone; a limit may have cut it off.
"""

from __future__ import annotations

import re

_WORDS = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|rationale|inner_monologue)"
_OPENED = (
    rf"(?i:<[|｜]?(?:begin_of_|start_of_|start_|\w{{1,12}}[:_])?{_WORDS}[|｜]?>|◁{_WORDS}▷)|\[THINK\]"
    r"|<\|inner_prefix\|>"
)
_CLOSED = (
    rf"(?i:<[|｜]?(?:/(?:\w{{1,12}}[:_])?|end_of_|end_){_WORDS}[|｜]?>|◁/{_WORDS}▷)|\[/THINK\]"
    r"|<\|inner_suffix\|>|<channel\|>"
)
_ANSWER = r"(?i:<(?:answer|response|final_answer|verdict|\|begin_of_solution\||\|START_RESPONSE\|)>)"
_MARK = re.compile(rf"(?P<closed>{_CLOSED})|(?P<opened>{_OPENED})|(?P<answer>{_ANSWER})")
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_CHANNEL = re.compile(r"<\|channel\|>|<\|channel>")
_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_SKIPPED = (  # the special tokens of Harmony were left out; Granite's headings
    re.compile(r"\A\s*analysis(?=[A-Z\W]).*?assistant\s*final(?:<\|message\|>)?", re.DOTALL),
    re.compile(r"\A\s*Here(?:'s| is) my thought process:.*?Here(?:'s| is) my response:", re.DOTALL),
)
_UNFINISHED = re.compile(r"\Aanalysis[A-Z][a-z']* ")
_HEADED = re.compile(
    r"\A\s*(?:thinking|reasoning|thoughts?)\b[^\n]{0,20}[:\n].*?^\W*(?:final )?(?:answer|response|reply)\W*?:\W*",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_ANSWER_TAG = re.compile(
    r"</?(?:answer|response|output|final)>|<\|(?:return|end|start)\|>(?:assistant)?", re.IGNORECASE
)


def without_reasoning(text: str) -> tuple[str, bool]:
    """The answer in a text, and whether its reasoning never ended: then the answer is what came before it.

    A text without a mark is returned as it is.
    """
    if finals := list(_FINAL.finditer(text)):
        return _END.split(text[finals[-1].end() :])[0], False
    for skipped in _SKIPPED:
        if found := skipped.match(text):
            return text[found.end() :], False
    if _UNFINISHED.match(text):
        return "", True
    kept, inside, place = "", False, 0
    for mark in _MARK.finditer(text):
        if mark["answer"] and not inside:
            continue
        if not inside:  # an end without a beginning: all before was reasoning
            kept = "" if mark["closed"] else kept + text[place : mark.start()]
        inside = bool(mark["opened"])
        place = mark.start() if mark["answer"] else mark.end()
    kept += "" if inside else text[place:]
    channel = _CHANNEL.search(kept)
    return (kept[: channel.start()], True) if channel else (kept, inside)


def reply_alone(text: str) -> str:
    """The answer for a reader of words: also without reasoning under a plain heading, and without tags around it."""
    if headed := _HEADED.match(text):
        text = text[headed.end() :]
    return _ANSWER_TAG.sub("", without_reasoning(text)[0]).strip()
