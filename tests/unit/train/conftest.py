"""What the tests of training share: a stand-in for a kill, and raters who are divided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersman.lm.adapters import LoraConfig
from steersman.store import StageFolder
from steersman.types import Comparison, Demonstration


class Stopped(Exception):
    """Stands in for a kill: raised out of the middle of training."""


def recorder(stop_before: int | None, **fields: Any) -> tuple[list[dict[str, Any]], Callable[..., None]]:
    """A list of events and the `emit` that fills it; in place of the train event of a step it raises `Stopped`.

    Args:
        stop_before: the step; None goes on to the end.
        fields: what else that event holds, where a step's number comes more than once.
    """
    events: list[dict[str, Any]] = []

    def emit(**row: Any) -> None:
        if row["event"] == "train" and row["step"] == stop_before and fields.items() <= row.items():
            raise Stopped
        events.append(row)

    return events, emit


@pytest.fixture(scope="session")
def start(tiny_base: Path, demonstrations: list[Demonstration], shared: Callable[..., Path]) -> Path:
    """A folder with a fine-tuned policy: an adapter on the upper layer."""
    from steersman.train import sft

    def make(folder: Path) -> None:
        config = sft.SftConfig(lora=LoraConfig(rank=4, trainable_layers=1), epochs=0.2)
        sft.run(config, tiny_base, "tiny", demonstrations, [], StageFolder(folder, "sft"))

    return shared("start_of_groups", make)


@pytest.fixture(scope="session")
def divided(demonstrations: list[Demonstration]) -> list[Comparison]:
    """Of 9 raters six (`many`) prefer the whole answer to one that declines, and three (`few`) the other way round."""
    return [
        Comparison(
            prompt=d.prompt,
            options=(d.completion, "I cannot help."),
            ranking=(1, 2) if rater < 6 else (2, 1),
            rater=f"rater-{rater}",
            group="many" if rater < 6 else "few",
        )
        for i, d in enumerate(demonstrations[:24])
        for rater in range(9)
        if (i + rater) % 2
    ]
