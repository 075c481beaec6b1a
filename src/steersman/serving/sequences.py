"""One sequence that is being continued for a client, and what the client is told of it, token by token.

Text leaves in pieces that add up to the finished text. What may still become something else is held back: the bytes of
half a character, what may be the beginning of a stop string, and in a chat the spaces that the finished answer loses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from steersman.lm.chat_format import ChatFormat
from steersman.lm.sampling import FinishReason, Row, SamplingConfig
from steersman.serving.probing import Probe


@dataclass(frozen=True)
class Job:
    """A sequence to be continued.

    Attributes:
        model: its name, one of `models.Served`.
        ids: from BOS on.
        sampling: how tokens are drawn; ``batch_size`` and ``max_prompt_tokens`` are not read.
        index: which choice of its request; (seed, index) is its random stream, as in `Sampler.generate`.
        chat: an answer in a chat, which ends where the next turn begins and loses spaces around it.
        stops: text at which it ends.
        top_logprobs: how many alternatives are reported at each token.
        frequency_penalty, presence_penalty: taken off the logits of tokens that were sampled already, for each time and
            once, as OpenAI defines them. ``logit_bias``: added to logits, by token id.
    """

    model: str
    ids: Sequence[int]
    sampling: SamplingConfig
    index: int = 0
    chat: bool = True
    stops: tuple[str, ...] = ()
    top_logprobs: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the sequence when it is finished, at most."""
        return len(self.ids) + self.sampling.max_new_tokens


class Token(NamedTuple):
    """A sampled token. ``start``: where its text begins in the text as it was sampled; ``top``: ids and log-probs."""

    id: int
    logprob: float
    start: int
    top: tuple[tuple[int, float], ...] = ()


class Delta(NamedTuple):
    """New text of a sequence with the tokens that it came from; the last one has a reason.

    ``sampled``: how many tokens were sampled so far; ``score``: the probe's, of all of them whose text was told so far,
    this one's too; None without a probe.
    """

    choice: int
    text: str
    tokens: tuple[Token, ...]
    sampled: int
    finish: FinishReason | None = None
    score: float | None = None


class Failure(NamedTuple):
    """The sequence ended by a fault of ours; what it says is for the client."""

    choice: int
    message: str


Deliver = Callable[[Delta | Failure], None]


@dataclass
class Ticket:
    """A job on its way through the engine, which calls ``deliver`` from its own thread; anyone may cancel it."""

    job: Job
    deliver: Deliver
    cancelled: threading.Event = field(default_factory=threading.Event)


class Continuation(Row):
    """A `Row` for a client."""

    def __init__(self, ticket: Ticket, chat: ChatFormat, probe: Probe | None = None) -> None:
        job = ticket.job
        super().__init__(job.index, list(job.ids), 0, job.sampling.seed)
        self.ticket, self.job, self.chat, self.finished = ticket, job, chat, False
        self.reading = None if probe is None else probe.follow()
        self.score: float | None = None  # the probe's, of all that was read so far
        self.counts: dict[int, int] = {}  # how often each token was sampled
        self._stops = job.stops + (chat.stop_strings if job.chat else ())
        self._longest_stop = max(map(len, self._stops), default=0)
        self._pending: list[Token] = []
        self._searched, self._sent = 0, ""
        thought = chat.template.turn.before.split() if job.chat and chat.template else []
        self._thought = "".join(thought) if "</think>" in thought else ""

    def judge(self, score: float) -> None:
        """Take the probe's score of the newest token."""
        if self.reading is not None:
            self.score = self.reading.add(score)

    def advance(self, token: int, logprob: float, top: tuple[tuple[int, float], ...] = ()) -> Delta | None:
        """Append a sampled token; what the client is told now, if anything."""
        start = len(self._text)
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.counts[token] = self.counts.get(token, 0) + 1
        finish: FinishReason | None = None
        if token in self.chat.stop_ids:
            finish = "stop"
        else:
            self._pending.append(Token(token, logprob, start, top))
            if len(self.tokens) >= self.job.sampling.max_new_tokens:
                finish = "length"
        raw = self._spelled(finish)
        if (cut := self._stop_in(raw)) is not None:
            raw, finish = raw[:cut], "stop_string"
            self._pending = [token for token in self._pending if token.start < cut]
        end = len(raw) if finish else len(raw) - self._held_back(raw)
        text = self._shown(raw[:end], finished=finish is not None)
        new = text[len(self._sent) :]
        if not new and finish is None:
            return None
        self._sent = text
        told = [token for token in self._pending if finish or token.start < end]
        self._pending = self._pending[len(told) :]
        return Delta(self.index, new, tuple(told), len(self.tokens), finish)

    def _spelled(self, finish: FinishReason | None) -> str:
        """The text as it was sampled, without the token that ends it."""
        if finish != "stop":
            return self.spell(self.chat.tokenizer, whole=finish is not None)
        tokens, self.tokens = self.tokens, self.tokens[:-1]
        text = self.spell(self.chat.tokenizer, whole=True)
        self.tokens = tokens
        return text

    def _stop_in(self, raw: str) -> int | None:
        """Where the first stop string begins."""
        start, self._searched = max(0, self._searched - self._longest_stop + 1), len(raw)
        return min((at for stop in self._stops if (at := raw.find(stop, start)) >= 0), default=None)

    def _held_back(self, raw: str) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        for length in range(min(self._longest_stop - 1, len(raw)), 0, -1):
            if any(stop.startswith(raw[-length:]) for stop in self._stops):
                return length
        return 0

    def _shown(self, raw: str, *, finished: bool) -> str:
        """What the client sees of a text: in a chat, what `ChatFormat.decode` makes of it."""
        if not self.job.chat:
            return raw
        if self._thought and not finished and self._thought.startswith("".join(raw.split())):
            return ""  # it may become the tags that the template writes before every answer
        text = self.chat.template.without_empty_thought(raw) if self.chat.template else raw
        return text.strip()
