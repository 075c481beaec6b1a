"""Where the application is reached: public URLs, a path of a proxy's, JupyterHub; and which of them are none."""

from __future__ import annotations

import re
from http.cookiejar import CookieJar

import pytest

from steersman.errors import UserError
from steersman.http_server import Address, parse_url
from steersman.rating.app import RatingApp
from steersman.rating.participants import SharedLink
from steersman.rating.store import RatingStore

from .conftest import ADMIN, Browser

HUB = "/user/ann%40lab/proxy/8642"


@pytest.mark.parametrize(
    ("url", "origin", "prefix", "name"),
    [
        ("https://rating.example.org", "https://rating.example.org", "", "rating.example.org"),
        ("HTTPS://Rating.Example.org:443/", "https://rating.example.org", "", "rating.example.org"),
        ("http://rating.example.org:80/rate/", "http://rating.example.org", "/rate", "rating.example.org"),
        ("https://example.org:8443/a/b", "https://example.org:8443", "/a/b", "example.org"),
        ("https://bücher.example", "https://xn--bcher-kva.example", "", "xn--bcher-kva.example"),
        ("http://10.0.0.7:8080", "http://10.0.0.7:8080", "", "10.0.0.7"),
        ("http://[2001:DB8:0::7]:8080", "http://[2001:db8::7]:8080", "", "[2001:db8::7]"),
        (f"https://hub.example.org{HUB}/", "https://hub.example.org", "/user/ann@lab/proxy/8642", "hub.example.org"),
        ("http://build_host.local", "http://build_host.local", "", "build_host.local"),
    ],
)
def test_a_public_url_is_taken_apart(url: str, origin: str, prefix: str, name: str) -> None:
    address = Address(url=url)
    assert (address.origin, address.prefix) == (origin, prefix)
    assert address.names() == (name, "127.0.0.1", "localhost")
    assert address.link(1) == origin + parse_url(url).path


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("rating.example.org", "has no scheme"),
        ("rating.example.org:8642", "has no scheme"),
        ("http:/rating.example.org", "has no scheme"),
        ("", "has no scheme"),
        ("ftp://rating.example.org", "the scheme 'ftp'"),
        ("htps://rating.example.org", "the scheme 'htps'"),
        ("https://rating.example.org/?x=1", "has a query"),
        ("https://rating.example.org/rate?", "has a query"),
        ("https://rating.example.org/#top", "has a fragment"),
        ("https://me:secret@rating.example.org", "a user name"),
        ("https://", "no host"),
        ("https:///rate", "no host"),
        ("https://:8080", "no host"),
        ("https://exa mple.org", "no host"),
        ("https://*.example.org", "no host"),
        ("https://example.org,other.org", "no host"),
        ("https://-example.org", "no host"),
        ("https://example..org", "no host"),
        ("https://example.org:0", "no host"),
        ("https://example.org:99999", "no host"),
        ("https://example.org:port", "no host"),
        ("https://example.org:", "no host"),
        ("https://10.0.0.256", "no host"),
        ("https://[::1", "no host"),
        ("https://[rating]", "no host"),
        ("https://example.org/my rates", "a path that is none"),
        ("https://example.org/a//b", "a path that is none"),
        ("https://example.org/a/../b", "a path that is none"),
        ("https://example.org/a\\b", "a path that is none"),
        ("https://example.org/a%2", "a path that is none"),
        ("https://example.org/\N{BLACK STAR}", "a path that is none"),
        ("https://example.org/a\nb", "a path that is none"),
    ],
)
def test_a_wrong_public_url_is_refused_in_words(url: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as refused:
        Address(url=url).names()
    assert refused.value.where == "--url"
    assert "secret" not in str(refused.value) or "@" in url


class Proxied(Browser):
    """A browser before a proxy, which takes the prefix off or leaves it on: pages and cookies are of the public URL."""

    prefix, strips = "", False

    def request(self, method: str, url: object, **more: object) -> object:  # type: ignore[override]
        return super().request(method, f"{self.prefix}{url}", **more)  # type: ignore[arg-type]


def proxied(app: RatingApp, address: Address, *, strips: bool) -> Proxied:
    inner = app.asgi(address.names())

    async def outer(scope: dict[str, object], receive: object, send: object) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and strips and path.startswith(f"{address.prefix}/"):
            scope = {**scope, "path": path[len(address.prefix) :]}
        await inner(scope, receive, send)  # type: ignore[arg-type]

    browser = Proxied(outer, base_url=str(address.origin), follow_redirects=False)  # type: ignore[arg-type]
    browser.prefix = address.prefix
    browser.headers["origin"] = str(address.origin)
    return browser


@pytest.mark.parametrize("strips", [True, False])
@pytest.mark.parametrize(
    "url", ["https://hub.example.org/user/ann/proxy/8642/", "https://example.org/rate", "https://example.org/admin"]
)
def test_everything_works_below_a_path(store: RatingStore, url: str, strips: bool) -> None:
    """Whether the proxy takes the path off or not, and where the path looks like one of our own pages."""
    address = Address(url=url)
    app = RatingApp(store, ADMIN, address.origin, address.prefix, SharedLink(participants=2))
    me = proxied(app, address, strips=strips)
    joined = me.post("/join", json={"token": app.accounts.invite("Ann"), "consent": True})
    assert joined.json() == {"next": "rate"}
    assert me.get("/").headers["location"] == "rate"
    pages = [me.get(path) for path in ("/rate", "/answers", "/leave", "/questions", "/join")]
    assert [page.status_code for page in pages] == [200] * 5
    links = [link for page in pages for link in re.findall(r'(?:href|src|data-post)="([^"]*)"', page.text)]
    assert {"rate", "answers", "leave", "static/rating.css", "static/rating.js", "withdraw"} <= set(links)
    assert not [link for link in links if link.startswith("/")]  # all are relative to the page, at whatever path
    assert me.get("/static/rating.js").status_code == 200
    assert me.votes(1, 2).status_code == 200  # type: ignore[attr-defined]
    assert len(store.votes()) == 1
    jar: CookieJar = me.cookies.jar
    assert [cookie.path for cookie in jar] == [address.prefix]  # as a browser reads a cookie without a path
    boss = proxied(app, address, strips=strips)
    assert boss.post("/admin/enter", json={"token": ADMIN}).json() == {"next": "admin"}
    assert [cookie.path for cookie in boss.cookies.jar] == [f"{address.prefix}/admin"]
    assert "Invite a rater" in boss.get("/admin").text
    assert boss.post("/admin/invite", json={"name": "Bob"}).status_code == 200
    foreign = {"origin": "https://evil.example"}
    assert boss.post("/admin/invite", json={"name": "Eve"}, headers=foreign).status_code == 403
    lost = me.get("/a/b/nowhere")
    assert lost.status_code == 404
    if strips or address.prefix.count("/") > 1:
        assert 'href="../../' in lost.text


def test_the_path_alone_leads_to_its_slash(store: RatingStore) -> None:
    """Or the pages' relative links would lead beside it."""
    address = Address(url=f"https://hub.example.org{HUB}")
    app = RatingApp(store, ADMIN, address.origin, address.prefix)
    got = Browser(app.asgi(address.names()), base_url="https://hub.example.org", follow_redirects=False).get(HUB)
    assert (got.status_code, got.headers["location"]) == (307, "/user/ann@lab/proxy/8642/")


def test_every_answer_of_ours_has_the_mark_by_which_pages_know_it(store: RatingStore) -> None:
    visitor = Browser(RatingApp(store, ADMIN).asgi(("testserver",)), raise_server_exceptions=False)
    found = [
        visitor.get("/"), visitor.get("/nowhere"), visitor.get("/task"), visitor.get("/rate"),
        visitor.post("/vote", json={}), visitor.post("/vote", content=b"x"), visitor.get("/static/rating.js"),
        visitor.get("/", headers={"host": "evil.example"}),
    ]  # fmt: skip
    assert [response.status_code for response in found] == [200, 404, 401, 401, 401, 415, 200, 400]
    assert all(response.headers["x-steersman"] == "rating" for response in found)
