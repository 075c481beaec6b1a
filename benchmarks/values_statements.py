"""Opinion groups and consensus of `steersman.values.opinion_groups` beside what Polis published.

    .venv/bin/python benchmarks/values_statements.py [--ccai FOLDER] [--polis FOLDER] [--only NAME ...]

--ccai: rater_disagreement/ of the public data sets, with the votes of Collective Constitutional AI (saffronh/ccai).
--polis: a checkout of github.com/compdemocracy/openData, whose exports have the groups of Polis and, in one
conversation, its group-informed consensus. Nothing of either is kept here: results/values_statements.json has figures
alone; conversations that were not run are kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from steersman.data.polis import read_conversation
from steersman.data.tables import rows_of
from steersman.errors import DataError
from steersman.values.opinion_groups import (
    Tallies,
    checked_votes,
    extremity,
    leading_shares,
    opinion_map,
    principal_components,
    priorities,
    ratio_test,
    tally,
)

RESULTS = Path(__file__).resolve().parent / "results" / "values_statements.json"
Figures = dict[str, Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def apart(tallies: Tallies) -> float:
    """How far two groups' votes lie apart: the mean squared z of agreement and of disagreement; 1 by chance."""
    tables = (tallies.agrees, tallies.disagrees)
    seen = tallies.seen
    return float(np.mean([ratio_test(t[0], t[1], seen[0], seen[1]) ** 2 for t in tables]))


def beside(votes: Floats, groups: Ints) -> Figures:
    """Our groups beside the published ones (-1: in none)."""
    begun = time.perf_counter()
    found = opinion_map(votes)
    seconds = time.perf_counter() - begun
    both = (found.labels >= 0) & (groups >= 0)
    count = int(groups.max()) + 1
    figures: Figures = {
        "people": len(votes),
        "statements": votes.shape[1],
        "seconds": round(seconds, 2),
        "published_sizes": [int((groups == g).sum()) for g in range(count)],
        "sizes": found.sizes,
        "silhouettes": {str(k): round(value, 3) for k, value in found.silhouettes.items()},
        "count_in_both": int(both.sum()),
        "count_published_only": int(((groups >= 0) & (found.labels < 0)).sum()),
        "count_ours_only": int(((groups < 0) & (found.labels >= 0)).sum()),
        "adjusted_rand": round(float(adjusted_rand_score(groups[both], found.labels[both])), 3),
    }
    if count == 2:
        two = opinion_map(votes, most=2)
        figures["adjusted_rand_two_groups"] = round(float(adjusted_rand_score(groups[both], two.labels[both])), 3)
        figures["apart_published"] = round(apart(tally(votes, groups)), 2)
        figures["apart_ours"] = round(apart(two.tallies), 2)
    share, chance = leading_shares(votes, shuffles=9)
    figures["first_component"] = {"share": round(share, 4), "largest_of_9_by_chance": round(max(chance), 4)}
    return figures


def compared(ours: Floats, published: Floats) -> Figures:
    """Two consensus scores of the same statements."""
    difference = np.abs(ours - published)
    return {
        "spearman": round(float(spearmanr(ours, published).statistic), 4),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "statements": len(ours),
    }


def collective_constitution(folder: Path) -> Figures:
    """The votes behind Collective Constitutional AI: 756 people of 1,002 are in the file, the counts are of all."""
    comments, people = (
        [json.loads(row) for row in rows_of(folder / f"ccai_{name}.jsonl.gz")] for name in ("comments", "votes")
    )
    ids = [comment["comment-id"] for comment in comments]
    votes = checked_votes(np.array([[float(person[id] or "nan") for id in ids] for person in people]))
    groups = np.array([int(person["group-id"]) for person in people])
    published = np.array([[float(c[f"group_{g}_consensus"]) for c in comments] for g in (0, 1)]).prod(axis=0)
    tallies, two = tally(votes, groups), opinion_map(votes, most=2)
    generator = np.random.default_rng(0)
    shuffled = [apart(tally(votes, generator.permutation(groups))) for _ in range(100)]
    p = (1 + sum(value >= apart(tallies) for value in shuffled)) / (1 + len(shuffled))
    return beside(votes, groups) | {
        "consensus_by_published_groups": compared(tallies.consensus, published),
        "consensus_by_our_two_groups": compared(two.tallies.consensus, published),
        "published_groups_apart_by_chance": {"mean": round(float(np.mean(shuffled)), 2), "p": round(p, 3)},
    }


def export(folder: Path) -> Figures | None:
    """One export of Polis; None if its files are not there."""
    matrix = folder / "participants-votes.csv"
    if not matrix.exists() or not matrix.stat().st_size:
        return None
    conversation = read_conversation(folder)
    names = sorted(set(conversation.groups) - {""})
    groups = np.array([names.index(name) if name else -1 for name in conversation.groups])
    figures: Figures = {"messages": [message.rpartition("/")[2] for message in conversation.messages]}
    if names:
        figures |= beside(conversation.votes, groups)
    with (folder / "comments.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["comment-id"]: row for row in csv.DictReader(file)}
    if names and all(rows[s.id].get("group-informed-consensus") for s in conversation.statements):
        published = np.array([float(rows[s.id]["group-informed-consensus"]) for s in conversation.statements])
        figures["consensus_by_published_groups"] = compared(tally(conversation.votes, groups).consensus, published)
        figures["consensus_by_ours"] = compared(opinion_map(conversation.votes).tallies.consensus, published)
    return figures


def growth() -> list[Figures]:
    """Seconds of one map by the number of people, 100 statements, 30 % seen."""
    rows = []
    for people in (1_000, 10_000):
        generator = np.random.default_rng(0)
        camp = generator.random(people) < 0.3
        chance = np.where(camp[:, None] & (np.arange(100) > 40)[None, :], 0.2, 0.8)
        votes = np.where(generator.random(chance.shape) < chance, 1.0, -1.0)
        votes[generator.random(votes.shape) > 0.3] = np.nan
        begun = time.perf_counter()
        found = opinion_map(votes)
        taken = time.perf_counter() - begun
        rand = round(float(adjusted_rand_score(camp, found.labels)), 3)
        rows.append({"people": people, "seconds": round(taken, 2), "sizes": found.sizes, "adjusted_rand_true": rand})
    centre, components = principal_components(votes)
    assert np.isfinite(priorities(found.tallies, extremity(centre, components))).all()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ccai", type=Path)
    parser.add_argument("--polis", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {"machine": platform.processor() or platform.machine(), "numpy": np.__version__}
    jobs: dict[str, Any] = {"growth": growth}
    if options.ccai:
        jobs["collective constitution"] = lambda: collective_constitution(options.ccai)
    for folder in sorted(options.polis.iterdir()) if options.polis else ():
        if (folder / "comments.csv").exists():
            jobs[folder.name] = lambda folder=folder: export(folder)
    for name, job in jobs.items():
        if options.only and not any(word in name for word in options.only):
            continue
        try:
            figures = job()
        except DataError as error:
            figures = {"refused": str(error).replace(str(options.polis), "")}
        if figures is not None:
            results[name] = figures
            print(name, json.dumps(figures), flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
