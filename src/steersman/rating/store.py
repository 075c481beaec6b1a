"""The state of a rating round: questions, assignments to raters, and append-only votes.

A question is assigned on a *lease*. Until it expires no other rater gets the question (beyond the number of raters that
it wants); then the question is returned, and its former rater may still answer: the vote is kept, and marked late if
another rater has taken the seat meanwhile. So no vote is lost, and none counts twice.

Leases are measured in *ticks*, the seconds of the server's uptime, continued from the store's last tick. The wall clock
may jump: it is recorded beside every vote for people to read, and decides nothing.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, exists, func, insert, select

from steersman.errors import UserError
from steersman.rating import statements as sql
from steersman.rating.round import Arm, Question, Round, Scorer, Submission, arm_of, order_shown
from steersman.rating.schema import VERSION, Database, assignments, items, open_database, rounds, superseded, votes
from steersman.rating.scorer_process import Scoring
from steersman.rating.votes import StoredVote, read_votes
from steersman.types import Record

LOOKUP_BATCH = 20  # scored questions that are looked up at once
SETTLED = ("answered", "skipped")  # states of an assignment
REPEAT_AFTER = 10  # questions between one and its repetition


class Refused(Exception):
    """A request that is refused; ``reason`` is for the person, ``status`` is HTTP's."""

    def __init__(self, reason: str, *, status: int = 409) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


def check_version(what: str, found: int, own: int, where: str, do: str) -> None:
    """Refuse a store of another version.

    Raises:
        UserError: it is of another one.
    """
    if found != own:
        raise UserError(
            f"{what} has version {found}, and this Steersman reads version {own}", where=where.split("@")[-1], do=do
        )


def check_settings(what: str, begun: Record | None, new: Record, where: str, do: str) -> None:
    """Refuse other settings than those with which it was begun.

    Raises:
        UserError: they differ; it names what was and what is wanted.
    """
    old = (begun or new).model_dump()
    changed = [f"{name}: {old[name]!r} -> {value!r}" for name, value in new.model_dump().items() if old[name] != value]
    if changed:
        raise UserError(
            f"{what} was begun with other settings ({'; '.join(changed)[:300]})", where=where.split("@")[-1], do=do
        )


class Task(NamedTuple):
    """An assignment as its rater may see it, without authors and without the arm."""

    assignment: str
    prompt: Any
    answers: tuple[str, ...]  # from left to right
    principles: tuple[str, ...]


class RaterProgress(NamedTuple):
    """Questions that a rater has answered or skipped, and that are left for this rater."""

    answered: int
    left: int


