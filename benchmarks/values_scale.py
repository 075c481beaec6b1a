"""What `steersman values` costs: seconds and memory at ten thousand, a hundred thousand and a million comparisons.

    python benchmarks/values_scale.py

Made ballots: five groups of random tastes, one pair of answers a question, a fifth of the votes against the rater's own
taste. Reading a file is not counted. Writes benchmarks/results/values_scale.json; half a minute on two cores.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np

from steersman.provenance import software_and_machine
from steersman.store import write_json
from steersman.values.ballots import Ballots
from steersman.values.who_wins import ValuesConfig, who_wins

RESULTS = Path(__file__).resolve().parent / "results" / "values_scale.json"
SIZES = ((10_000, 200, 500), (100_000, 2_000, 5_000), (1_000_000, 10_000, 50_000))  # votes, raters, questions
GROUPS = 5


def made(votes: int, raters: int, questions: int) -> Ballots:
    """Ballots of known tastes."""
    random = np.random.default_rng(0)
    group = random.integers(GROUPS, size=raters)
    taste = random.random((questions, GROUPS)) < 0.5
    pair, rater = random.integers(questions, size=votes), random.integers(raters, size=votes)
    own = taste[pair, group[rater]] == (random.random(votes) < 0.8)
    return Ballots(
        prompts=tuple(f"question {i}" for i in range(questions)),
        options=(("this", "that"),) * questions,
        raters=tuple(f"rater {i}" for i in range(raters)),
        groups=tuple(f"group {i}" for i in range(GROUPS)),
        member=np.eye(GROUPS, dtype=bool)[group],
        pair=pair,
        rater=rater,
        preferred=own.astype(np.float64),
        weight=np.ones(votes),
        pair_question=np.arange(questions),
        first=np.zeros(questions, dtype=np.int64),
        second=np.ones(questions, dtype=np.int64),
        dropped={},
        nameless=0,
    )


def main() -> None:
    """Measure, the smallest first: the memory is the most that the process ever had."""
    rows = []
    for votes, raters, questions in SIZES:
        given, start = made(votes, raters, questions), time.perf_counter()
        who_wins(given, ValuesConfig())
        seconds, kilobytes = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = {"votes": votes, "raters": raters, "questions": questions}
        rows.append({**size, "seconds": round(seconds, 2), "peak_mb": kilobytes // 1024})
        print(rows[-1], flush=True)
    write_json(RESULTS, {"groups": GROUPS, "rows": rows, "machine": software_and_machine("cpu")})


if __name__ == "__main__":
    main()
