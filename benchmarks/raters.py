"""Human raters: the cost of liars, coins and side biases, the gain of signed reliability and active sampling, and data.

    .venv/bin/python benchmarks/raters.py [--data FOLDER] [--only NAME ...]

Simulated raters answer about the toy world, whose true order is known; every figure is a mean over seeds with its
interval. With --data, the folder of public data sets that docs/algorithms/raters.md names, the same methods are applied
to labels of people. Results go to benchmarks/results/raters.json; sections that were not run are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import html
import json
import math
import platform
import random
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steersman.data import toy_world as world
from steersman.data.toy_world import ToyQuestion, ToyRater
from steersman.rating.accounts import RaterAccounts
from steersman.rating.active import ActiveSampler, gain
from steersman.rating.agreement import alpha, consistency, dawid_skene, preferences
from steersman.rating.blind_test import blind_test
from steersman.rating.raters import Fit, fit_qualities
from steersman.rating.raters import fit as fit_votes
from steersman.rating.round import Question as Asked
from steersman.rating.round import Round
from steersman.rating.store import RatingStore
from steersman.rating.votes import arms, comparisons
from steersman.stats import Estimate, mean_estimate
from steersman.types import Comparison

RESULTS = Path(__file__).resolve().parent / "results" / "raters.json"
SEEDS, HTTP_SEEDS = 5, 1
Figures = dict[str, Any]


# ── simulated raters ─────────────────────────────────────────────────────────────────────────────────────────────────
def votes_of(
    people: Sequence[ToyRater], pool: Sequence[ToyQuestion], each: int, gold: int, seed: int
) -> list[Comparison]:
    """What they say of the pool and of so many gold questions, whose keys come with it."""
    asked = world.gold_questions(gold, seed)
    found = [*world.votes(people, pool, each, seed), *world.votes(people, asked, gold, seed)]
    return [*(vote.comparison() for vote in found), *(question.key() for question in asked)]


def campaign(
    people: Sequence[ToyRater], pool: Sequence[ToyQuestion], total: int, random_share: float, seed: int
) -> Iterator[tuple[Comparison, str]]:
    """Votes one by one with their arm: questions are chosen by what they would tell, a share of them at random."""
    generator, scorer, votes, scores = random.Random(f"campaign {seed}"), ActiveSampler(), [], []
    answered: dict[str, set[int]] = defaultdict(set)
    for number in range(total):
        rater = people[number % len(people)]
        if random_share < 1 and number % 10 == 0:  # as a server does that scores in the background
            scores = scorer(pool, votes)
        free = [i for i in range(len(pool)) if i not in answered[rater.name]]
        informed = generator.random() >= random_share
        generator.shuffle(free)
        chosen = max(free, key=scores.__getitem__) if informed else free[0]
        if informed:
            scores[chosen] = 0.0  # until the next scoring somebody else is asked something else
        answered[rater.name].add(chosen)
        votes.append(world.vote(rater, pool[chosen], generator).comparison())
        yield votes[-1], "informed" if informed else "random"


def pooled(votes: Sequence[Comparison]) -> Fit:
    """Plain Bradley-Terry: everybody is believed."""
    return Fit(fit_qualities([v.model_copy(update={"rater": ""}) for v in votes if not v.gold], {}), {})


def majority(votes: Sequence[Comparison]) -> Fit:
    """What `pooled` says of one order a pair: each question's majority, ties left out."""
    said: dict[Any, list[Comparison]] = defaultdict(list)
    for vote in votes:
        if not vote.gold:
            said[vote.prompt, frozenset(vote.options)].append(vote)
    kept = []
    for own in said.values():
        first = own[0].options[0]
        share = sum(vote.pairs()[0].better == first for vote in own) / len(own)
        if share != 0.5:
            ranking = (1, 2) if share > 0.5 else (2, 1)
            kept.append(Comparison(prompt=own[0].prompt, options=own[0].options, ranking=ranking))
    return pooled(kept)


def pair_accuracy(fit: Fit, pool: Sequence[ToyQuestion]) -> float:
    """Of all pairs whose true rewards differ, the share in the true order; an answer that nobody saw is a coin's."""
    right = []
    for question in pool:
        first, second = (world.true_reward(question.prompt, text) for text in question.options)
        if abs(first - second) > 1e-9:
            margin, _ = fit.margin(question.prompt, *question.options)
            right.append(0.5 if margin == 0 else float((margin > 0) == (first > second)))
    return statistics.mean(right)


