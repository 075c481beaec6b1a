"""Our engine as the model behind the guard's gateway, in one process: no second server, and no text on a wire.

The engine and the gateway do not know each other; they meet here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from steersman.guard.gateway.upstream import Path, Reply, UpstreamError
from steersman.serving.errors import ApiError
from steersman.serving.service import Service

FILTERED = "content_filter"


class EngineUpstream:
    """An `Upstream` that answers with an engine.

    Args:
        stop_at: the probe's score from which an answer ends, with ``finish_reason: content_filter`` and without the
            text that came with the score. NaN ends it too. None: the probe, if there is one, only watches.
    """

    def __init__(self, service: Service, stop_at: float | None = None) -> None:
        self.service, self.stop_at = service, stop_at

    async def complete(self, path: Path, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """See `Upstream`."""
        if path == "models":
            return Reply(self.service.listed())
        try:
            answer = await self.service.answer(await self._prepared(path, body))
        except ApiError as error:
            raise _told(error) from None
        for choice in answer["choices"]:
            if self._stops(choice.pop("probe", ())):
                choice |= {"finish_reason": FILTERED, "logprobs": None}
                choice |= {"message": {"role": "assistant", "content": ""}} if "message" in choice else {"text": ""}
        return Reply(answer)

    @asynccontextmanager
    async def stream(self, path: Path, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        """See `Upstream`."""
        try:
            call = await self._prepared(path, {**body, "stream": True})
            chunks: Any = self.service.chunks(call)
            await anext(chunks)
        except ApiError as error:
            raise _told(error) from None
        events = self._events(chunks, len(call.choices))
        try:
            yield Reply(events=events)
        finally:
            await events.aclose()
            await chunks.aclose()

    async def close(self) -> None:
        """End the engine."""
        await asyncio.to_thread(self.service.engine.close)

    async def _prepared(self, path: Path, body: Mapping[str, Any]) -> Any:
        return await self.service.prepare(body, chat=path == "chat/completions")

    async def _events(self, chunks: Any, count: int) -> Any:
        stopped = set[int]()
        try:
            async for chunk in chunks:
                for choice in chunk["choices"]:
                    if self._stops(choice.pop("probe", ())) and choice["index"] not in stopped:
                        stopped.add(choice["index"])
                        nothing: Any = {"delta": {}} if "delta" in choice else {"text": ""}
                        yield {**chunk, "choices": [{**choice, **nothing, "logprobs": None, "finish_reason": FILTERED}]}
                if len(stopped) == count:
                    return  # and the caller ends what is still sampled
                if not any(choice["index"] in stopped for choice in chunk["choices"]):
                    yield chunk
        except ApiError as error:
            raise _told(error) from None

    def _stops(self, scores: Any) -> bool:
        return self.stop_at is not None and not all(score < self.stop_at for score in scores)


def upstream_of_run(run: str) -> EngineUpstream:
    """The models of a run, loaded and started."""
    from steersman.cli.serve import load_engine
    from steersman.serving.engine import EngineConfig

    return EngineUpstream(Service(load_engine(run, (), EngineConfig()).start()))


def _told(error: ApiError) -> UpstreamError:
    return UpstreamError(error.status, error.message, error.code, param=error.param, said=True)
