"""The engine as the gateway's upstream, in one process, and a probe that reads along and stops an answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from guarded import constitution, gateway
from steersman.cli.in_process import EngineUpstream
from steersman.guard.gateway.app import create_app
from steersman.guard.gateway.upstream import UpstreamError
from steersman.guard.guard import Guard
from steersman.guard.rails.probe import TokenProbe, TokenRail
from steersman.serving.engine import Engine
from steersman.serving.service import Service

from .conftest import events

BODY = {"model": "raw", "messages": [{"role": "user", "content": "How do I cook rice?"}], "max_tokens": 40, "seed": 1}
EngineOf = Callable[..., Engine]


class Counting:
    """Counts the tokens of an answer; from ``bad`` on its score is another one."""

    layer = 0

    def __init__(self, bad: int = 10**9, score: float = 1.0) -> None:
        self.bad, self.bad_score = bad, score

    def tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(hidden))

    def follow(self) -> Count:
        return Count(self)


class Count:
    def __init__(self, probe: Counting) -> None:
        self.probe, self.seen = probe, 0

    def add(self, score: float) -> float:
        self.seen += 1
        return self.probe.bad_score if self.seen >= self.probe.bad else 0.0


def rail() -> TokenRail:
    return TokenRail(TokenProbe(0, np.zeros(1, np.float32), 0.0, 0.5), "locked", "block")


def served(engine: Engine, **settings: Any) -> TestClient:
    """A gateway before the engine, whose guard has the probe's rail."""
    state = gateway(
        EngineUpstream(Service(engine)), Guard.from_constitution(constitution(), rails=[rail()], **settings)
    )
    return TestClient(create_app(state), base_url="http://127.0.0.1")


def asked(client: TestClient, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole answer, and the chunks of a stream."""
    path = "/v1/chat/completions" if "prompt" not in more else "/v1/completions"
    body = {key: value for key, value in {**BODY, **more}.items() if key != "messages" or "prompt" not in more}
    whole = client.post(path, json=body)
    assert whole.status_code == 200, whole.text
    return whole.json(), events(client.post(path, json={**body, "stream": True}))


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    pieces = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(p.get("text") or p.get("delta", {}).get("content") or "" for p in pieces)


def ends(chunks: list[dict[str, Any]]) -> Mapping[int, str]:
    return {c["index"]: c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]}


@pytest.mark.parametrize("more", [{}, {"prompt": "How do I cook rice?"}, {"n": 3}, {"logprobs": True}])
def test_an_answer_and_a_stream(more: dict[str, Any], engine_of: EngineOf) -> None:
    with served(engine_of(probe=Counting())) as client:
        whole, chunks = asked(client, **more)
    for choice in whole["choices"]:
        text = choice["text"] if "prompt" in more else choice["message"]["content"]
        assert text_of(chunks, choice["index"]) == text != ""
        assert ends(chunks)[choice["index"]] == choice["finish_reason"]
    assert "activation" not in str(whole) + str(chunks)
    assert "probe" not in str(whole) + str(chunks)


@pytest.mark.parametrize("more", [{}, {"prompt": "How do I cook rice?"}, {"n": 3}])
@pytest.mark.parametrize("score", [0.6, math.nan])
def test_a_probe_stops_an_answer(score: float, more: dict[str, Any], engine_of: EngineOf) -> None:
    """As any rail does, and of the text that came with the score nothing is sent."""
    with served(engine_of()) as client:
        plain, _ = asked(client, **more)
    with served(engine_of(probe=Counting(30, score))) as client:
        whole, chunks = asked(client, **more)
    assert whole["guardrail"]["rail"] == "probe"
    assert whole["guardrail"]["failed"] == math.isnan(score)
    for choice, full in zip(whole["choices"], plain["choices"], strict=True):
        said, original = (c["text"] if "prompt" in more else c["message"]["content"] for c in (choice, full))
        assert choice["finish_reason"] == ends(chunks)[choice["index"]] == "content_filter"
        sent = text_of(chunks, choice["index"])
        assert sent.endswith(said)
        before = sent.removesuffix(said).removesuffix("\n\n")
        assert original.startswith(before)
        assert len(before) < len(original)


def test_in_shadow_mode_a_probe_only_tells(engine_of: EngineOf) -> None:
    with served(engine_of()) as client:
        plain, _ = asked(client)
    with served(engine_of(probe=Counting(9, math.nan)), shadow=["probe"]) as client:
        whole, chunks = asked(client)
    assert whole["choices"] == plain["choices"]
    assert text_of(chunks) == plain["choices"][0]["message"]["content"]


def test_refusals_keep_their_status(engine_of: EngineOf) -> None:
    upstream = EngineUpstream(Service(engine_of()))
    for more, status in ({"model": "no"}, 404), ({"temperature": 9}, 400), ({"max_tokens": 10**6}, 400):
        with pytest.raises(UpstreamError) as told:
            asyncio.run(upstream.complete("chat/completions", {**BODY, **more}, {}))
        assert told.value.status == status