def figure(values: Sequence[float]) -> dict[str, float | int]:
    """The mean over seeds with its bootstrap interval."""
    return mean_estimate(values)._asdict()


def liars() -> Figures:
    """Pair accuracy by the mixture of raters: 20 raters, 60 votes each on 165 questions of 11 prompts."""
    pool = world.pool(6, prompts=world.PROMPTS[::3])
    mixtures = {f"{100 * share:.0f} % liars": {"liars": share} for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)}
    mixtures["30 % liars, 20 % coins"] = {"liars": 0.3, "coins": 0.2}
    mixtures["50 % liars, 20 % coins"] = {"liars": 0.5, "coins": 0.2}
    found: Figures = {}
    for name, shares in mixtures.items():
        people = world.population(20, ToyRater(name="r"), **shares)
        rows: dict[str, list[float]] = defaultdict(list)
        for seed in range(SEEDS):
            votes = votes_of(people, pool, 60, 3, seed)
            without = [v for v in votes if not v.gold and v.prompt in {q.prompt for q in pool}]
            rows["pooled"].append(pair_accuracy(pooled(without), pool))
            rows["majority"].append(pair_accuracy(majority(without), pool))
            rows["signed"].append(pair_accuracy(fit_votes(without), pool))
            rows["signed, 3 gold questions each"].append(pair_accuracy(fit_votes(votes), pool))
        found[name] = {method: {**figure(values), "least": min(values)} for method, values in rows.items()}
    return found


def side_bias() -> Figures:
    """How far 40 raters' side biases, planted from -1 to 1 logits, are missed after 200 votes each.

    ``bound_logits`` is the Cramer-Rao bound, averaged; ``coin_bound_logits`` that of a rater who sees no quality, which
    nobody can beat without a prior. ``share`` is the left answers' share among equally good ones.
    """
    planted = [2 * i / 39 - 1 for i in range(40)]
    pool, found = world.pool(8, prompts=world.PROMPTS[::3]), {}
    for temperature in (0.3, 1.0, 2.0):
        people = [ToyRater(name=f"r{i:02}", temperature=temperature, side_bias=bias) for i, bias in enumerate(planted)]
        logits, shares, bounds = [], [], []
        for seed in range(SEEDS):
            fitted = fit_votes([v.comparison() for v in world.votes(people, pool, 200, seed)]).raters
            for rater in people:
                own = fitted[rater.name]
                logits.append(abs(own.side_bias - rater.side_bias))
                shares.append(abs(_logistic(own.side_bias) - _logistic(rater.side_bias)))
                bounds.append(1 / math.sqrt(max(1e-9, 1 / own.side_bias_error**2 - 1)))  # without the prior's part
        found[f"temperature {temperature}"] = {
            "root_mean_square_logits": math.sqrt(statistics.mean(x * x for x in logits)),
            "within_0.1_logits": statistics.mean(x < 0.1 for x in logits),
            "bound_logits": statistics.mean(bounds),
            "coin_bound_logits": 2 / math.sqrt(200),
            "mean_share": statistics.mean(shares),
            "within_0.1_share": statistics.mean(x < 0.1 for x in shares),
            "raters": len(logits),
        }
    return found


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def informed() -> Figures:
    """Informed questions against random ones: two campaigns with the same raters, and one with a control arm.

    ``difference`` is of the accuracy over all pairs of the pool after so many votes, paired by seed. ``votes_saved`` is
    the share of votes that the informed campaign needs less to be as accurate as the random one at its end.
    """
    found: Figures = {}
    for name, shares in {"honest": {}, "30 % liars": {"liars": 0.3}}.items():
        people = world.population(20, ToyRater(name="r"), **shares)
        steps = (150, 300, 600)
        rows: dict[str, dict[int, list[float]]] = {"informed": defaultdict(list), "random": defaultdict(list)}
        for seed in range(SEEDS):
            pool = world.pool(8, seed, world.PROMPTS[::3])  # 308 questions
            for arm, share in (("informed", 0.0), ("random", 1.0)):
                votes: list[Comparison] = []
                gold = votes_of(people, pool, 0, 3, seed)
                for vote, _ in campaign(people, pool, max(steps), share, seed):
                    votes.append(vote)
                    if len(votes) in steps:
                        rows[arm][len(votes)].append(pair_accuracy(fit_votes([*votes, *gold]), pool))
        found[name] = {
            str(n): {
                "informed": figure(rows["informed"][n]),
                "random": figure(rows["random"][n]),
                "difference": figure([a - b for a, b in zip(rows["informed"][n], rows["random"][n], strict=True)]),
            }
            for n in steps
        }
    people, pool = world.population(20, ToyRater(name="r")), world.pool(8, 0, world.PROMPTS[::3])
    votes, arms = zip(*campaign(people, pool, 600, 0.4, 0), strict=True)
    found["as one server would report it, control share 0.4"] = _plain(gain(votes, arms))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value._asdict()
    return {k: _plain(v) for k, v in value._asdict().items()} if hasattr(value, "_asdict") else value


