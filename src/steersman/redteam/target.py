"""What is attacked: a model, a model behind its guard, an endpoint, or nothing but refusals.

A campaign asks none of these directly: `journal.Remembered` stands between, so that a reply is on disk before it counts
and nothing is asked twice. A model behind a guard is the same model: its answers are shared with the arm without one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from steersman.errors import DataError, ModelError
from steersman.redteam.attack import Stopped, WhiteBox
from steersman.types import Text, plain_text

if TYPE_CHECKING:  # torch comes with them, and an endpoint needs none
    from steersman.lm.endpoint.client import RemoteModel
    from steersman.lm.endpoint.replies import Reply as RemoteReply
    from steersman.lm.language_model import LanguageModel, LocalModel
    from steersman.lm.sampling import Completion, Request, SamplingConfig

REFUSES = "refuses-everything"  # the name of the null
READ_AT_ONCE = 65_536  # characters of prompts, padding included, that a model reads side by side
REFUSAL = "I'm sorry, but I can't help with that."


class Query(NamedTuple):
    """One conversation to answer. ``number`` names it in the log; ``seed`` is read where the temperature is not 0.

    ``reply``: what the model said under an attack's own intervention; it is not asked, and its guard judges this.
    """

    number: int
    prompt: Text
    temperature: float = 0.0
    seed: int = 0
    reply: str | None = None


class Reply(NamedTuple):
    """What came back. ``stopped`` is never "model" here: whether a reply refuses is the judge's business.

    ``failed``: why there is no reply; empty where there is one. ``cut``: tokens of the prompt that were not
    read, because the model, or the setting, reads no more.
    """

    number: int
    text: str
    stopped: Stopped = ""
    tokens: int = 0
    failed: str = ""
    cut: int = 0


class Target(Protocol):
    """Anything that answers an attacker."""

    name: str

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        """Answer every query; replies come as they finish."""
        ...

    @property
    def weights(self) -> WhiteBox | None:
        """The weights behind it, for attacks that need them."""
        ...


class Checked(NamedTuple):
    """What a guard does with one side: the text that goes on, which is its refusal where it stops."""

    stopped: bool
    text: str


class Guard(Protocol):
    """A guard, as far as a target behind it needs one."""

    def check(self, prompt: Text, answer: str | None = None) -> Checked:
        """Judge a conversation, or the answer to it."""
        ...


# ── a model in this process ──────────────────────────────────────────────────────────────────────────────────────────
class LocalTarget:
    """A policy of a run. Its weights are read when it is first asked, so that a finished campaign needs none.

    Args:
        load: reads the weights.
        sampling: of the answers; temperature and seed are each query's own.
    """

    def __init__(self, name: str, load: Callable[[], LocalModel], sampling: SamplingConfig) -> None:
        self.name, self.load, self.sampling = name, load, sampling

    @functools.cached_property
    def model(self) -> LocalModel:
        """The weights, read now if they are not yet."""
        return self.load()

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        """See `Target`. A conversation that the model's format cannot hold, such as one with tools, fails alone."""
        possible = []
        for query in queries:
            if why := self._impossible(query.prompt):
                yield Reply(query.number, "", failed=why)
            else:
                possible.append(query)
        for batch in _affordable(possible):
            for number, answer in sampled(self.model, batch, self.sampling):
                yield Reply(number, answer.text, tokens=len(answer.token_ids), cut=answer.truncated_prompt_tokens)

    def _impossible(self, prompt: Text) -> str:
        if isinstance(prompt, str):
            return ""
        from steersman.lm.limits import prompt_limit, prompts_within

        sampler = self.model.sampler
        try:
            behind = functools.partial(prompt_limit, sampler.model.config, self.sampling)
            prompts_within(sampler.chat, [prompt], None, behind)
        except (DataError, ModelError) as error:
            return error.found
        return ""

    @property
    def weights(self) -> WhiteBox | None:
        """Model and chat format, read when an attack first looks at them."""
        return _Weights(self)

    def release(self) -> None:
        """Let the weights go; they are read again if need be."""
        self.__dict__.pop("model", None)


def _affordable(queries: Sequence[Query]) -> list[list[Query]]:
    """Queries in groups that are read at once, short ones first: sixty long prompts side by side fill a laptop."""
    from steersman.lm.limits import padded_batches

    sizes = {place: len(plain_text(query.prompt)) for place, query in enumerate(queries)}
    return [[queries[place] for place in batch] for batch in padded_batches(sizes, READ_AT_ONCE)]


class _Weights:
    """The weights of a local target, read late."""

    def __init__(self, target: LocalTarget) -> None:
        self._target = target

    @functools.cached_property
    def model(self) -> Any:
        """The decoder with its adapter."""
        return self._target.model.sampler.model

    @functools.cached_property
    def chat(self) -> Any:
        """Its chat format."""
        return self._target.model.sampler.chat


