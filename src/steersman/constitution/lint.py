"""Advice about a valid constitution, alone or against a data set."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any, Literal

from steersman.constitution.document import Constitution, Principle
from steersman.data.check import leaks
from steersman.data.positions import covered, sentences_of
from steersman.errors import closest
from steersman.stats import wilson
from steersman.types import Comparison, Demonstration, Prompt, Record


class Finding(Record):
    """One piece of advice, and what to do about it."""

    rule: str
    severity: Literal["error", "warning", "note"]
    principle: str  # the id, or "" where the whole document is meant
    message: str
    do: str


def lint(
    constitution: Constitution,
    *,
    demonstrations: Sequence[Demonstration] | None = None,
    comparisons: Sequence[Comparison] | None = None,
    prompts: Sequence[Prompt] | None = None,
    evaluation: Sequence[Prompt] | None = None,
) -> list[Finding]:
    """Advice about the document and, where data are given, about how the data use it.

    An error makes a number wrong or a case undecided; a warning needs a person's judgement; a note names a check that
    was skipped, or a need of some users only. Errors come first, and within a severity rules keep the order below.
    """
    data: dict[str, Sequence[Demonstration | Comparison | Prompt]] = {
        "demonstrations": demonstrations or (),
        "comparisons": comparisons or (),
        "prompts": prompts or (),
        "evaluation prompts": evaluation or (),
    }
    findings = [
        *_undefined_ids(constitution, data),
        *_collisions(constitution),
        *_uncovered(constitution, data),
        *_unmeasurable(constitution),
        *_contested(constitution),
        *_near_duplicates(constitution),
        *_unlisted_behaviours(constitution, evaluation or ()),
        *_without_examples(constitution),
        *_leaking_examples(constitution, evaluation or ()),
        *_rejected_by_a_group(constitution),
        *_reworded(constitution),
    ]
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _undefined_ids(
    constitution: Constitution, data: Mapping[str, Sequence[Demonstration | Comparison | Prompt]]
) -> Iterator[Finding]:
    """Ids of data rows that no principle has: these rows would not count."""
    known = [principle.id for principle in constitution.principles]
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for kind, rows in data.items():
        for row in rows:
            for id in set(row.principles) - set(known):
                counts[id][kind] += 1
    for id, by_kind in sorted(counts.items()):
        where = ", ".join(f"{kind} ({count})" for kind, count in by_kind.items())
        yield Finding(
            rule="undefined-id",
            severity="error",
            principle=id,
            message=f'"{id}" is used in {where}, but no principle has this id',
            do=f"correct the id in the data, or add the principle; {closest(id, known)}",
        )


def _collisions(constitution: Constitution) -> Iterator[Finding]:
    """Declared collisions without a priority, and pairs where one can only refuse and the other only comply."""
    declared = {frozenset((one.id, other)) for one in constitution.principles for other in one.collides_with}
    for one, other in combinations(constitution.principles, 2):
        if constitution.winner(one.id, other.id):
            continue
        sides = [("refuses" in principle.behaviours, "complies" in principle.behaviours) for principle in (one, other)]
        do = "add to `priorities`: over (the one that wins), under (the one that yields) and a reason"
        if frozenset((one.id, other.id)) in declared:
            message = f"{one.id} and {other.id} are said to collide, but no priority says which one wins"
            yield Finding(rule="collision", severity="error", principle=one.id, message=message, do=do)
        elif {(True, False), (False, True)} == set(sides):
            message = f"{one.id} and {other.id} may collide: one can only be kept by refusing, the other by complying"
            yield Finding(rule="collision", severity="warning", principle=one.id, message=message, do=do)


def _uncovered(
    constitution: Constitution, data: Mapping[str, Sequence[Demonstration | Comparison | Prompt]]
) -> Iterator[Finding]:
    """Principles without training or evaluation data; one note for each kind of data that was not given."""
    for kind, rule, lack in (
        ("demonstrations", "no-demonstrations", "nothing teaches it"),
        ("evaluation prompts", "no-evaluation", "no number in the report can speak about it"),
    ):
        used = {id for row in data[kind] for id in row.principles}
        if not data[kind]:
            message = f"no {kind} were given: it was not checked which principles have some"
            yield Finding(rule=rule, severity="note", principle="", message=message, do=f"give the {kind} as well")
            continue
        for principle in constitution.principles:
            if principle.id not in used:
                message = f"{principle.id} has no {kind}: {lack}"
                do = f'write some, tagged with "{principle.id}"'
                yield Finding(rule=rule, severity="warning", principle=principle.id, message=message, do=do)


# Words without observable content: function words, general verbs and nouns, and praise.
_EMPTY_WORDS = """
    a all an and any are as at be being but by can do does for from has have he her his how if in into is it its may
    more most must no nor not of on or our own shall she should so some such than that the their them then there these
    they this to under very was we were what when where which while who will with would you your

    act acts aim aims always avoid avoids become becomes behave behaves ensure ensures help helps keep keeps make makes
    never remain remains seek seeks show shows strive strives treat treats tries try

    according answer answers assistant behaviour conduct every everyone everything harm human humanity humans interest
    interests manner model models others people person reply replies response responses society standard standards
    things time times user users way ways world

    acceptable accurate appropriate appropriately bad beneficial best better careful carefully caring correct correctly
    decent ethical ethically ethics evil excellent fair fairly friendly good goodness great harmless helpful helpfully
    high highest honest honestly honesty integrity just kind kindly kindness legal moral morally morals nice nicely
    polite politely positive professional professionally proper properly quality reasonable reasonably respect
    respectful respectfully responsible responsibly right safe safely safety sensible sensibly sound trustworthy
    truthful truthfully unethical value values virtuous well wise wisely wrong
