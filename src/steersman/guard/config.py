"""The settings of a guard's training."""

from __future__ import annotations

from pydantic import Field

from steersman.guard.ngrams import NGrams
from steersman.types import Record, Seed


class GuardConfig(Record):
    """Training of the guard's classifier."""

    seed: Seed = Field(default=0, description="Of the split of topics, the dressings and the bootstraps.")
    seeds: int = Field(default=5, ge=1, le=20, description="Models trained on bootstraps of the topics and averaged.")
    probe: bool = Field(
        default=True, description="Whether to train a head on the model's activations too; it needs a base model."
    )
    limit: int | None = Field(default=None, ge=1, description="Most rows of each principle and kind; null: all.")
    strength: float = Field(default=3.0, gt=0, description="Inverse of the regularisation of the n-gram models.")
    grams: NGrams = Field(default=NGrams(), description="Which n-grams of words and characters are read.")
