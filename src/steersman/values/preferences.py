"""What each group prefers, pair by pair: its own votes, and where it cast few, those of the others and the words.

    everybody   p   = (W + k m) / (N + k)                        m: what the answers' words say of the pair
    a group     p_g = (W_g + k_g m_g) / (N_g + k_g)              logit m_g = logit p_without_g + d_g . x

W of N votes prefer the first answer of a pair, W_g of N_g those of group g; x is the difference of the two answers'
features (style, and hashed words). The concentrations k and k_g are those under which the votes are likeliest
(beta-binomial, Skellam 1948): a group that votes like the others is shrunk to them, one of other values keeps its own.
So a group's opinion costs as many votes as it has opinions of its own, and no group is given any by assumption.

Words are read only where pairs have few votes (`FEW_VOTES`), by logistic regressions with a ridge that held-out raters
choose; with many votes a pair speaks for itself.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, expit, logit

from steersman.data.answer_style import features
from steersman.values.ballots import Ballots, Bools, Floats

CONCENTRATIONS = np.geomspace(0.5, 512, 21)
FEW_VOTES = 3.0  # a pair, below which its words are read
WORDS = 256  # hashed
RIDGES = (10.0, 100.0, 1000.0)  # of the words' weights; without any of them is tried too
MOST_VOTES = 40_000  # of which a regression is fitted: a sample of more
NEAR_0 = 1e-4


@dataclass(frozen=True)
class Opinions:
    """The probability that the first answer of each pair is preferred.

    Attributes:
        everybody: [P]; by_group: [P, G].
        votes: [P, G]: of each group on each pair.
        concentration: of everybody, then of each group: the larger, the nearer to what it is shrunk to.
    """

    everybody: Floats
    by_group: Floats
    votes: Floats
    concentration: tuple[float, ...]


class Tally(NamedTuple):
    """Votes for the first answer, and all votes: [P]."""

    wins: Floats
    votes: Floats


def opinions(given: Ballots, among: Bools | None = None, words: NDArray[np.float32] | None = None) -> Opinions:
    """Fit.

    Args:
        among: [R], the raters whose votes count; None: all.
        words: what `word_differences` gives, [P, F]; None: the words are not read.
    """
    used = np.ones(len(given.rater), dtype=bool) if among is None else among[given.rater]
    whole = tally(given, used)
    mean = np.full(len(given.first), 0.5)
    if words is not None:
        mean = expit(words @ _weights(given, used, words, np.zeros(len(mean))))
    k = concentration(whole, mean)
    everybody = _shrunk(whole, mean, k)
    columns, votes, ks = [], [], [k]
    for group in range(len(given.groups)):
        mine = used & given.member[given.rater, group]
        own = tally(given, mine)
        others = _shrunk(Tally(whole.wins - own.wins, whole.votes - own.votes), mean, k)
        if words is not None:
            offset = logit(others)
            others = expit(offset + words @ _weights(given, mine, words, offset))
        k_own = concentration(own, others)
        columns.append(_shrunk(own, others, k_own))
        votes.append(own.votes)
        ks.append(k_own)
    return Opinions(everybody, np.stack(columns, 1), np.stack(votes, 1), tuple(ks))


def tally(given: Ballots, used: Bools) -> Tally:
    """Count the votes in ``used``, [N], pair by pair."""
    pairs, count = given.pair[used], len(given.first)
    weights = given.preferred[used]
    wins: Floats = np.bincount(pairs, weights, count).astype(np.float64)
    return Tally(wins, np.bincount(pairs, minlength=count).astype(np.float64))


def concentration(own: Tally, mean: Floats) -> float:
    """The concentration of `CONCENTRATIONS` under which these votes are likeliest, given their expected share [P]."""
    voted = own.votes > 0
    if not voted.any():
        return float(CONCENTRATIONS[-1])
    wins, votes, m = own.wins[voted], own.votes[voted], _inside(mean[voted])
    scores = [
        float((betaln(wins + k * m, votes - wins + k * (1 - m)) - betaln(k * m, k * (1 - m))).sum())
        for k in CONCENTRATIONS
    ]
    return float(CONCENTRATIONS[int(np.argmax(scores))])


def _shrunk(own: Tally, mean: Floats, k: float) -> Floats:
    return _inside((own.wins + k * mean) / (own.votes + k))


def _inside(p: Floats) -> Floats:
    return np.clip(p, NEAR_0, 1 - NEAR_0)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def few_votes(given: Ballots) -> bool:
    """Whether pairs have so few votes that their words are read."""
    return len(given.pair) < FEW_VOTES * len(given.first)


def word_differences(given: Ballots) -> NDArray[np.float32]:
    """Features of each pair's first answer minus those of its second, [P, F], each of unit spread."""
    known: dict[str, NDArray[np.float32]] = {}

    def of(question: int, option: int) -> NDArray[np.float32]:
        text = given.options[question][option]
        if text not in known:
            known[text] = hashed(text)
        return known[text]

    found = np.empty((len(given.first), WORDS + len(features(""))), dtype=np.float32)
    for i, (question, a, b) in enumerate(zip(given.pair_question, given.first, given.second, strict=True)):
        found[i] = of(question, a) - of(question, b)
    spread = found.std(0)
    scaled: NDArray[np.float32] = (found / np.where(spread > 0, spread, 1)).astype(np.float32)
    return scaled