def http() -> Figures:
    """Pair accuracy of votes that came through the application: 20 raters read pages and post, 60 questions each, at
    least 3 of them gold, on 165 questions of 11 prompts chosen by what they tell. Every second rater leans to the first
    answer by half a logit; sides are the server's."""
    found: Figures = {}
    mixtures = {"honest": {}, "30 % liars, 20 % coins": {"liars": 0.3, "coins": 0.2}, "50 % liars": {"liars": 0.5}}
    pool = world.pool(6, prompts=world.PROMPTS[::3])
    for name, shares in mixtures.items():
        rows: dict[str, list[float]] = defaultdict(list)
        for seed in range(HTTP_SEEDS):
            people = [
                rater.model_copy(update={"side_bias": 0.5 * (i % 2)})
                for i, rater in enumerate(world.population(20, ToyRater(name="r"), **shares))
            ]
            votes = asyncio.run(through_the_application(people, pool, seed))
            fitted = fit_votes(votes).raters
            own = [vote for vote in votes if not vote.gold]
            rows["pooled"].append(pair_accuracy(pooled(own), pool))
            rows["majority"].append(pair_accuracy(majority(own), pool))
            rows["signed, 3 gold questions each"].append(pair_accuracy(fit_votes(votes), pool))
            biases = [fitted[f"rater-{i}"].side_bias - rater.side_bias for i, rater in enumerate(people, start=1)]
            rows["side bias missed by, logits"].append(statistics.mean(map(abs, biases)))
            rows["votes"].append(len(own))
        found[name] = {method: {**figure(values), "least": min(values)} for method, values in rows.items()}
        found[name]["informed against random, last round"] = _plain(gain(votes, arms(votes)))
    return found


async def through_the_application(
    people: Sequence[ToyRater], pool: Sequence[ToyQuestion], seed: int
) -> list[Comparison]:
    """The votes of a round on a server of its own, with the key of every gold question."""
    from rating import Rater as Browser  # the file beside this one, whose readers tests load without the folder
    from rating import Server

    generator = random.Random(f"http {seed}")
    asked = [Asked(prompt=q.prompt, options=q.options, raters=20) for q in pool]
    known = [Asked(prompt=q.prompt, options=q.options, gold=q.key().ranks()) for q in world.gold_questions(3, seed)]
    with tempfile.TemporaryDirectory() as folder:
        store = RatingStore(f"{folder}/store.sqlite")
        store.begin(Round(per_rater=60, repeat_share=0, seed=seed), [*asked, *known])
        invited = RaterAccounts(store.database)
        tokens = [invited.invite(f"{i}") for i in range(len(people))]
        server = Server(store.where)
        try:
            url = f"http://127.0.0.1:{server.port}"
            browsers = [Browser(url, token, i) for i, token in enumerate(tokens, start=1)]
            for browser in browsers:
                await browser.join()
            for turn in range(60):
                for browser, rater in zip(browsers, people, strict=True):
                    await _one_vote(browser, rater, turn, generator)
            for browser in browsers:
                await browser.client.aclose()
            return comparisons(store.votes())
        finally:
            server.kill()
            store.database.engine.dispose()


