"""The tables of docs/performance.md, one for each machine, from benchmarks/results/engine.json.

python benchmarks/engine/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results" / "engine.json"
# at least so many times as fast, with the exact vocabulary and with the compact one
TARGETS = {
    "rollouts": (5, 8),
    "grpo": (4, 8),
    "dpo-200-100": (3, 5),
    "reward-200-100": (2, None),
    "sft-100-100": (3, 5),
    "sft-30-200": (2, 4),
}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    low, high = row["quartiles"]
    ours, theirs = row["tokens_per_second"]
    ours_mb, theirs_mb = row["peak_mb"]
    target = TARGETS.get(row["work"], (None, None))[row["vocabulary"] == "compact"]
    vocabulary = row["vocabulary"] + (", int8 rollouts" if row["weights"] == "int8" else "")
    wanted = "-" if target is None else f"{target} x"
    return (
        f"| {row['work']} | {row['peer']} | {vocabulary} | {row['trainable_layers']} | {row['speedup']:.1f} x "
        f"[{low:.1f}, {high:.1f}] | {wanted} | {ours:.0f} | {theirs:.0f} | "
        f"{ours_mb:,} / {theirs_mb:,} = {ours_mb / theirs_mb:.2f} |"
    )


def main() -> None:
    """Print them."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    machines = [row["machine"] for row in rows]
    for number, machine in enumerate(machines):
        if machine in machines[:number]:
            continue
        print(f"\n{machine['processor']}, {machine['cores']} cores, {', '.join(machine['instructions'])}\n")
        print("| work | against | vocabulary | layers | times as fast | wanted | tokens/s | TRL's | peak MB |")
        print("|---|---|---|---|---|---|---|---|---|")
        for row in rows:
            if row["machine"] == machine:
                print(line(row))


if __name__ == "__main__":
    main()