class LateModel:
    """A local target as a `LanguageModel` that writes prompts; its weights are those of the target, and read late."""

    def __init__(self, target: LocalTarget) -> None:
        self.target = target

    def answers(self, request: Request) -> Iterator[Completion]:
        """See `LanguageModel`."""
        return self.target.model.answers(request)

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """See `LanguageModel`."""
        return self.target.model.choose(prompts, options, preamble=preamble)


def sampled(
    model: LanguageModel, queries: Sequence[Query], sampling: SamplingConfig
) -> Iterator[tuple[int, Completion]]:
    """Answers to queries of several temperatures and seeds, with the queries' numbers, as they finish.

    A random stream is chosen by a query's own seed, so that its answer does not depend on what else is asked.
    """
    from steersman.lm.sampling import Request

    for temperature in sorted({query.temperature for query in queries}):
        left = [query for query in queries if query.temperature == temperature]
        while left:
            own: dict[int, Query] = {}  # one call holds each seed once; greedy answers need none
            for place, query in enumerate(left):
                own.setdefault(query.seed if temperature else place, query)
            taken = {query.number for query in own.values()}
            left, asked = [query for query in left if query.number not in taken], sorted(own)
            config = sampling.model_copy(update={"temperature": temperature})
            for answer in model.answers(Request([own[seed].prompt for seed in asked], config, indices=asked)):
                yield own[answer.index].number, answer


# ── a model behind its guard ─────────────────────────────────────────────────────────────────────────────────────────
class GuardedTarget:
    """A model with a guard before and behind it.

    Args:
        inner: the model, remembered: what its unguarded arm asked is not asked again.
        guard: its checks, remembered as well.
    """

    def __init__(self, name: str, inner: Target, guard: Guard) -> None:
        self.name, self.inner, self.guard = name, inner, guard

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        """The request is judged, then answered, then the answer is judged; a refusal stands for what is stopped."""
        passed = {}
        for query in queries:
            before = self.guard.check(query.prompt)
            if before.stopped:
                yield Reply(query.number, before.text, "input")
            else:
                passed[query.number] = query
        for reply in self.inner.answer(list(passed.values())):
            if reply.failed or reply.stopped:
                yield reply
                continue
            after = self.guard.check(passed[reply.number].prompt, reply.text)
            yield reply._replace(text=after.text, stopped="output" if after.stopped else "")

    @property
    def weights(self) -> WhiteBox | None:
        """The model's: an attacker who holds them still has to pass the guard."""
        return self.inner.weights


# ── elsewhere ────────────────────────────────────────────────────────────────────────────────────────────────────────
class EndpointTarget:
    """A model, or a gateway, behind an OpenAI-compatible endpoint; its client retries, waits and remembers.

    A filter that refuses the request is "input", one that ends the answer "output". A request that gets no reply after
    the last attempt is failed, and so is one that the endpoint refuses for another reason or finds too long.
    """

    def __init__(self, name: str, model: RemoteModel) -> None:
        self.name, self.model = name, model

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        """See `Target`; replies come in the order of the queries."""
        possible = []
        for query in queries:
            if why := _no_request(self.model, query.prompt):
                yield Reply(query.number, "", failed=why)
            else:
                possible.append(query)
        own = [_fields(query) for query in possible]
        replies = self.model.complete([query.prompt for query in possible], own=own)
        for query, reply in zip(possible, replies, strict=True):
            yield _of_endpoint(query.number, reply)

    @property
    def weights(self) -> WhiteBox | None:
        """None: they are elsewhere."""
        return None


def _fields(query: Query) -> Mapping[str, Any]:
    """The fields of a request that are its own; a greedy one keeps the endpoint's seed."""
    sampled = {"seed": query.seed >> 1} if query.temperature else {}  # of 31 bits: some servers read no more
    return {"temperature": query.temperature, **sampled}


def _no_request(model: RemoteModel, prompt: Text) -> str:
    """Why a conversation cannot be sent at all; empty if it can."""
    from steersman.lm.endpoint.bodies import body_of

    try:
        body_of(model.config, prompt)
    except DataError as error:
        return error.found
    return ""


def _of_endpoint(number: int, reply: RemoteReply) -> Reply:
    tokens = reply.usage.completion_tokens
    if reply.outcome == "filtered":
        # With a reason the request was refused; without one an answer had been begun.
        return Reply(number, reply.text or REFUSAL, "input" if reply.detail else "output", tokens)
    if reply.outcome in ("failed", "refused", "too_long"):
        return Reply(number, "", failed=f"{reply.outcome.replace('_', ' ')}: {reply.detail}".strip(": "))
    return Reply(number, reply.text.strip(), tokens=tokens)


class RefusingTarget:
    """The null: it refuses everything, which no attack defeats and nobody can use."""

    name = REFUSES

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        """A refusal to each."""
        for query in queries:
            yield Reply(query.number, REFUSAL)

    @property
    def weights(self) -> WhiteBox | None:
        """None: there are none."""
        return None
