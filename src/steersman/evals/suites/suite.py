"""What a suite is: questions from the user's copy of a published set, and its paper's metrics over the replies.

Question  one thing that a model is asked, with options to choose from or without
Reply     what it answered, or the log-probability of each option
Metric    one figure of the paper, as a formula over columns of numbers (`mean`, `gap`, `OfMeans`)
Suite     a set's name, paper, files, questions and metrics

Every metric is a formula over columns, one number for each question (NaN: the question says nothing about it), so that
intervals and paired differences come from one bootstrap over questions, for ratios as for means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.store import canonical, sha256_text
from steersman.types import Text

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Question:
    """One thing that a model is asked.

    Attributes:
        prompt: what it is asked.
        options: continuations to choose from by log-probability; empty where it answers freely.
        facts: what the metrics read, as JSON values: the right option, the category, the stereotyped group.
        cluster: questions made from one template belong together; the bootstrap resamples clusters. Empty: its own.
        plain: the options continue the prompt's text itself, without a chat format around it.
    """

    prompt: Text
    options: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = ""
    plain: bool = False


class Reply(NamedTuple):
    """An answer, or of each option the summed log-probability in nats and the number of tokens."""

    text: str = ""
    logprobs: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def choice(self) -> int:
        """The option of the highest summed log-probability; the first of equal ones."""
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__)


@dataclass(frozen=True)
class OfMeans:
    """A formula over the means of columns, each over the questions that the column says something about.

    The bootstrap computes such a formula for all resamples at once; any other `Metric.formula` once for each.

    Attributes:
        names: of the columns.
        function: of their means, each a number or an array over resamples, elementwise; to one of the same shape.
    """

    names: tuple[str, ...]
    function: Callable[..., Any]

    def __call__(self, columns: Columns) -> float:
        """The value over these columns; NaN where a mean that it needs has no question."""
        return float(self.function(*(known_mean(columns[name]) for name in self.names)))


def known_mean(column: NDArray[np.float64]) -> float:
    """The mean of what is not NaN; NaN without any."""
    known = column[~np.isnan(column)]
    return float(known.mean()) if len(known) else float("nan")


def _itself(value: Any) -> Any:
    return value


def mean(name: str) -> OfMeans:
    """The mean of a column over the questions that it says something about; NaN without any."""
    return OfMeans((name,), _itself)


def gap(first: str, second: str) -> OfMeans:
    """The mean of one column less that of another."""
    return OfMeans((first, second), np.subtract)


SIGNED = (-1.0, 1.0)
"""Bounds of a difference of two rates."""


@dataclass(frozen=True)
class Metric:
    """One figure.

    ``better``: which way it should move; "zero" and a half are targets to come close to, "none" is neither way.
    ``bounds``: of a rate, the least and the most that its formula gives.
    """

    title: str
    formula: Callable[[Columns], float]
    better: Literal["higher", "lower", "zero", "half", "none"] = "higher"
    is_rate: bool = True  # shown in percent
    bounds: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Suite:
    """A published set and its paper's metrics.

    Attributes:
        name: the slug on the command line, such as ``bbq``.
        title: as in tables; paper: authors, year, arXiv id.
        about: what it measures, one sentence; principles: words of principles' ids that it speaks about.
        files: the starts of file names, below the user's folder, of which at least one must be there. Empty: ours.
        load: the questions, from the files that were found and the most questions to ask (None: all); a cut is made by
            a digest of the text, so that every run asks the same.
        columns: of one question and its reply, the numbers that the metrics read.
        metrics: by slug.
        nulls: replies without a model, by name, such as always-refuse, always-first, random; of a question and a number
            that differs from question to question and from draw to draw (see `random_choice`).
        by: a fact of the questions, such as the category: every metric is also given for each of its values.
        expected: the published form of the files, and where they are published, for the error where they are missing.
    """

    name: str
    title: str
    paper: str
    about: str
    principles: tuple[str, ...]
    files: tuple[str, ...]
    load: Callable[[Sequence[Path], int | None], list[Question]]
    columns: Callable[[Question, Reply], Mapping[str, float]]
    metrics: Mapping[str, Metric]
    nulls: Mapping[str, Callable[[Question, int], Reply]]
    max_new_tokens: int = 96
    by: str = ""
    expected: str = ""


# ── helpers of suites ────────────────────────────────────────────────────────────────────────────────────────────────
def cut(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """At most ``limit`` questions, the same ones every time: those whose text has the smallest digests, in order."""
    if limit is None or len(questions) <= limit:
        return list(questions)
    digests = [sha256_text(canonical([_as_json(q.prompt), list(q.options)])) for q in questions]
    kept = sorted(sorted(range(len(questions)), key=lambda i: (digests[i], i))[:limit])
    return [questions[i] for i in kept]


def _as_json(text: Text) -> Any:
    return text if isinstance(text, str) else [message.model_dump(mode="json") for message in text]


def answering(text: str) -> Callable[[Question, int], Reply]:
    """A null that always answers the same."""
    return lambda question, number: Reply(text)


def choosing(option: int, question: Question) -> Reply:
    """The reply of somebody who is sure of one option."""
    chosen = tuple(0.0 if i == option else -math.inf for i in range(len(question.options)))
    return Reply(logprobs=chosen, tokens=(1,) * len(chosen))


def first_choice(question: Question, number: int) -> Reply:
    """A null that always takes the first option."""
    return choosing(0, question)


def random_choice(question: Question, number: int) -> Reply:
    """A null that draws an option, by the number."""
    return choosing(int(sha256_text(f"choice {number}")[:12], 16) % len(question.options), question)
