"""Who loses by one reward model: a toy world of two opposed groups, with all that is known about it.

    .venv/bin/python benchmarks/values_toy.py [--seeds N] [--only NAME ...]

Answers are vectors of 8 measures, drawn from a standard normal distribution. Each rater belongs to one of two groups,
whose linear tastes have a given cosine, and compares pairs of answers with the noise of Bradley-Terry. Nobody tells the
learner the groups. From the same comparisons come one pooled reward model (`mixture.fit_pooled`) and a mixture
(`mixture.fit_mixture`). Each rule then chooses the best of 16 answers; a group wins if its own true utility of the
chosen answer is higher than of a random one. So 50 % is what a group has without any alignment.

Every figure is a mean over seeds with its bootstrap interval; results go to benchmarks/results/values_toy.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from steersman.stats import mean_estimate
from steersman.values.mixture import MixtureConfig, Preferences, fit_mixture, fit_pooled, preferences

RESULTS = Path(__file__).resolve().parent / "results" / "values_toy.json"
FEATURES, SCALE = 8, 2.0  # of an answer; log-odds of a comparison for one unit of taste
RATERS, EACH, BEST_OF, PROMPTS = 100, 20, 16, 2000
COSINES, SHARES, COMPARISONS = (-0.6, -0.3, 0.0), (0.05, 0.1, 0.2, 0.3, 0.5), (5, 10, 20, 40)
Array = NDArray[np.float64]
Figures = dict[str, Any]


class World(NamedTuple):
    """Tastes [2, D] of majority and minority, the votes, and each rater's group."""

    tastes: Array
    votes: Preferences
    group: NDArray[np.int64]


def world(cosine: float, minority: float, each: int, seed: int, scale: float = SCALE) -> World:
    generator = np.random.default_rng([seed, int(100 * minority), int(100 + 100 * cosine), each])
    basis = np.linalg.qr(generator.normal(size=(FEATURES, 2)))[0].T
    tastes = np.stack([basis[0], cosine * basis[0] + np.sqrt(1 - cosine**2) * basis[1]])
    group = (np.arange(RATERS) < round(minority * RATERS)).astype(np.int64)
    rater = np.repeat(np.arange(RATERS), each)
    differences = generator.normal(size=(len(rater), FEATURES)) - generator.normal(size=(len(rater), FEATURES))
    margins = scale * (differences * tastes[group[rater]]).sum(1)
    share = (generator.random(len(rater)) < 1 / (1 + np.exp(-margins))).astype(np.float64)
    return World(tastes, preferences(differences, rater, share), group)


def chosen(rewards: Array, answers: Array) -> Array:
    """Of each prompt the answer with the highest reward: [prompts, D] from [prompts, 16] and [prompts, 16, D]."""
    return np.asarray(answers[np.arange(len(answers)), rewards.argmax(1)])


def win_rates(given: World, seed: int, groups: int = 2) -> dict[str, tuple[float, float]]:
    """By rule, the share of prompts on which majority and minority prefer the chosen answer to a random one."""
    generator = np.random.default_rng([seed, 1])
    answers = generator.normal(size=(PROMPTS, BEST_OF, FEATURES))
    random_ones = generator.normal(size=(PROMPTS, FEATURES))
    pooled, mixture = fit_pooled(given.votes), fit_mixture(given.votes, MixtureConfig(groups=groups))
    pool = generator.normal(size=(4000, FEATURES))  # what rewards are standardised on: answers of the raw model

    def standard(weights: Array) -> Array:
        rewards = pool @ weights.T  # [4000, G]
        return np.asarray((answers @ weights.T - rewards.mean(0)) / rewards.std(0))

    rewards, true = standard(mixture.weights), standard(given.tastes)
    picks = {
        "one pooled reward model": answers @ pooled,
        "mixture, mean by shares": rewards @ mixture.shares,
        "mixture, max-min": rewards.min(2),
        "known tastes, max-min": true.min(2),
        "known tastes, the majority's alone": true[:, :, 0],
        "known tastes, the minority's alone": true[:, :, 1],
    }
    rates = {}
    for name, reward in picks.items():
        gains = (chosen(reward, answers) - random_ones) @ given.tastes.T
        rates[name] = (float((gains[:, 0] > 0).mean()), float((gains[:, 1] > 0).mean()))
    return rates


