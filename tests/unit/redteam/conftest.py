"""A served endpoint for the campaign's tests; a retry waits a hundredth of a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from served_endpoint import Served
from steersman.lm.endpoint import client


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """``serve("--faults", "0.2")`` runs an endpoint until the test ends."""
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    running: list[Served] = []

    def start(*arguments: str) -> Served:
        running.append(Served(*arguments))
        return running[-1]

    yield start
    for served in running:
        served.close()
