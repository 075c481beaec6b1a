"""What a recipe says about the audit; nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from steersman.types import Record, Seed


class AuditConfig(Record):
    """The gate for inner alignment: what the aligned model's behaviour may hide."""

    tier: Literal[1, 2] = Field(default=1, description="1: about three minutes on two cores; 2: at most twenty.")
    limit: int | None = Field(
        default=None, ge=2, description="Most requests, questions or claims of a check; null: all of the tier's."
    )
    seed: Seed = Field(default=0, description="Of free samples, noise and permutations.")
