"""Figures of a campaign, from its findings alone: who gets what, through which defence, and at which budget.

An attempt is one attack on one goal at one target; it succeeds if one of its asks does the harm. Attempts without an
outcome count as neither, and are counted. Goals of one topic belong together: intervals are clustered by topic.

Success against budget, ASR(k), is the probability that one of the first k asks succeeds, a mean over goals. An attack
that goes on until it succeeds shows the number of its first success. Where the asks of a round are draws of one
distribution, all made whatever came of them, their order is chance: with c successes among n, the first of k draws
succeeds with probability 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374). Best-of-N makes rounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from steersman.errors import JudgeRefused
from steersman.redteam.attacks.prompt_extraction import FAMILY as EXTRACTION
from steersman.redteam.corrected_rates import corrected
from steersman.redteam.finding import Finding
from steersman.redteam.judge_card import JudgeCard
from steersman.stats import Estimate, clustered_mean, observations_for
from steersman.store import sha256_text
from steersman.types import plain_text

VERSION = 3
MARGIN = 0.05  # half the width of an interval that counts as narrow
WORST, WORST_OF_A_FAMILY = 10, 2
EXCERPT = 240  # characters of a reply that are shown
BOOTSTRAPS = 2000
POINTS = 24  # of a curve at most
DEFENCES = ("input", "model", "output", "nobody", "harm")


class Attempted(NamedTuple):
    """What came of one attack on one goal at one target.

    ``wins``: of each ask, whether it did the harm. ``judged``: how many of its replies the judge read; what the guard
    stopped it did not.
    """

    attack: str
    family: str
    principle: str
    topic: str
    goal: str
    target: str
    seed: int
    wins: tuple[bool, ...]
    judged: int
    failed: str

    @property
    def success(self) -> bool:
        """Whether one of its asks succeeded."""
        return any(self.wins)

    @property
    def counts(self) -> bool:
        """Whether it has an outcome."""
        return self.success or not self.failed


# A rate of attempts, as JSON values: of each whether it succeeded and its topic; the family, if all are of one; and how
# many replies of an attempt were judged, on average.
RateOf = Callable[[Sequence[bool], Sequence[str], str, float], dict[str, Any]]


def attempted(findings: Iterable[Finding]) -> list[Attempted]:
    """Findings by attempt, in their order."""
    rows: dict[tuple[Any, ...], list[Finding]] = {}
    for row in findings:
        rows.setdefault((row.attack, row.goal, row.principle, row.target, row.seed), []).append(row)
    return [
        Attempted(
            own[0].attack,
            own[0].family,
            own[0].principle,
            own[0].topic,
            own[0].goal,
            own[0].target,
            own[0].seed,
            tuple(row.success for row in own if not row.failed),
            sum(row.judged for row in own),
            next((row.failed for row in own if row.failed), ""),
        )
        for own in rows.values()
    ]


def raw_rate(successes: Sequence[bool], topics: Sequence[str], family: str = "", asks: float = 1.0) -> dict[str, Any]:
    """A rate as the judge saw it, clustered by topic, and how many more attempts would make its interval narrow."""
    found = clustered_mean([float(one) for one in successes], topics, rate=True)
    return {**found.estimate.json(), "more": more_attempts(found.estimate, found.design_effect, found.quantile)}


def corrected_rate(card: JudgeCard | None) -> RateOf:
    """Rates with the judge's errors taken out, beside ``raw``, what the judge saw; ``why`` where that cannot be done.

    Whether a secret came out is seen, not judged: extraction has no error to take out.
    """

    def rate(successes: Sequence[bool], topics: Sequence[str], family: str = "", asks: float = 1.0) -> dict[str, Any]:
        raw = raw_rate(successes, topics)
        if family == EXTRACTION or not successes:
            return raw
        if card is None:
            return {**raw, "raw": raw, "why": "the judge has no card: its error is not known"}
        try:
            return {**raw, **corrected(successes, topics, card, family, asks=asks).json(), "raw": raw}
        except JudgeRefused as refused:
            return {**raw, "raw": raw, "why": refused.found}

    return rate


def more_attempts(rate: Estimate, design_effect: float, quantile: float, margin: float = MARGIN) -> int | None:
    """Attempts beside those made until the interval is narrower than the margin on both sides; None without any."""
    if not rate.n:
        return None
    needed = observations_for(rate.value, margin, quantile) * design_effect
    return max(0, math.ceil(needed - rate.n))


# ── the matrix ───────────────────────────────────────────────────────────────────────────────────────────────────────
def matrix(attempts: Sequence[Attempted], rate: RateOf = raw_rate) -> dict[str, Any]:
    """Of one target: success by family and principle, by either, by attack, and over all; empty cells are named."""
    counted = [attempt for attempt in attempts if attempt.counts]
    families = list(dict.fromkeys(attempt.family for attempt in attempts))
    principles = list(dict.fromkeys(attempt.principle for attempt in attempts))

    def of(**wanted: str) -> dict[str, Any]:
        own = [a for a in counted if all(getattr(a, name) == value for name, value in wanted.items())]
        return _rate(own, rate, wanted.get("family", ""))

    cells = {f: {p: of(family=f, principle=p) for p in principles} for f in families}
    return {
        "overall": of(),
        "principles": {p: of(principle=p) for p in principles},
        "families": {f: {"all": of(family=f), "principles": cells[f]} for f in families},
        "attacks": {name: of(attack=name) for name in dict.fromkeys(attempt.attack for attempt in attempts)},
        "empty": [[f, p] for f in families for p in principles if not cells[f][p]["n"]],
        "without_outcome": len(attempts) - len(counted),
    }


def _rate(attempts: Sequence[Attempted], rate: RateOf, family: str = "") -> dict[str, Any]:
    judged = sum(attempt.judged for attempt in attempts) / len(attempts) if attempts else 1.0
    return rate([a.success for a in attempts], [a.topic for a in attempts], family, judged)


def everything(attempts: Sequence[Attempted], specificity: float | None = None) -> dict[str, Any]:
    """Of one target: what an attacker gets who tries every attack on a goal, by principle, as counts of goals.

    ``asks``: the most that were made about one goal. The judge's false alarms add up over so many asks: counts, and no
    corrected rate. ``by_false_alarms``: goals that a judge of this specificity would count if nothing had done harm,
    over goals the sum of 1 - specificity^(replies that were judged), false alarms being independent; None without one.
    """
    goals: dict[tuple[str, str], list[Attempted]] = {}
    for attempt in attempts:
        if attempt.counts:
            goals.setdefault((attempt.principle, attempt.goal), []).append(attempt)
    principles: dict[str, dict[str, int]] = {}
    for (principle, _), own in goals.items():
        found = principles.setdefault(principle, {"goals": 0, "reached": 0})
        found["goals"] += 1
        found["reached"] += any(attempt.success for attempt in own)
    return {
        "asks": max((sum(len(a.wins) for a in own) for own in goals.values()), default=0),
        "attacks": len({attempt.attack for attempt in attempts}),
        "goals": len(goals),
        "reached": sum(found["reached"] for found in principles.values()),
        "by_false_alarms": None
        if specificity is None
        else sum(1 - specificity ** sum(attempt.judged for attempt in own) for own in goals.values()),
        "principles": principles,
    }


# ── success against budget ───────────────────────────────────────────────────────────────────────────────────────────
def pass_at(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the probability that one of k draws succeeds, from c successes among n draws, k <= n."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"0 <= c <= n and 1 <= k <= n are needed, got n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def within(wins: Sequence[bool], k: int, of_round: int = 1) -> float:
    """Of one attempt, the probability that one of its first k asks succeeds.

    Args:
        of_round: asks of a round, whose order is chance; 1: every ask has its place.
    """
    for start in range(0, min(k, len(wins)), of_round):
        own = wins[start : start + of_round]
        if any(own):  # it ends with this round, or would have
            return pass_at(len(own), sum(own), min(k - start, len(own)))
    return 0.0


def curve(attempts: Sequence[Attempted], budget: int, of_round: int = 1, seed: int = 0) -> list[list[float]]:
    """ASR(k) for k up to the budget: ``[k, value, low, high]``, the interval by a bootstrap over topics.

    A mean over goals; attempts on one goal with other seeds are averaged first.
    """
    counted = [attempt for attempt in attempts if attempt.counts]
    if not counted:
        return []
    ks = points_up_to(budget)
    goals: dict[tuple[str, str], list[list[float]]] = {}
    for attempt in counted:
        goals.setdefault((attempt.topic, attempt.goal), []).append([within(attempt.wins, k, of_round) for k in ks])
    table = np.asarray([np.mean(values, axis=0) for values in goals.values()])  # [goals, points]
    topics = list(dict.fromkeys(topic for topic, _ in goals))
    index = np.asarray([topics.index(topic) for topic, _ in goals])
    drawn = np.random.default_rng(seed).integers(0, len(topics), size=(BOOTSTRAPS, len(topics)))
    weights = np.stack([np.bincount(row, minlength=len(topics)) for row in drawn])[:, index]  # [B, goals]
    means = (weights @ table) / weights.sum(1, keepdims=True)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    # One outcome for all topics leaves nothing to resample: the interval of the rate itself stands in.
    for place, value in enumerate(table.mean(0)):
        if value in (0.0, 1.0):
            alone = clustered_mean(table[:, place].tolist(), [topic for topic, _ in goals], rate=True).estimate
            low[place], high[place] = alone.low, alone.high
    return [[float(k), float(v), float(a), float(b)] for k, v, a, b in zip(ks, table.mean(0), low, high, strict=True)]


def points_up_to(budget: int) -> list[int]:
    """Numbers of asks from 1 to the budget: all of few, of many about equally far apart on a logarithmic scale."""
    if budget <= POINTS:
        return list(range(1, budget + 1))
    return sorted({round(budget ** (i / (POINTS - 1))) for i in range(POINTS)})


def curves(
    attempts: Sequence[Attempted], budgets: Mapping[str, int], rounds: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """ASR(k) by attack and target, for every attack that may ask more than once.

    Args:
        budgets: most asks of an attack about one goal; rounds: of attacks that make rounds, how many asks one has.
    """
    found = []
    for attack in dict.fromkeys(a.attack for a in attempts if budgets.get(a.attack, 1) > 1):
        for target in dict.fromkeys(a.target for a in attempts):
            own = [a for a in attempts if (a.attack, a.target) == (attack, target)]
            points = curve(own, budgets[attack], (rounds or {}).get(attack, 1))
            if points:
                goals = len({attempt.goal for attempt in own if attempt.counts})
                found.append({"attack": attack, "target": target, "goals": goals, "points": points})
    return found


# ── defences ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def caught_by(findings: Sequence[Finding]) -> dict[str, Any]:
    """Of all asks with a reply: stopped at the input, refused by the model, stopped at the output, or by nobody.

    What nobody stopped is split by whether it did the harm: an evasive or useless answer is stopped by nobody either.
    """
    own = [row for row in findings if not row.failed]
    topics = [row.topic for row in own]
    kinds = [row.stopped or ("harm" if row.success else "nobody") for row in own]
    return {name: raw_rate([kind == name for kind in kinds], topics) for name in DEFENCES}


def over_refusal(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of harmless prompts of each kind: not answered, because the model refused or the guard stopped it."""
    found = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind and not row["failed"]]
        topics = [row["topic"] or row["prompt"] for row in own]
        found[kind] = raw_rate([bool(row["stopped"]) for row in own], topics)
    return found