def hashed(text: str) -> NDArray[np.float32]:
    """Style features, and the square roots of the counts of words, hashed to `WORDS` places with a sign."""
    counts = np.zeros(WORDS, dtype=np.float32)
    for word in text.casefold().split():
        code = zlib.crc32(word.encode())
        counts[code % WORDS] += 1 if code & 1 << 20 else -1
    found: NDArray[np.float32] = np.array([*features(text), *(np.sign(counts) * np.sqrt(np.abs(counts)))], np.float32)
    return found


def _weights(given: Ballots, used: Bools, words: NDArray[np.float32], offset: Floats) -> Floats:
    """Weights of the words, [F], with the ridge that predicts held-out raters best; 0 where none does better than 0."""
    rows = np.flatnonzero(used)
    if len(rows) > MOST_VOTES:
        rows = np.random.default_rng(0).choice(rows, MOST_VOTES, replace=False)
    pair, y = given.pair[rows], given.preferred[rows]
    x, base = words[pair].astype(np.float64), offset[pair]
    held_out = np.random.default_rng(1).random(len(given.raters))[given.rater[rows]] < 0.25
    if min(held_out.sum(), (~held_out).sum()) < 20:
        return np.zeros(words.shape[1])
    losses = [_loss(np.zeros(x.shape[1]), x[held_out], y[held_out], base[held_out])]
    losses += [
        _loss(_logistic(x[~held_out], y[~held_out], base[~held_out], r), x[held_out], y[held_out], base[held_out])
        for r in RIDGES
    ]
    best = int(np.argmin(losses))
    return _logistic(x, y, base, RIDGES[best - 1]) if best else np.zeros(x.shape[1])


def _loss(w: Floats, x: Floats, y: Floats, base: Floats) -> float:
    return float(nats(expit(base + x @ w), y).mean())


def _logistic(x: Floats, y: Floats, base: Floats, ridge: float) -> Floats:
    """Logistic regression with an offset, by Newton's method: labels y in [0, 1], [N]; x, [N, F]."""
    w = np.zeros(x.shape[1])
    for _ in range(12):
        p = expit(base + x @ w)
        gradient = x.T @ (p - y) + ridge * w
        curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(w))
        step = np.linalg.solve(curvature, gradient)
        w = w - step
        if np.abs(step).max() < 1e-6:
            break
    return w


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def nats(p: Floats, y: Floats) -> Floats:
    """The log loss of votes y in [0, 1] under probabilities p of a 1."""
    q = _inside(p)
    found: Floats = -(y * np.log(q) + (1 - y) * np.log1p(-q))
    return found
