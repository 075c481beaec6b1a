"""What a suite is: questions from the user's copy of a published set, and its paper's metrics over the replies.

Question  one thing that a model is asked, with options to choose from or without
Reply     what it answered, or the log-probability of each option
Metric    one figure of the paper, as a formula over columns of numbers
Suite     a set's name, paper, files, questions and metrics

Every metric is a formula over columns, one number for each question (NaN: the question says nothing about it), so that
intervals and paired differences come from one bootstrap over questions, for ratios as for means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def mean(name: str) -> Callable[[Columns], float]:
    """The mean of a column over the questions that it says something about; NaN without any."""

    def formula(columns: Columns) -> float:
        known = columns[name][~np.isnan(columns[name])]
        return float(known.mean()) if len(known) else float("nan")

    return formula


@dataclass(frozen=True)
class Metric:
    """One figure. ``better``: which way it should move; "zero" and a half are targets to come close to."""

    title: str
    formula: Callable[[Columns], float]
    better: Literal["higher", "lower", "zero", "half"] = "higher"
    is_rate: bool = True  # shown in percent


@dataclass(frozen=True)
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
        nulls: replies without a model, by name, such as always-refuse, always-first, random.
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