async def _one_vote(browser: Any, rater: ToyRater, turn: int, generator: random.Random) -> None:
    """What this rater says of the question on the page, whose first answer is on the left."""
    name = re.search(r'data-assignment="([^"]+)"', browser.text)
    if name is None:
        return
    prompt = html.unescape(re.findall(r'<p dir="auto">(.*?)</p>', browser.text)[0])
    left, right = map(html.unescape, re.findall(r'<textarea class="raw"[^>]*>\n(.*?)</textarea>', browser.text))
    first = world.chooses_first(rater, ToyQuestion(prompt=prompt, options=(left, right)), 0)
    ranking = [1, 2] if generator.random() < first else [2, 1]
    body = {"submission": f"submission-{turn}", "assignment": name[1], "ranking": ranking}
    browser.text = await browser.sent("POST", "/vote", body)


def speed() -> Figures:
    """Seconds of processor time: believing raters, and scoring 1,000 open questions after one more vote."""
    pool = world.pool(9)
    people, found = world.population(40, ToyRater(name="r"), liars=0.3), {}
    for each in (25, 125):
        votes = [v.comparison() for v in world.votes(people, pool, each)]
        scorer, taken = ActiveSampler(), []
        scorer(pool[:1000], votes[:-10])
        for left in range(9, 0, -1):
            start = time.process_time()
            scorer(pool[:1000], votes[:-left])
            taken.append(time.process_time() - start)
        start = time.process_time()
        fit_votes(votes)
        found[f"{len(votes)} votes"] = {"believe_s": time.process_time() - start, "score_s": statistics.median(taken)}
    return found


# ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LEWIDI = {  # the level at which labels are compared: yes or no, or on a scale
    "MD-Agreement_dev": "nominal",
    "HS-Brexit_train": "nominal",
    "ConvAbuse_train": "ordinal",
    "CSC_dev": "ordinal",
    "MP_dev": "nominal",
    "Paraphrase_train": "ordinal",
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def lewidi(path: Path) -> list[dict[str, float]]:
    """Labels by rater of Le-Wi-Di's files, whose two editions write them as text or as objects."""
    items = []
    for row in rows_of(path):
        said = row["annotations"]
        if isinstance(said, str):
            said = dict(zip(row["annotators"].split(","), said.split(","), strict=True))
        items.append({rater: float(label) for rater, label in said.items() if label != ""})
    return items


def popquorn(path: Path) -> list[dict[str, float]]:
    """How offensive each text is on a scale of 1 to 5, by rater."""
    items: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows_of(path):
        items[row["instance_id"]][row["user_id"]] = float(row["offensiveness"])
    return list(items.values())


def usable(options: Sequence[Any]) -> bool:
    """Two different texts: some rows hold the same one twice, nothing, or the truth value that a text was read as."""
    return options[0] != options[1] and all(isinstance(text, str) and text.strip() for text in options)


def pandalm(path: Path) -> tuple[list[Comparison], list[tuple[str, str]], int]:
    """Votes of three people, the models behind their options, and how many rows are unusable."""
    votes, origins, unusable = [], [], 0
    for row in rows_of(path):
        options = (row["response1"], row["response2"])
        if not usable(options):
            unusable += 1
            continue
        first, _, second = row["cmp_key"].partition("_")
        for rater in ("annotator1", "annotator2", "annotator3"):
            ranking = {0: (1, 1), 1: (1, 2), 2: (2, 1)}[int(row[rater])]
            prompt = "\n\n".join(filter(None, (row["instruction"], row["input"])))
            votes.append(Comparison(prompt=prompt, options=options, ranking=ranking, rater=rater))
            origins.append((first, second))
    return votes, origins, unusable


def open_instruct(path: Path) -> tuple[list[Comparison], list[tuple[str, str]], list[dict[str, str]], int]:
    """Votes, the models behind their options, whether each answer is acceptable by rater, and unusable rows."""
    votes, origins, unusable = [], [], 0
    flags: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows_of(path):
        options = (row["completion_a"], row["completion_b"])
        for side, text in zip("ab", options, strict=True):
            flags[row["prompt"], text][row["evaluator"]] = row[f"completion_{side}_is_acceptable"]
        if not usable(options):
            unusable += 1
            continue
        said = row["preference"]
        ranking = (1, 1) if said == "tie" else (1, 2) if said.startswith("a-is") else (2, 1)
        votes.append(Comparison(prompt=row["prompt"], options=options, ranking=ranking, rater=row["evaluator"]))
        origins.append((row["model_a"], row["model_b"]))
    return votes, origins, list(flags.values()), unusable


