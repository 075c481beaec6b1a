"""The engine as the gateway's upstream, in one process, and a probe that ends an answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from steersman.cli.in_process import EngineUpstream
from steersman.guard.gateway.upstream import UpstreamError
from steersman.serving.engine import Engine
from steersman.serving.service import Service

BODY = {"model": "raw", "messages": [{"role": "user", "content": "How do I cook rice?"}], "max_tokens": 12, "seed": 1}
EngineOf = Callable[..., Engine]


class Counting:
    """Counts tokens; from ``bad`` on its score is another one."""

    layer = 0

    def __init__(self, bad: int = 10**9, score: float = 1.0) -> None:
        self.bad, self.bad_score = bad, score

    def start(self, rows: int) -> None:
        self.seen = 0

    def step(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen += hidden.shape[1]
        return torch.tensor([self.bad_score if self.seen >= self.bad else 0.0])


async def both(upstream: EngineUpstream, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    whole = (await upstream.complete("chat/completions", body, {})).body
    async with upstream.stream("chat/completions", body, {}) as reply:
        assert reply.events is not None
        return whole, [event async for event in reply.events]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content", "") for event in events for c in event["choices"])


def test_an_answer_and_a_stream(engine_of: EngineOf) -> None:
    upstream = EngineUpstream(Service(engine_of(probe=Counting())), stop_at=0.5)
    whole, events = asyncio.run(both(upstream, BODY))
    assert text_of(events) == whole["choices"][0]["message"]["content"] != ""
    assert "probe" not in str(whole) + str(events)
    assert events[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    listed = asyncio.run(upstream.complete("models", {}, {})).body
    assert [model["id"] for model in listed["data"]] == ["raw"]


@pytest.mark.parametrize("score", [0.5, 1.0, math.nan])
def test_a_probe_ends_an_answer(score: float, engine_of: EngineOf) -> None:
    """At the sixth token of the answer: the text before it stays, nothing comes after it."""
    plain, _ = asyncio.run(both(EngineUpstream(Service(engine_of())), BODY))
    prompt = plain["usage"]["prompt_tokens"]
    upstream = EngineUpstream(Service(engine_of(probe=Counting(prompt + 6, score))), stop_at=0.5)
    whole, events = asyncio.run(both(upstream, BODY))
    (choice,) = whole["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", "")
    assert [c["finish_reason"] for event in events for c in event["choices"] if c["finish_reason"]] == [
        "content_filter"
    ]
    sent, full = text_of(events), plain["choices"][0]["message"]["content"]
    assert full.startswith(sent)
    assert len(sent) < len(full)


def test_refusals_keep_their_status(engine_of: EngineOf) -> None:
    upstream = EngineUpstream(Service(engine_of()))
    for more, status in ({"model": "no"}, 404), ({"temperature": 9}, 400), ({"max_tokens": 10**6}, 400):
        with pytest.raises(UpstreamError) as told:
            asyncio.run(both(upstream, {**BODY, **more}))
        assert told.value.status == status
