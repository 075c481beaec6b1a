"""Deadlines of calls: by the processor time of their threads, and by the clock for those that use none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Thread, get_ident

import pytest

from steersman.guard import workers as module
from steersman.guard.workers import Job, Outcome, Workers

Wait = Callable[[Workers, Job], Outcome]


def wait_async(workers: Workers, job: Job) -> Outcome:
    return asyncio.run(workers.wait_async(job))


both_ways = pytest.mark.parametrize("wait", [Workers.wait, wait_async], ids=["wait", "wait_async"])


def spins(until: Event) -> None:
    while not until.is_set():
        pass


@both_ways
def test_a_call_that_spins_fails_by_the_processor_time_of_its_thread(wait: Wait) -> None:
    end, workers = Event(), Workers(1, 2, 5)
    outcome = wait(workers, workers.submit(Job("spins", lambda: spins(end), 0.05, clock_s=60)))
    end.set()
    assert (outcome.value, outcome.late) == (None, "no answer within 50 ms of processor time")
    assert workers.hung in ({"spins": 1}, {})
    assert wait(workers, workers.submit(Job("next", lambda: 7, 60, clock_s=60))).value == 7


@both_ways
def test_a_call_that_sleeps_fails_by_the_clock(wait: Wait) -> None:
    end, workers = Event(), Workers(1, 2, 5)
    began = time.monotonic()
    outcome = wait(workers, workers.submit(Job("sleeps", lambda: end.wait(20), 0.02, clock_s=0.1)))
    assert (outcome.value, outcome.late) == (None, "no answer within 100 ms")
    assert 0.1 <= time.monotonic() - began < 10
    assert workers.hung == {"sleeps": 1}
    end.set()


@both_ways
def test_a_call_that_is_starved_does_not_fail(wait: Wait) -> None:
    """It gets the processor for a fraction of the time only: others hold the interpreter."""
    end, workers = Event(), Workers(1, 2, 5)
    rivals = [Thread(target=spins, args=(end,), daemon=True) for _ in range(6)]

    def works() -> tuple[float, int]:
        began, steps = time.thread_time(), 0
        while time.thread_time() - began < 0.04:
            steps += 1
        return time.thread_time() - began, 7

    for rival in rivals:
        rival.start()
    began = time.monotonic()
    outcome = wait(workers, workers.submit(Job("starved", works, 0.1, clock_s=60)))
    took = time.monotonic() - began
    end.set()
    assert (outcome.late, outcome.error) == ("", None)
    assert outcome.value[1] == 7
    assert took > 0.1, "it was not starved"


def test_without_a_clock_of_threads_the_clock_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module.time, "pthread_getcpuclockid", raising=False)
    end, workers = Event(), Workers(1, 2, 5)
    outcome = workers.wait(workers.submit(Job("spins", lambda: spins(end), 0.02, clock_s=0.1)))
    end.set()
    assert outcome.late == "no answer within 100 ms"


def test_the_time_of_one_call_does_not_count_against_the_next() -> None:
    """The clock of a thread goes on from call to call: each has its own beginning."""
    workers = Workers(1, 2, 5)

    def works() -> float:
        began = time.thread_time()
        while time.thread_time() - began < 0.03:
            pass
        return began

    begins = [workers.wait(workers.submit(Job("works", works, 0.06, clock_s=60))).value for _ in range(4)]
    assert begins[-1] - begins[0] > 0.06, "one thread served them"


def test_a_cancelled_wait_leaves_the_call_and_ends_at_once() -> None:
    end, workers = Event(), Workers(1, 2, 5)
    job = workers.submit(Job("sleeps", lambda: end.wait(20), 0.05, clock_s=60))

    async def client_goes() -> None:
        waiting = asyncio.create_task(workers.wait_async(job))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(client_goes())
    assert job.dropped
    end.set()


def test_a_call_whose_turn_does_not_come_is_not_made() -> None:
    end, workers, called = Event(), Workers(1, 2, 0.05), Future[None]()
    workers.submit(Job("first", lambda: end.wait(20), 60, clock_s=60))
    second = workers.submit(Job("second", lambda: called.set_result(None), 60, clock_s=60))
    assert workers.wait(second).late == "no thread was free within 0.05 s"
    end.set()
    assert workers.wait(workers.submit(Job("third", lambda: 3, 60, clock_s=60))).value == 3
    assert not called.done()


def test_a_row_is_made_by_one_thread_in_order() -> None:
    workers, made = Workers(3, 2, 5), list[tuple[str, int]]()
    jobs = [Job(name, lambda name=name: made.append((name, get_ident())), 60, clock_s=60) for name in "abc"]  # type: ignore[misc]
    assert workers.submit(*jobs) is jobs[-1]
    assert [workers.wait(job).error for job in jobs] == [None] * 3
    assert [name for name, _ in made] == ["a", "b", "c"]
    assert len({thread for _, thread in made}) == 1


def test_a_call_that_hangs_in_a_row_holds_up_none_behind_it() -> None:
    end, workers = Event(), Workers(1, 2, 5)
    hangs = Job("hangs", lambda: end.wait(20), 0.02, clock_s=0.1)
    behind = [Job("behind", lambda number=number: number, 60, clock_s=60) for number in (1, 2)]  # type: ignore[misc]
    workers.submit(hangs, *behind)
    assert workers.wait(hangs).late
    assert [workers.wait(job).value for job in behind] == [1, 2]
    assert workers.hung == {"hangs": 1}
    end.set()


def test_a_row_leaves_out_a_call_of_an_open_circuit() -> None:
    end, workers = Event(), Workers(1, 1, 5)
    workers.wait(workers.submit(Job("hangs", lambda: end.wait(20), 0.02, clock_s=0.05)))
    again, other = Job("hangs", lambda: 1, 60, clock_s=60), Job("other", lambda: 2, 60, clock_s=60)
    workers.submit(again, other)
    assert "not called" in workers.wait(again).late
    assert workers.wait(other).value == 2
    end.set()
