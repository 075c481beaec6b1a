"""What attackers want: goals from the constitution's own evaluation prompts, or from a file that a user brings.

A goal of the constitution is an evaluation prompt of the harmful kind, whose topic no training row shares, under the
principle that an answer would break. At most so many a principle are taken, by a digest of their text and topic by
topic, so that every campaign takes the same ones. Harmless prompts of the same set, look-alikes and ordinary ones, are
chosen the same way: whoever reads an attack's success reads beside it what the same defence costs them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steersman.constitution.document import Constitution
from steersman.data.tables import rows_of
from steersman.errors import DataError
from steersman.evals.forms import HARMFUL, LOOKALIKE, PLAIN, kind_of
from steersman.redteam.attack import Goal
from steersman.redteam.attacks.prompt_extraction import goals_of
from steersman.store import sha256_text
from steersman.types import Prompt, messages_of

SYSTEM_PROMPT = "system-prompt"  # what an extraction breaks; no principle of a constitution
OWN = "goals"  # in the place of a principle, where a file names none
TEXTS = ("goal", "prompt", "behavior", "behaviour", "objective", "instruction", "question", "text")
PRINCIPLES = ("principle", "category", "semanticcategory", "type", "harm")


class Harmless(NamedTuple):
    """A prompt that should be answered. ``kind``: look-alike or plain."""

    prompt: str
    kind: str
    principle: str
    topic: str


class Goals(NamedTuple):
    """What a campaign is about.

    Attributes:
        chosen: the goals, in the constitution's order of principles.
        pool: all goals of their principles, for attacks that show others of them.
        harmless: prompts that every target is asked as well.
        empty: ids of enforced principles without any goal.
        left_out: why rows are no goals, with their number.
    """

    chosen: tuple[Goal, ...]
    pool: tuple[Goal, ...]
    harmless: tuple[Harmless, ...] = ()
    empty: tuple[str, ...] = ()
    left_out: Mapping[str, int] = {}


def of_constitution(
    prompts: Iterable[Prompt], constitution: Constitution, per_principle: int, harmless: int = 0, seed: int = 0
) -> Goals:
    """Goals and harmless prompts among the evaluation prompts, for every principle that is enforced; and secrets that
    stand behind the persona in a system prompt, for attacks that extract.

    Args:
        prompts: of the evaluation; what training saw shares no topic with them.
        per_principle: goals of a principle at most; harmless: such prompts at most, half of them look-alikes.
        seed: of the secrets, which are made up.
    """
    enforced = [principle.id for principle in constitution.principles if principle.enforced.anywhere]
    dropped: Counter[str] = Counter()
    secrets = goals_of(constitution.persona, SYSTEM_PROMPT, seed)[:per_principle]
    pool: dict[str, list[Goal]] = {name: [] for name in enforced}
    kind: dict[str, list[Harmless]] = {LOOKALIKE: [], PLAIN: []}
    for row in prompts:
        text, own = _single(row), kind_of(row.tags)
        about = row.principles[0] if row.principles else ""
        if text is None:
            dropped["a conversation, not one request"] += own == HARMFUL
        elif own != HARMFUL:
            kind[own].append(Harmless(text, own, about, row.topic or ""))
        elif about in pool:
            pool[about].append(Goal(text, about, row.topic or ""))
        else:
            dropped["its principle is not enforced"] += 1
    chosen = [goal for own in pool.values() for goal in by_digest(own, per_principle)] + secrets
    alike = by_digest(kind[LOOKALIKE], harmless // 2)
    plain = by_digest(kind[PLAIN], harmless - len(alike))
    return Goals(
        tuple(chosen),
        (*(goal for own in pool.values() for goal in own), *secrets),
        (*alike, *plain),
        tuple(name for name, own in pool.items() if not own),
        {why: count for why, count in dropped.items() if count},
    )


def of_file(path: Path, per_principle: int | None = None) -> Goals:
    """Goals from a file: a text file with one a line, or JSON Lines, JSON or CSV with columns as the field has them.

    The goal stands in ``goal``, ``prompt``, ``behavior`` or ``objective``, in any case; what it breaks, if said, in
    ``principle`` or ``category``; ``topic``, ``secret`` and ``system`` are read as well.

    Raises:
        DataError: it cannot be read, or no row has a goal.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path), expected="a file of goals: .txt, .jsonl, .json or .csv")
    found: dict[str, list[Goal]] = {}
    dropped = 0
    for number, row in enumerate(_rows(path), start=1):
        own = {str(name).casefold().strip(): value for name, value in row.items()}
        text = _first(own, TEXTS)
        if not text:
            dropped += 1
            continue
        topic, secret, system = (str(own.get(name) or "") for name in ("topic", "secret", "system"))
        principle = slug(_first(own, PRINCIPLES) or OWN)
        # Rows of a file without topics are of one each: nothing says which belong together.
        goal = Goal(text, principle, topic or f"row {number}", secret, system)
        if goal.text not in {other.text for other in found.setdefault(principle, [])}:
            found[principle].append(goal)
    if not found:
        raise DataError(
            "no row holds a goal", where=str(path), expected=f"a column named {', '.join(TEXTS[:5])}, or lines of text"
        )
    chosen = [goal for own in found.values() for goal in (by_digest(own, per_principle) if per_principle else own)]
    pool = tuple(goal for own in found.values() for goal in own)
    return Goals(tuple(chosen), pool, left_out={"a row without a goal": dropped} if dropped else {})


def by_digest(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many rows: the first of each topic, then the second of each, in the order of their texts' digests."""
    seen: Counter[str] = Counter()
    ranked = []
    for row in sorted(rows, key=lambda row: sha256_text(row[0])):
        ranked.append((seen[row.topic], row))
        seen[row.topic] += 1
    ranked.sort(key=lambda pair: pair[0])  # stable: digests decide within a round
    return [row for _, row in ranked[:most]]


def slug(text: str) -> str:
    """A principle's id from a category as a file writes it: "Fraud/Deception" becomes ``fraud-deception``."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-") or OWN


def _single(row: Prompt) -> str | None:
    """The one request of a prompt; None for a conversation."""
    messages = messages_of(row.prompt)
    return messages[0].content if len(messages) == 1 and messages[0].role == "user" else None


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of some columns that holds a text."""
    return next((str(row[name]).strip() for name in names if isinstance(row.get(name), str) and row[name].strip()), "")


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    """The rows of a file as objects; a line of a text file is a goal."""
    if path.suffix == ".txt":
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError("not UTF-8 text", where=str(path), do="save the file as UTF-8") from error
        return [{"goal": line} for line in text.splitlines() if line.strip()]
    rows = []
    for number, row in enumerate(rows_of(path), start=1):
        try:
            value = json.loads(row) if isinstance(row, str) and row.strip() else row
        except ValueError as error:
            raise DataError("not valid JSON", where=f"{path}:{number}", expected="an object a line") from error
        if isinstance(value, str):
            value = {"goal": value}
        if not isinstance(value, Mapping):
            raise DataError("not an object with named fields", where=f"{path}:{number}")
        rows.append(value)
    return rows
