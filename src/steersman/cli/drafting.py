"""From votes on statements to a constitution: the export, the opinion groups, what all of them carry, the document."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from steersman.errors import DataError, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from steersman.constitution.document import Support
    from steersman.data.polis import Conversation
    from steersman.values.opinion_groups import Tallies

SHUFFLES = 19  # people more alike than in all of them come by chance with p = 0.05


def drafted(votes: Path, to: Path, title: str, publisher: str, consensus: float, fewest: int) -> list[str]:
    """Write a constitution of the statements that every opinion group carries; returns messages for people.

    Raises:
        DataError: the export cannot be read, or no statement is carried.
        UserError: the file exists, or its name is none.
    """
    from steersman.constitution.draft import Left, draft
    from steersman.data.polis import read_conversation
    from steersman.store import write_text
    from steersman.values.agreed import verdicts
    from steersman.values.opinion_groups import tally

    if to.suffix not in (".yaml", ".yml") or to.exists():
        found = "the file exists" if to.exists() else f"{to.name!r} is no YAML file"
        raise UserError(found, where=str(to), expected="the name of a new .yaml file", do="choose another name")
    conversation = read_conversation(votes)
    labels, names, told = _groups(conversation)
    tallies = tally(conversation.votes, labels)
    verdict_of = verdicts(tallies, names, consensus=consensus, fewest=fewest)
    carried = [one for one in verdict_of if not one.why]
    texts = [statement.text for statement in conversation.statements]
    if not carried:
        nearest = "; ".join(f"{texts[one.statement][:60]!r}: {one.why}" for one in verdict_of[:3])
        raise DataError(
            f"no statement is carried by every group (nearest: {nearest})",
            where=str(votes),
            do=_what_to_do([int((labels == group).sum()) for group in range(len(names))], names, fewest),
        )
    source = (
        f"{int((labels >= 0).sum())} people in {len(names)} opinion group(s) voted on {len(texts)} statements. {told}"
    )
    _, text = draft(
        "-".join(re.findall(r"[a-z0-9]+", to.stem.lower())) or "draft",
        title,
        publisher,
        source,
        [_support(texts[one.statement], one.statement, one.consensus, tallies, names) for one in carried],
        [Left(texts[one.statement], one.why) for one in verdict_of if one.why],
    )
    write_text(to, text)
    return [
        *conversation.messages,
        source,
        f"wrote {to}: {len(carried)} principle(s); not taken, each with the reason: {len(texts) - len(carried)}",
        "read and complete it, then: steersman constitution check " + str(to),
    ]


def _what_to_do(sizes: list[int], names: list[str], fewest: int) -> str:
    """Advice where nothing is carried; a group that is too small to carry anything is named."""
    small = [f"{name} has {size}" for name, size in zip(names, sizes, strict=True) if size < fewest]
    if small:
        return (
            f"a group of fewer than {fewest} people can carry nothing ({', '.join(small)}): ask more people like them"
        )
    return "collect more votes, or lower --consensus or --fewest"


def _groups(conversation: Conversation) -> tuple[NDArray[np.int64], list[str], str]:
    """Each participant's group from 0 (-1: none), the groups' names, and where the groups come from.

    The groups of the file are taken where it has some, for they are those of the report that people know.
    """
    import numpy as np

    from steersman.values.opinion_groups import leading_shares, opinion_map

    known = sorted(set(conversation.groups) - {""}, key=lambda name: (len(name), name))
    if known:
        labels = np.array([known.index(name) if name else -1 for name in conversation.groups])
        out = int((labels < 0).sum())
        told = f"The groups are those of the export{f'; {out} people are in none and do not count' if out else ''}."
        return labels, [letter(name) for name in known], told
    found = opinion_map(conversation.votes)
    names = [letter(str(group)) for group in range(len(found.tallies.seen))]
    out = int((found.labels < 0).sum())
    told = f"The groups were found in the votes{f'; {out} people with too few votes do not count' if out else ''}."
    if len(names) < 2:
        return found.labels, names, f"{told} All are one group: agreement says nothing about different people."
    share, by_chance = leading_shares(conversation.votes, shuffles=SHUFFLES)
    if share <= max(by_chance):
        told += " People are no more alike than chance makes them: do not read much into the groups."
    return found.labels, names, told


def letter(group: str) -> str:
    """A group's name as reports have it: A for 0; names that are no small numbers stay."""
    return chr(ord("A") + int(group)) if group.isdigit() and int(group) < 26 else group


def _support(text: str, statement: int, consensus: float, tallies: Tallies, names: list[str]) -> Support:
    from steersman.constitution.document import GroupSupport, Support

    groups = [
        GroupSupport(
            group=name,
            votes=int(tallies.seen[group, statement]),
            agree=int(tallies.agrees[group, statement]),
            disagree=int(tallies.disagrees[group, statement]),
        )
        for group, name in enumerate(names)
    ]
    return Support(statement=text, consensus=round(consensus, 4), groups=tuple(groups))
