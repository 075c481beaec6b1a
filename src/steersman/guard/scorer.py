"""A trained guard's classifiers: from texts to scores, and their files.

Two sets of linear models over n-grams. Of a request: does it ask to break a principle (`HARM`: any of those that block
requests), and which. Of an exchange: does the answer break one, given the request and whether it declines.
Scores are log-odds; `calibration.Platt` makes probabilities of them.

    ngrams.safetensors   {side}.weight [rows, heads], {side}.bias [heads], {side}.idf [buckets]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import ModelError
from steersman.evals.detectors.behaviours import detect
from steersman.evals.detectors.refusal import refusal
from steersman.guard.ngrams import DAMPING, NGrams
from steersman.types import Behaviour, Record

Floats = NDArray[np.float32]
HARM = "harm"  # any of the principles that block requests; no principle's id has this meaning elsewhere
DECLINES = "refusal"  # the head that tells a refusal from any other answer
ABOUT = "about:"  # and a principle: the head that tells exchanges on its subject from others
OFF = -1e6  # log-odds of a subject where the words find no breach, and nothing else is asked
REFUSAL_CLASSES = ("refusal", "partial", "compliance", "nothing", "unknown_language")
LOUD = 6.0  # log-odds beyond which a request's score says no more to the model of exchanges


class Part(NamedTuple):
    """What some n-grams of a text add to its scores, [heads], before that is divided by the text's length."""

    sums: Floats
    square: float  # their share of the length's square


class Models(NamedTuple):
    """Linear models that read the same rows.

    Attributes:
        heads: their names.
        weight: [buckets + dense features, heads].
        bias: [heads].
        idf: [buckets].
    """

    heads: tuple[str, ...]
    weight: Floats
    bias: Floats
    idf: Floats

    def part(self, ids: NDArray[np.int32]) -> Part:
        """What a part of a text's n-grams adds; buckets of different parts are different."""
        buckets, counts = np.unique(ids[self.idf[ids] > 0], return_counts=True)  # the others weigh nothing
        values = (1 + np.log(counts, dtype=np.float32)) * self.idf[buckets]
        return Part(values @ self.weight[buckets], float(values @ values))

    def scores(self, ids: NDArray[np.int32], dense: Floats) -> Floats:
        """Log-odds of each head, [heads]."""
        return self.of_parts([self.part(ids)], dense)

    def of_parts(self, parts: Sequence[Part], dense: Floats) -> Floats:
        """`scores` of n-grams in parts."""
        length = np.sqrt(sum(part.square for part in parts) + DAMPING)
        words = np.sum([part.sums for part in parts], 0) / np.float32(length)
        return np.asarray(words + dense @ self.weight[len(self.idf) :] + self.bias, np.float32)

    def scores_within(self, ids: NDArray[np.int32], owners: NDArray[np.int64], count: int) -> Floats:
        """`scores_of` of a text and then of the stretches that it was cut into, [1 + count, heads].

        Args:
            owners: the stretch of each n-gram; -1: it goes across a cut.
        """
        known = self.idf[ids] > 0
        buckets, place = np.unique(ids[known], return_inverse=True)
        shape = (count + 1, len(buckets))
        counts = np.bincount((owners[known] + 1) * shape[1] + place, minlength=shape[0] * shape[1]).reshape(shape)
        counts[0] = counts.sum(0)
        weight_of = np.zeros(1 + int(counts.max(initial=0)), np.float32)
        weight_of[1:] = 1 + np.log(np.arange(1, len(weight_of)), dtype=np.float32)
        values = weight_of[counts] * self.idf[buckets]
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values) + np.float32(DAMPING))
        return np.asarray(values @ self.weight[buckets] / lengths[:, None] + self.bias, np.float32)

    def scores_of(self, ids: NDArray[np.int32], owners: NDArray[np.int64], count: int) -> Floats:
        """`scores` of many texts without dense features, [count, heads]; owners: the text of each n-gram."""
        size, known = len(self.idf), self.idf[ids] > 0  # the others weigh nothing
        keys, counts = np.unique(owners[known] * size + ids[known], return_counts=True)
        owner, bucket = np.divmod(keys, size)
        values = (1 + np.log(counts, dtype=np.float32)) * self.idf[bucket]
        values = values / np.sqrt(np.bincount(owner, values * values, count) + DAMPING)[owner]
        weights = self.weight[bucket]
        heads = [np.bincount(owner, values * weights[:, head], count) for head in range(len(self.heads))]
        return np.asarray(np.stack(heads, 1) + self.bias, np.float32)


class Layout(Record):
    """What a guard's arrays mean; in ``guard.json``."""

    grams: NGrams
    behaviours: tuple[Behaviour, ...]
    request_heads: tuple[str, ...]
    exchange_heads: tuple[str, ...]

    @property
    def probe_heads(self) -> tuple[str, ...]:
        """Of `rails.probe.Probe`: those of requests, and the subjects."""
        return probe_heads(self.request_heads, self.exchange_heads)


def probe_heads(request_heads: Sequence[str], exchange_heads: Sequence[str]) -> tuple[str, ...]:
    """What the probe says of a request: what its words say, and whether it is on a principle's subject."""
    return (*request_heads, *(name for name in exchange_heads if name.startswith(ABOUT)))


