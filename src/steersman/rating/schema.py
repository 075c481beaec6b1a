"""The tables of a rating store, and the engine that opens them: SQLite in a file, or PostgreSQL by URL.

Votes are append-only. An undone vote keeps its row, and a new row of kind ``undo`` names it; a corrected one keeps its
row too, and the vote in its place names it. The unique ``supersedes`` lets that happen once. The other rules are
constraints too: one open question a rater, a question once to a rater (and once more as a repeat), no more raters at a
question than it wants.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError
from sqlalchemy.pool import QueuePool

from steersman.errors import UserError

VERSION = 1
ADVISORY_LOCK = 0x57EE2  # of all writers to a rating store on PostgreSQL

metadata = MetaData()
_key = BigInteger().with_variant(Integer, "sqlite")  # only an INTEGER counts by itself in SQLite


def _id() -> Column[int]:
    return Column("id", _key, primary_key=True, autoincrement=True)


rounds = Table(
    "rounds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("begun_at", Float, nullable=False),  # all *_at: seconds since the epoch, as the machine's clock had it
)
items = Table(
    "items",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    Column("question", JSON, nullable=False),
    Column("position", Float, nullable=False),  # a draw in [0, 1): the random order
    Column("gold", Boolean, nullable=False),
    Column("wanted", Integer, nullable=False),  # raters; 0 for a gold question, which everyone gets
    Column("taken", Integer, nullable=False, default=0),  # raters who have it or have answered it
    CheckConstraint("taken >= 0 AND taken <= wanted", name="no_more_raters_than_wanted"),
)
Index("items_open", items.c.position, postgresql_where=text("taken < wanted"), sqlite_where=text("taken < wanted"))
raters = Table(
    "raters",
    metadata,
    _id(),
    Column("name", String(200), nullable=False),  # for the administrator; never exported
    Column("grp", String(200), nullable=False),
    Column("invitation", String(64), nullable=False, unique=True),  # sha256 of the link's token
    Column("session", String(64), unique=True),  # sha256 of the cookie, as earlier versions stored it
    Column("invited_at", Float, nullable=False),
    Column("joined_at", Float),
    Column("consent", String(64)),  # sha256 of the words that were agreed to
    Column("withdrawn_at", Float),
    Column("revoked_at", Float),
)
# Later additions are tables of their own, so that a store of an earlier version gets them when it is opened.
sessions = Table(
    "sessions",
    metadata,
    _id(),
    Column("rater_id", _key, ForeignKey("raters.id"), nullable=False),
    Column("secret", String(64), nullable=False, unique=True),  # sha256 of the cookie
    Column("begun_at", Float, nullable=False),
)
Index("sessions_of_rater", sessions.c.rater_id)
participants = Table(  # the raters of the shared link
    "participants",
    metadata,
    Column("rater_id", _key, ForeignKey("raters.id"), primary_key=True, autoincrement=False),
    Column("participant", String(200), nullable=False, unique=True),  # the id that the other service gave
    Column("study", String(200), nullable=False, default=""),
    Column("session", String(200), nullable=False, default=""),  # of that service, as last seen
    Column("completed_at", Float),  # when the completion code was first shown
)
shared_links = Table(
    "shared_links",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False),  # as it is: it must be printed again, and opens nobody's session
)
assignments = Table(
    "assignments",
    metadata,
    _id(),
    Column("public", String(64), nullable=False, unique=True),  # the only name that a page knows it by
    Column("item_id", _key, ForeignKey("items.id"), nullable=False),
    Column("rater_id", _key, ForeignKey("raters.id"), nullable=False),
    Column("repeat", Boolean, nullable=False),
    Column("arm", String(16), nullable=False),
    Column("score", Float),  # what the informed choice expected of it
    Column("order_shown", JSON, nullable=False),
    Column("state", String(16), nullable=False),  # open, answered, skipped, returned
    Column("seated", Boolean, nullable=False),  # whether it counts in items.taken
    Column("shown_at", Float, nullable=False),
    Column("shown_tick", Float, nullable=False),
    Column("lease_until", Float, nullable=False),  # tick
    UniqueConstraint("item_id", "rater_id", "repeat", name="once_to_a_rater"),
)
_is_open = text("state = 'open'")
Index("one_open", assignments.c.rater_id, unique=True, postgresql_where=_is_open, sqlite_where=_is_open)
Index("leases", assignments.c.lease_until, postgresql_where=_is_open, sqlite_where=_is_open)
Index("assignments_of_rater", assignments.c.rater_id)
votes = Table(
    "votes",
    metadata,
    _id(),
    Column("submission", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("rater_id", _key, ForeignKey("raters.id"), nullable=False),
    Column("assignment_id", _key, ForeignKey("assignments.id"), nullable=False),
    Column("kind", String(8), nullable=False),  # vote, skip, undo
    Column("supersedes", _key, ForeignKey("votes.id"), unique=True),
    Column("ranking", JSON(none_as_null=True)),  # in the order of the question's options, as all that follows
    Column("both_bad", Boolean, nullable=False, default=False),
    Column("per_principle", JSON, nullable=False, default={}),
    Column("rationale", Text, nullable=False, default=""),
    Column("edited_option", Integer),
    Column("edited_text", Text),
    Column("seconds", Float),
    Column("late", Boolean, nullable=False, default=False),  # the lease had run out, and another rater was asked
    Column("answered_at", Float, nullable=False),
    Column("tick", Float, nullable=False),
    UniqueConstraint("rater_id", "submission", name="counts_once"),
)
Index("votes_of_assignment", votes.c.assignment_id)
queries = Table(
    "queries",
    metadata,
    _id(),
    Column("item_id", _key, ForeignKey("items.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("asked_at", Float, nullable=False),
)
replies = Table(
    "replies",
    metadata,
    _id(),
    Column("query_id", _key, ForeignKey("queries.id"), nullable=False),
    Column("rater_id", _key, ForeignKey("raters.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("replied_at", Float, nullable=False),
    UniqueConstraint("query_id", "rater_id", name="one_reply"),
)
# Votes on statements, in a store of their own beside its raters; append-only like the others.
conversations = Table(
    "conversations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("begun_at", Float, nullable=False),
)
statements = Table(
    "statements",
    metadata,
    _id(),
    Column("public", String(64), nullable=False, unique=True),  # the only name that a page knows it by
    Column("digest", String(64), nullable=False, unique=True),  # of the text without its case: once is enough
    Column("text", Text, nullable=False),
    Column("author_id", _key, ForeignKey("raters.id")),  # null: of those who began the conversation
    Column("decision", String(16), nullable=False),  # waiting, accepted, rejected
    Column("written_at", Float, nullable=False),
    Column("decided_at", Float),
)
statement_votes = Table(
    "statement_votes",
    metadata,
    _id(),
    Column("submission", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("rater_id", _key, ForeignKey("raters.id"), nullable=False),
    Column("statement_id", _key, ForeignKey("statements.id"), nullable=False),
    Column("vote", Integer),  # 1 agree, -1 disagree, 0 pass; null: the vote that `supersedes` names is undone
    Column("supersedes", _key, ForeignKey("statement_votes.id"), unique=True),
    Column("seconds", Float),  # that the page was visible, as the browser reports it
    Column("voted_at", Float, nullable=False),
    UniqueConstraint("rater_id", "submission", name="statement_vote_counts_once"),
)
Index("statement_votes_of_rater", statement_votes.c.rater_id)
shown_statements = Table(
    "shown_statements",
    metadata,
    Column("rater_id", _key, ForeignKey("raters.id"), primary_key=True, autoincrement=False),
    Column("statement_id", _key, ForeignKey("statements.id"), nullable=False),
    Column("shown_at", Float, nullable=False),
)


def superseded() -> Select[tuple[int | None]]:
    """The numbers of the votes that were taken back."""
    return select(votes.c.supersedes).where(votes.c.supersedes.is_not(None))


class Database:
    """An engine whose writers go one after another, by SQLite's own rule and by an advisory lock on PostgreSQL."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._turn = Lock()  # fairer and quicker between threads than SQLite's polling

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: one consistent snapshot."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction of the only writer, undone when the block raises.

        A ``durable`` one is on disk when the block ends. Another can be lost in a power cut, whole and never in part,
        and so may hold what is easily made again.
        """
        options = {"writes": True, "durable": durable}
        with self._turn, self.engine.connect().execution_options(**options) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
            yield connection


def open_database(where: str | Path) -> Database:
    """A file of SQLite (made if need be, readable by its owner alone), or a URL such as postgresql://user@host/name.

    Raises:
        UserError: no such database, or it cannot be reached.
    """
    if "://" not in str(where):
        engine = _sqlite(Path(where))
    else:
        try:
            url = make_url(str(where))
            if url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            engine = create_engine(url, pool_size=20, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise UserError(
                f"no rating store can be opened here ({error})",
                where=str(where).split("@")[-1],  # without the password
                expected="a file, or postgresql://user@host/database",
                do="for PostgreSQL: pip install 'psycopg[binary]'",
            ) from error
    try:
        metadata.create_all(engine)
    except (DatabaseError, sqlite3.DatabaseError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise UserError(
            f"the rating store cannot be opened ({reason})",
            where=str(where).split("@")[-1],
            do="check the path, or that the database server is running and the URL is right",
        ) from error
    return Database(engine)


def _sqlite(path: Path) -> Engine:
    """WAL, so that readers never wait; a vote is acknowledged when it would survive a power cut (synchronous FULL)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    engine = create_engine(
        f"sqlite:///{path}", poolclass=QueuePool, pool_size=20, connect_args={"timeout": 30, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # sqlite3 would begin its transactions by itself, and too late
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("writes"):
            connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options['durable'] else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")

    return engine
