"""What the tests of the server share: a tiny model, an engine with it, and a client of the app in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from steersman.lm import tiny
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import SamplingConfig
from steersman.serving import models
from steersman.serving.app import App
from steersman.serving.engine import Engine, EngineConfig
from steersman.serving.sequences import Delta, Failure, Job, Ticket
from steersman.serving.service import Service

WAIT_S = 60
TEXTS = [f"How do I cook {what}? First ask what you need it for.\nUser: tea\nAssistant: bread" for what in "abcdefgh"]


@pytest.fixture(scope="session")
def base(shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A tiny base model's folder."""
    return shared("served-base", lambda folder: tiny.build(TEXTS, folder))


@pytest.fixture(scope="session")
def local(base: Path) -> LocalModel:
    """The same model, as everything else in Steersman uses it."""
    return LocalModel.load(base)


@pytest.fixture(scope="session")
def served(base: Path) -> dict[str, models.Served]:
    """The model by the name raw."""
    return models.load(base, {"raw": None})


@pytest.fixture
def engine_of(served: dict[str, models.Served]) -> Iterator[Callable[..., Engine]]:
    """Starts engines that end with the test."""
    running: list[Engine] = []

    def start(some: dict[str, models.Served] | None = None, probe: Any = None, **settings: Any) -> Engine:
        running.append(Engine(some or served, EngineConfig(**settings), {"raw": probe} if probe else {}).start())
        return running[-1]

    yield start
    for engine in running:
        engine.close()


@pytest.fixture(scope="module")
def client(served: dict[str, models.Served]) -> Iterator[TestClient]:
    """A client of the app, with one engine for the module."""
    engine = Engine(served, EngineConfig(rows=8, context=256)).start()
    with TestClient(App(Service(engine)).asgi, base_url="http://127.0.0.1") as client:
        yield client


def job(model: LocalModel, question: str, *, index: int = 0, **options: Any) -> Job:
    """A chat question as a job; settings of the sampler and of the job together."""
    own = {name: options.pop(name) for name in ("stops", "top_logprobs", "logit_bias", "model") if name in options}
    config = SamplingConfig(**{"max_new_tokens": 24, **options})
    return Job(own.pop("model", "raw"), model.sampler.chat.prompt_ids(question), config, index, **own)


def run(engine: Engine, jobs: Sequence[Job]) -> list[list[Delta | Failure]]:
    """What the engine tells of each job, submitted one by one."""
    told: list[list[Delta | Failure]] = [[] for _ in jobs]
    done = threading.Semaphore(0)

    def deliver_to(number: int) -> Callable[[Delta | Failure], None]:
        def deliver(one: Delta | Failure) -> None:
            told[number].append(one)
            if isinstance(one, Failure) or one.finish is not None:
                done.release()

        return deliver

    for number, one in enumerate(jobs):
        engine.submit([Ticket(one, deliver_to(number))])
    for _ in jobs:
        assert done.acquire(timeout=WAIT_S), "the engine did not answer"
    return told


def text_of(told: Sequence[Delta | Failure]) -> str:
    """The whole text of a job."""
    return "".join(one.text for one in told if isinstance(one, Delta))


def events(response: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends with [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]", lines[-1]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
