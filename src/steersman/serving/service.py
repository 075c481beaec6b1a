"""Requests in, answers out, in OpenAI's shapes and without HTTP: what the app and a gateway in this process use."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersman.errors import SteersmanError
from steersman.lm.sampling import SamplingConfig
from steersman.serving.api import ChatRequest, CompletionRequest, Sampled, parse
from steersman.serving.conversation import below, messages_of_request, prompt_ids, tools_message
from steersman.serving.engine import Closed, Engine, QueueFull
from steersman.serving.errors import ApiError
from steersman.serving.models import Served
from steersman.serving.replies import Choice, Reply
from steersman.serving.sequences import Delta, Failure, Job, Ticket
from steersman.serving.token_text import TokenText
from steersman.serving.tool_calls import CallForm, call_form

SMALLEST_TOP_P = 1e-9  # what OpenAI's 0 means: the likeliest token


@dataclass(frozen=True)
class Call:
    """A request, ready for the engine."""

    jobs: list[Job]
    reply: Reply
    choices: list[Choice]
    streams: bool
    form: CallForm | None = None  # how tools are called, if any may be


class Service:
    """Answers requests with an engine."""

    def __init__(self, engine: Engine, system: Mapping[str, str] | None = None) -> None:
        """``system``: by the model's name, what it is told before every chat."""
        self.engine, self._started, self._system = engine, int(time.time()), system or {}
        self._token_text = {name: TokenText(model.chat.tokenizer) for name, model in engine.models.items()}
        self._encoding = threading.Lock()  # tokenizers are not made for several threads

    @property
    def models(self) -> Mapping[str, Served]:
        """By name."""
        return self.engine.models

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the body of a request; one with ``messages`` is a chat.

        Raises:
            ApiError: it cannot be answered.
        """
        return await self.answer(await self.prepare(body))

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The chunks of an answer; whoever stops iterating must close the iterator, which cancels the request.

        Raises:
            ApiError: it cannot be answered, or the engine failed in the middle.
        """
        async for chunk in self.chunks(await self.prepare({**body, "stream": True})):
            if chunk:
                yield chunk

    def listed(self) -> dict[str, Any]:
        """The models as OpenAI lists them."""
        return {"object": "list", "data": [self.about(name) for name in self.models]}

    def about(self, name: str) -> dict[str, Any]:
        """One of the models; ``max_model_len`` as vLLM has it."""
        context = self.engine.context(name)
        owned = {"created": self._started, "owned_by": "steersman"}
        return {"id": name, "object": "model", **owned, "max_model_len": context}

    async def prepare(self, body: Mapping[str, Any], *, chat: bool | None = None) -> Call:
        """Read a request, without a place in the queue yet.

        Args:
            chat: whether it has to be a chat; None: the body tells.
        """
        chat = "messages" in body if chat is None else chat
        return await asyncio.to_thread(self._prepared, body, chat)

    async def answer(self, call: Call) -> dict[str, Any]:
        """The whole answer."""
        async with _Hearing(self.engine, call.jobs) as hearing:
            async for delta in hearing:
                call.choices[delta.choice].add(delta, call.form)
        return call.reply.whole(call.choices)

    async def chunks(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """The answer as it grows; first an empty chunk, before which everything is raised that refuses the request."""
        async with _Hearing(self.engine, call.jobs) as hearing:
            yield {}
            for chunk in call.reply.first(call.choices):
                yield chunk
            async for delta in hearing:
                choice = call.choices[delta.choice]
                for chunk in call.reply.deltas(choice, choice.add(delta, call.form), delta):
                    yield chunk
            for chunk in call.reply.last(call.choices):
                yield chunk

    # ── from a request to jobs ───────────────────────────────────────────────────────────────────────────────────────
    def _prepared(self, body: Mapping[str, Any], chat: bool) -> Call:
        try:
            with self._encoding:
                return (
                    self._of_chat(parse(ChatRequest, body)) if chat else self._of_text(parse(CompletionRequest, body))
                )
        except SteersmanError as error:  # the chat template's own words
            expected = f"; expected: {error.expected}" if error.expected else ""
            raise ApiError(f"{error.found}{expected}.", param="messages") from None
        except RecursionError:
            raise ApiError("The body is nested too deeply.", code="invalid_json") from None

    def _of_chat(self, request: ChatRequest) -> Call:
        served = self._served(request.model)
        tools = request.tools if request.tool_choice == "auto" else []
        form = call_form(served.chat, tools_message(tools)) if tools else None
        messages = messages_of_request(request.messages, tools)
        if system := self._system.get(served.name):
            messages = below(system, messages)
        ids = served.chat.prompt_ids(messages)
        top = (request.top_logprobs or 0) if request.logprobs else None
        return self._call(request, served, [ids], request.most_tokens, top, chat=True, form=form)

    def _of_text(self, request: CompletionRequest) -> Call:
        served = self._served(request.model)
        prompts = [prompt_ids(served.chat, prompt, served.size) for prompt in request.prompts]
        return self._call(request, served, prompts, request.most_tokens, request.logprobs, chat=False)

    def _call(
        self,
        request: Sampled,
        served: Served,
        prompts: Sequence[list[int]],
        most: int | None,
        top: int | None,
        *,
        chat: bool,
        form: CallForm | None = None,
    ) -> Call:
        bias = _biases(request.logit_bias, served)
        seed = secrets.randbits(32) if request.seed is None else request.seed % 2**32
        jobs: list[Job] = []
        choices: list[Choice] = []
        for number, ids in enumerate(prompts):
            room = self._room(served.name, ids, most)
            for choice in range(request.n):
                config = SamplingConfig(
                    max_new_tokens=room,
                    temperature=request.temperature,
                    top_p=request.top_p or SMALLEST_TOP_P,
                    top_k=max(0, request.top_k),
                    no_repeat_ngram=request.no_repeat_ngram,
                    seed=seed,
                )
                job = Job(
                    served.name,
                    ids,
                    config,
                    index=choice,
                    chat=chat,
                    stops=request.stops,
                    top_logprobs=top or 0,
                    frequency_penalty=request.frequency_penalty,
                    presence_penalty=request.presence_penalty,
                    logit_bias=bias,
                )
                jobs.append(job)
                choices.append(Choice(len(choices), number))
        options = request.stream_options
        usage = options is not None and options.include_usage
        reply = Reply(served.name, chat, [len(ids) for ids in prompts], self._token_text[served.name], top, usage)
        return Call(jobs, reply, choices, request.stream, form)

    def _served(self, name: str) -> Served:
        if name not in self.models:
            raise ApiError(
                f"The model {name[:100]!r} does not exist here; there is {', '.join(self.models)}.",
                status=404,
                code="model_not_found",
                param="model",
            )
        return self.models[name]

    def _room(self, model: str, ids: Sequence[int], most: int | None) -> int:
        """How many tokens the answer may have."""
        context = self.engine.context(model)
        if len(ids) + (most or 1) > context:
            asked = f" and {most} of the answer" if most else ""
            raise ApiError(
                f"This model's maximum context length is {context} tokens. However, you requested "
                f"{len(ids) + (most or 0)} tokens ({len(ids)} of the prompt{asked}). Please reduce the length.",
                code="context_length_exceeded",
                param="messages",
            )
        return most or context - len(ids)


class _Hearing:
    """The engine's deltas for one request, in the event loop; on the way out the rest is cancelled."""

    def __init__(self, engine: Engine, jobs: Sequence[Job]) -> None:
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._heard: asyncio.Queue[Delta | Failure] = asyncio.Queue()
        self._tickets = [Ticket(job, self._deliver_as(number)) for number, job in enumerate(jobs)]
        self._open = len(jobs)

    def _deliver_as(self, number: int) -> Any:
        def deliver(told: Delta | Failure) -> None:
            self._loop.call_soon_threadsafe(self._heard.put_nowait, told._replace(choice=number))

        return deliver

    async def __aenter__(self) -> _Hearing:
        try:
            self._engine.submit(self._tickets)
        except QueueFull:
            queued = f"The queue is full: {self._engine.config.queue} sequences wait. Try again later."
            raise ApiError(queued, status=429, code="queue_full") from None
        except Closed:
            raise ApiError("The server is ending.", status=503, code="unavailable") from None
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._open:
            for ticket in self._tickets:
                ticket.cancelled.set()

    def __aiter__(self) -> _Hearing:
        return self

    async def __anext__(self) -> Delta:
        if not self._open:
            raise StopAsyncIteration
        told = await self._heard.get()
        if isinstance(told, Failure):
            raise ApiError(f"The answer could not be finished: {told.message}.", status=500, code="engine_failed")
        self._open -= told.finish is not None
        return told


def _biases(bias: Mapping[str, float], served: Served) -> tuple[tuple[int, float], ...]:
    found = []
    for name, value in bias.items():
        token = int(name) if name.isascii() and name.isdigit() and len(name) < 12 else -1
        if not 0 <= token < served.size:
            known = f"ids are 0 to {served.size - 1}"
            raise ApiError(f"'logit_bias' names no token of this model: {name[:40]!r}; {known}.", param="logit_bias")
        if served.vocabulary is not None and value > 0 and int(served.vocabulary.position[token]) < 0:
            raise ApiError(f"Token {token} is not sampled with --fast, so no bias can favour it.", param="logit_bias")
        found.append((token, value))
    return tuple(found)
