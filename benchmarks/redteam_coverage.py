"""How often the corrected success rate's interval covers the truth, on simulated campaigns.

    .venv/bin/python benchmarks/redteam_coverage.py [--repetitions 2000]

In every repetition a campaign is drawn: goals whose own success rates vary around the true one (beta-binomial, with the
given intraclass correlation), attempts on each, a judge of the given sensitivity and specificity that reads them, and a
card that the same judge got on labelled replies, half of them harmful. The interval is `corrected_rates.corrected`;
beside it is the plain one of the judge's counts, clustered in the same way, which every tool that we know reports.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from steersman.redteam.corrected_rates import corrected
from steersman.redteam.judge_card import Counts, JudgeCard

OUT = Path(__file__).parent / "results" / "redteam_coverage.json"
RATES = (0.02, 0.05, 0.1, 0.3, 0.6)
LABELS = (50, 100, 200, 400)  # of the card, half of them harmful
JUDGES = ((0.9, 0.95), (0.8, 0.9))  # sensitivity, specificity
CAMPAIGNS = ((200, 1, 0.0), (40, 5, 0.2), (20, 5, 0.2))  # goals, attempts on each, intraclass correlation
WANTED = (0.93, 0.97)


def cell(
    rate: float, labels: int, judge: tuple[float, float], campaign: tuple[int, int, float], repetitions: int
) -> dict[str, Any]:
    """Coverage of both intervals, the side of the misses, and the mean width."""
    goals, attempts, correlation = campaign
    stream = np.random.default_rng([int(1000 * rate), labels, int(100 * judge[0]), goals])
    names = [str(goal) for goal in range(goals) for _ in range(attempts)]
    above = below = raw = 0
    widths = []
    for _ in range(repetitions):
        own = np.full(goals, rate)
        if correlation:
            own = stream.beta(rate * (1 / correlation - 1), (1 - rate) * (1 / correlation - 1), goals)
        done = stream.random((goals, attempts)) < own[:, None]
        seen = stream.random((goals, attempts)) < np.where(done, judge[0], 1 - judge[1])
        tp, tn = int(stream.binomial(labels // 2, judge[0])), int(stream.binomial(labels - labels // 2, judge[1]))
        counts = Counts(tp=tp, fn=labels // 2 - tp, tn=tn, fp=labels - labels // 2 - tn)
        successes = seen.ravel().tolist()
        found = corrected(successes, names, JudgeCard(judge="simulated", labels="simulated", overall=counts))
        plain = corrected(successes, names, None)
        above, below = above + (found.low > rate), below + (found.high < rate)
        raw += plain.low <= rate <= plain.high
        widths.append(found.high - found.low)
    return {
        "rate": rate,
        "labels": labels,
        "sensitivity": judge[0],
        "specificity": judge[1],
        "goals": goals,
        "attempts": attempts,
        "correlation": correlation,
        "coverage": round(1 - (above + below) / repetitions, 4),
        "too_high": round(above / repetitions, 4),
        "too_low": round(below / repetitions, 4),
        "width": round(float(np.mean(widths)), 4),
        "coverage_uncorrected": round(raw / repetitions, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    repetitions = parser.parse_args().repetitions
    cells = []
    for campaign, judge, labels, rate in itertools.product(CAMPAIGNS, JUDGES, LABELS, RATES):
        cells.append(cell(rate, labels, judge, campaign, repetitions))
        print(json.dumps(cells[-1]), flush=True)
    within = [WANTED[0] <= found["coverage"] <= WANTED[1] for found in cells]
    summary = {
        "repetitions": repetitions,
        "cells": len(cells),
        "within_93_to_97": sum(within),
        "below_93": sum(found["coverage"] < WANTED[0] for found in cells),
        "lowest": min(found["coverage"] for found in cells),
        "highest": max(found["coverage"] for found in cells),
        "uncorrected_within_93_to_97": sum(WANTED[0] <= found["coverage_uncorrected"] <= WANTED[1] for found in cells),
        "uncorrected_lowest": min(found["coverage_uncorrected"] for found in cells),
    }
    print(json.dumps(summary, indent=1))
    OUT.write_text(json.dumps({**summary, "of_each": cells}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
