"""`kill -9` of the server while raters vote through HTTP: every acknowledged vote is there, once, and its rater's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from steersman.rating.accounts import RaterAccounts
from steersman.rating.store import RatingStore

from .conftest import PLAIN, questions

pytestmark = pytest.mark.slow

SERVER = """
import sys
from steersman.rating.app import RatingApp, serve
from steersman.http_server import Address, listen
from steersman.rating.store import RatingStore
address = Address(port=int(sys.argv[2]))
bound = listen(address)
print(bound.getsockname()[1], flush=True)
serve(RatingApp(RatingStore(sys.argv[1]), "x" * 20), address, bound)
"""
RATERS, VOTES = 4, 6


def serve(file: Path, port: int) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-c", SERVER, str(file), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


def rater(url: str, token: str, number: int, acknowledged: list[tuple[int, str]]) -> None:
    """Votes until there is nothing more, and sends again what was not answered, as the page does."""
    with httpx.Client(base_url=url, timeout=60) as client:

        def persist(method: str, path: str, **body: object) -> httpx.Response:
            while True:
                try:
                    return client.request(method, path, **body)  # type: ignore[arg-type]
                except httpx.TransportError:
                    time.sleep(0.02)

        joined = persist("POST", "/join", json={"token": token, "consent": True})
        assert joined.status_code == 200, joined.text
        text = persist("GET", "/task").text
        vote = 0
        while "data-assignment" in text:
            name = text.partition('data-assignment="')[2].partition('"')[0]
            body = {"submission": f"rater-{number}-{vote}", "assignment": name, "ranking": [1, 2]}
            response = persist("POST", "/vote", json=body)
            assert response.status_code == 200, response.text
            acknowledged.append((number, body["submission"]))
            text = response.text
            vote += 1


def test_every_acknowledged_vote_survives(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    store = RatingStore(file)
    store.begin(PLAIN, questions(RATERS * VOTES))
    people = RaterAccounts(store.database)
    tokens = [people.invite(f"rater {i}") for i in range(RATERS)]
    process, port = serve(file, 0)
    acknowledged: list[tuple[int, str]] = []
    url = f"http://127.0.0.1:{port}"
    threads = [
        threading.Thread(target=rater, args=(url, token, number, acknowledged))
        for number, token in enumerate(tokens, start=1)
    ]
    for thread in threads:
        thread.start()
    for kills in (1, 2):
        while len(acknowledged) < kills * RATERS * VOTES // 3:
            assert any(thread.is_alive() for thread in threads)
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        kept = {(vote.rater, vote.question.key) for vote in store.votes()}
        assert len(kept) >= len(acknowledged)  # one may be kept whose answer was on its way
        process, _ = serve(file, port)
    for thread in threads:
        thread.join(120)
    process.kill()
    process.wait(10)
    votes = store.votes()
    assert len(acknowledged) == len(votes) == RATERS * VOTES
    assert Counter(vote.rater for vote in votes) == Counter(number for number, _ in acknowledged)
    assert set(Counter(vote.item for vote in votes).values()) == {1}
    store.database.engine.dispose()
