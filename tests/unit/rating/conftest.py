"""A store on SQLite and on a real PostgreSQL, an application in this process, and a clock that tests move."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from steersman.rating.app import RatingApp
from steersman.rating.round import Question, Round, Submission
from steersman.rating.store import RatingStore, Task

ADMIN = "the-administrators-token-of-the-tests"
PLAIN = Round(gold_share=0, repeat_share=0)
JSON = {"content-type": "application/json"}
numbers = count()


def questions(how_many: int, *, options: int = 2, raters: int = 1) -> list[Question]:
    """Questions whose first option is the better one."""
    names = ["best", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"][:options]
    return [
        Question(prompt=f"question {i}", options=tuple(f"{name} {i}" for name in names), raters=raters)
        for i in range(how_many)
    ]


def said(task: Task, *ranking: int, name: str = "", **more: object) -> Submission:
    """A submission about a task."""
    values = {"submission": name or f"submission-{next(numbers)}", "assignment": task.assignment, **more}
    return Submission.model_validate({**values, **({"ranking": ranking} if ranking else {})})


def finish(store: RatingStore, rater: int) -> int:
    """Answer whatever comes, the better option first; returns how many there were."""
    done = 0
    while (task := store.next_task(rater)) is not None:
        best = min(task.answers, key=lambda text: ["best", "seco", "thir"].index(text[:4]))
        store.submit(rater, said(task, *(1 if text == best else 2 for text in task.answers)))
        done += 1
    return done


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def postgres() -> Iterator[str | None]:
    """The folder of a running PostgreSQL's socket; None where it is not installed."""
    programs = [shutil.which(name) or shutil.which(name, path=_bin()) for name in ("initdb", "postgres")]
    if None in programs:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path has at most 107 characters
    who: dict[str, int] = {}
    if os.getuid() == 0:  # as which it refuses to run
        account = pwd.getpwnam("nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        who = {"user": account.pw_uid, "group": account.pw_gid}
    made = [programs[0], "-D", folder / "data", "-U", "tests", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run([str(part) for part in made], check=True, capture_output=True, cwd=folder, **who)
    options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
    command = [str(programs[1]), "-D", str(folder / "data"), *options]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **who)
    try:
        _wait(folder, server)
        yield str(folder)
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder)


def _bin() -> str:
    return ":".join(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))


def _wait(folder: Path, server: subprocess.Popen[bytes]) -> None:
    import time

    import psycopg

    for _ in range(300):
        try:
            psycopg.connect(host=str(folder), user="tests", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
    raise AssertionError("PostgreSQL did not start")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a store: a file, or a schema of its own in the running server."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    folder = request.getfixturevalue("postgres")
    if folder is None:
        pytest.skip("PostgreSQL is not installed")
    import psycopg

    schema = f"test_{next(numbers)}"
    with psycopg.connect(host=folder, user="tests", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"postgresql://tests@/postgres?host={folder}&options=-csearch_path%3D{schema}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(where: str, clock: Clock) -> Iterator[Callable[..., RatingStore]]:
    """Opens the store, as often as asked; closes all connections in the end."""
    stores = []

    def open_again(**more: object) -> RatingStore:
        stores.append(RatingStore(where, monotonic=clock, **more))  # type: ignore[arg-type]
        return stores[-1]

    yield open_again
    for store in stores:
        if store.scoring and store.scoring._process:
            store.scoring._process._process.kill()
        store.database.engine.dispose()


class Browser(TestClient):
    """A browser of its own cookies, which may join."""

    def joins(self, token: str) -> Browser:
        response = self.post("/join", json={"token": token, "consent": True})
        assert response.status_code == 200, response.text
        return self

    def assignment(self) -> str:
        """The name of the question on the screen."""
        text = self.get("/task").text
        return text.partition('data-assignment="')[2].partition('"')[0]

    def votes(self, *ranking: int, **more: object) -> object:
        body = {"submission": f"submission-{next(numbers)}", "assignment": self.assignment(), "ranking": list(ranking)}
        return self.post("/vote", json={**body, **more})


Open = Callable[[], Browser]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RatingStore]:
    """A store in a file, with a round of twelve pairs."""
    store = RatingStore(tmp_path / "store.sqlite")
    store.begin(PLAIN, questions(12))
    yield store
    store.database.engine.dispose()


@pytest.fixture
def app(store: RatingStore) -> RatingApp:
    return RatingApp(store, ADMIN)


@pytest.fixture
def browser(app: RatingApp) -> Open:
    """Makes browsers; the limit of requests is that of one application for all of them."""
    asgi = app.asgi(("testserver",))
    return lambda: Browser(asgi, follow_redirects=False, raise_server_exceptions=False)