class Scorer(NamedTuple):
    """Both sides, and what they read.

    Attributes:
        grams: of requests and answers. An exchange has twice as many buckets, first those of the answer.
        behaviours: that the model of exchanges looks for in answers.
    """

    grams: NGrams
    behaviours: tuple[Behaviour, ...]
    request: Models
    exchange: Models

    def of_request(self, text: str) -> dict[str, float]:
        """Log-odds that a text asks to break each principle, and any (`HARM`)."""
        scores = self.request.scores(self.grams.ids(text), np.zeros(0, np.float32))
        return dict(zip(self.request.heads, scores.tolist(), strict=True))

    def of_requests(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """`of_request` of many texts, faster than one by one."""
        scores = self.request.scores_of(*self.grams.ids_of(texts), len(texts)).tolist()
        return [dict(zip(self.request.heads, row, strict=True)) for row in scores]

    def of_pieces(self, text: str, places: Sequence[tuple[int, int]]) -> list[dict[str, float]]:
        """`of_requests` of stretches of a text, of which the first is all of it.

        Where the others are its sentences, one behind the other, every n-gram is read once.
        """
        cuts = places[1:]
        whole = bool(cuts) and (cuts[0][0], cuts[-1][1]) == (0, len(text)) and len(text) <= self.grams.characters
        if not whole or any(one[1] != other[0] for one, other in pairwise(cuts)):
            return self.of_requests([text[start:end] for start, end in places])
        found = self.grams.ids_of([text[start:end] for start, end in cuts], joined=True)
        scores = self.request.scores_within(*found, len(cuts)).tolist()
        return [dict(zip(self.request.heads, row, strict=True)) for row in scores]

    def of_prompt(self, prompt: str) -> Part:
        """What the user's words add to the scores of any answer to them."""
        return self.exchange.part(self.grams.ids(prompt) + np.int32(self.grams.size))

    def of_exchange(
        self, prompt: str, answer: str, asked: Mapping[str, float] | None = None, part: Part | None = None
    ) -> dict[str, float]:
        """Log-odds that an answer breaks each principle, any of those that block requests, or that it declines.

        Args:
            prompt: the user's words. asked: `of_request` of them, part: `of_prompt`, if it is known.
        """
        dense = dense_features(self, prompt, answer, asked if asked is not None else self.of_request(prompt))
        parts = [self.exchange.part(self.grams.ids(answer)), part or self.of_prompt(prompt)]
        scores = self.exchange.of_parts(parts, dense)
        return dict(zip(self.exchange.heads, scores.tolist(), strict=True))

    def arrays(self) -> dict[str, Any]:
        """For `safetensors`."""
        return {
            f"{name}.{part}": np.ascontiguousarray(getattr(side, part))
            for name, side in (("request", self.request), ("exchange", self.exchange))
            for part in ("weight", "bias", "idf")
        }

    @classmethod
    def of_arrays(cls, layout: Layout, arrays: Mapping[str, Any], where: Path) -> Scorer:
        """The inverse of `arrays`.

        Raises:
            ModelError: an array is missing, has another shape than the layout says, or holds NaN or infinity.
        """

        def side(name: str, heads: Sequence[str], buckets: int, dense: int) -> Models:
            shapes = {"weight": (buckets + dense, len(heads)), "bias": (len(heads),), "idf": (buckets,)}
            for part, shape in shapes.items():
                found = arrays.get(f"{name}.{part}")
                if found is None or found.shape != shape:
                    what = "nothing" if found is None else f"shape {found.shape}"
                    raise ModelError(f"{name}.{part}: found {what}", where=str(where), expected=f"shape {shape}")
                if not np.isfinite(found).all():
                    raise ModelError(
                        f"{name}.{part} holds NaN or infinity", where=str(where), do="train the guard again"
                    )
            return Models(tuple(heads), *(arrays[f"{name}.{part}"] for part in ("weight", "bias", "idf")))

        size = layout.grams.size
        return cls(
            layout.grams,
            layout.behaviours,
            side("request", layout.request_heads, size, 0),
            side("exchange", layout.exchange_heads, 2 * size, dense_size(layout.request_heads, layout.behaviours)),
        )


def exchange_ids(grams: NGrams, prompt: str, answer: str) -> NDArray[np.int32]:
    """Buckets of the answer, then those of the prompt."""
    return np.concatenate([grams.ids(answer), grams.ids(prompt) + np.int32(grams.size)])


def dense_size(request_heads: Sequence[str], behaviours: Sequence[str]) -> int:
    """How many numbers `dense_features` gives."""
    return len(request_heads) + len(REFUSAL_CLASSES) + len(behaviours)


def dense_features(scorer: Scorer, prompt: str, answer: str, asked: Mapping[str, float]) -> Floats:
    """What the model of exchanges reads beside n-grams: the request's scores, whether the answer declines."""
    scores = [float(np.clip(asked[name], -LOUD, LOUD)) / LOUD for name in scorer.request.heads]
    return np.array([*scores, *answer_features(prompt, answer, scorer.behaviours)], np.float32)


def answer_features(prompt: str, answer: str, behaviours: Sequence[Behaviour]) -> list[float]:
    """Of the answer alone."""
    declines = refusal(prompt, answer)
    return [
        *(float(declines == name) for name in REFUSAL_CLASSES),
        *(float(detect(behaviour, prompt, answer)) for behaviour in behaviours),
    ]