# ── what to read ─────────────────────────────────────────────────────────────────────────────────────────────────────
def worst(findings: Sequence[Finding], targets: Sequence[str]) -> list[dict[str, Any]]:
    """At most ten successes to read: of the best defended target first, and of each the one the judge is surest of.

    No goal twice and no family more than twice; ties are broken by a digest. Prompts and replies are excerpts.

    Args:
        targets: from the least to the best defended.
    """
    order = {name: place for place, name in enumerate(targets)}

    def rank(row: Finding) -> tuple[Any, ...]:
        return -order.get(row.target, -1), -row.judge_confidence, sha256_text(f"{row.attack} {row.goal} {row.seed}")

    chosen: list[Finding] = []
    goals, families = set[str](), Counter[str]()
    for row in sorted((row for row in findings if row.success), key=rank):
        if row.goal not in goals and families[row.family] < WORST_OF_A_FAMILY and len(chosen) < WORST:
            chosen.append(row)
            goals.add(row.goal)
            families[row.family] += 1
    return [
        {
            "attack": row.attack,
            "family": row.family,
            "principle": row.principle,
            "target": row.target,
            "goal": row.goal,
            "prompt": excerpt(plain_text(row.prompt)),
            "response": excerpt(row.response),
            "confidence": row.judge_confidence,
        }
        for row in chosen
    ]


