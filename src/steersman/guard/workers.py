"""Threads that run the rails, each call under a deadline of its own.

The deadline is of the processor time that the call's own thread has used, so that a busy machine, which gives it
little, fails no good request. A call that uses none (it sleeps, or waits for a lock or a network) has a second one by
the clock, several times as long.

A thread of Python cannot be killed. A call that passes its deadline is therefore left behind: its thread no longer
counts, another takes its place, and the caller goes on. So that calls that hang cannot pile up, a rail with
``most_hung`` of them is not called again (its circuit is open) until one of them comes back. The threads are daemons:
one that hangs does not keep the process from ending.

Calls that only compute are given to one thread in a row (`submit` of several jobs): side by side they would take turns
at Python's lock, and every handing over costs half a millisecond. Each still has its own deadline; if one hangs, those
behind it go to another thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread, get_ident
from typing import Any

SHORTEST_S = 0.005  # between two looks at a call's clock


@dataclass(frozen=True)
class Outcome:
    """What became of a call: a value, or why there is none."""

    value: Any = None
    error: BaseException | None = None
    late: str = ""  # it did not begin, or did not end, in time
    ms: float = 0.0


@dataclass(eq=False)
class Job:
    """One call. Both limits run from its start in a thread: of its processor time, and of all time."""

    owner: str
    work: Callable[[], Any]
    limit_s: float
    clock_s: float
    started: Future[float] = field(default_factory=Future)  # time.monotonic()
    done: Future[Outcome] = field(default_factory=Future)
    dropped: bool = False  # nobody waits for its start any more
    left: bool = False  # it hangs: its thread has been replaced
    behind: deque[Job] = field(default_factory=deque)  # jobs that its thread takes next
    used_s: Callable[[], float] = float  # processor time that its thread has used for it

    def remaining_s(self) -> float:
        """How long at least it may still run before one of its limits is reached; at most 0: it is late."""
        passed_s = time.monotonic() - self.started.result()
        # A thread uses no more processor time than time goes by, so its clock is asked only when it may be late.
        used_s = passed_s if passed_s < self.limit_s else self.used_s()
        return min(self.limit_s - used_s, self.clock_s - passed_s)

    @property
    def why_late(self) -> str:
        """Which limit was reached."""
        if self.started.result() + self.clock_s > time.monotonic():
            return f"no answer within {self.limit_s * 1000:.0f} ms of processor time"
        return f"no answer within {self.clock_s * 1000:.0f} ms"


class Workers:
    """At most ``size`` calls at once, and those left behind.

    Args:
        size: threads that take calls; they are started when needed.
        most_hung: calls of one owner that may hang before no more are made for it.
        queue_s: seconds that a call may wait for a thread.
    """

    def __init__(self, size: int, most_hung: int, queue_s: float) -> None:
        self.size, self.most_hung, self.queue_s = size, most_hung, queue_s
        self._queue: SimpleQueue[deque[Job] | None] = SimpleQueue()
        self._lock = Lock()
        self._threads = 0
        self._running: set[Job] = set()
        self._hung: Counter[str] = Counter()
        self._closed = False

    def submit(self, *jobs: Job) -> Job:
        """Queue calls, which one thread makes in a row; the last one.

        That of an owner with an open circuit has its outcome at once.
        """
        with self._lock:
            self._leave_late_ones()
            row = deque(job for job in jobs if self._may_be_called(job))
            if row and self._threads < self.size:
                self._start_thread()
        if row:
            self._queue.put(row)
        return jobs[-1]

    def wait(self, job: Job) -> Outcome:
        """The outcome of a call, at the latest when its time is over."""
        try:
            began = job.started.result(timeout=self.queue_s)
        except TimeoutError:
            return self._not_begun(job)
        try:
            while (remaining_s := job.remaining_s()) > 0:
                with suppress(TimeoutError):
                    return job.done.result(timeout=max(remaining_s, SHORTEST_S))
            return self._not_ended(job, began)
        finally:
            job.dropped = True

    async def wait_async(self, job: Job) -> Outcome:
        """`wait` without blocking the event loop."""
        try:
            if not await _settled(job.started, self.queue_s):
                return self._not_begun(job)
            while (remaining_s := job.remaining_s()) > 0:
                if await _settled(job.done, max(remaining_s, SHORTEST_S)):
                    return job.done.result()
            return self._not_ended(job, job.started.result())
        finally:
            job.dropped = True

    @property
    def hung(self) -> dict[str, int]:
        """How many calls of each owner hang now."""
        with self._lock:
            self._leave_late_ones()
            return {owner: count for owner, count in self._hung.items() if count}

    def close(self) -> None:
        """Let the threads end when they are idle; further calls have no value."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._queue.put(None)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _may_be_called(self, job: Job) -> bool:
        hung = self._hung[job.owner]
        if not self._closed and hung < self.most_hung:
            return True
        why = "the guard is closed" if self._closed else f"not called: {hung} calls before hang"
        job.started.set_result(time.monotonic())
        job.done.set_result(Outcome(late=why))
        return False

    def _start_thread(self) -> None:
        self._threads += 1
        Thread(target=self._loop, name="steersman-guard", daemon=True).start()

    def _loop(self) -> None:
        clock = _clock_of_this_thread()
        while (row := self._queue.get()) is not None:
            while job := self._next(row):
                job.used_s = partial(_since, clock, clock())
                job.started.set_result(time.monotonic())
                outcome = _outcome(job)
                with self._lock:
                    self._running.discard(job)
                    if left := job.left:
                        self._hung[job.owner] -= 1
                job.done.set_result(outcome)
                if left:  # another thread has taken this one's place
                    return
                del job, outcome  # an idle thread keeps no text

    def _next(self, row: deque[Job]) -> Job | None:
        """The next job of a row that somebody waits for; it counts as running."""
        with self._lock:
            while row:
                job = row.popleft()
                if not job.dropped:
                    job.behind = row
                    self._running.add(job)
                    return job
        return None

    def _leave_late_ones(self) -> None:
        """Replace the threads of calls whose time is over, whether or not somebody still waits for them."""
        for job in [job for job in self._running if not job.left and job.started.done()]:
            if job.remaining_s() <= 0:
                job.left = True
                self._hung[job.owner] += 1
                self._threads -= 1
                if job.behind:
                    self._queue.put(deque(job.behind))
                    job.behind.clear()
                if not self._closed:
                    self._start_thread()

    def _not_begun(self, job: Job) -> Outcome:
        job.dropped = True
        return Outcome(late=f"no thread was free within {self.queue_s:g} s")

    def _not_ended(self, job: Job, began: float) -> Outcome:
        with self._lock:
            self._leave_late_ones()
        if job.done.done():  # at the last moment
            return job.done.result()
        return Outcome(late=job.why_late, ms=(time.monotonic() - began) * 1000)


def _clock_of_this_thread() -> Callable[[], float]:
    """Processor time of the calling thread in seconds, for other threads to ask; 0 on a system that does not tell."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    return float if clock_of is None else partial(time.clock_gettime, clock_of(get_ident()))


def _since(clock: Callable[[], float], began: float) -> float:
    try:
        return clock() - began
    except OSError:  # the thread is gone: its call has ended
        return 0.0


def _outcome(job: Job) -> Outcome:
    began = time.perf_counter()
    try:
        value = job.work()
    except BaseException as error:  # the caller decides which of them end the process
        error.__traceback__ = None  # it would keep the texts
        return Outcome(error=error, ms=(time.perf_counter() - began) * 1000)
    return Outcome(value, ms=(time.perf_counter() - began) * 1000)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _settled(future: Future[Any], timeout_s: float) -> bool:
    """Whether a thread's future has its result within the time. It is neither cancelled nor bound to this loop."""
    if future.done():
        return True
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_wake, waiter)

    future.add_done_callback(wake)
    with suppress(TimeoutError):
        async with asyncio.timeout(
            timeout_s
        ):  # wait_for of Python 3.11 loses a cancellation that comes with the result
            await waiter
    return future.done()
