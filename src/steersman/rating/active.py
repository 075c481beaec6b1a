"""Active sampling: the next question is the one whose vote has the highest expected information gain.

The votes so far leave qualities uncertain (`raters.Fit`, a normal approximation of their posterior). The expected
information gain of a vote is the mutual information of `raters.predictive`, in nats, at most log 2:

    I = H(E[p]) - E[H(p)]        BALD: Houlsby et al. 2011, arXiv:1112.5745

Uncertainty sampling would differ: of two answers known to be equally good, p is one half, and a vote adds nothing. A
ranking of K answers counts K - 1 times its mean pair.

Whether this saves votes is measured and not assumed: a round keeps a control arm of questions drawn at random, and
`gain` compares the two arms on held-out votes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from steersman.data.rater_model import AnswerPair, pair_votes
from steersman.errors import DataError
from steersman.rating.raters import Fit, fit, fit_qualities, predictive
from steersman.stats import Estimate, clustered_mean
from steersman.types import Comparison, Text

GROWTH = 1.1  # of the number of votes, until the raters' parameters are fitted again
HELD_OUT = 0.5  # of the random arm's votes


class OpenQuestion(Protocol):
    """A question that still wants votes."""

    @property
    def prompt(self) -> Text:
        """The prompt of the models."""

    @property
    def options(self) -> Sequence[str]:
        """Two to nine answers."""


class ActiveSampler:
    """Scores open questions by expected information gain: ``ActiveSampler()(open_questions, votes)``.

    The fit is kept: raters are fitted again when the number of votes has grown by a tenth, or when a vote was undone;
    in between, new votes only update the answers to their own prompt.
    """

    def __init__(self) -> None:
        self.fit = Fit({}, {})
        self._hashes: list[int] = []  # of the votes behind the fit
        self._fitted_votes = 0  # when the raters were last fitted

    def __call__(self, open_questions: Sequence[OpenQuestion], votes: Sequence[Comparison]) -> list[float]:
        """In nats, by question; ``votes`` are all votes, with the keys of gold questions."""
        self._update(votes)
        return information(self.fit, open_questions)

    def _update(self, votes: Sequence[Comparison]) -> None:
        hashes = [hash(vote) for vote in votes]
        if hashes == self._hashes:
            return
        new = votes[len(self._hashes) :]
        grown = len(hashes) > max(1, self._fitted_votes) * GROWTH
        if grown or not self._hashes or hashes[: len(self._hashes)] != self._hashes:
            self.fit, self._fitted_votes = fit(votes), len(votes)
        else:
            prompts = {vote.prompt for vote in new}
            about = [vote for vote in votes if vote.prompt in prompts]
            updated = fit_qualities(about, self.fit.raters)
            self.fit = self.fit._replace(posteriors={**self.fit.posteriors, **updated})
        self._hashes = hashes


def information(fitted: Fit, questions: Sequence[OpenQuestion]) -> list[float]:
    """The expected information gain of a typical rater's vote on each question, in nats."""
    means: list[float] = []
    variances: list[float] = []
    for question in questions:
        for first, second in itertools.combinations(question.options, 2):
            mean, variance = fitted.margin(question.prompt, first, second)
            means.append(mean)
            variances.append(max(0.0, variance))
    _, by_pair = predictive(np.array(means), np.array(variances), fitted.typical_reliability)
    scores, start = [], 0
    for question in questions:
        k = len(question.options)
        pairs = k * (k - 1) // 2
        scores.append((k - 1) * float(by_pair[start : start + pairs].sum()) / pairs)
        start += pairs
    return scores


class Gain(NamedTuple):
    """Held-out accuracy of both arms after the same number of votes, and the difference.

    ``votes_each`` is the number of votes fitted in each arm, ``held_out`` the number of pairs predicted.
    """

    informed: Estimate
    random: Estimate
    difference: Estimate
    votes_each: int
    held_out: int

    @property
    def known(self) -> bool:
        """Whether there were votes to fit, and held-out pairs whose answers an arm had seen."""
        return self.votes_each > 0 and self.held_out > 0

    def text(self) -> str:
        """One line for people, in percentage points."""
        if not self.known:
            return "their gain is not known yet"
        value, low, high = (f"{100 * x:+.1f}" for x in self.difference[:3])
        compared = f"after {self.votes_each} votes in each arm, n={self.held_out} held-out pairs"
        return f"{value} points [{low}, {high}] against random ones, {compared}"


def gain(votes: Sequence[Comparison], arms: Sequence[str], seed: int = 0) -> Gain:
    """The gain of active sampling at equal numbers of votes: accuracy of the informed arm minus the random arm.

    Half of the random arm's votes are held out: an unbiased sample of all questions, which the informed arm's are not
    (it prefers hard ones). Each arm is fitted to its earliest n of the other votes, n being the smaller count, and
    predicts the held-out votes of raters of positive reliability. Intervals are clustered by prompt. A pair that one
    arm knows nothing about is guessed; a pair that neither knows is left out, or arms without common questions would
    be compared by two guesses.

    Args:
        arms: how each vote's question was chosen: ``informed``, ``random``, or another arm, which is left out.

    Raises:
        DataError: there are not as many arms as votes.
    """
    if len(arms) != len(votes):
        raise DataError(f"{len(arms)} arms for {len(votes)} votes", expected="the arm of every vote")
    generator = random.Random(f"held out {seed}")
    held = {i for i, arm in enumerate(arms) if arm == "random" and generator.random() < HELD_OUT}
    fitted = fit([vote for index, vote in enumerate(votes) if index not in held])
    by_arm = {
        arm: [v for i, (v, a) in enumerate(zip(votes, arms, strict=True)) if a == arm and i not in held and v.ranks()]
        for arm in ("informed", "random")
    }
    count = min(map(len, by_arm.values()))
    fits = {arm: Fit(fit_qualities(own[:count], fitted.raters), {}) for arm, own in by_arm.items()}
    tests = [
        (pair, vote.preference)
        for pair, own in pair_votes([votes[i] for i in sorted(held)]).items()
        if any(_knows(of_arm, pair) for of_arm in fits.values())
        for vote in own
        if vote.preference and fitted.reliability(vote.rater) > 0
    ]
    right = {}
    for arm, of_arm in fits.items():
        coin = random.Random(f"coin {arm} {seed}")
        margins = [of_arm.margin(*pair)[0] or coin.choice((-1, 1)) for pair, _ in tests]
        right[arm] = [float((margin > 0) == (truth > 0)) for margin, (_, truth) in zip(margins, tests, strict=True)]
    prompts: list[Hashable] = [pair.prompt for pair, _ in tests]
    difference = [a - b for a, b in zip(right["informed"], right["random"], strict=True)]
    informed, control = (clustered_mean(right[arm], prompts, rate=True).estimate for arm in ("informed", "random"))
    return Gain(informed, control, clustered_mean(difference, prompts).estimate, count, len(tests))


def _knows(fitted: Fit, pair: AnswerPair) -> bool:
    """Whether any vote was about either of the two answers."""
    posterior = fitted.posteriors.get(pair.prompt)
    return posterior is not None and not posterior.position.keys().isdisjoint(pair[1:])
