"""Dress texts with casefold-fuzz's variants; runs in an environment that has `casefold-fuzz`.

    CASEFOLD-PYTHON benchmarks/guard/dress_casefold.py TEXTS.jsonl OUT.jsonl

Rows as for `dress_pyrit.py`. All its variants of a text are kept, but of those that swap one letter only two.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from casefold_fuzz import mutate

SINGLE_SWAPS = 2


def technique(name: str, note: str) -> str:
    """One name for what does the same to every text."""
    return f"{name}: one letter" if note.startswith("first ") else f"{name}: {note}"[:70]


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    lines = []
    for row in map(json.loads, source.read_text(encoding="utf-8").splitlines()):
        seen: Counter[str] = Counter()
        for variant in mutate(row["text"], max_variants=1000):
            name = technique(variant.technique, variant.note)
            seen[name] += 1
            if not name.endswith("one letter") or seen[name] <= SINGLE_SWAPS:
                line = {"tool": "casefold-fuzz", "technique": name, "id": row["id"], "text": variant.text}
                lines.append(json.dumps(line))
    target.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} variants")
