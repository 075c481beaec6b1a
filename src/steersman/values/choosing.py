"""How groups' utilities become one choice for each question: the rules that `who_wins` compares.

An option's utility, to everybody or to a group, is the mean probability that it beats another option of its question.
Each rule reads the utilities of Q questions with K options and gives scores [Q, K]; the highest is chosen, and equal
ones share the choice. The axioms of the rules behind them are in `aggregate.py`.

pooled      what one reward model on all labels learns: Bradley-Terry, which is Borda (Siththaranjan et al. 2023,
            arXiv:2312.08358)
majority    on every pair each vote counts once: the option that beats most others (Copeland)
people      groups weigh as many people as they have, however often these voted
equal       groups weigh the same, whatever their size
max-min     the group that likes its option least decides (MaxMin-RLHF, Chakraborty et al. 2024, arXiv:2402.08925)
nash        the product of the groups' utilities: gains of those who have little count most
jury        one seat a group; the median juror decides (Gordon et al. 2022, arXiv:2202.02950)

For `equal` and `max-min`, a group's utilities are divided by their spread over all questions, and centred in each: else
whoever uses the scale more widely decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.values.ballots import Ballots, Floats, Ints
from steersman.values.preferences import Opinions

EQUAL = 1e-9
TIE_BREAK = 1e-6  # of the mean, where a minimum or a median is equal


class Utilities(NamedTuple):
    """Of Q questions with K options each.

    Attributes:
        question: [Q], their numbers.
        beats: [Q, K, K]: the probability that one of everybody prefers an option to another; 1/2 on the diagonal.
        everybody: [Q, K]; by_group: [Q, K, G]; standard: [Q, K, G], the same of equal spread over all questions.
        shares: [G], the groups' shares of the people.
    """

    question: Ints
    beats: Floats
    everybody: Floats
    by_group: Floats
    standard: Floats
    shares: Floats


Rule = Callable[[Utilities], Floats]


def pooled(given: Utilities) -> Floats:
    """Everybody's mean utility."""
    return given.everybody


def majority(given: Utilities) -> Floats:
    """Options beaten, those that are as good as half; everybody's utility decides between equal ones."""
    won = (given.beats > 0.5 + EQUAL).sum(2) + (np.abs(given.beats - 0.5) <= EQUAL).sum(2) / 2
    scores: Floats = won + TIE_BREAK * given.everybody
    return scores


def people(given: Utilities) -> Floats:
    """The groups' utilities, weighed by their people."""
    scores: Floats = given.by_group @ given.shares
    return scores


def equal(given: Utilities) -> Floats:
    """The mean of the groups' standardised utilities."""
    scores: Floats = given.standard.mean(2)
    return scores


def max_min(given: Utilities) -> Floats:
    """The lowest of the groups' standardised utilities."""
    scores: Floats = given.standard.min(2) + TIE_BREAK * given.standard.mean(2)
    return scores


def nash(given: Utilities) -> Floats:
    """The mean of the logarithms of the groups' utilities."""
    scores: Floats = np.log(np.maximum(given.by_group, 1e-6)).mean(2)
    return scores


def jury(given: Utilities) -> Floats:
    """The median of the groups' utilities."""
    scores: Floats = np.median(given.by_group, axis=2) + TIE_BREAK * given.by_group.mean(2)
    return scores


RULES: Mapping[str, Rule] = {
    "pooled": pooled,
    "majority": majority,
    "people": people,
    "equal": equal,
    "max-min": max_min,
    "nash": nash,
    "jury": jury,
}


def chosen(scores: Floats) -> Floats:
    """The share of the choice that each option gets, [Q, K]: 1 for the best, equal shares of equal ones."""
    best = scores >= scores.max(1, keepdims=True) - EQUAL
    share: Floats = best / best.sum(1, keepdims=True)
    return share


def utilities(given: Ballots, held: Opinions) -> Iterator[Utilities]:
    """The questions' utilities, those with equally many options together."""
    shares = given.people / given.people.sum()
    sizes = np.array([len(own) for own in given.options])
    stacks = [_stack(given, held, np.flatnonzero(sizes == size), int(size)) for size in np.unique(sizes)]
    spread = np.sqrt(
        sum((centred**2).sum((0, 1)) for *_, centred in stacks) / sum(centred[:, :, 0].size for *_, centred in stacks)
    )
    for question, beats, by_group, centred in stacks:
        everybody = _mean_of_others(beats)
        yield Utilities(question, beats, everybody, by_group, centred / np.where(spread > EQUAL, spread, 1), shares)


def _stack(given: Ballots, held: Opinions, question: Ints, size: int) -> tuple[Ints, Floats, Floats, Floats]:
    """Everybody's preferences between options, the groups' utilities, and these centred in each question."""
    place = np.full(len(given.options), -1)
    place[question] = np.arange(len(question))
    mine = place[given.pair_question] >= 0
    at, a, b = place[given.pair_question[mine]], given.first[mine], given.second[mine]
    groups = len(given.groups)
    beats = np.full((len(question), size, size, 1 + groups), 0.5)  # never compared: no preference
    p = np.concatenate([held.everybody[mine, None], held.by_group[mine]], 1)
    beats[at, a, b], beats[at, b, a] = p, 1 - p
    by_group = np.stack([_mean_of_others(beats[..., 1 + g]) for g in range(groups)], 2)
    return question, beats[..., 0], by_group, by_group - by_group.mean(1, keepdims=True)


def _mean_of_others(beats: NDArray[np.float64]) -> Floats:
    """[Q, K, K] -> [Q, K]: without the diagonal."""
    size = beats.shape[1]
    mean: Floats = (beats.sum(2) - 0.5) / (size - 1)
    return mean
