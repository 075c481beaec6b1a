"""Rates, budgets and the queue: what is refused, when it may come again, and that nothing grows or leaks."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from steersman.guard.gateway import limits as limits_module
from steersman.guard.gateway.limits import Gate, Limiter, Limits, Refused, Usage, estimate

NOON = 20_000 * 86_400 + 43_200


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def limiter(clock: Clock, **limits: float) -> Limiter:
    return Limiter(Limits.model_validate(limits), monotonic=clock, clock=clock)


def refused(limiter: Limiter, key: str = "k", tokens: int = 1) -> Refused:
    with pytest.raises(Refused) as caught:
        limiter.admit(key, tokens=tokens)
    assert caught.value.status == 429
    assert caught.value.retry_after_s is not None
    return caught.value


# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_minutes_worth_may_come_at_once_and_flows_back() -> None:
    clock = Clock()
    limited = limiter(clock, requests_per_minute=6)
    for _ in range(6):
        limited.admit("k", tokens=1).settle(None)
    assert refused(limited).retry_after_s == 10
    clock.now += 9
    assert refused(limited).retry_after_s == 1
    clock.now += 1  # after what was said, and refusals cost nothing
    limited.admit("k", tokens=1)
    assert refused(limited).retry_after_s == 10
    limited.admit("another key", tokens=1)


def test_whoever_waits_as_told_is_let_in() -> None:
    """At any rate, also below one a minute."""
    draw = random.Random(0)
    for _ in range(300):
        rate = draw.choice([0.1, 0.7, 1, 3, 59, 60, 61, 1000]) * draw.uniform(0.5, 1.5)
        limited = limiter(clock := Clock(), requests_per_minute=rate)
        for _ in range(int(max(rate, 1))):
            limited.admit("k", tokens=1)
        clock.now += refused(limited).retry_after_s or 0
        limited.admit("k", tokens=1)


def test_tokens_are_settled_with_what_was_used() -> None:
    limited = limiter(clock := Clock(), tokens_per_minute=60)
    ticket = limited.admit("k", tokens=10)
    ticket.settle(100)
    ticket.settle(100)  # a second time counts nothing
    assert refused(limited, tokens=1).retry_after_s == 41
    clock.now += 41
    limited.admit("k", tokens=1).settle(0)
    clock.now += 600
    # More than the bucket holds is let in when it is full: or it never would be.
    limited.admit("k", tokens=10_000).settle(30)
    limited.admit("k", tokens=30)


def test_budgets_of_a_day() -> None:
    limited = limiter(clock := Clock(), requests_per_day=2, tokens_per_day=100)
    limited.admit("a", tokens=90).settle(40)
    assert refused(limited, tokens=61).retry_after_s == 43_200
    assert "60 are left" in refused(limited, tokens=61).found
    limited.admit("b", tokens=1).settle(None)
    assert "2 requests of this day" in refused(limited, key="c").found
    clock.now += 43_200
    limited.admit("c", tokens=100)
    clock.now -= 86_400  # a clock that goes back gives no new day
    assert refused(limited)


def test_requests_at_once() -> None:
    limited = limiter(Clock(), at_once=2)
    first, _ = limited.admit("a", tokens=1), limited.admit("b", tokens=1)
    assert "its limit" in refused(limited).found
    first.settle(None)
    limited.admit("a", tokens=1)


def test_new_limits_forget_nothing_and_a_restart_neither(tmp_path: Path) -> None:
    clock = Clock()
    usage = Usage(tmp_path / "usage.json")
    limited = usage.limiter("t", Limits(tokens_per_day=100))
    limited.monotonic = limited.clock = clock
    limited.admit("k", tokens=80)
    assert usage.limiter("t", Limits(tokens_per_day=90)) is limited
    refused(limited, tokens=11)
    usage.save()
    again = Usage(tmp_path / "usage.json").limiter("t", Limits(tokens_per_day=100))
    again.monotonic = again.clock = clock
    refused(again, tokens=21)
    again.admit("k", tokens=20)


@pytest.mark.parametrize("content", ["", "[]", '{"t": 1}', '{"t": {"day": "x"}}', "\x00"])
def test_a_damaged_file_of_budgets_counts_as_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "usage.json").write_text(content)
    usage = Usage(tmp_path / "usage.json")
    usage.limiter("t", Limits()).admit("k", tokens=3)
    usage.save()
    assert json.loads((tmp_path / "usage.json").read_text())["t"]["tokens"] == 3


def test_keys_that_are_counted_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MAX_BUCKETS", 10)
    limited = limiter(Clock(), requests_per_minute=1)
    for number in range(100):
        limited.admit(str(number), tokens=1).settle(5)
    assert len(limited._keys) == 10


def test_an_estimate() -> None:
    assert (estimate(0), estimate(400), estimate(400, 50)) == (1, 100, 150)


# ── the queue ────────────────────────────────────────────────────────────────────────────────────────────────────────
def run(coroutine: object) -> None:
    asyncio.run(coroutine)  # type: ignore[arg-type]


def test_the_queue_is_bounded_and_in_order() -> None:
    async def work() -> None:
        gate, order, release = Gate(2, 3, 10), [], asyncio.Event()

        async def one(number: int) -> None:
            async with gate.place():
                order.append(number)
                await release.wait()

        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (gate.active, gate.waiting) == (2, 3)
        full = [task.exception() for task in tasks if task.done()]
        assert [(error.status, error.retry_after_s) for error in full if isinstance(error, Refused)] == [(429, 1)] * 3
        tasks[3].cancel()  # a client that waits goes away: its place in the queue is free at once
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert gate.waiting == 2
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 2, 4]
        assert (gate.active, gate.waiting) == (0, 0)

    run(work())


def test_whoever_waits_too_long_is_told() -> None:
    async def work() -> None:
        gate = Gate(1, 5, 0.02)
        async with gate.place():
            with pytest.raises(Refused, match="no place came free") as caught:
                async with gate.place():
                    raise AssertionError
            assert caught.value.status == 503
            assert (gate.active, gate.waiting) == (1, 0)
        assert gate.active == 0

    run(work())


@pytest.mark.parametrize("seed", range(20))
def test_cancelled_at_any_moment_no_place_is_lost(seed: int) -> None:
    async def work() -> None:
        draw, gate, most = random.Random(seed), Gate(3, 10, 0.01), 0

        async def one() -> None:
            nonlocal most
            async with gate.place():
                most = max(most, gate.active)
                await asyncio.sleep(draw.random() / 200)
                if draw.random() < 0.3:
                    raise RuntimeError

        tasks = []
        for _ in range(120):
            tasks.append(asyncio.create_task(one()))
            if draw.random() < 0.5:
                draw.choice(tasks).cancel()
            if draw.random() < 0.5:
                await asyncio.sleep(draw.random() / 500)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.active, gate.waiting) == (0, 0)
        assert most <= 3
        for _ in range(3):  # and all places can still be had
            await gate.enter()

    run(work())


def test_the_place_that_came_as_its_owner_left_goes_to_the_next() -> None:
    async def work() -> None:
        gate = Gate(1, 5, 10)
        await gate.enter()
        first, second = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.leave()  # hands the place to the first, which is cancelled before it wakes
        first.cancel()
        await asyncio.wait_for(second, 1)
        assert (gate.active, gate.waiting) == (1, 0)

    run(work())
