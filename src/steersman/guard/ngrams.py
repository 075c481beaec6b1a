"""Word and character n-grams of a text, hashed into a fixed number of buckets: fast, without a vocabulary to store.

A text becomes a sparse vector of 2**bits numbers. Words and pairs of words say what is spoken of; runs of characters
hold where words are misspelt, compounded or inflected. Hashes are computed by numpy over all positions at once, and are
the same on every machine. (Weinberger et al. 2009, "Feature hashing for large scale multitask learning".)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from steersman.types import Record

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_WORD = re.compile(r"\w+|[?!]")
_BASE, _MIX = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
Ids = NDArray[np.int32]
_Owned = tuple[NDArray[np.uint64], NDArray[np.int64]]  # hashes, and the text of each

DAMPING = 500.0  # about what fifteen n-grams of usual frequency add up to


class NGrams(Record):
    """Which n-grams are read; part of a guard's format."""

    bits: int = Field(default=18, ge=8, le=24, description="Numbers of a vector, as a power of two.")
    words: int = Field(default=2, ge=1, le=4, description="Most words of an n-gram.")
    shortest: int = Field(default=3, ge=1, le=8, description="Fewest characters of an n-gram within a word.")
    longest: int = Field(default=5, ge=1, le=8, description="Most characters of an n-gram within a word.")
    characters: int = Field(default=8_000, ge=100, description="Of a text; of a longer one, its beginning and its end.")

    @property
    def size(self) -> int:
        """The number of buckets."""
        return 1 << self.bits

    def ids(self, text: str) -> Ids:
        """The bucket of each n-gram, with repetitions, in no particular order."""
        return self.ids_of([text])[0]

    def ids_of(self, texts: Sequence[str], *, joined: bool = False) -> tuple[Ids, NDArray[np.int64]]:
        """`ids` of many texts at once, one after the other in no order, and the index of the text of each.

        Args:
            joined: the texts are one text, cut between words. N-grams across a cut are given too, with the index -1.
        """
        found = [_WORD.findall(self._cut(text).casefold()) for text in texts]
        words = [word for of_text in found for word in of_text]
        if not words:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        owners = np.repeat(np.arange(len(texts)), [len(of_text) for of_text in found])
        codes, starts = _codes(words)
        parts = [*self._of_words(codes, starts, owners, joined), *self._of_characters(codes, starts, owners)]
        hashes = _mixed(np.concatenate([part[0] for part in parts])) >> np.uint64(64 - self.bits)
        return hashes.astype(np.int32), np.concatenate([part[1] for part in parts])

    def _cut(self, text: str) -> str:
        half = self.characters // 2
        return text if len(text) <= self.characters else f"{text[:half]} {text[-half:]}"

    def _of_words(
        self, codes: NDArray[np.uint64], starts: NDArray[np.int64], owners: NDArray[np.int64], joined: bool
    ) -> list[_Owned]:
        """A polynomial hash of each word, then of each run of words of one text."""
        codes, starts = codes[1:], starts - 1  # each word with the space behind it
        place = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
        word = _mixed(np.add.reduceat(codes * _powers(int(place.max()) + 1)[place], starts))
        runs: list[_Owned] = [(word, owners)]
        run = word
        for n in range(2, self.words + 1):
            if len(word) < n:
                break
            run = _mixed(run[:-1] * _BASE + word[n - 1 :])
            first, last = owners[: len(run)], owners[n - 1 :]
            owner = np.where(first == last, first, -1)
            kept = np.ones(len(run), bool) if joined else owner >= 0
            runs.append(((run + np.uint64(n))[kept], owner[kept]))
        return runs

    def _of_characters(
        self, codes: NDArray[np.uint64], starts: NDArray[np.int64], owners: NDArray[np.int64]
    ) -> list[_Owned]:
        """Runs of characters; a space is at most at the beginning or at the end of one."""
        solid, found = codes != ord(" "), list[_Owned]()
        owner = np.repeat(owners, np.diff(np.append(starts - 1, len(codes))))  # a space belongs to the word behind it
        powers = _powers(self.longest)
        run, inner = np.zeros(len(codes) + 1, np.uint64), np.ones(len(codes) + 1, bool)
        for n in range(1, self.longest + 1):  # each run of n from the one of n - 1 that begins at the same place
            if len(codes) < n:
                break
            run = run[:-1] + codes[n - 1 :] * powers[n - 1]
            inner = inner[:-1] & solid[n - 2 : -1] if n > 2 else inner[:-1]
            if n >= self.shortest:
                found.append((run[inner] + np.uint64(1000 + n), owner[: len(inner)][inner]))
        return found


def _codes(words: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Code points of the words with a space around each, and where each word begins."""
    text = " " + " ".join(words) + " "
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    return codes, np.concatenate([[1], 1 + np.cumsum(lengths[:-1] + 1)])


def _powers(count: int) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        return np.cumprod(np.full(count, _BASE), dtype=np.uint64)


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of a hash reaches the high bits, which choose the bucket."""
    with np.errstate(over="ignore"):
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MIX
        return (hashes ^ (hashes >> np.uint64(32))) * _MIX


def weighted(ids: Ids, idf: NDArray[np.float32]) -> tuple[Ids, NDArray[np.float32]]:
    """Different buckets and their values: 1 + log(count), times the inverse document frequency, of length below 1.

    A text of a few known n-grams, such as one that nobody can read, stays short: else these few would decide alone.
    """
    buckets, counts = np.unique(ids[idf[ids] > 0], return_counts=True)  # the others weigh nothing
    values = (1 + np.log(counts, dtype=np.float32)) * idf[buckets]
    return buckets, np.asarray(values / np.sqrt((values * values).sum() + DAMPING), np.float32)


def inverse_document_frequency(documents: Sequence[Ids], size: int) -> NDArray[np.float32]:
    """log((1 + documents) / (1 + those with the bucket)) + 1, as in scikit-learn; 0 for buckets seen in one only."""
    seen = np.zeros(size, np.int64)
    for ids in documents:
        seen[np.unique(ids)] += 1
    idf = np.log((1 + len(documents)) / (1 + seen)) + 1
    return np.where(seen >= 2, idf, 0).astype(np.float32)


def matrix(documents: Sequence[Ids], idf: NDArray[np.float32]) -> csr_matrix:
    """The documents as rows, [N, size]."""
    from scipy.sparse import csr_matrix

    rows = [weighted(ids, idf) for ids in documents]
    ends = np.cumsum([0, *(len(buckets) for buckets, _ in rows)])
    values: Any = np.concatenate([v for _, v in rows]) if rows else np.zeros(0, np.float32)
    columns: Any = np.concatenate([b for b, _ in rows]) if rows else np.zeros(0, np.int32)
    return csr_matrix((values, columns, ends), shape=(len(documents), len(idf)))
