"""A run's model behind its guard, answering conversations: what the provider for Inspect stands on.

The engine is that of `steersman serve`, so that Inspect's concurrent requests are decoded in one batch. The guard
judges the conversation before the model sees it, and the whole answer before anybody else does; what it stops is
answered by its own refusal, with the reason of stopping that Inspect, PyRIT and garak call ``content_filter``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from steersman.errors import UserError
from steersman.guard.guard import Guard
from steersman.guard.refusals import refusal_of
from steersman.guard.spans import redacted
from steersman.guard.verdict import Exchange, Ruling
from steersman.serving.engine import EngineConfig
from steersman.serving.errors import ApiError
from steersman.serving.service import Service
from steersman.types import Message

FILTERED = "content_filter"
GUARD = "guard"  # the folder of a run's own guard


class Answered(NamedTuple):
    """What came back. ``stop``: stop, length or content_filter; ``ruling``: what the guard decided, if it did."""

    text: str
    stop: str
    prompt_tokens: int = 0
    tokens: int = 0
    ruling: Mapping[str, Any] | None = None


class Completes(Protocol):
    """The service of an engine."""

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the body of an OpenAI request."""
        ...


class RunModel:
    """One of a run's models, with or without its guard. Use `open`."""

    def __init__(self, service: Completes, name: str, guard: Guard | None = None) -> None:
        self.service, self.name, self.guard = service, name, guard

    @classmethod
    def open(cls, run: str, policy: str = "aligned", guard: bool | str = False) -> RunModel:
        """Load it.

        Args:
            run: folder of a run; or any model, which then has no ``policy``.
            policy: aligned, raw, or a stage that trained a policy.
            guard: whether it answers behind the run's own guard; or the folder of another one.

        Raises:
            UserError: the run has no such model, or no guard.
        """
        from steersman.cli.serve import load_engine

        is_run = (Path(run) / "run.json").exists()
        if guard and not is_run and guard is True:
            raise UserError("this is a model and no run, so it has no guard", where=run, do="name a guard's folder")
        folder = Path(run) / GUARD if guard is True else Path(str(guard))
        if guard and not folder.is_dir():
            raise UserError(
                f"no guard at {folder}", where=run, expected="a folder that the stage `guard` or `guard train` wrote"
            )
        engine = load_engine(run, (policy,) if is_run else (), EngineConfig()).start()
        loaded = Guard.load(folder) if guard else None
        return cls(Service(engine), next(iter(engine.models)), loaded)

    async def answer(self, conversation: Sequence[Message], settings: Mapping[str, Any]) -> Answered:
        """Answer a conversation that ends with a user's message.

        Args:
            settings: of sampling, by OpenAI's names; greedy unless ``temperature`` says otherwise.

        Raises:
            UserError: the engine refuses the request, in its words.
        """
        if self.guard is not None and (held := await self._held(Exchange.of(tuple(conversation)))) is not None:
            return held
        messages = [{"role": message.role, "content": message.content} for message in conversation]
        body = {"model": self.name, "messages": messages, "temperature": 0.0, **settings}
        try:
            reply = await self.service.complete(body)
        except ApiError as error:
            raise UserError(error.message, where="the request from Inspect") from None
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        text = str(choice["message"].get("content") or "")
        counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        if self.guard is not None:
            held = await self._held(Exchange.of(tuple(conversation), text))
            if held is not None:
                return held._replace(prompt_tokens=counts[0], tokens=counts[1])
        return Answered(text, str(choice["finish_reason"]), *counts)

    async def _held(self, exchange: Exchange) -> Answered | None:
        """What is said instead; None if the text passes."""
        assert self.guard is not None
        ruling = await self.guard.acheck(exchange)
        if not ruling.stops:
            return None
        found = {**_summary(ruling), "side": exchange.side}
        if ruling.decision == "redact":
            if exchange.answer is None:
                return None  # what the user wrote about a person goes to a model of their own machine
            text = redacted(exchange.answer, ruling)
            if text is not None:
                return Answered(text, "stop", ruling=found)
        return Answered(refusal_of(ruling, exchange, self.guard.constitution), FILTERED, ruling=found)


def _summary(ruling: Ruling) -> dict[str, Any]:
    """What decided, as JSON values."""
    verdict = ruling.verdict
    return {
        "decision": ruling.decision,
        "principle": verdict.principle if verdict else None,
        "rail": verdict.rail if verdict else None,
    }
