"""`steersman data check`: counts, coverage per principle, duplicates, leaks between training and evaluation, lengths.

Near-duplicates need no embeddings: two texts are near when they share a run of five words, or when their word sets
have a Jaccard similarity |A and B| / |A or B| above a threshold.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from steersman.types import Comparison, Demonstration, Prompt, plain_text

Row = Prompt | Demonstration | Comparison
LEAK_JACCARD = 0.5
TWIN_JACCARD = 0.8


class Pair(NamedTuple):
    """Two texts that are too alike, and why."""

    first: str
    second: str
    reason: str


class Coverage(NamedTuple):
    """Rows that carry a principle: by file, and over all files those tagged as look-alikes and as harmful."""

    principle: str
    demonstrations: int
    comparisons: int
    prompts: int
    evaluation: int
    lookalikes: int
    harmful: int


class DataReport(NamedTuple):
    """What `check` found. ``leaks`` must be empty for an honest evaluation."""

    counts: dict[str, int]
    coverage: list[Coverage]
    leaks: list[Pair]
    shared_topics: list[str]
    twins: dict[str, list[Pair]]
    completion_words: dict[str, float]
    languages: dict[str, int]


def words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation and case never hide a copy."""
    return re.findall(r"[^\W_]+", text.lower())


def five_grams(text: str) -> set[tuple[str, ...]]:
    """Runs of five words."""
    tokens = words(text)
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared share of two word sets; 0 for two empty ones."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if a or b else 0.0


def _reaches(a: set[str], b: set[str], threshold: float) -> bool:
    """Whether the Jaccard similarity is at least ``threshold``; sizes that differ too much settle it at once."""
    return threshold * max(len(a), len(b)) <= min(len(a), len(b)) and jaccard(a, b) >= threshold


def exact_overlap(evaluation: Sequence[Row], training: Sequence[Row]) -> list[str]:
    """Evaluation prompts that training holds word for word."""
    seen = {tuple(words(plain_text(row.prompt))) for row in training}
    return [text for row in evaluation if tuple(words(text := plain_text(row.prompt))) in seen]


def leaks(evaluation: Sequence[Row], training: Sequence[Row]) -> list[Pair]:
    """Evaluation prompts that are near-duplicates of a training prompt."""
    seen = {plain_text(row.prompt) for row in training}
    prepared = [(text, set(words(text)), five_grams(text)) for text in sorted(seen)]
    all_grams = {gram for _, _, grams in prepared for gram in grams}
    found = []
    for row in evaluation:
        text = plain_text(row.prompt)
        vocabulary, grams = set(words(text)), five_grams(text) & all_grams
        for other, other_words, other_grams in prepared:
            if grams and grams & other_grams:
                found.append(Pair(text, other, "shares five words in a row: " + " ".join(min(grams & other_grams))))
            elif _reaches(vocabulary, other_words, LEAK_JACCARD):
                found.append(Pair(text, other, f"word Jaccard {jaccard(vocabulary, other_words):.2f}"))
    return found


def twins(texts: Iterable[str]) -> list[Pair]:
    """Near-identical texts within one file (word Jaccard of at least 0.8)."""
    prepared = [(text, set(words(text))) for text in texts]
    found = []
    for i, (text, vocabulary) in enumerate(prepared):
        for other, other_vocabulary in prepared[:i]:
            if _reaches(vocabulary, other_vocabulary, TWIN_JACCARD):
                found.append(Pair(text, other, f"word Jaccard {jaccard(vocabulary, other_vocabulary):.2f}"))
    return found


def check(
    demonstrations: Sequence[Demonstration],
    comparisons: Sequence[Comparison],
    prompts: Sequence[Prompt],
    evaluation: Sequence[Prompt],
) -> DataReport:
    """Everything that can be said about a data set without a model."""
    training: list[Row] = [*demonstrations, *comparisons, *prompts]
    files: dict[str, Sequence[Row]] = {
        "demonstrations": demonstrations,
        "comparisons": comparisons,
        "prompts": prompts,
        "evaluation": evaluation,
    }
    return DataReport(
        counts={name: len(rows) for name, rows in files.items()},
        coverage=_coverage(files),
        leaks=leaks(evaluation, training),
        shared_topics=sorted({r.topic for r in evaluation if r.topic} & {r.topic for r in training if r.topic}),
        twins={name: twins(plain_text(row.prompt) for row in rows) for name, rows in files.items()},
        completion_words=_lengths([row.completion for row in demonstrations]),
        languages=dict(Counter(t for rows in files.values() for r in rows for t in r.tags if t.startswith("lang:"))),
    )


def _coverage(files: dict[str, Sequence[Row]]) -> list[Coverage]:
    counted = {name: Counter(p for row in rows for p in row.principles) for name, rows in files.items()}
    tagged = Counter((p, tag) for rows in files.values() for row in rows for p in row.principles for tag in row.tags)
    principles = sorted({p for counter in counted.values() for p in counter})
    return [
        Coverage(
            principle=p,
            **{name: counted[name][p] for name in files},
            lookalikes=tagged[p, "lookalike"],
            harmful=tagged[p, "harmful"],
        )
        for p in principles
    ]


def _lengths(completions: Sequence[str]) -> dict[str, float]:
    lengths = sorted(len(words(text)) for text in completions)
    if not lengths:
        return {}
    return {
        "shortest": lengths[0],
        "median": median(lengths),
        "p90": lengths[int(0.9 * (len(lengths) - 1))],
        "longest": lengths[-1],
    }
