"""Rules of social choice: against habermas-machine, and their cost at a million comparisons.

    python benchmarks/values_aggregate.py --only habermas   # in an environment with habermas-machine and pydantic
    .venv/bin/python benchmarks/values_aggregate.py --only rules mixture bridging

habermas-machine 1.0.2 (PyPI) has Schulze's rule, approval and maximal lotteries; it reads the same 200 random profiles,
of which half have ties. A maximal lottery is unique for an odd number of people without ties. Otherwise theirs is some
vertex of the optimum and ours the one without a favourite: both must be optimal, and ours must keep alive whatever
theirs does. Results go to benchmarks/results/values_aggregate.json; sections that were not run are kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from steersman.values.aggregate import Choice, Pairwise, Ratings, Votes, ballots, pairwise
from steersman.values.bradley_terry import bradley_terry
from steersman.values.bridging import BridgingConfig, bridging
from steersman.values.elections import borda, copeland, maximal_lottery, schulze
from steersman.values.mixture import fit_mixture, preferences
from steersman.values.welfare import approval, max_min, mean_utility, utilities_of_votes

RESULTS = Path(__file__).resolve().parent / "results" / "values_aggregate.json"
PROFILES, PEOPLE, ALTERNATIVES = 200, 10_000, 20
Figures = dict[str, Any]


def dense(choice: Choice) -> list[int]:
    """Each alternative's place from 0, as habermas-machine writes a social ranking."""
    return [choice.place(name) - 1 for name in choice.alternatives]


def habermas() -> Figures:
    from habermas_machine.social_choice import approval_method, base_method, maximal_lotteries, schulze_method
    from habermas_machine.social_choice.utils import TieBreakingMethod

    allowed = TieBreakingMethod.TIES_ALLOWED
    generator = np.random.default_rng(0)
    kinds = ("schulze, profiles without ties", "schulze, profiles with ties", "schulze, ties counted as theirs")
    same = dict.fromkeys((*kinds, "approval", "maximal lottery"), 0)
    unique = kept = optimal = 0
    kept_examples: list[Figures] = []
    for profile in range(PROFILES):
        people, count = int(generator.integers(1, 30)), int(generator.integers(2, 8))
        utilities = generator.random((people, count))
        if profile % 2:  # ties
            utilities = np.round(3 * utilities)
        ranks = np.stack([np.unique(-row, return_inverse=True)[1] for row in utilities])
        approved = ranks <= ranks.max(1, keepdims=True) // 2
        names = [chr(65 + i) for i in range(count)]
        theirs = base_method.Ballots(rankings=ranks, approvals=approved.astype(int))
        ours = ballots(names, ranks.astype(np.float64))

        order = schulze_method.Schulze(allowed).aggregate(theirs).social_ranking
        for_one = (ranks[:, :, None] < ranks[:, None, :]).sum(0).astype(np.float64)  # ties for neither, as theirs
        key = "schulze, profiles with ties" if profile % 2 else "schulze, profiles without ties"
        same[key] += dense(schulze(ours)) == order.tolist()
        same["schulze, ties counted as theirs"] += dense(schulze(Pairwise(tuple(names), for_one))) == order.tolist()

        order = approval_method.Approval(allowed).aggregate(theirs).social_ranking
        ratings = Ratings(tuple(names), (), np.full(people, -1), approved.astype(np.float64), np.ones(people))
        mine = approval(ratings, at_least=1)
        same["approval"] += dense(mine) == order.tolist()

        method = maximal_lotteries.MaximalLottery(allowed)
        lottery = method._compute_maximal_lottery(method._compute_pairwise_margin(ranks))
        chances = maximal_lottery(ours).scores
        optimal += bool((chances @ ours.margins).min() >= -1e-6)
        kept += bool((chances[lottery > 0] > 0).all())
        if people % 2 and not profile % 2:
            unique += 1
            same["maximal lottery"] += bool(np.allclose(lottery, chances, atol=1e-6))
            if len(kept_examples) < 3 and (chances > 0).sum() >= 3:
                kept_examples.append({"margins": ours.margins.tolist(), "lottery": lottery.tolist()})
    return {
        "version": version("habermas-machine"),
        "profiles": PROFILES,
        "equal": {**same, "of unique lotteries": unique},
        "our lottery is optimal": optimal,
        "ours keeps all that theirs does": kept,
        "lotteries of theirs": kept_examples,
    }