def labelled(items: Sequence[dict[str, Any]], level: Any = "nominal") -> Figures:
    """Alpha, and what Dawid & Skene make of the same labels."""
    agreed, found = alpha(items, level), dawid_skene(items)
    said = defaultdict(int)
    for item in items:
        for rater in item:
            said[rater] += 1
    best = found.posterior.argmax(1)
    changed = [
        found.classes[label] not in statistics.multimode(item.values()) for label, item in zip(best, items, strict=True)
    ]
    accuracies = sorted(found.accuracy(rater) for rater, count in said.items() if count >= 20)
    return {
        "alpha": agreed.alpha._asdict(),
        "level": level,
        "raters": agreed.raters,
        "labels": agreed.labels,
        "dawid_skene": {
            "items_whose_majority_it_overrules": statistics.mean(changed),
            "rater_accuracy_least_median_most": [f(accuracies) for f in (min, statistics.median, max)]
            if accuracies
            else None,
            "raters_of_20_labels_or_more": len(accuracies),
        },
    }


def compared(votes: Sequence[Comparison]) -> Figures:
    """Alpha, consistency and reliability of the raters of comparisons."""
    fit, alike, agreed = fit_votes(votes), consistency(votes), alpha(preferences(votes))
    return {
        "alpha": agreed.alpha._asdict(),
        "labels": agreed.labels,
        "raters": {
            name: {**estimate._asdict(), "with_others": alike[name].with_others._asdict()}
            for name, estimate in fit.raters.items()
        },
    }


def people(data: Path) -> Figures:
    """Everything about public data sets of labels by people."""
    found: Figures = {}
    folder = data / "rater_disagreement"
    for name, level in LEWIDI.items():
        found[f"Le-Wi-Di {name}"] = labelled(lewidi(folder / f"lewidi_{name}.jsonl.gz"), level)
    found["POPQUORN offensiveness"] = labelled(popquorn(folder / "popquorn_offensiveness.jsonl.gz"), "ordinal")
    votes, origins, unusable = pandalm(data / "preferences" / "pandalm_human_3raters.jsonl.gz")
    pairs = sorted({tuple(sorted(origin)) for origin in origins})
    found["PandaLM"] = {
        "unusable_rows": unusable,
        **compared(votes),
        "duels": [_blind_test(votes, origins, pair) for pair in pairs],
    }
    votes, origins, flags, unusable = open_instruct(data / "preferences" / "open_instruct_human_pairs.jsonl.gz")
    pairs = sorted({tuple(sorted(origin)) for origin in origins})
    found["Open-Instruct"] = {
        "unusable_rows": unusable,
        **compared(votes),
        "acceptable": labelled(flags),
        "duels": [_blind_test(votes, origins, pair) for pair in pairs],
    }
    return found


def _blind_test(votes: Sequence[Comparison], origins: Sequence[tuple[str, str]], models: tuple[str, str]) -> Figures:
    chosen = [i for i, origin in enumerate(origins) if sorted(origin) == list(models)]
    return blind_test([votes[i] for i in chosen], [origins[i] for i in chosen], models)


# ── the script ───────────────────────────────────────────────────────────────────────────────────────────────────────
SECTIONS: dict[str, Callable[[], Figures]] = {
    "liars": liars,
    "side_bias": side_bias,
    "informed": informed,
    "http": http,
    "speed": speed,
}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="*", choices=[*SECTIONS, "people"], default=[*SECTIONS, "people"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.only:
        if name == "people" and arguments.data is None:
            print("people: left out, for want of --data")
            continue
        result = people(arguments.data) if name == "people" else SECTIONS[name]()
        found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        found["machine"] = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        found["versions"] = {package: version(package) for package in ("torch", "numpy", "scipy", "krippendorff")}
        found[name] = result
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({name: result}, indent=1), flush=True)


if __name__ == "__main__":
    main()
