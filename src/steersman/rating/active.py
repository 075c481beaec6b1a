"""Which question to ask next: the one whose answer is expected to tell most.

The votes so far leave qualities uncertain (`raters.Fit`, a normal approximation of their posterior). What a vote is
expected to tell of them is the mutual information of `raters.predictive`, in nats, at most log 2:

    I = H(E[p]) - E[H(p)]        BALD: Houlsby et al. 2011, arXiv:1112.5745

Closeness to one half is not information: of two answers known to be equally good, p is one half, and asking tells
nothing. A ranking of K answers counts K - 1 times its mean pair.

Whether this saves votes is measured and not assumed: whoever asks keeps an arm of questions drawn at random, and `gain`
compares the two on votes that neither has learnt from.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from steersman.data.votes import Pair, orders
from steersman.errors import DataError
from steersman.rating.raters import Belief, Fit, believe, predictive, qualities
from steersman.stats import Estimate, clustered_mean
from steersman.types import Comparison, Text

GROWTH = 1.1  # votes, since raters were last believed anew
HELD_OUT = 0.5  # of the random arm's votes


class Asked(Protocol):
    """A question that is open: its prompt and its answers."""

    @property
    def prompt(self) -> Text:
        """What was asked of the models."""

    @property
    def options(self) -> Sequence[str]:
        """Two to nine answers."""


class Informed:
    """Scores open questions by what their answers would tell: ``Informed()(open_tasks, votes)``.

    It keeps what it read: raters are believed anew when the votes have grown by a tenth, or when one was taken back; in
    between, new votes only move the answers to their own prompt.
    """

    def __init__(self) -> None:
        self.fit = Fit({}, {})
        self._read: list[int] = []  # hashes of the votes behind the fit
        self._believed = 0  # votes, when raters were last believed

    def __call__(self, open_tasks: Sequence[Asked], votes: Sequence[Comparison]) -> list[float]:
        """In nats, by task; ``votes`` are all that there are, with the keys of gold questions."""
        self._listen(votes)
        return information(self.fit, open_tasks)

    def _listen(self, votes: Sequence[Comparison]) -> None:
        read = [hash(vote) for vote in votes]
        if read == self._read:
            return
        new = votes[len(self._read) :]
        grown = len(read) > max(1, self._believed) * GROWTH
        if grown or not self._read or read[: len(self._read)] != self._read:
            self.fit, self._believed = believe(votes), len(votes)
        else:
            prompts = {vote.prompt for vote in new}
            about = [vote for vote in votes if vote.prompt in prompts]
            self.fit = self.fit._replace(blocks={**self.fit.blocks, **qualities(about, self.fit.beliefs)})
        self._read = read


def information(fit: Fit, tasks: Sequence[Asked]) -> list[float]:
    """What a typical rater's answer to each task is expected to tell, in nats."""
    means: list[float] = []
    variances: list[float] = []
    for task in tasks:
        for first, second in itertools.combinations(task.options, 2):
            mean, variance = fit.margin(task.prompt, first, second)
            means.append(mean)
            variances.append(max(0.0, variance))
    _, told = predictive(np.array(means), np.array(variances), fit.typical)
    scores, start = [], 0
    for task in tasks:
        k = len(task.options)
        pairs = k * (k - 1) // 2
        scores.append((k - 1) * float(told[start : start + pairs].sum()) / pairs)
        start += pairs
    return scores


class Gain(NamedTuple):
    """Of both arms after as many votes: the share of held-out pairs in their raters' order, and its difference.

    ``votes_each`` were learnt from in each arm, ``held_out`` pairs asked about.
    """

    informed: Estimate
    random: Estimate
    difference: Estimate
    votes_each: int
    held_out: int

    @property
    def known(self) -> bool:
        """Whether there were votes to learn from, and pairs to ask about of which an arm had learnt anything."""
        return self.votes_each > 0 and self.held_out > 0

    def told(self) -> str:
        """For people, in points."""
        if not self.known:
            return "their gain is not known yet"
        value, low, high = (f"{100 * x:+.1f}" for x in self.difference[:3])
        compared = f"after {self.votes_each} votes in each arm, n={self.held_out} held-out pairs"
        return f"{value} points [{low}, {high}] against random ones, {compared}"


def gain(votes: Sequence[Comparison], arms: Sequence[str], seed: int = 0) -> Gain:
    """What choosing questions has brought, per vote: the informed arm against the random one, informed minus random.

    Half of the random arm's votes are held out: a fair sample of all questions, which the informed arm's own are not
    (it asks what is hard). Of the others, and of the informed arm, as many are taken as both have, the earliest ones;
    each then predicts the held-out votes of raters who are believed. The intervals respect that votes about one prompt
    hang together. A pair of which one arm knows nothing is a coin's; one of which neither does is left out, or arms
    that never meet would be told apart by two coins.

    Args:
        arms: how each vote's question was chosen: ``informed``, ``random``, or anything else, which is left out.

    Raises:
        DataError: there are not as many arms as votes.
    """
    if len(arms) != len(votes):
        raise DataError(f"{len(arms)} arms for {len(votes)} votes", expected="the arm of every vote")
    generator = random.Random(f"held out {seed}")
    held = {i for i, arm in enumerate(arms) if arm == "random" and generator.random() < HELD_OUT}
    learnt = [vote for index, vote in enumerate(votes) if index not in held]
    beliefs = believe(learnt).beliefs
    by_arm = {
        arm: [v for i, (v, a) in enumerate(zip(votes, arms, strict=True)) if a == arm and i not in held and v.ranks()]
        for arm in ("informed", "random")
    }
    count = min(map(len, by_arm.values()))
    fits = {arm: Fit(qualities(own[:count], beliefs), {}) for arm, own in by_arm.items()}
    tests = [
        (pair, order.said)
        for pair, said in orders([votes[i] for i in sorted(held)]).items()
        if any(_knows(fit, pair) for fit in fits.values())
        for order in said
        if order.said and beliefs.get(order.rater, Belief()).trust > 0
    ]
    right = {}
    for arm, fit in fits.items():
        coin = random.Random(f"coin {arm} {seed}")
        margins = [fit.margin(*pair)[0] or coin.choice((-1, 1)) for pair, _ in tests]
        right[arm] = [float((margin > 0) == (said > 0)) for margin, (_, said) in zip(margins, tests, strict=True)]
    prompts: list[Hashable] = [pair.prompt for pair, _ in tests]
    difference = [a - b for a, b in zip(right["informed"], right["random"], strict=True)]
    informed, control = (clustered_mean(right[arm], prompts, rate=True).estimate for arm in ("informed", "random"))
    return Gain(informed, control, clustered_mean(difference, prompts).estimate, count, len(tests))


def _knows(fit: Fit, pair: Pair) -> bool:
    """Whether any vote was about either of the two answers."""
    block = fit.blocks.get(pair.prompt)
    return block is not None and not block.place.keys().isdisjoint(pair[1:])
