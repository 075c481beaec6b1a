"""A server in a process of its own, and a headless Chromium; skipped, and counted, where there is none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steersman.rating.accounts import RaterAccounts
from steersman.rating.round import Question, Round
from steersman.rating.store import RatingStore

ADMIN = "the-administrators-token-of-the-tests"
SERVER = """
import sys
from steersman.rating.app import RatingApp, serve
from steersman.http_server import Address, listen
from steersman.rating.store import RatingStore
from steersman.rating.participants import SharedLink
address = Address(port=int(sys.argv[2]), url=sys.argv[4] or None)
bound = listen(address)
print(bound.getsockname()[1], flush=True)
shared = SharedLink(participants=5, completion="https://example.org/done?cc=C1ABCDEF")
app = RatingApp(RatingStore(sys.argv[1]), sys.argv[3], address.origin, address.prefix, shared)
serve(app, address, bound)
"""


class Server:
    """The application on a store, which may be killed and started again on the same port."""

    def __init__(self, file: Path, public: str = "") -> None:
        self.file, self.port, self.public = file, 0, public
        self.store = RatingStore(file)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", SERVER, str(self.file), str(self.port), ADMIN, self.public]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """As the kernel does when memory runs out: no handler, no farewell."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def link(self, name: str) -> str:
        return f"{self.url}/join#{RaterAccounts(self.store.database).invite(name)}"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server with these questions."""
    servers = []

    def start(questions: list[Question], public: str = "", **settings: Any) -> Server:
        server = Server(tmp_path / f"{len(servers)}.sqlite", public)
        server.store.begin(Round(**{"gold_share": 0, "repeat_share": 0, **settings}), questions)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()
        server.store.database.engine.dispose()


@pytest.fixture(scope="module")  # Playwright leaves a running event loop behind until it is stopped
def chromium() -> Iterator[Any]:
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page in a context of its own; what the console complains of fails the test."""
    contexts, complaints = [], []

    def open_page(width: int = 1280, height: int = 860, **more: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **more)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.complaints = complaints
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def pairs(count: int) -> list[Question]:
    """Questions with two answers each."""
    return [Question(prompt=f"question {i}", options=(f"good {i}", f"poor {i}")) for i in range(count)]


def join(page: Any, link: str) -> None:
    """Follow an invitation."""
    page.goto(link)
    page.check("input[name=consent]")
    page.click("text=Begin")
    page.wait_for_selector("#task h2")
    page.wait_for_load_state("load")  # the script runs before it, and hears the keys only then
    read(page)


def read(page: Any) -> None:
    """Wait until the question has been in sight for long enough that a choice counts."""
    page.wait_for_function("() => document.querySelector('.exposure').hidden")


def on_screen(page: Any) -> str | None:
    """The name of the question that is shown."""
    found = page.query_selector(".question")
    return found.get_attribute("data-assignment") if found else None


def next_one(page: Any, before: str | None) -> None:
    """Wait until another question (or the end) is shown."""
    page.wait_for_function("b => (document.querySelector('.question')?.dataset.assignment ?? null) !== b", arg=before)
    read(page)


def answer(page: Any, *keys: str) -> str | None:
    """Answer the question on the screen by keys, and wait for the next; returns the name of the one answered."""
    before = on_screen(page)
    for key in keys:
        page.keyboard.press(key)
    next_one(page, before)
    return before


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something outside the page."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
