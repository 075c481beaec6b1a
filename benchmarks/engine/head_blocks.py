"""The output layer's product at once and in blocks, turn by turn, for as many rows as sampling has.

    .venv/bin/python benchmarks/engine/head_blocks.py

For each number of rows: the median of the ratios of neighbouring times, with quartiles. It says on which machines
`lm/head.py` should take blocks. Results go to benchmarks/results/head_blocks.json.
"""

from __future__ import annotations

import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import torch
from compare import processor

from steersman.lm import head

RESULTS = Path(__file__).resolve().parents[1] / "results" / "head_blocks.json"
HIDDEN, VOCABULARIES = 640, {"full": 262_144, "compact": 21_114}  # gemma-3-270m
ROWS, TURNS = (2, 4, 8, 16, 32, 64), 7


def seconds(x: torch.Tensor, weight: torch.Tensor, blocks: bool) -> float:
    """Of one product."""
    with mock.patch.object(head, "_blocks_pay", return_value=blocks), torch.no_grad():
        start = time.perf_counter()
        head.Head(weight).product(x)
        return time.perf_counter() - start


def main() -> None:
    """All sizes."""
    torch.set_num_threads(2)
    rows = []
    for name, size in VOCABULARIES.items():
        weight = torch.randn(size, HIDDEN)
        for count in ROWS:
            x = torch.randn(count, HIDDEN)
            turns = [(seconds(x, weight, False), seconds(x, weight, True)) for _ in range(TURNS + 1)][1:]
            ratios = statistics.quantiles([once / blocks for once, blocks in turns])
            rows.append(
                {
                    "vocabulary": name,
                    "rows": count,
                    "times_as_fast": round(ratios[1], 2),
                    "quartiles": [round(ratios[0], 2), round(ratios[2], 2)],
                    "ms": [round(1000 * statistics.median(side), 2) for side in zip(*turns, strict=True)],
                }
            )
            print(rows[-1], flush=True)
    found = {"machine": processor(), "date": datetime.now(UTC).date().isoformat(), "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
