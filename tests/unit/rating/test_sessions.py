"""Links and the sessions that are begun with them."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from steersman.rating.accounts import RaterAccounts, hashed
from steersman.rating.schema import raters

from .test_store import Open, begun


def test_a_link_goes_on_in_any_browser_and_is_stored_as_a_hash(opened: Open) -> None:
    store = begun(opened, raters=0)
    people = RaterAccounts(store.database)
    token = people.invite("Ann", "staff")
    assert people.join(token, None) is None  # nobody has agreed yet
    session = people.join(token, "the words")
    assert session is not None
    assert people.join("forged" * 8, "the words") is None
    rater = people.of_session(session)
    assert rater is not None
    assert (rater.name, rater.group) == ("Ann", "staff")
    assert people.of_session("forged") is None
    assert people.of_session("") is None
    later = people.join(token, None)
    assert later not in (None, session)
    assert people.of_session(later or "") == people.of_session(session) == rater
    with store.database.reading() as c:
        from sqlalchemy import text

        stored = str(c.execute(text("SELECT * FROM raters")).all() + c.execute(text("SELECT * FROM sessions")).all())
    for secret in (token, session, str(later)):
        assert secret not in stored
    fresh = people.invite_again(rater.id)
    for old in (session, later):
        assert people.of_session(old or "") is None  # a new link ends what was begun with the old one
    assert people.join(token, "the words") is None
    assert fresh is not None
    assert people.join(fresh, "the words") is not None
    people.revoke(rater.id)
    assert people.join(fresh, "the words") is None


def test_a_cookie_of_an_earlier_version_goes_on(opened: Open) -> None:
    store = begun(opened, raters=2)
    people = RaterAccounts(store.database)
    with store.database.writing() as c:  # as it was stored then
        c.execute(update(raters).where(raters.c.id == 2).values(session=hashed("an old cookie")))
    rater = people.of_session("an old cookie")
    assert rater is not None
    assert rater.id == 2
    people.revoke(2)
    assert people.of_session("an old cookie") is None


def test_the_oldest_session_ends_when_there_are_too_many(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steersman.rating.accounts.MOST_SESSIONS", 2)
    store = begun(opened, raters=0)
    people = RaterAccounts(store.database)
    tokens = [people.invite(name) for name in ("Ann", "Bob")]
    bobs = people.join(tokens[1], "")
    sessions = [people.join(tokens[0], "") for _ in range(3)]
    assert [people.of_session(one or "") is not None for one in [bobs, *sessions]] == [True, False, True, True]
