"""The SQL of one vote, from the cookie to the next question.

Built once, because SQLAlchemy spends several times longer on building a statement than SQLite on running it, and 200
raters share one processor. What runs seldom is built where it runs.
"""

from __future__ import annotations

from sqlalchemy import Integer, String, and_, bindparam, case, exists, func, insert, or_, select, update

from steersman.rating.schema import assignments, items, queries, raters, replies, sessions, superseded, votes

_rater, _item, _assignment = (bindparam(name, type_=Integer) for name in ("a_rater", "an_item", "an_assignment"))
_is_open = assignments.c.state == "open"
_wants = items.c.taken < items.c.wanted
_own = assignments.c.rater_id == _rater
_joined = select(assignments, items.c.question, items.c.gold).join(items, items.c.id == assignments.c.item_id)

# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────
_secret = bindparam("a_session", type_=String)
_of_session = select(sessions.c.rater_id).where(sessions.c.secret == _secret).scalar_subquery()
RATER_OF_SESSION = select(raters).where(or_(raters.c.session == _secret, raters.c.id == _of_session))
QUERIES_TO_RATER = (
    select(queries, items.c.question)
    .join(items, items.c.id == queries.c.item_id)
    .where(exists().where(assignments.c.item_id == queries.c.item_id, _own, assignments.c.state == "answered"))
    .where(~exists().where(replies.c.query_id == queries.c.id, replies.c.rater_id == _rater))
    .order_by(queries.c.id)
)

# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
DIGEST_OF_SUBMISSION = select(votes.c.digest).where(
    votes.c.rater_id == _rater, votes.c.submission == bindparam("a_submission")
)
ASSIGNMENT_BY_PUBLIC = _joined.where(assignments.c.public == bindparam("a_public"), _own)
ASSIGNMENT_BY_ID = _joined.where(assignments.c.id == _assignment)
# The vote or skip about an assignment that counts at the moment.
STANDING_VOTE = select(votes.c.id).where(
    votes.c.assignment_id == _assignment, votes.c.kind != "undo", votes.c.id.not_in(superseded())
)
INSERT_VOTE = insert(votes)
UPDATE_ASSIGNMENT = update(assignments).where(assignments.c.id == _assignment)  # what is to change comes with it

# Take a seat at a question, if one is free; and free it.
SEAT = update(items).where(items.c.id == _item, _wants).values(taken=items.c.taken + 1)
UNSEAT = update(items).where(items.c.id == _item).values(taken=items.c.taken - 1)

# ── assignments ──────────────────────────────────────────────────────────────────────────────────────────────────────
# Open assignments of other raters whose lease has run out at tick `now`.
LAPSED = select(assignments).where(_is_open, assignments.c.lease_until < bindparam("now"), ~_own)
# The rater's open assignment; else the latest one that was returned and that no other rater has taken since.
OPEN_OR_RETURNED = (
    _joined.where(_own)
    .where(
        or_(
            _is_open,
            and_(assignments.c.state == "returned", or_(_wants, items.c.gold, assignments.c.repeat)),
        )
    )
    .order_by(case((_is_open, 0), else_=1), assignments.c.id.desc())
    .limit(1)
)
NUMBER_OF_ASSIGNMENTS = select(func.count()).select_from(assignments).where(_own)
_had = exists().where(assignments.c.item_id == items.c.id, _own)
NEXT_AT_RANDOM = select(items).where(_wants, ~_had).order_by(items.c.position).limit(1)
OPEN_AMONG = select(items).where(_wants, ~_had, items.c.id.in_(bindparam("some", expanding=True)))
NUMBER_OF_GOLD = select(func.count()).select_from(items).where(items.c.gold)
ITEM = select(items).where(items.c.id == _item)
INSERT_ASSIGNMENT = insert(assignments)

# ── progress ─────────────────────────────────────────────────────────────────────────────────────────────────────────
# Five counts, each from an index; a joined condition would scan all questions.
_settled = select(assignments.c.item_id).where(_own, assignments.c.state.in_(("answered", "skipped")))
NUMBER_SETTLED = select(func.count()).select_from(_settled.subquery())
_open_here = select(assignments.c.item_id).where(_own, _is_open)
PROGRESS = select(
    select(func.count()).select_from(_settled.subquery()).scalar_subquery().label("settled"),
    select(func.count()).select_from(items).where(_wants).scalar_subquery().label("wanting"),
    select(func.count()).select_from(items).where(_wants, items.c.id.in_(_settled)).scalar_subquery().label("done"),
    select(func.count())
    .select_from(items)
    .where(~_wants, items.c.id.in_(_open_here), items.c.id.not_in(_settled))
    .scalar_subquery()
    .label("own_only"),
    select(func.count())
    .select_from(assignments)
    .where(_own, assignments.c.arm == "gold", assignments.c.state != "returned")
    .scalar_subquery()
    .label("gold"),
)
