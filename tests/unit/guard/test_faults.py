"""Faults of everything around the gateway: nothing unscreened is sent, one clear answer, nothing is left behind.

The fast tier runs some of each family; `benchmarks/guard_faults.py` runs more than a thousand.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path

import pytest

import gateway_faults as faults
from gateway_fault_families import FAMILIES, outcome_of, run, table
from gateway_fault_kinds import Fault, answered, blocked
from gateway_faults import BENIGN, WICKED, House, Outcome, request
from steersman.guard.workers import _settled


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("seed", "each"), [(1, 5), pytest.param(2, 40, marks=pytest.mark.slow)])
def test_no_fault_lets_anything_through(family: str, seed: int, each: int) -> None:
    said: list[str] = []
    found = asyncio.run(run(seed, each, [family], said.append))
    assert said == []
    assert table(found)[0] | {"kinds": 0} == {
        "family": family,
        "faults": each,
        "kinds": 0,
        "leaked": 0,
        "wrong": 0,
        "left": 0,
    }


@pytest.mark.parametrize("in_process", [True, False])
def test_the_measure_sees_what_comes_through(tmp_path: Path, in_process: bool) -> None:
    """Without faults, and with rails that see nothing: the canary arrives, and is found."""

    class Blind:
        name, reach = "patterns", 0

        def check(self, exchange: object, views: object) -> tuple[()]:
            return ()

    async def work() -> list[dict[str, str]]:
        async with House(tmp_path).open() as house:
            seen = []
            for text, checks, right in (
                (BENIGN, faults.guard, answered),
                (WICKED, faults.guard, blocked),
                (WICKED, lambda: faults.guard(lambda rail: Blind()), answered),
            ):
                for streamed in (True, False):
                    play = faults.plays(faults.stream(text) if streamed else faults.whole(text))
                    fault = Fault("none", "none", request(stream=streamed), play, right, checks, in_process=in_process)
                    seen.append(await outcome_of(house, fault))
            return seen

    seen = asyncio.run(work())
    assert [bool(found["leaked"]) for found in seen] == [False] * 4 + [True] * 2
    assert [bool(found["wrong"]) for found in seen] == [False] * 4 + [True] * 2
    assert [found["left"] for found in seen] == [""] * 6


def test_what_is_measured() -> None:
    """A stream that breaks off, a piece of the canary, and a text where no rail could judge."""
    cut = Outcome(200, {"content-type": "text/event-stream"}, faults.event({"content": "a zebrafis"}), ended=False)
    assert "ended False" in answered(cut)
    assert faults.leaked_text(cut, [], True) == "zebrafi, ebrafis"
    assert faults.leaked_text(Outcome(), [b"give me the zebrafish recipe"], True) != ""
    assert faults.leaked_text(Outcome(200, {}, BENIGN.encode()), [], True) == ""
    assert faults.leaked_text(Outcome(200, {}, BENIGN.encode()), [], False) == faults.MARKER


def test_a_cancellation_that_comes_with_a_rails_result_is_not_lost() -> None:
    """`asyncio.wait_for` of Python 3.11 loses it: a client's leaving, or the upstream's time-out, would have no effect.

    An endless answer then went on for as long as the upstream sent.
    """

    async def work() -> None:
        result: Future[int] = Future()
        waiting = asyncio.create_task(_settled(result, 10))
        await asyncio.sleep(0.01)
        result.set_result(1)
        asyncio.get_running_loop().call_soon(waiting.cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(work())
