"""Pairs of texts, clean and corrupted, and the figure that tells them apart: what patching and circuits start from.

A pair is two texts of the same number of tokens that differ in what matters (a name, a harmful word against a harmless
look-alike). The metric is read at each pair's last token and is never an accuracy, which hides what moves below the
threshold (Zhang & Nanda 2024, "Towards Best Practices of Activation Patching"):

    logit difference   m = mean logit of the right tokens - mean logit of the wrong ones
    KL                 m = KL(the model's own distribution on the clean text || distribution), in nats; 0 on the clean

Where clean and corrupted text hardly differ in m, every recovery (m - m_corrupt) / (m_clean - m_corrupt) is noise
divided by little. Such pairs, and those of unequal length, are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError
from steersman.interp.activations import padded, read
from steersman.lm.head import Head, head_of

LEAST = 1.0  # logits, or nats: between clean and corrupted text
OPPOSITE = "whose corrupted text gives the right answer"
FINAL = "ln_final.hook_normalized"
MetricName = Literal["logit difference", "kl"]
Side = Literal["clean", "corrupt"]


class Pair(NamedTuple):
    """Token ids of two texts, and of the tokens that should and should not follow the clean one."""

    clean: Sequence[int]
    corrupt: Sequence[int]
    right: Sequence[int]
    wrong: Sequence[int]


@dataclass(frozen=True)
class Contrast:
    """Of each text, mean logit of some tokens minus mean logit of others.

    Attributes:
        ids: [U] all these tokens.
        weights: [B, U], 1 / number of right tokens, -1 / number of wrong ones, 0 elsewhere.
        head: the output layer's rows of ``ids``.
    """

    ids: Tensor
    weights: Tensor
    head: Head

    def __call__(self, hidden: Tensor) -> Tensor:
        """[B, H] behind the final norm -> [B]; the model's own logits, behind a soft cap if it has one."""
        return (self.head.logits(hidden).float() * self.weights).sum(-1)

    @property
    def direction(self) -> Tensor:
        """[B, H], float64: its product with what is behind the final norm is the difference *before* a soft cap."""
        return self.head.scale * self.weights.double() @ self.head.weight.double()

    @property
    def bias(self) -> Tensor:
        """[B], float64: what the output layer's biases add to it."""
        bias = self.head.bias
        zero = self.weights.double().sum(-1) * 0
        return zero if bias is None else self.head.scale * self.weights.double() @ bias.double()

    def part(self, rows: slice) -> Contrast:
        """The same for some of the texts."""
        return replace(self, weights=self.weights[rows])


@dataclass(frozen=True)
class Divergence:
    """KL of each text's next-token distribution from the one on its clean twin, in nats.

    Attributes:
        reference: [B, V] log-probabilities on the clean texts.
    """

    reference: Tensor
    head: Head

    def __call__(self, hidden: Tensor) -> Tensor:
        """[B, H] behind the final norm -> [B]."""
        logprobs = torch.log_softmax(self.head.logits(hidden).float(), -1)
        return (self.reference.exp() * (self.reference - logprobs)).sum(-1)

    def part(self, rows: slice) -> Divergence:
        """The same for some of the texts."""
        return replace(self, reference=self.reference[rows])


Metric = Contrast | Divergence


