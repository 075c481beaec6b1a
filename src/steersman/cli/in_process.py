"""Our engine as the model behind the guard's gateway, in one process: no second server, and no text on a wire.

The engine and the gateway do not know each other; they meet here. So do the guard's probe on single tokens, and the
activations of the model that it was trained on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersman.guard.gateway.upstream import ACTIVATION, Reply, UpstreamError
from steersman.guard.gateway.upstream import Path as ApiPath
from steersman.guard.rails.probe import TokenRail
from steersman.serving.errors import ApiError
from steersman.serving.replies import PROBE
from steersman.serving.service import Service

if TYPE_CHECKING:
    from steersman.runs import OpenRun


class EngineUpstream:
    """An `Upstream` that answers with an engine. Choices have the probe's score, if the engine has a probe."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def complete(self, path: ApiPath, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """See `Upstream`."""
        if path == "models":
            return Reply(self.service.listed())
        try:
            answer = await self.service.answer(await self._prepared(path, body))
        except ApiError as error:
            raise _told(error) from None
        return Reply(_read(answer))

    @asynccontextmanager
    async def stream(self, path: ApiPath, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        """See `Upstream`."""
        try:
            chunks: Any = self.service.chunks(await self._prepared(path, {**body, "stream": True}))
            await anext(chunks)
        except ApiError as error:
            raise _told(error) from None
        events = self._events(chunks)
        try:
            yield Reply(events=events)
        finally:
            await events.aclose()
            await chunks.aclose()

    async def close(self) -> None:
        """End the engine."""
        await asyncio.to_thread(self.service.engine.close)

    async def _prepared(self, path: ApiPath, body: Mapping[str, Any]) -> Any:
        return await self.service.prepare(body, chat=path == "chat/completions")

    async def _events(self, chunks: Any) -> Any:
        try:
            async for chunk in chunks:
                yield _read(chunk)
        except ApiError as error:
            raise _told(error) from None


def upstream_of_run(run: str, guard: Path | None = None) -> tuple[EngineUpstream, list[TokenRail]]:
    """The models of a run, loaded and started, and the rail that reads along while one of them speaks.

    Args:
        guard: folder of a trained guard. Its probe reads the model that it was trained on, and no other of the run.
    """
    from steersman.cli.serve import load_engine
    from steersman.guard.rails.classifier import token_rail
    from steersman.runs import open_run
    from steersman.serving.engine import EngineConfig

    found = token_rail(guard) if guard is not None else None
    if found is None:
        return EngineUpstream(Service(load_engine(run, (), EngineConfig()).start())), []
    rail, base, policy = found
    assert guard is not None
    read = read_by(guard, base, policy, open_run(run))
    engine = load_engine(run, (), EngineConfig(), probes=dict.fromkeys(read, rail.probe))
    return EngineUpstream(Service(engine.start())), [rail] if read else []


def read_by(guard: Path, base: Path, policy: Path | None, run: OpenRun) -> list[str]:
    """Names of a run's models that a guard's probe was trained on: the base, or what was trained on it."""
    from steersman.cli.serve import models_of

    own = guard.resolve().parent == run.path.resolve()  # a run may have moved with its guard
    found = []
    for name, folder in models_of(run).items():
        if folder is None or policy is None:
            same = folder is policy and (own or base.resolve() == run.base.resolve())
        else:
            same = folder.resolve() == policy.resolve() or (own and folder.name == policy.name)
        found += [name] * same
    return found


def _read(body: dict[str, Any]) -> dict[str, Any]:
    """An answer or a chunk as the gateway knows it: with what the probe read of each choice."""
    for choice in body["choices"]:
        if PROBE in choice:
            choice[ACTIVATION] = choice.pop(PROBE)
    return body


def _told(error: ApiError) -> UpstreamError:
    return UpstreamError(error.status, error.message, error.code, param=error.param, said=True)