def measured(name: str, found: Figures, call: Any) -> Any:
    start = time.process_time()
    result = call()
    found[name] = figures = {
        "cpu_s": round(time.process_time() - start, 2),
        "peak_MB_so_far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(name, figures, flush=True)
    return result


def of_rules(comparisons: int, found: Figures) -> None:
    """Votes of 10,000 people in 5 groups on 20 alternatives."""
    generator = np.random.default_rng(0)
    rater = generator.integers(0, PEOPLE, comparisons)
    first = generator.integers(0, ALTERNATIVES, comparisons)
    second = (first + generator.integers(1, ALTERNATIVES, comparisons)) % ALTERNATIVES
    group = generator.integers(0, 5, PEOPLE)
    taste = generator.normal(size=(5, ALTERNATIVES))
    margin = taste[group[rater], first] - taste[group[rater], second]
    share = (generator.random(comparisons) < 1 / (1 + np.exp(-margin))).astype(np.float64)
    names = tuple(f"a{i}" for i in range(ALTERNATIVES))
    votes = Votes(names, tuple("abcde"), group, rater, first, second, share, np.ones(comparisons))
    matrix = measured("pairwise", found, lambda: pairwise(votes))
    for rule in (borda, copeland, schulze, maximal_lottery, bradley_terry):
        measured(rule.__name__, found, lambda r=rule: r(matrix))
    utilities = measured("utilities of 5 groups", found, lambda: utilities_of_votes(votes))
    measured("max-min and mean", found, lambda: (max_min(utilities), mean_utility(utilities)))


def of_mixture(comparisons: int, found: Figures) -> None:
    """Two hidden groups, one in five of 10,000 people in the second; 8 features."""
    generator = np.random.default_rng(0)
    rater, tastes = generator.integers(0, PEOPLE, comparisons), generator.normal(size=(2, 8))
    differences = generator.normal(size=(comparisons, 8))
    logits = (differences * tastes[(rater % 5 == 0).astype(int)]).sum(1)
    said = (generator.random(comparisons) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    votes = preferences(differences, rater, said)
    measured("mixture of 2 groups, 8 features", found, lambda: fit_mixture(votes))


def of_bridging(comparisons: int, found: Figures) -> None:
    """As many ratings: of 10,000 people, who each rate all statements."""
    generator = np.random.default_rng(0)
    statements = comparisons // PEOPLE
    side = np.sign(generator.normal(size=(PEOPLE, 1)) * generator.normal(size=statements))
    values = (side + generator.integers(-1, 2, side.shape)).clip(-1, 1) / 2 + 0.5
    table = Ratings(tuple(map(str, range(statements))), (), np.full(PEOPLE, -1), values, np.ones(PEOPLE))
    measured("bridging", found, lambda: bridging(table, BridgingConfig(fewest_of_rater=1)))


def growing(measure: Callable[[int, Figures], None], sizes: list[int]) -> Figures:
    """Time of each call, and the process' highest memory until then; sizes ascend in one process."""
    grown = {}
    for comparisons in sorted(sizes):
        measure(comparisons, grown.setdefault(f"{comparisons} comparisons", {}))
    return grown


def main() -> None:
    sections = {"rules": of_rules, "mixture": of_mixture, "bridging": of_bridging}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=["habermas", *sections], default=["habermas", *sections])
    parser.add_argument("--sizes", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    given = parser.parse_args()
    found = {name: habermas() if name == "habermas" else growing(sections[name], given.sizes) for name in given.only}
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results["machine"] = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    results["versions"] = {name: version(name) for name in ("numpy", "scipy")}
    for name, section in found.items():  # sizes that were not run are kept
        results[name] = section if name == "habermas" else {**results.get(name, {}), **section}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if "habermas" in given.only:
        print({key: value for key, value in results["habermas"].items() if key != "lotteries of theirs"})


if __name__ == "__main__":
    main()
