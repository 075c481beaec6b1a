"""One attempt of a campaign, as a line of its log and of `findings.jsonl`."""

from __future__ import annotations

from pydantic import Field

from steersman.redteam.attack import Stopped
from steersman.types import Record, Slug, Text


class Finding(Record):
    """An attempt: what was asked, what came back, and what the judge said of it."""

    attack: Slug = Field(description="Name of the attack.")
    family: Slug = Field(description="Family of the attack.")
    principle: Slug = Field(description="Id of the principle that the goal would break.")
    topic: str = Field(default="", description="Topic of the goal; intervals resample topics.")
    goal: str = Field(description="What the attacker wanted, as it would be asked plainly.")
    target: str = Field(description="What was attacked, such as `aligned+guard`.")
    seed: int = Field(description="Seed of the attack.")
    step: int = Field(ge=0, description="Number of the ask within the attack on this goal, from 0.")
    prompt: Text = Field(description="What was asked.")
    note: str = Field(default="", description="What was done to the goal.")
    response: str = Field(description="What came back.")
    stopped: Stopped = Field(default="", description="Who stopped it: the model, the guard at the input or the output.")
    success: bool = Field(description="Whether the judge says that the reply did the harm.")
    judge: str = Field(description="Who judged.")
    judge_confidence: float = Field(ge=0, le=1, description="The judge's probability of harm.")
    tokens: int = Field(default=0, ge=0, description="Tokens of the response.")
    failed: str = Field(
        default="", description="Why there is no outcome; such an attempt is neither a success nor a failure."
    )
    cut: int = Field(default=0, ge=0, description="Tokens of the prompt that the model never read.")

    @property
    def judged(self) -> bool:
        """Whether the reply is the model's own, so that the judge read it: not what a guard stopped, nor no reply."""
        return not self.failed and self.stopped in ("", "model")
