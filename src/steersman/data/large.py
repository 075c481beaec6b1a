"""One file of any length, read as a stream: what is in it, how long, and what occurs twice.

Memory grows by 150 bytes a row, not by its text: of every prompt a digest is kept, and a MinHash signature of its words
(Broder 1997). Prompts that agree in one of 8 bands of 4 values are candidates; two with a word Jaccard of 0.8 are found
with a probability of 98 %. Candidates are then read again and compared word by word.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.data.check import (
    TWIN_JACCARD,
    LengthLimit,
    SimilarPair,
    answers_of,
    jaccard,
    labelled,
    labelled_line,
    words,
)
from steersman.data.column_mapping import column_mapping, unnamed_columns
from steersman.data.formats import stream
from steersman.types import Comparison, Prompt, Record, plain_text

BANDS, BAND = 8, 4
MOST_COMPARED = 20_000  # candidates that are read again and compared; the rest is counted
SHOWN = 10
_PRIME = (1 << 61) - 1


class LargeReport(NamedTuple):
    """What a long file holds.

    ``lengths``: quantiles of the answers' words; ``labelled``: answers that stand alone, by label;
    ``repeated``: rows whose prompt occurred before, word for word;
    ``twins``: prompts that are almost the same, the first `SHOWN`; ``twin_pairs``: how many there are;
    ``not_compared``: candidates beyond `MOST_COMPARED`; ``too_long``: rows over a limit, if one was given.
    """

    kind: str
    rows: int
    faults: Counter[str]
    ignored: Counter[str]
    lengths: dict[str, int]
    labelled: dict[str, int]
    repeated: int
    twins: list[SimilarPair]
    twin_pairs: int
    not_compared: int
    seconds: float
    too_long: int | None = None

    def json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self._asdict(), "twins": [pair._asdict() for pair in self.twins]}


def check_stream(path: Path, kind: type[Record], columns: str = "", limit: LengthLimit | None = None) -> LargeReport:
    """Read a file once, and its near-duplicates a second time.

    Raises:
        DataError: the file cannot be read.
    """
    start, prepare = time.perf_counter(), column_mapping(columns)
    faults, ignored, alone = Counter[str](), Counter[str](), Counter[str]()
    digests, signatures, lengths, too_long = bytearray(), bytearray(), bytearray(), 0
    for row in _rows(path, kind, prepare, faults, ignored):
        tokens = words(plain_text(row.prompt))
        digests += hashlib.blake2b(" ".join(tokens).encode(), digest_size=8).digest()
        signatures += signature(set(tokens)).tobytes()
        if isinstance(row, Comparison):
            alone.update(labelled([row]))
        lengths += np.uint32(sum(len(text.split()) for text in answers_of(row))).tobytes()
        too_long += limit is not None and limit.exceeded(row)
    count = len(digests) // 8
    found = np.frombuffer(bytes(signatures), dtype=np.uint32).reshape(count, BANDS * BAND)
    pairs = candidates(found, np.frombuffer(bytes(digests), dtype=np.uint64))
    compared = pairs[:MOST_COMPARED]
    wanted = {int(i) for pair in compared for i in pair}
    texts = {
        i: plain_text(row.prompt)
        for i, row in enumerate(_rows(path, kind, prepare, Counter(), Counter()))
        if i in wanted
    }
    near = [
        SimilarPair(texts[i], texts[j], f"word Jaccard {value:.2f}")
        for i, j in compared
        if (value := jaccard(set(words(texts[i])), set(words(texts[j])))) >= TWIN_JACCARD
    ]
    sizes = np.frombuffer(bytes(lengths), dtype=np.uint32)
    quantiles = {"shortest": 0.0, "median": 0.5, "nine in ten at most": 0.9, "longest": 1.0}
    return LargeReport(
        kind.__name__.lower() + "s",
        count,
        faults,
        ignored,
        {name: int(np.quantile(sizes, q)) for name, q in quantiles.items()} if count else {},
        dict(alone),
        count - len(np.unique(np.frombuffer(bytes(digests), dtype=np.uint64))),
        near[:SHOWN],
        len(near),
        max(0, len(pairs) - MOST_COMPARED),
        time.perf_counter() - start,
        too_long if limit else None,
    )


def _rows(path: Path, kind: type[Record], prepare: Any, faults: Counter[str], ignored: Counter[str]) -> Iterator[Any]:
    for _, rows, reasons in stream(path, kind, prepare, ignored):
        if reasons:
            faults["; ".join(reasons)] += 1
        yield from rows


# ── MinHash ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _permutations() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    draw = np.random.default_rng(0)
    many = BANDS * BAND
    return draw.integers(1, 1 << 31, many, dtype=np.uint64), draw.integers(0, 1 << 61, many, dtype=np.uint64)


_FACTORS, _OFFSETS = _permutations()


def signature(tokens: set[str]) -> NDArray[np.uint32]:
    """MinHash signature, [BANDS * BAND]: the minimum of each hash function over the words; zeros without any."""
    if not tokens:
        return np.zeros(BANDS * BAND, dtype=np.uint32)
    hashed = np.fromiter((zlib.crc32(token.encode()) for token in tokens), dtype=np.uint64, count=len(tokens))
    values = (hashed[:, None] * _FACTORS + _OFFSETS) % _PRIME  # below 2^63 + 2^61: no overflow
    smallest: NDArray[np.uint32] = (values.min(0) >> np.uint64(29)).astype(np.uint32)
    return smallest


def candidates(signatures: NDArray[np.uint32], digests: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Pairs of different texts that agree in a band, each once, in the order of the rows.

    In a group of many alike, each is paired with the first only.
    """
    found: set[tuple[int, int]] = set()
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * BAND : (band + 1) * BAND])
        _, group = np.unique(part, axis=0, return_inverse=True)
        group = group.reshape(-1)
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0]) if len(order) else np.zeros(0, dtype=int)
        ends = np.r_[starts[1:], len(order)]
        for begin, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist(), strict=True):
            members = order[begin:end]
            first, seen = int(members[0]), {int(digests[members[0]])}
            for member in members[1:].tolist():
                if int(digests[member]) not in seen:
                    seen.add(int(digests[member]))
                    found.add((first, member))
    return sorted(found)


def shown(name: str, report: LargeReport, limit: LengthLimit | None = None) -> list[str]:
    """The report as lines for people."""
    lengths = ", ".join(f"{what} {value:,}" for what, value in report.lengths.items())
    kind = Prompt if report.kind == "prompts" else Record
    hint = unnamed_columns(kind, report.ignored) if kind is Prompt or not report.rows else ""
    lines = [
        f"{name}: {report.rows:,} {report.kind}, read in {report.seconds:.0f} s",
        f"answers, words: {lengths}" if report.kind != Prompt.__name__.lower() + "s" else "",
        labelled_line(report.labelled),
        limit.sentence(report.too_long or 0, report.kind) if limit else "",
        *(f"not read: {n:,} row(s): {reason}" for reason, n in report.faults.most_common(SHOWN)),
        *(f"column not read: {column!r}, {n:,} row(s)" for column, n in report.ignored.most_common(SHOWN)),
        hint,
        f"prompts that occurred before, word for word: {report.repeated:,}",
        f"prompts that are almost the same (word Jaccard {TWIN_JACCARD}): {report.twin_pairs:,} pair(s)"
        + (f"; {report.not_compared:,} further candidates were not compared" if report.not_compared else ""),
        *(f"  - {pair.first[:90]}\n    {pair.second[:90]} ({pair.reason})" for pair in report.twins),
    ]
    return [line for line in lines if line]
