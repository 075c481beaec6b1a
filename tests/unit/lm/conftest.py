"""What the tests of language models share: endpoints that run as processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from served_endpoint import Served
from steersman.lm.endpoint import client as remote


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """Starts endpoints, with these arguments, that run until the test ends; failed requests are soon tried again."""
    monkeypatch.setattr(remote, "BACKOFF_S", 0.01)
    running: list[Served] = []

    def start(*arguments: str) -> Served:
        running.append(Served(*arguments))
        return running[-1]

    yield start
    for served in running:
        served.close()
