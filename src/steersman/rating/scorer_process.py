"""What the open questions of a round would tell: who scores them, when again, and in which process.

In a server the scorer has a process of its own. A thread of the server would compete with the requests for Python's
interpreter, which each of them gives up some forty times: with 200 raters, 95 of 100 votes then took up to 0.4 to 1.6
seconds instead of 0.04.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from threading import Lock, Thread

from sqlalchemy import func, select

from steersman.rating.round import Question, Scorer
from steersman.rating.schema import Database, items, open_database, votes
from steersman.rating.votes import comparisons, standing_votes

RESCORED = 20  # votes between two askings of the scorer, and
RESTED = 20  # times as long as it took before it is asked again
LONGEST_S = 300.0  # that the other process may take, before another one is begun


class Scoring:
    """Keeps `scores` by item: the best first, of equal ones the first in the random order. Safe from many threads.

    Args:
        where: how the database is opened again in another process.
        now: seconds that never run backwards.
    """

    def __init__(self, database: Database, where: str, scorer: Scorer, now: Callable[[], float]) -> None:
        self.scores: dict[int, float] = {}
        self._database, self._where, self._scorer, self._now = database, where, scorer, now
        self._read: dict[int, Question] = {}
        self._at, self._rested_at = -1, 0.0
        self._turn = Lock()
        self._handed_out: set[int] = set()  # items, since the last scoring began
        self._replacing = Lock()  # of `scores` and what was handed out
        self._apart: _Apart | None = None

    def move_apart(self) -> None:
        """From now on a process of its own scores, and whoever asks for a question goes on with the old scores."""
        self._apart = _Apart(self._where, self._scorer)

    def refresh(self) -> None:
        """Ask the scorer again after some votes, if nobody else is about to."""
        if not self._turn.acquire(blocking=False):
            return
        count = None
        try:
            count = self._votes_if_due()
        finally:
            if count is None:
                self._turn.release()
        if count is not None and self._apart is None:
            self._score(count)
        elif count is not None:
            try:
                Thread(target=self._score, args=(count,), daemon=True).start()
            except RuntimeError as error:  # too many threads: the old scores do until there are fewer
                self._turn.release()
                print(f"warning: questions are not scored anew ({error})", file=sys.stderr)

    def handed_out(self, item: int) -> None:
        """Until the next scoring others are asked something else: what this one tells is about to be known."""
        with self._replacing:
            self._handed_out.add(item)
            self.scores.pop(item, None)

    def _votes_if_due(self) -> int | None:
        """How many votes there are, if it is time to score again."""
        if self._now() < self._rested_at:
            return None
        with self._database.reading() as c:
            count = c.scalar(select(func.count()).select_from(votes)) or 0
        return None if self._at >= 0 and count < self._at + RESCORED else count

    def _score(self, count: int) -> None:
        """Give every open question its score, with ``count`` votes there."""
        began = self._now()
        with self._replacing:
            self._handed_out.clear()
        try:
            here = self._apart.scores if self._apart else lambda: scored(self._database, self._scorer, self._read)
            found = here()
            with self._replacing:  # what was handed out meanwhile was open when the scorer looked
                self.scores = {item: score for item, score in found.items() if item not in self._handed_out}
            self._at = count
        except _Ended:
            print("warning: the process that scores questions ended; the next time begins another", file=sys.stderr)
        finally:
            now = self._now()
            self._rested_at = now + RESTED * (now - began)
            self._turn.release()


def scored(database: Database, scorer: Scorer, read: dict[int, Question]) -> dict[int, float]:
    """The scores of all open questions by their items' numbers, the best first.

    Args:
        read: questions that were read before, which is most of the work; the others are put in.
    """
    with database.reading() as c:
        free = select(items.c.id, items.c.question).where(items.c.taken < items.c.wanted)
        rows = c.execute(free.order_by(items.c.position)).all()
    for row in rows:
        if row.id not in read:
            read[row.id] = Question.model_validate(row.question)
    asked = [read[row.id] for row in rows]
    told = scorer(asked, comparisons(standing_votes(database, read))) if asked else []
    return dict(sorted(zip((row.id for row in rows), map(float, told), strict=True), key=lambda one: -one[1]))


class _Ended(Exception):
    """The other process is gone."""


class _Apart:
    """A scorer in a process of its own, which ends when this one does, however it ends."""

    def __init__(self, where: str, scorer: Scorer) -> None:
        self._begun_with = (where, scorer)
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the server's sockets and locks
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(*self._begun_with, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def scores(self) -> dict[int, float]:
        """Of all open questions.

        Raises:
            _Ended: the process ended, or was ended after `LONGEST_S`; the next call begins another.
        """
        if not self._process.is_alive():
            self._begin()
        try:
            self._line.send(None)
            if not self._line.poll(LONGEST_S):
                self._process.kill()
                self._process.join()
                raise _Ended
            found: dict[int, float] = self._line.recv()
        except (EOFError, OSError) as error:
            raise _Ended from error
        return found


def _answer(where: str, scorer: Scorer, line: Connection) -> None:
    """The other process: scores whenever it is asked."""
    import torch

    torch.set_num_threads(1)  # scoring is quick, and many threads for it would keep raters waiting
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the server, and the server's end this
    database, read = open_database(where), dict[int, Question]()
    while True:
        try:
            line.recv()
        except EOFError:  # the server is gone
            return
        line.send(scored(database, scorer, read))
        database.engine.dispose()  # no connection stays open until the next time