def figure(values: list[float]) -> Figures:
    return mean_estimate(values)._asdict()


def one_setting(cosine: float, minority: float, seeds: int) -> Figures:
    runs = [win_rates(world(cosine, minority, EACH, seed), seed) for seed in range(seeds)]
    return {
        rule: {
            "majority": figure([run[rule][0] for run in runs]),
            "minority": figure([run[rule][1] for run in runs]),
            "majority's price": figure([run["one pooled reward model"][0] - run[rule][0] for run in runs]),
        }
        for rule in runs[0]
    }


def opposed(seeds: int) -> Figures:
    return one_setting(-0.6, 0.1, seeds)


def sweep(seeds: int) -> Figures:
    return {f"cosine {c}, minority {s:.0%}": one_setting(c, s, seeds) for c in COSINES for s in SHARES}


def recovery(seeds: int) -> Figures:
    """The adjusted Rand index of raters' likeliest groups."""
    found = {}
    for minority in (0.1, 0.3, 0.5):
        for each in COMPARISONS:
            values = []
            for seed in range(seeds):
                given = world(-0.6, minority, each, seed)
                values.append(float(adjusted_rand_score(given.group, fit_mixture(given.votes).assigned)))
            found[f"minority {minority:.0%}, {each} comparisons"] = {**figure(values), "least": min(values)}
    return found


def noise(seeds: int) -> Figures:
    """Recovery from noisier raters; with it how often a rater contradicts their own taste."""
    found = {}
    for scale in (0.5, 1.0, 2.0):
        for each in (20, 40):
            values, wrong = [], []
            for seed in range(seeds):
                given = world(-0.6, 0.1, each, seed, scale)
                values.append(float(adjusted_rand_score(given.group, fit_mixture(given.votes).assigned)))
                margins = (given.votes.differences * given.tastes[given.group[given.votes.rater]]).sum(1)
                wrong.append(float(((margins > 0) != (given.votes.share > 0.5)).mean()))
            key = f"scale {scale}, {each} comparisons"
            found[key] = {**figure(values), "least": min(values), "errors of raters": float(np.mean(wrong))}
    return found


def wrong_number(seeds: int) -> Figures:
    """Max-min of the mixture where there are two groups, and the learner believes in another number."""
    found = {}
    for groups in (1, 2, 3, 4):
        runs = [win_rates(world(-0.6, 0.1, EACH, seed), seed, groups)["mixture, max-min"] for seed in range(seeds)]
        found[f"{groups} groups"] = {
            "majority": figure([run[0] for run in runs]),
            "minority": figure([run[1] for run in runs]),
        }
    return found


def main() -> None:
    sections = {
        "opposed": opposed,
        "sweep": sweep,
        "recovery": recovery,
        "noise": noise,
        "wrong_number": wrong_number,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=list(sections), default=list(sections))
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results["machine"] = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    results["versions"] = {name: version(name) for name in ("numpy", "scipy", "scikit-learn")}
    for name in given.only:
        start = time.process_time()
        results[name] = {**sections[name](given.seeds), "cpu_s": round(time.process_time() - start, 1)}
        print(f"{name}: {results[name]['cpu_s']} s of processor", flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for rule, rates in results["opposed"].items():
        if rule != "cpu_s":
            shown = [
                f"{who} {100 * e['value']:.1f} % [{100 * e['low']:.1f}, {100 * e['high']:.1f}]"
                for who, e in rates.items()
            ]
            print(f"{rule}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
