"""The shared link: one for many raters, each with an id of another service, and a completion at the end."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from steersman.errors import UserError
from steersman.rating.app import RatingApp
from steersman.rating.participants import ID, SharedLink, participants_table
from steersman.rating.schema import raters
from steersman.rating.store import RatingStore

from .conftest import ADMIN, PLAIN, Browser, questions

URL = "https://app.prolific.com/submissions/complete?cc=C1ABCDEF"
PID, OTHER = "5f3c0a1b2c3d4e5f60718293", "60a0b0c0d0e0f00011223344"
Study = Callable[..., "Shared"]


class Shared:
    """An application with a shared link."""

    def __init__(self, store: RatingStore, **settings: object) -> None:
        self.app = RatingApp(store, ADMIN, shared=SharedLink(**{"participants": 3, **settings}))  # type: ignore[arg-type]
        self.key = self.app.participants.key()
        self._asgi = self.app.asgi(("testserver",))

    def browser(self) -> Browser:
        return Browser(self._asgi, follow_redirects=False)

    def post(self, browser: Browser, participant: str, consent: bool = True, **more: str) -> object:
        body = {"key": self.key, "participant": participant, "consent": consent, **more}
        return browser.post("/study", json=body)

    def joins(self, participant: str, **more: str) -> Browser:
        browser = self.browser()
        response = self.post(browser, participant, **more)
        assert response.json() == {"next": "rate"}, response.text  # type: ignore[attr-defined]
        return browser


@pytest.fixture
def study(store: RatingStore) -> Study:
    return lambda **settings: Shared(store, **settings)


def table(store: RatingStore) -> list[dict[str, str]]:
    return list(csv.DictReader(participants_table(store.database).splitlines()))


def test_each_participant_has_own_questions_and_goes_on_in_another_browser(study: Study) -> None:
    shared = study()
    link = f"/study?key={shared.key}&PROLIFIC_PID={PID}&STUDY_ID=s1&SESSION_ID=x1"
    for _ in range(3):  # a scanner that follows links, and the page itself, begin nothing
        shown = shared.browser().get(link)
        assert shown.status_code == 200
        assert PID in shown.text
        assert shared.browser().head(link).status_code == 200
    assert shared.app.accounts.all() == []
    assert shared.post(shared.browser(), PID, consent=False).json() == {"agree": True}  # type: ignore[attr-defined]
    assert shared.app.accounts.all() == []
    one, two = shared.joins(PID, study="s1", session="x1"), shared.joins(OTHER, study="s1", session="x2")
    assert one.assignment() != two.assignment()
    one.votes(1, 2)
    on_screen = one.assignment()
    again = shared.browser()
    assert shared.post(again, PID, consent=False).json() == {"next": "rate"}  # type: ignore[attr-defined]
    assert again.assignment() == on_screen
    assert "1 done" in again.get("/rate").text
    assert one.assignment() == on_screen  # the first browser goes on too
    assert len(shared.app.accounts.all()) == 2


def test_the_generic_name_and_odd_links(study: Study) -> None:
    shared = study()

    def get(query: str) -> tuple[int, str]:
        response = shared.browser().get(f"/study?key={shared.key}{query}")
        return response.status_code, response.text

    assert get("&participant=p-17")[0] == 200
    for query, told in {
        "": "lacks the participant",
        "&participant=": "lacks the participant",
        "&PROLIFIC_PID={{%25PROLIFIC_PID%25}}": "not a participant",
        "&participant=a&participant=b": "more than one participant",
        "&participant=a&PROLIFIC_PID=b": "more than one participant",
        "&participant=a&SESSION_ID=%3Cscript%3E": "not a session",
        "&participant=" + "a" * 101: "not a participant",
        "&participant=%3DHYPERLINK(1)": "not a participant",
    }.items():
        status, text = get(query)
        assert status == 400, query
        assert told in text, query
        assert "<script>" not in text.replace('<script src="static/', "")
    assert shared.browser().get(f"/study?key=wrong&participant={PID}").status_code == 404
    body = {"key": "wrong", "participant": PID, "consent": True}
    assert shared.browser().post("/study", json=body).status_code == 404
    for bad in ("", " ", "=cmd()", "a b", "x" * 101, "a\n"):
        assert shared.post(shared.browser(), bad).status_code == 400  # type: ignore[attr-defined]
    assert shared.app.accounts.all() == []


def test_no_id_opens_the_account_of_an_invited_rater(study: Study, store: RatingStore) -> None:
    shared = study()
    ann = shared.browser().joins(shared.app.accounts.invite("Ann", "staff"))
    token: str | None = shared.app.accounts.invite("Bob")
    while not ID.fullmatch(token or ""):  # one in 32 begins with a sign, and is no id
        token = shared.app.accounts.invite_again(2)
    mine = ann.assignment()
    for name in ("Ann", "1", "rater-1", token):
        assert ID.fullmatch(name or "")
    for name in ("Ann", "1", "rater-1"):
        assert shared.joins(name).assignment() != mine
    names = ["Ann", "Bob", "participant Ann", "participant 1", "participant rater-1"]
    assert [one.name for one in shared.app.accounts.all()] == names
    assert [one.joined for one in shared.app.accounts.all()] == [True, False, True, True, True]
    assert {row["rater"] for row in table(store)} == {"rater-3", "rater-4", "rater-5"}


def test_there_are_as_many_participants_as_wanted(study: Study) -> None:
    shared = study(participants=2)
    shared.joins("a1")
    shared.joins("a2")
    refused = shared.post(shared.browser(), "a3")
    assert refused.status_code == 403  # type: ignore[attr-defined]
    assert "enough participants" in refused.text  # type: ignore[attr-defined]
    shared.joins("a1")  # who is in goes on
    closed = study(participants=0)
    assert closed.post(closed.browser(), "a1").status_code == 404  # type: ignore[attr-defined]


def test_the_link_stays_the_same_when_the_server_starts_again(study: Study) -> None:
    assert study().key == study().key


def test_the_completion_comes_at_the_end_and_to_participants_alone(tmp_path: Path) -> None:
    store = RatingStore(tmp_path / "s.sqlite")
    store.begin(PLAIN.model_copy(update={"per_rater": 2}), questions(8))
    shared = Shared(store, completion=URL)
    me, invited = shared.joins(PID, session="x1"), shared.browser().joins(shared.app.accounts.invite("Ann"))
    seen = me.get("/rate").text
    assert [row["state"] for row in table(store)] == ["rating"]
    for _ in range(2):
        seen += me.get("/answers").text + me.get("/leave").text
        assert "C1ABCDEF" not in seen
        seen = me.votes(1, 2).text
        invited.votes(1, 2)
    for page in (seen, me.get("/rate").text):
        assert '<code class="code">C1ABCDEF</code>' in page
        assert f'href="{URL}"' in page
    assert "That is all" in invited.get("/rate").text
    assert "C1ABCDEF" not in invited.get("/rate").text
    late = shared.joins(OTHER)
    for _ in range(2):
        late.votes(1, 2)
    shared.app.accounts.withdraw(3)
    rows = table(store)
    assert [(row["participant"], row["session"], row["rater"], row["state"], row["answered"]) for row in rows] == [
        (PID, "x1", "rater-1", "completed", "2"), (OTHER, "", "rater-3", "withdrawn", "2"),
    ]  # fmt: skip
    assert rows[0]["completed_at"].endswith("+00:00")
    store.database.engine.dispose()


def test_who_withdrew_does_not_come_back_by_the_link(study: Study, store: RatingStore) -> None:
    shared = study()
    me = shared.joins(PID)
    me.votes(1, 2)
    assert me.post("/withdraw", json={}).json() == {"next": "left"}
    assert store.votes() == []
    for consent in (True, False):
        refused = shared.post(shared.browser(), PID, consent=consent)
        assert refused.status_code == 403  # type: ignore[attr-defined]
        assert "You withdrew" in refused.text  # type: ignore[attr-defined]
    with store.database.reading() as c:
        assert c.scalar(select(raters.c.withdrawn_at)) is not None


@pytest.mark.parametrize(
    ("completion", "code", "url"),
    [
        ("C1ABCDEF", "C1ABCDEF", ""),
        (URL, "C1ABCDEF", URL),
        ("https://example.org/thanks", "", "https://example.org/thanks"),
        ("https://example.org/thanks?cc=%3Cb%3E", "", "https://example.org/thanks?cc=%3Cb%3E"),
    ],
)
def test_a_completion_is_a_code_or_a_url(completion: str, code: str, url: str) -> None:
    found = SharedLink(participants=1, completion=completion).parsed()
    assert (found.code, found.url) == (code, url)


@pytest.mark.parametrize(
    "wrong", ["javascript:alert(1)", "https://", "https://exa mple.org", "C1 ABC", "ftp://x.org/", "//x"]
)
def test_a_wrong_completion_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(UserError, match="neither a code nor a URL"):
        SharedLink(participants=1, completion=wrong).parsed()
    with pytest.raises(UserError, match="by the shared link"):
        SharedLink(completion="C1").parsed()


def test_participants_on_either_database(opened: Callable[..., RatingStore]) -> None:
    store = opened()
    store.begin(PLAIN.model_copy(update={"per_rater": 1}), questions(4))
    shared = Shared(store, completion="C1")
    me = shared.joins(PID, study="s1", session="x1")
    assert "C1" in me.votes(1, 2).text  # type: ignore[attr-defined]
    shared.joins(PID, study="s1", session="x2")
    assert [(row["session"], row["state"], row["answered"]) for row in table(store)] == [("x2", "completed", "1")]
    assert Shared(store).key == shared.key
