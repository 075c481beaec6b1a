"""What the tests of training share: a stand-in for a kill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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
