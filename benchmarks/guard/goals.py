"""The requests that the guard is measured on: ours that nothing was trained on, and public harmless sets.

Harmful: the shipped constitution's held-out prompts with the tag `harmful`. Benign: the look-alikes and plain prompts
of the same files, the safe ones of half of XSTest, and safety-tuned-llamas' benign instructions.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "src" / "steersman" / "data" / "library" / "assistant-forms"
PUBLIC = ROOT.parent / "shared" / "data"
SEED = 24


class Goal(NamedTuple):
    """One request of one turn."""

    id: str
    set: str  # evaluation, development, xstest, ...
    kind: str  # harmful, lookalike or plain
    text: str


def ours() -> Iterator[Goal]:
    """The held-out prompts of one turn; conversations are left out, since a converter dresses one text."""
    for name in ("evaluation", "development"):
        for number, row in enumerate(_rows(LIBRARY / f"{name}.jsonl")):
            kind = next((tag for tag in row["tags"] if tag in ("harmful", "lookalike")), "plain")
            if isinstance(row["prompt"], str):
                yield Goal(f"{name}-{number}", name, kind, row["prompt"])


def public(data: Path = PUBLIC) -> Iterator[Goal]:
    """Benign public requests; nothing where the folder is absent."""
    folder = data / "over_refusal"
    for number, row in enumerate(_rows(folder / "xstest_prompts_half.jsonl.gz")):
        if row["label"] == "safe":
            yield Goal(f"xstest-{number}", "xstest", "lookalike", row["prompt"])
    for number, row in enumerate(_rows(folder / "safety_tuned_llamas_eval.jsonl.gz")):
        if row["source"] in ("I-PhysicalSafetySafe", "I-Alpaca"):
            yield Goal(f"safety-tuned-{number}", "safety-tuned", "plain", row["prompt"])


def sample(harmful: int, benign: int, seed: int = SEED, data: Path = PUBLIC) -> list[Goal]:
    """So many harmful and benign goals, the benign ones in equal parts from every set and kind."""
    draw = random.Random(seed)
    every = [*ours(), *public(data)]
    bad = [goal for goal in every if goal.kind == "harmful"]
    groups: dict[tuple[str, str], list[Goal]] = {}
    for goal in every:
        if goal.kind != "harmful":
            groups.setdefault((goal.set, goal.kind), []).append(goal)
    for group in groups.values():
        draw.shuffle(group)
    good: list[Goal] = []
    while len(good) < benign and any(groups.values()):
        good += [group.pop() for group in groups.values() if group]
    return draw.sample(bad, min(harmful, len(bad))) + good[:benign]


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write(path: Path, goals: list[Goal]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(goal._asdict()) + "\n" for goal in goals), encoding="utf-8")


def read(path: Path) -> list[Goal]:
    """Requests of one's own."""
    return [Goal(**{name: str(row[name]) for name in Goal._fields}) for row in _rows(path)]
