"""Scores of the open questions of a round: when they are computed again, and in which process.

In a server the scorer has a process of its own. A thread of the server would compete with the requests for the GIL,
which each of them releases some forty times: with 200 raters, the 95th percentile of a vote's latency was then 0.4 to
1.6 seconds instead of 0.04.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from threading import Lock, Thread

from sqlalchemy import func, select

from steersman.rating.round import Question, Scorer
from steersman.rating.schema import Database, items, open_database, votes
from steersman.rating.votes import comparisons, read_votes

RESCORE_VOTES = 20  # new votes until the questions are scored again, and
REST_FACTOR = 20  # pause after a scoring, in multiples of its duration
TIMEOUT_S = 300.0  # of the scorer's process, after which it is replaced


class Scoring:
    """Keeps `scores` by item: the best first, ties in the random order. Thread-safe.

    Args:
        where: the database's place, by which another process opens it.
        now: a monotonic clock in seconds.
    """

    def __init__(self, database: Database, where: str, scorer: Scorer, now: Callable[[], float]) -> None:
        self.scores: dict[int, float] = {}
        self._database, self._where, self._scorer, self._now = database, where, scorer, now
        self._questions: dict[int, Question] = {}  # cache
        self._scored_votes, self._rest_until = -1, 0.0
        self._running = Lock()
        self._assigned: set[int] = set()  # items, since the last scoring began
        self._replacing = Lock()  # guards `scores` and `_assigned`
        self._process: _ScorerProcess | None = None

    def start_process(self) -> None:
        """Score in a process of its own from now on; requests meanwhile use the previous scores."""
        self._process = _ScorerProcess(self._where, self._scorer)

    def end_process(self) -> None:
        """End that process, with the server."""
        if self._process:
            self._process.end()

    def refresh(self) -> None:
        """Score again if it is due and no scoring is running."""
        if not self._running.acquire(blocking=False):
            return
        count = None
        try:
            count = self._votes_if_due()
        finally:
            if count is None:
                self._running.release()
        if count is not None and self._process is None:
            self._score(count)
        elif count is not None:
            try:
                Thread(target=self._score, args=(count,), daemon=True).start()
            except RuntimeError as error:  # too many threads: the previous scores stay in use
                self._running.release()
                print(f"warning: questions are not scored anew ({error})", file=sys.stderr)

    def mark_assigned(self, item: int) -> None:
        """Offer an item to nobody else until the next scoring: its information is about to be known."""
        with self._replacing:
            self._assigned.add(item)
            self.scores.pop(item, None)

    def _votes_if_due(self) -> int | None:
        """The number of votes, if it is time to score again."""
        if self._now() < self._rest_until:
            return None
        with self._database.reading() as c:
            count = c.scalar(select(func.count()).select_from(votes)) or 0
        return None if self._scored_votes >= 0 and count < self._scored_votes + RESCORE_VOTES else count

    def _score(self, count: int) -> None:
        """Replace the scores, given ``count`` votes."""
        began = self._now()
        with self._replacing:
            self._assigned.clear()
        try:
            if self._process:
                scores = self._process.scores()
            else:
                scores = score_open_questions(self._database, self._scorer, self._questions)
            with self._replacing:  # items assigned meanwhile were open when the scorer read the database
                self.scores = {item: score for item, score in scores.items() if item not in self._assigned}
            self._scored_votes = count
        except _ProcessEnded as ended:
            if not ended.with_server:
                print("warning: the process that scores questions ended; the next time begins another", file=sys.stderr)
        finally:
            now = self._now()
            self._rest_until = now + REST_FACTOR * (now - began)
            self._running.release()


def score_open_questions(database: Database, scorer: Scorer, cache: dict[int, Question]) -> dict[int, float]:
    """The scores of all open questions by item, the best first.

    Args:
        cache: questions by item, to which newly read ones are added: parsing them is most of the work.
    """
    with database.reading() as c:
        free = select(items.c.id, items.c.question).where(items.c.taken < items.c.wanted)
        rows = c.execute(free.order_by(items.c.position)).all()
    for row in rows:
        if row.id not in cache:
            cache[row.id] = Question.model_validate(row.question)
    questions = [cache[row.id] for row in rows]
    scores = scorer(questions, comparisons(read_votes(database, cache))) if questions else []
    return dict(sorted(zip((row.id for row in rows), map(float, scores), strict=True), key=lambda pair: -pair[1]))


class _ProcessEnded(Exception):
    """The scorer's process has ended; ``with_server``: because the server ends."""

    def __init__(self, *, with_server: bool) -> None:
        super().__init__()
        self.with_server = with_server


class _ScorerProcess:
    """A scorer in a process of its own, which ends with the server's process, however that ends."""

    def __init__(self, where: str, scorer: Scorer) -> None:
        self._arguments, self._over = (where, scorer), False
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the server's sockets and locks
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_run_scorer, args=(*self._arguments, other), daemon=True)
        with _no_interrupts():
            self._process.start()
        other.close()

    def end(self) -> None:
        """End the process, and wait for that."""
        self._over = True
        self._process.kill()  # it only reads
        self._process.join(5)

    def scores(self) -> dict[int, float]:
        """The scores of all open questions.

        Raises:
            _ProcessEnded: the process ended, or was killed after `TIMEOUT_S`; the next call starts another.
        """
        if self._over:
            raise _ProcessEnded(with_server=True)
        if not self._process.is_alive():
            self._start()
        try:
            self._connection.send(None)
            if not self._connection.poll(TIMEOUT_S):
                self._process.kill()
                self._process.join()
                raise _ProcessEnded(with_server=False)
            scores: dict[int, float] = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _ProcessEnded(with_server=self._over) from error
        return scores


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """A process that is begun here never hears of Ctrl-C, which a terminal sends to all, or of a SIGTERM that a
    supervisor sends to all: its server ends it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_scorer(where: str, scorer: Scorer, connection: Connection) -> None:
    """The body of the scorer's process: one scoring for each message."""
    import torch

    torch.set_num_threads(1)  # leave the other cores to the server
    for number in (signal.SIGINT, signal.SIGTERM):  # they end the server, whose end closes the pipe
        signal.signal(number, signal.SIG_IGN)
    database, cache = open_database(where), dict[int, Question]()
    while True:
        try:
            connection.recv()
        except (EOFError, OSError):  # the server has ended
            return
        scores = score_open_questions(database, scorer, cache)
        try:
            connection.send(scores)
        except OSError:  # the server has ended meanwhile, and nobody waits for them
            return
        database.engine.dispose()  # no open connections between scorings