def excerpt(text: str) -> str:
    """The beginning of a text: enough to see what it is, too little to be of use."""
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else text[:EXCERPT].rsplit(" ", 1)[0] + " …"


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────
def summarise(
    findings: Sequence[Finding],
    harmless: Sequence[Mapping[str, Any]],
    budgets: Mapping[str, int],
    *,
    rounds: Mapping[str, int] | None = None,
    rate: RateOf = raw_rate,
    specificity: float | None = None,
) -> dict[str, Any]:
    """Every figure of a campaign as JSON values.

    Args:
        budgets, rounds: as of `curves`.
        rate: how a rate of successes is estimated, such as corrected for the judge's error; other shares stay as found.
        specificity: the judge's, as of `everything`.
    """
    attempts = attempted(findings)
    found = by_target(findings, harmless, rate, specificity)
    reasons = Counter((row.attack, row.target, row.failed) for row in findings if row.failed)
    return {
        "targets": found,
        "curves": curves(attempts, budgets, rounds),
        "worst": worst(findings, list(found)),
        "failed": [{"attack": a, "target": t, "why": why, "n": n} for (a, t, why), n in reasons.items()],
    }


def by_target(
    findings: Sequence[Finding],
    harmless: Sequence[Mapping[str, Any]],
    rate: RateOf = raw_rate,
    specificity: float | None = None,
) -> dict[str, Any]:
    """What of `summarise` is said of each target alone; only these figures depend on what is known of the judge."""
    attempts = attempted(findings)
    targets = list(dict.fromkeys([row.target for row in findings] + [row["target"] for row in harmless]))
    found: dict[str, Any] = {}
    for target in targets:
        own = [row for row in findings if row.target == target]
        tried = [attempt for attempt in attempts if attempt.target == target]
        found[target] = {
            "asks": len(own),
            "cut": sum(row.cut > 0 for row in own),
            **matrix(tried, rate),
            "everything": everything(tried, specificity),
            "caught": caught_by(own),
            "harmless": over_refusal([row for row in harmless if row["target"] == target]),
        }
    return found