"""
_MIN_CONCRETE_WORDS = 2  # "Says that it is an AI" has few, "be good" none


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _unmeasurable(constitution: Constitution) -> Iterator[Finding]:
    """Statements without observable content, and principles without behaviours."""
    empty = set(_EMPTY_WORDS.split())
    for principle in constitution.principles:
        if not principle.behaviours:
            yield Finding(
                rule="unmeasurable",
                severity="warning",
                principle=principle.id,
                message=f"{principle.id} lists no behaviours: nothing can be counted",
                do="list the behaviours that a good reply shows",
            )
        foreign = any(
            letter.isalpha() and not letter.isascii() for letter in principle.statement
        )  # the list is English
        concrete = set(_words(principle.statement)) - empty
        if not foreign and len(concrete) < _MIN_CONCRETE_WORDS:
            yield Finding(
                rule="unmeasurable",
                severity="warning",
                principle=principle.id,
                message=f'the statement of {principle.id} ("{principle.statement}") names nothing that can be observed',
                do="say what the model does or does not do, so that two readers of a reply would agree whether it did",
            )


# Rougher than the detector of `evals/detectors/positions.py`: the author's own sentence is read, not a model's.
_DISAGREEMENT = re.compile(
    r"\b(?:disagree\w*|differ\w*|divided|contested|disputed|dispute|debated?|controversial|both (?:sides|views)"
    r"|some\b.{1,200}?\bothers?\b|positions|views)\b",
    re.IGNORECASE | re.DOTALL,
)
SAME_POSITION = 0.7  # share of the words of two positions


def _contested(constitution: Constitution) -> Iterator[Finding]:
    """Contested principles whose positions cannot be told apart, or whose expected answer hides the disagreement; and
    principles against harm that are not fixed."""
    for principle in constitution.principles:
        advice = [("contested", found) for found in (*_wrong_positions(principle), *_wrong_answers(principle))]
        advice += [("open-to-override", found) for found in _open(principle)]
        for rule, (severity, message, do) in advice:
            yield Finding(
                rule=rule,
                severity=severity,
                principle=principle.id,
                message=f"{principle.id} {message}",
                do=do,
            )


_Advice = Iterator[tuple[Literal["error", "warning"], str, str]]


def _wrong_positions(principle: Principle) -> _Advice:
    positions = principle.positions
    if not principle.contested:
        if positions:
            yield "error", "has positions and is not said to be contested", "add `contested: true`, or drop them"
        return
    if len(positions) < 2:
        found = f"names {len(positions)} position{'' if len(positions) == 1 else 's'}" if positions else "names none"
        yield "error", f"is contested and {found}", "name at least two under `positions`: id, holders, holds"
    for one, other in combinations(positions, 2):
        if _jaccard(set(_words(one.holds)), set(_words(other.holds))) >= SAME_POSITION:
            what = f"has two positions that say the same: {one.id} and {other.id}"
            yield "error", what, "say in `holds` what the one holds and the other does not"
    empty = set(_EMPTY_WORDS.split())
    for position in positions:
        if position.holds.isascii() and len(set(_words(position.holds)) - empty) < _MIN_CONCRETE_WORDS:
            what = f'has a position without content: {position.id} ("{position.holds}")'
            yield "warning", what, "say what its holders would do or allow, so that they would recognise it"
        if not position.points:
            what = f"has no key points for the position {position.id}: whether an answer covers it cannot be counted"
            yield "warning", what, "add `points`: beginnings of words that an answer cannot do without"


def _wrong_answers(principle: Principle) -> _Advice:
    """The answer expected says that people disagree, and how: its statement, its behaviours and its revisions."""
    if not principle.contested:
        return
    if "names_disagreement" not in principle.behaviours:
        do = "add names_disagreement to its behaviours"
        yield "error", "is contested, and no behaviour expects an answer to say that people disagree", do
    if principle.statement.isascii() and not _DISAGREEMENT.search(principle.statement):
        do = "write it into the statement: says that people disagree, and how"
        yield "error", "is contested, and its statement does not say that the answer names the disagreement", do
    for number, example in enumerate(principle.examples, start=1):
        if not _DISAGREEMENT.search(example.revision):
            do = "let the revision say that people disagree, and how"
            yield "error", f"is contested, and the revision of example {number} names no disagreement", do
        found = covered(sentences_of(example.revision), principle.positions)
        lacking = [position.id for position in principle.positions if position.points and position.id not in found]
        if lacking:
            do = "let the revision name every position, or give the position the words that this one uses"
            yield "warning", f"is contested, and the revision of example {number} lacks {', '.join(lacking)}", do


def _open(principle: Principle) -> _Advice:
    """Rules against harm that a deployment or its users could set aside."""
    if "refuses" in principle.behaviours and principle.overridden_by != "nobody":
        who = "the publisher" if principle.overridden_by == "publisher" else "the publisher and the user"
        yield "warning", f"refuses harm, and {who} may set it aside", "say `override: nobody`, unless that is meant"


def _jaccard(one: set[Any], other: set[Any]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


def _near_duplicates(constitution: Constitution) -> Iterator[Finding]:
    """Pairs with nearly equal titles, or statements that share most words or whole passages."""
    texts = [(p, " ".join(sorted(_words(p.title))), _words(p.statement)) for p in constitution.principles]
    for (one, one_title, one_words), (other, other_title, other_words) in combinations(texts, 2):
        passages = [
            set(zip(*(words[start:] for start in range(5)), strict=False)) for words in (one_words, other_words)
        ]
        overlap = ""
        if SequenceMatcher(None, one_title, other_title).ratio() >= SAME_TITLE:
            overlap = "have almost the same title"
        elif _jaccard(set(one_words), set(other_words)) >= SAME_WORDS:
            overlap = "say almost the same in their statements"
        elif _jaccard(*passages) >= SAME_PASSAGES:
            overlap = "share whole passages of their statements"
        if overlap:
            yield Finding(
                rule="near-duplicate",
                severity="warning",
                principle=other.id,
                message=f"{one.id} and {other.id} {overlap}",
                do="merge them, or say in each statement what the other does not cover",
            )


# Thresholds from 0 to 1; a test checks the margin of the shipped documents.
SAME_TITLE = 0.85
SAME_WORDS = 0.5
SAME_PASSAGES = 0.2


def _unlisted_behaviours(constitution: Constitution, evaluation: Sequence[Prompt]) -> Iterator[Finding]:
    """Behaviours that evaluation prompts expect but none of their principles lists."""
    listed = {principle.id: set(principle.behaviours) for principle in constitution.principles}
    counts: Counter[tuple[str, str]] = Counter()
    for prompt in evaluation:
        known = [id for id in prompt.principles if id in listed]
        for behaviour in prompt.expect if known else ():
            if not any(behaviour in listed[id] for id in known):
                counts[known[0], behaviour] += 1
    for (id, expected), count in sorted(counts.items()):
        yield Finding(
            rule="unlisted-behaviour",
            severity="warning",
            principle=id,
            message=f"evaluation prompts of {id} ({count}) expect {expected}, which it does not list",
            do=f"add {expected} to the behaviours of {id}, or tag these prompts with the principle that they test",
        )


def _without_examples(constitution: Constitution) -> Iterator[Finding]:
    """One note for a document without examples, which instruct models do not need; else one warning for each gap."""
    lacking = [principle.id for principle in constitution.principles if not principle.examples]
    do = "write two or three `examples`, unless a model that follows instructions criticises and rewrites"
    if len(lacking) == len(constitution.principles):
        message = "no principle has examples: a raw model cannot criticise and rewrite answers by this document"
        yield Finding(rule="no-examples", severity="note", principle="", message=message, do=do)
        return
    for id in lacking:
        message = f"{id} has no examples, and other principles have: a raw model cannot criticise by it"
        yield Finding(rule="no-examples", severity="warning", principle=id, message=message, do=do)


def _leaking_examples(constitution: Constitution, evaluation: Sequence[Prompt]) -> Iterator[Finding]:
    """Examples whose prompts are near evaluation prompts."""
    for principle in constitution.principles:
        shown = [Prompt(prompt=example.prompt) for example in principle.examples]
        for near, example, reason in leaks(evaluation, shown):
            yield Finding(
                rule="example-in-evaluation",
                severity="error",
                principle=principle.id,
                message=f'an example of {principle.id} ("{example}") is near the evaluation prompt "{near}": {reason}',
                do="write the example about something else, or take the prompt out of the evaluation",
            )


FEWEST_VOTES = 5  # of a group, below which its votes on a principle say nothing


def _rejected_by_a_group(constitution: Constitution) -> Iterator[Finding]:
    """Principles against which most of an opinion group voted, or that a group was hardly asked about."""
    for principle in constitution.principles:
        for group in principle.support.groups if principle.support else ():
            against, votes = wilson(group.disagree, group.votes), group.votes
            if votes < FEWEST_VOTES:
                message = f"{votes} vote(s) of group {group.group} on {principle.id} say nothing about that group"
                do = "ask more of them before you publish it in their name"
                yield Finding(rule="group-not-heard", severity="note", principle=principle.id, message=message, do=do)
            elif against.low > 0.5:
                message = (
                    f"group {group.group} rejects {principle.id}: {group.disagree} of its {votes} votes are against"
                )
                do = "reword it with them and vote again, leave it out, or say to them why it stays"
                yield Finding(
                    rule="rejected-by-group", severity="warning", principle=principle.id, message=message, do=do
                )


def _reworded(constitution: Constitution) -> Iterator[Finding]:
    """Principles whose statement is not the one that people voted on."""
    for principle in constitution.principles:
        own = principle.support
        if own and " ".join(own.statement.split()) != " ".join(principle.statement.split()):
            message = f"the votes on {principle.id} were cast on another wording"
            do = "put the new wording to a vote, or take `support` out"
            yield Finding(rule="reworded", severity="note", principle=principle.id, message=message, do=do)