class MonotonicClock:
    """Seconds of the server's uptime, continued from ``start``."""

    def __init__(self, start: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._start, self._monotonic, self._zero = start, monotonic, monotonic()

    def now(self) -> float:
        """Never decreases."""
        return self._start + self._monotonic() - self._zero


class RatingStore:
    """The questions and votes of one round; thread-safe.

    Args:
        where: a file, or a database URL.
        scorer: scores the questions of the informed arm; without one all are drawn at random.
        monotonic: a monotonic clock in seconds.
    """

    def __init__(
        self,
        where: str | Path,
        *,
        scorer: Scorer | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database: Database = open_database(where)
        self.where = str(where)
        with self.database.reading() as c:
            shown = c.scalar(select(func.max(assignments.c.shown_tick))) or 0.0
            voted = c.scalar(select(func.max(votes.c.tick))) or 0.0
            known = c.execute(select(rounds)).first()
            self._gold = c.scalar(sql.NUMBER_OF_GOLD) or 0
        self.clock = MonotonicClock(max(shown, voted), monotonic)
        self.scoring = Scoring(self.database, self.where, scorer, self.clock.now) if scorer else None
        if known is not None:
            do = "finish the round with the Steersman that began it"
            check_version("the rating store", known.version, VERSION, self.where, do)
        self._round = Round.model_validate(known.settings) if known is not None else None

    @property
    def round(self) -> Round:
        """The settings of the round.

        Raises:
            UserError: none has begun.
        """
        if self._round is None:
            raise UserError("no rating round has begun here", where=self.where.split("@")[-1], do="steersman rate RUN")
        return self._round

    @property
    def begun(self) -> bool:
        """Whether a round has begun."""
        return self._round is not None

    def begin(self, settings: Round, questions: Sequence[Question]) -> int:
        """Begin the round, or continue it; returns the number of new questions.

        Raises:
            UserError: the round was begun with other settings, or there are no questions.
        """
        do = "leave these settings out to go on, or begin another round with --store"
        check_settings("this round", self._round, settings, self.where, do)
        with self.database.writing() as c:
            if self._round is None:
                values = {"id": 1, "version": VERSION, "settings": settings.model_dump(mode="json")}
                c.execute(insert(rounds).values(**values, begun_at=time.time()))
            known = set(c.scalars(select(items.c.key)))
            fresh = {question.key: question for question in questions if question.key not in known}
            rows = [
                {
                    "key": key,
                    "question": question.model_dump(mode="json"),
                    "position": random.Random(f"position {settings.seed} {key}").random(),
                    "gold": question.gold is not None,
                    "wanted": 0 if question.gold else question.raters,
                    "taken": 0,
                }
                for key, question in fresh.items()
            ]
            if rows:
                c.execute(insert(items), rows)
            elif not known:
                raise UserError("there is no question to ask", do="give prompts with at least two different answers")
            self._gold = c.scalar(sql.NUMBER_OF_GOLD) or 0
        self._round = settings
        return len(rows)

    # assignments ────────────────────────────────────────────────────────────────────────────────────────────────────
    def next_task(self, rater: int) -> Task | None:
        """The rater's open question, else a new one; None when there is none left."""
        if self.scoring and self.round.random_share < 1:
            self.scoring.refresh()
        with self.database.writing(durable=False) as c:
            self._return_lapsed(c, rater)
            row = c.execute(sql.OPEN_OR_RETURNED, {"a_rater": rater}).first()
            if row is not None and row.state == "open":
                _update(c, row.id, lease_until=self.clock.now() + self.round.lease_s)
            elif self._quota_is_full(c, rater):
                return None
            elif row is None:
                return self._new_task(c, rater)
            else:
                self._open(c, row)
            return self._task(row.public, row.question, row.order_shown)

    def progress(self, rater: int) -> RaterProgress:
        """The numbers of questions that this rater has settled and may still get."""
        with self.database.reading() as c:
            settled, wanting, done, own_only, gold = c.execute(sql.PROGRESS, {"a_rater": rater}).one()
        left = wanting - done + own_only + (self._gold - gold if self.round.gold_share else 0)
        quota = self.round.per_rater
        return RaterProgress(settled, left if quota is None else min(left, max(0, quota - settled)))

    def _quota_is_full(self, c: Connection, rater: int) -> bool:
        """Whether a rater without an open question has answered or skipped ``per_rater`` questions.

        Returned ones do not count, so that raters who pause get as many questions as the others.
        """
        quota = self.round.per_rater
        return quota is not None and (c.scalar(sql.NUMBER_SETTLED, {"a_rater": rater}) or 0) >= quota

    def _new_task(self, c: Connection, rater: int) -> Task | None:
        """A new assignment, of the arm that is due."""
        settings = self.round
        number = c.scalar(sql.NUMBER_OF_ASSIGNMENTS, {"a_rater": rater}) or 0
        arm: Arm = arm_of(settings, rater, number, informed=bool(self.scoring and self.scoring.scores))
        item: Row[Any] | None = None
        if arm == "gold":
            item = self._unseen_gold(c, rater, settings.seed)
        elif arm == "repeat":
            item = self._item_to_repeat(c, rater, number)
        if arm in ("gold", "repeat") and item is None:
            arm = "random"
        score = None
        if item is None:
            item, score = self._open_item(c, rater, informed=arm == "informed")
            if score is None:  # no scored question is open to this rater
                arm = "random"
        if item is None and settings.gold_share:  # every rater gets the gold questions that are left
            item, arm = self._unseen_gold(c, rater, settings.seed), "gold"
        return None if item is None else self._assign(c, rater, item, arm, score)

    def _unseen_gold(self, c: Connection, rater: int, seed: int) -> Row[Any] | None:
        seen = select(assignments.c.item_id).where(assignments.c.rater_id == rater)
        unseen = list(c.scalars(select(items.c.id).where(items.c.gold, items.c.id.not_in(seen)).order_by(items.c.id)))
        return _item(c, random.Random(f"which gold {seed} {rater} {len(unseen)}").choice(unseen)) if unseen else None

    def _item_to_repeat(self, c: Connection, rater: int, number: int) -> Row[Any] | None:
        """The question that was answered longest ago and not repeated yet, after `REPEAT_AFTER` assignments."""
        again = assignments.alias()
        repeated = exists().where(again.c.item_id == assignments.c.item_id, again.c.rater_id == rater, again.c.repeat)
        first = (
            select(assignments.c.item_id)
            .join(items, items.c.id == assignments.c.item_id)
            .where(assignments.c.rater_id == rater, assignments.c.state == "answered", ~assignments.c.repeat)
            .where(~items.c.gold, ~repeated)
            .order_by(assignments.c.id)
        )
        item = c.scalar(first.limit(1)) if number >= REPEAT_AFTER else None
        return None if item is None else _item(c, item)

    def _open_item(self, c: Connection, rater: int, *, informed: bool) -> tuple[Row[Any] | None, float | None]:
        """The open question of the highest score, with its score, or the next one in the random order and None."""
        best = self._best_item(c, rater, self.scoring) if self.scoring and informed else None
        return best or (c.execute(sql.NEXT_AT_RANDOM, {"a_rater": rater}).first(), None)

    def _best_item(self, c: Connection, rater: int, scoring: Scoring) -> tuple[Row[Any], float] | None:
        scores = dict(scoring.scores)
        ranked = list(scores)
        for start in range(0, len(ranked), LOOKUP_BATCH):
            some = ranked[start : start + LOOKUP_BATCH]
            left = {row.id: row for row in c.execute(sql.OPEN_AMONG, {"a_rater": rater, "some": some})}
            if left:
                best = next(item for item in some if item in left)
                scoring.mark_assigned(best)
                return left[best], scores[best]
        return None

    def _assign(self, c: Connection, rater: int, item: Row[Any], arm: Arm, score: float | None) -> Task:
        """A new open assignment."""
        count = len(item.question["options"])
        order = order_shown(self.round.seed, item.key, rater, count, repeat=arm == "repeat")
        counted = arm not in ("gold", "repeat")
        now = self.clock.now()
        values = {
            "public": secrets.token_urlsafe(12),
            "item_id": item.id,
            "rater_id": rater,
            "repeat": arm == "repeat",
            "arm": arm,
            "score": score,
            "order_shown": list(order),
            "state": "open",
            "seated": counted and _seat(c, item.id),
            "shown_at": time.time(),
            "shown_tick": now,
            "lease_until": now + self.round.lease_s,
        }
        c.execute(sql.INSERT_ASSIGNMENT, values)
        return self._task(values["public"], item.question, order)

    def _open(self, c: Connection, row: Row[Any]) -> None:
        """Open an assignment again, and take a seat if the question has a free one."""
        now = self.clock.now()
        seated = not (row.gold or row.repeat) and _seat(c, row.item_id)
        until = now + self.round.lease_s
        _update(c, row.id, state="open", seated=seated, shown_tick=now, lease_until=until)

    def _return_lapsed(self, c: Connection, rater: int) -> None:
        """Return the other raters' open assignments whose lease has expired."""
        for row in c.execute(sql.LAPSED, {"now": self.clock.now(), "a_rater": rater}).all():
            _return(c, row)

    def _task(self, public: str, question: Any, order: Sequence[int]) -> Task:
        parsed = Question.model_validate(question)
        principles = parsed.principles or tuple(self.round.principles)
        answers = tuple(parsed.options[i] for i in order)
        return Task(public, parsed.prompt, answers, tuple(p for p in principles if p in self.round.principles))

    def settled_task(self, rater: int, assignment: str) -> Task | None:
        """A question that this rater has answered or skipped, as it was shown; None if it is none."""
        with self.database.reading() as c:
            row = c.execute(sql.ASSIGNMENT_BY_PUBLIC, {"a_public": assignment, "a_rater": rater}).first()
        if row is None or row.state not in SETTLED:
            return None
        return self._task(row.public, row.question, row.order_shown)

    # votes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def submit(self, rater: int, body: Submission) -> bool:
        """Store a vote or a skip durably; returns False if the same submission was stored before.

        Raises:
            Refused: not this rater's question, answered already, or ranks that do not fit the answers.
        """
        with self.database.writing() as c:
            if self._is_duplicate(c, rater, body.submission, body.digest):
                return False
            row = c.execute(sql.ASSIGNMENT_BY_PUBLIC, {"a_public": body.assignment, "a_rater": rater}).first()
            if row is None:
                raise Refused("This question is not yours to answer.", status=404)
            if row.state in SETTLED and not body.corrects:
                raise Refused("You have answered this question already, perhaps in another tab. That answer stands.")
            if not body.fits(len(row.order_shown), self._task(row.public, row.question, row.order_shown).principles):
                raise Refused("These ranks do not fit the answers on the page.", status=422)
            plain = not (row.gold or row.repeat)
            seated = row.seated or (plain and not body.skip and _seat(c, row.item_id))
            late = plain and not seated and not body.skip
            if body.skip and row.seated:
                _unseat(c, row.item_id)
                seated = False
            _update(c, row.id, state="skipped" if body.skip else "answered", seated=seated)
            before = c.scalar(sql.STANDING_VOTE, {"an_assignment": row.id}) if row.state in SETTLED else None
            c.execute(sql.INSERT_VOTE, {**self._vote(row, body), "late": late, "supersedes": before})
            return True

    def _vote(self, row: Row[Any], body: Submission) -> dict[str, Any]:
        """The columns of a vote; ranks by place on the page become ranks by option."""

        def by_option(ranks: Sequence[int]) -> list[int]:
            return [ranks[row.order_shown.index(i)] for i in range(len(ranks))]

        now = self.clock.now()
        elapsed = max(0.0, now - row.shown_tick)  # another server's ticks may be ahead
        edit = body.edit
        return {
            "submission": body.submission,
            "digest": body.digest,
            "rater_id": row.rater_id,
            "assignment_id": row.id,
            "kind": "skip" if body.skip else "vote",
            "ranking": by_option(body.ranking) if body.ranking else None,
            "both_bad": body.both_bad,
            "per_principle": {principle: by_option(ranks) for principle, ranks in body.per_principle.items()},
            "rationale": body.rationale,
            "edited_option": row.order_shown[edit.position] if edit else None,
            "edited_text": edit.text if edit else None,
            # The time that the page was visible, as the browser reports it, bounded by the server's own measurement.
            "seconds": elapsed if body.visible_s is None else min(body.visible_s, elapsed),
            "answered_at": time.time(),
            "tick": now,
        }

    def undo(self, rater: int, submission: str) -> bool:
        """Undo the rater's last vote or skip and open its question again; False if there is none left.

        Raises:
            Refused: this submission's name was used before.
        """
        with self.database.writing() as c:
            if self._is_duplicate(c, rater, submission, "undo"):
                return True
            last = c.execute(
                select(votes.c.id, votes.c.assignment_id)
                .where(votes.c.rater_id == rater, votes.c.kind != "undo", votes.c.id.not_in(superseded()))
                .order_by(votes.c.id.desc())
            ).first()
            if last is None:
                return False
            undone = {"submission": submission, "digest": "undo", "rater_id": rater, "kind": "undo"}
            times = {"answered_at": time.time(), "tick": self.clock.now()}
            about = {"assignment_id": last.assignment_id, "supersedes": last.id}
            c.execute(insert(votes).values(**undone, **about, **times))
            open_one = c.execute(sql.OPEN_OR_RETURNED, {"a_rater": rater}).first()
            if open_one is not None and open_one.state == "open":
                _return(c, open_one)
            row = c.execute(sql.ASSIGNMENT_BY_ID, {"an_assignment": last.assignment_id}).one()
            if row.seated:
                _unseat(c, row.item_id)
            self._open(c, row)
            return True

    def _is_duplicate(self, c: Connection, rater: int, submission: str, digest: str) -> bool:
        known = c.scalar(sql.DIGEST_OF_SUBMISSION, {"a_rater": rater, "a_submission": submission})
        if known is not None and known != digest:
            raise Refused("This submission was sent before with another content. The first one stands.")
        return known is not None

    # reading ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def votes(self, rater: int | None = None) -> list[StoredVote]:
        """All votes and skips that were not undone, or one rater's; without those of raters who withdrew."""
        return read_votes(self.database, {}, rater)

    def questions(self) -> list[tuple[int, Question]]:
        """All questions with their item numbers."""
        with self.database.reading() as c:
            rows = c.execute(select(items.c.id, items.c.question).order_by(items.c.id)).all()
        return [(row.id, Question.model_validate(row.question)) for row in rows]


def _item(c: Connection, item: int) -> Row[Any]:
    return c.execute(sql.ITEM, {"an_item": item}).one()


def _update(c: Connection, assignment: int, **values: Any) -> None:
    c.execute(sql.UPDATE_ASSIGNMENT, {"an_assignment": assignment, **values})


def _seat(c: Connection, item: int) -> bool:
    """Take a seat at a question; False if none is free."""
    return c.execute(sql.SEAT, {"an_item": item}).rowcount == 1


def _unseat(c: Connection, item: int) -> None:
    c.execute(sql.UNSEAT, {"an_item": item})


def _return(c: Connection, row: Row[Any]) -> None:
    """Return an open assignment and free its seat."""
    if row.seated:
        _unseat(c, row.item_id)
    _update(c, row.id, state="returned", seated=False)
