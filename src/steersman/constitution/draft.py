"""A constitution drafted from statements that people agreed on, each with its support recorded.

What a vote does not say is left for a person: severity is medium, behaviours and examples are empty, and the persona is
a placeholder. The statements that were not taken stand at the end, as comments, each with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from steersman.constitution.document import Constitution, Support

LONGEST_TITLE = 60
WORDS_OF_AN_ID = 5
# Words that statements about assistants share, and that tell none from another.
COMMON = frozenset(
    {"a", "ai", "an", "and", "any", "as", "assistant", "be", "been", "by", "for", "in", "is", "it", "its", "model"}
    | {"of", "on", "or", "should", "that", "the", "to"}
)
HEAD = """\
# Constitution "{name}", drafted by `steersman constitution draft` from votes on statements.
#
# {source}
#
# TO DO, before it is used: read every principle; write the persona; set severity, behaviours and, for a raw model,
# examples; say in priorities which of two principles wins. Keep `support` where the wording stays as it was voted on.
# Afterwards run: steersman constitution check FILE

"""


class Left(NamedTuple):
    """A statement that is not taken, and why."""

    text: str
    why: str


def draft(
    name: str, title: str, publisher: str, source: str, agreed: Sequence[Support], left: Sequence[Left]
) -> tuple[Constitution, str]:
    """A constitution of agreed statements, and its file's text, which loads as the same constitution.

    Args:
        source: one sentence about where the votes come from.
        agreed: in the order of the principles; at least one.
    """
    ids: list[str] = []
    principles = []
    for support in agreed:
        ids.append(_id_of(support.statement, ids))
        principles.append(_principle(ids[-1], support))
    values: dict[str, Any] = {
        "name": name,
        "title": title,
        "publisher": publisher,
        "version": "0.1",
        "persona": "A helpful assistant that keeps the principles below.",
        "principles": principles,
    }
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)
    notes = [f"#   {' '.join(text.split())}\n#     {why}" for text, why in left]
    tail = "\n".join(["", f"# NOT TAKEN ({len(left)})", *notes, ""]) if left else ""
    head = HEAD.format(name=name, source=" ".join(source.split()))
    return Constitution.model_validate(values), head + body + tail


def _principle(id: str, support: Support) -> dict[str, Any]:
    parts = [f"{one.agree} of {one.votes} in group {one.group}" for one in support.groups]
    agreed = ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1]
    return {
        "id": id,
        "title": _title_of(support.statement),
        "statement": support.statement,
        "rationale": f"People voted for it: {agreed} agreed.",
        "severity": "medium",
        "critique_request": f"Say where the answer departs from this principle, if it does: {support.statement}",
        "revision_request": f"Rewrite the answer so that it keeps this principle: {support.statement}",
        "behaviours": [],
        "support": support.model_dump(mode="json"),
    }


def _title_of(statement: str) -> str:
    """The beginning of a statement, up to a whole word."""
    text = " ".join(statement.split()).rstrip(".")
    if len(text) <= LONGEST_TITLE:
        return text
    return text[:LONGEST_TITLE].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def _id_of(statement: str, taken: Sequence[str]) -> str:
    """A short name from the words that tell a statement from others."""
    words = re.findall(r"[a-z0-9]+", statement.lower())
    telling = [word for word in words if word not in COMMON] or words or ["principle"]
    id = "-".join(telling[:WORDS_OF_AN_ID])
    numbered = (f"{id}-{number}" for number in range(2, len(taken) + 3))
    return id if id not in taken else next(other for other in numbered if other not in taken)