@dataclass(frozen=True)
class Pairs:
    """Pairs that can be used, as a batch padded on the right. Make them with `pairs_of`.

    Attributes:
        clean, corrupt: [B, T] token ids; mask: [B, T], True at tokens.
        at_clean, at_corrupt: [B] the metric on both texts of each pair, float64.
        kept: indices into what was given; dropped: how many were left out, by reason.
    """

    clean: Tensor
    corrupt: Tensor
    mask: Tensor
    metric: Metric
    at_clean: Tensor
    at_corrupt: Tensor
    kept: tuple[int, ...]
    dropped: dict[str, int]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.clean)

    @property
    def last(self) -> Tensor:
        """Index of each pair's last token, [B]."""
        return self.mask.sum(1) - 1

    @property
    def swing(self) -> Tensor:
        """m_clean - m_corrupt of each pair, [B]."""
        return self.at_clean - self.at_corrupt

    def measured(self, states: Tensor) -> Tensor:
        """[B, T, H] behind the final norm -> [B], the metric at each last token."""
        return self.metric(states[torch.arange(len(self), device=states.device), self.last])

    def recovery(self, values: Tensor) -> Tensor:
        """(m - m_corrupt) / (m_clean - m_corrupt), [B]: 1 as on the clean text, 0 as on the corrupted one."""
        return (values.double() - self.at_corrupt) / self.swing

    def faithfulness(self, values: Tensor) -> float:
        """The same of the means over pairs; values: [B]."""
        return float((values.double() - self.at_corrupt).mean() / self.swing.mean())

    def rows(self, side: Side) -> list[list[int]]:
        """Token ids of the clean or the corrupted texts, without padding."""
        ids = self.clean if side == "clean" else self.corrupt
        return [row[seen].tolist() for row, seen in zip(ids, self.mask, strict=True)]

    def part(self, start: int, stop: int) -> Pairs:
        """Some of the pairs, without padding that none of them needs."""
        rows = slice(start, stop)
        width = int(self.mask[rows].sum(1).max())
        return replace(
            self,
            clean=self.clean[rows, :width],
            corrupt=self.corrupt[rows, :width],
            mask=self.mask[rows, :width],
            metric=self.metric.part(rows),
            at_clean=self.at_clean[rows],
            at_corrupt=self.at_corrupt[rows],
            kept=self.kept[rows],
        )

    def parts(self, tokens: int) -> Iterator[Pairs]:
        """The pairs in batches of at most so many tokens, or of one pair."""
        size = max(1, tokens // self.clean.shape[1])
        for start in range(0, len(self), size):
            yield self.part(start, start + size)


def contrast(model: Any, right: Sequence[Sequence[int]], wrong: Sequence[Sequence[int]]) -> Contrast:
    """Logit differences of some texts: of each, the tokens that should follow and those that should not.

    Raises:
        DataError: a text has no right or no wrong token, or one that is both; ids outside the vocabulary.
    """
    head = head_of(model)
    for number, (some, others) in enumerate(zip(right, wrong, strict=True)):
        if not some or not others or set(some) & set(others):
            raise DataError(
                f"right tokens {list(some)} and wrong tokens {list(others)}",
                where=f"text {number}",
                expected="at least one of each, and none that is both",
            )
    known = sorted({int(token) for tokens in (*right, *wrong) for token in tokens})
    if known[0] < 0 or known[-1] >= head.weight.shape[0]:
        raise DataError(f"token {known[-1]} is outside the vocabulary of {head.weight.shape[0]} tokens")
    place = {token: column for column, token in enumerate(known)}
    weights = torch.zeros(len(right), len(known))
    for row, (some, others) in enumerate(zip(right, wrong, strict=True)):
        for token in set(some):
            weights[row, place[token]] = 1 / len(set(some))
        for token in set(others):
            weights[row, place[token]] = -1 / len(set(others))
    ids = torch.tensor(known, device=head.weight.device)
    return Contrast(ids, weights.to(head.weight.device), _detached(head.rows(ids)))


def pairs_of(model: Any, pairs: Sequence[Pair], metric: MetricName = "logit difference", least: float = LEAST) -> Pairs:
    """Check pairs on a model and make a batch of them.

    Args:
        least: a pair is left out if its texts differ by less in the metric, or the other way round: opposite swings
            would cancel in all means over pairs.

    Raises:
        DataError: no pair is left, with the count of each reason.
    """
    dropped = {"of unequal length": 0, f"that differ by less than {least:g}": 0, OPPOSITE: 0}
    equal = [number for number, pair in enumerate(pairs) if len(pair.clean) == len(pair.corrupt) > 0]
    dropped["of unequal length"] = len(pairs) - len(equal)
    if not equal:
        raise _none_left(dropped)
    clean, mask = padded(model, [pairs[number].clean for number in equal])
    corrupt, _ = padded(model, [pairs[number].corrupt for number in equal])
    with torch.no_grad():
        states = [_last(model, [getattr(pairs[number], side) for number in equal]) for side in ("clean", "corrupt")]
        if metric == "kl":
            head = _detached(head_of(model))
            measure: Metric = Divergence(torch.log_softmax(head.logits(states[0]).float(), -1), head)
        else:
            measure = contrast(model, [pairs[n].right for n in equal], [pairs[n].wrong for n in equal])
        at_clean, at_corrupt = (measure(state).double() for state in states)
    gaps = (at_clean - at_corrupt if isinstance(measure, Contrast) else at_corrupt - at_clean).tolist()
    wide = [row for row, gap in enumerate(gaps) if gap >= least]
    dropped[OPPOSITE] = sum(gap <= -least for gap in gaps)
    dropped[f"that differ by less than {least:g}"] = len(equal) - len(wide) - dropped[OPPOSITE]
    if not wide:
        raise _none_left(dropped)
    if isinstance(measure, Contrast):
        measure = replace(measure, weights=measure.weights[wide])
    else:
        measure = replace(measure, reference=measure.reference[wide])
    kept = tuple(equal[row] for row in wide)
    found = Pairs(clean[wide], corrupt[wide], mask[wide], measure, at_clean[wide], at_corrupt[wide], kept, dropped)
    return found.part(0, len(found))


def _last(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Behind the final norm at each text's last token, [B, H]."""
    return read(model, rows, [FINAL]).at(FINAL)


def _detached(head: Head) -> Head:
    """The same numbers, of which no gradient is taken."""
    return replace(head, weight=head.weight.detach(), bias=None if head.bias is None else head.bias.detach())


def _none_left(dropped: dict[str, int]) -> DataError:
    return DataError(
        f"no pair is left: {', '.join(f'{count} {reason}' for reason, count in dropped.items())}",
        expected="two texts of the same number of tokens each, on which the model behaves differently",
        do="write pairs that differ in one word of the same number of tokens, and look at the metric on both texts",
    )
