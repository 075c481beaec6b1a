"""The steps of a greedy coordinate gradient search, made for a CPU and a large vocabulary.

Zou et al. 2023 (arXiv:2307.15043), Algorithm 1. A suffix of n tokens is to raise the probability of a target text after
the prompt. In a step, the loss is the mean negative log-likelihood of the target's tokens in nats, and

    gradient     of the loss with respect to the one-hot rows of the suffix's tokens, [n, V]
    candidates   the suffix with one token replaced, at a random place, by one of those with the lowest gradient
    selection    the candidate with the lowest loss becomes the suffix, also where it is worse than the one before

What is saved, and what stays exact:

- The gradient's columns do not depend on one another, so only those of tokens that may be used are computed: the
  gradient of the embedded suffix times the rows that the embedding returns for them, whatever scale or adapter it has.
  Exact; nanoGCG 0.3.0, older than Gemma 3, multiplies with the raw weight and would miss its scale.
- The head is applied to the T positions that predict the target, never to all. Exact.
- What precedes the replaced token is the same as in the suffix before, so its keys and values are taken from there:
  candidates are read in the few passes, each from its first replaced token on, that cost least. Exact up to rounding.
- All candidates are scored over the target's and the K most probable rows of the head. A sum over fewer tokens is
  smaller, so -log p over K rows is at most -log p over all V: a lower bound. Candidates are scored over all rows in
  the order of their bounds until the next bound exceeds the best loss: the winner is the winner over the whole
  vocabulary, its loss exact, and usually a handful of candidates meets the whole head.

A candidate has to survive decoding and encoding: the whole prompt, as text, has to become these very ids again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.errors import ModelError
from steersman.lm.chat_format import ChatFormat, common_length
from steersman.lm.fast_paths import fast_paths
from steersman.lm.head import Head, head_of, token_logprobs, trunk
from steersman.types import Text

ROWS = 4096  # of the head, over which all candidates are scored
CHUNK = 16384  # rows of the embedding that meet the gradient at a time
BATCH_TOKENS = 4096  # of candidates in one forward pass
PASS_TOKENS = (
    60  # what a pass costs beside its tokens, in tokens: 0.11 s and 1.8 ms a token with gemma-3-270m, one core
)
AT_ONCE = 4  # candidates that are scored over all rows together
MARGIN = 1e-4  # nats by which rounding may lift a lower bound above what it bounds
FILLER, OTHER = " !", " ?"  # the first suffix, and what shows where it stands among the prompt's ids


@dataclass(frozen=True)
class Problem:
    """A prompt whose suffix is searched, as token ids: ``before``, the suffix, ``after``, then ``target``.

    ``ask`` makes the conversation of a message; ``said`` is the message before the suffix; ``start`` the first suffix.
    """

    model: Any
    chat: ChatFormat
    ask: Callable[[str], Text]
    said: str
    before: list[int]
    start: list[int]
    after: list[int]
    target: list[int]

    def message(self, suffix: Sequence[int]) -> str:
        """The message with a suffix."""
        return self.said + _spelled(self.chat.tokenizer, self.before[-1], suffix)

    def survives(self, suffix: Sequence[int]) -> bool:
        """Whether the prompt with this suffix, as text, is read as these ids."""
        return self.chat.prompt_ids(self.ask(self.message(suffix))) == [*self.before, *suffix, *self.after]

    @property
    def behind(self) -> list[int]:
        """Ids after the suffix that the model reads: the last of the target predicts nothing."""
        return [*self.after, *self.target[:-1]]


class Step(NamedTuple):
    """What a step found. ``loss``: of ``suffix``, in nats a token; ``candidates`` were scored, ``in_full`` of them over
    the whole vocabulary."""

    suffix: list[int]
    loss: float
    candidates: int
    in_full: int


def problem(
    model: Any, chat: ChatFormat, ask: Callable[[str], Text], request: str, target: str, length: int
) -> Problem:
    """The problem of a request.

    Args:
        model: a decoder-only Hugging Face model. ask: makes a conversation of a message.
        target: the beginning of the answer that is wanted.
        length: tokens of the suffix, more where the filler takes more.

    Raises:
        ModelError: the tokenizer does not give the filler's text back.
    """
    first = request + FILLER * length
    ids, others = chat.prompt_ids(ask(first)), chat.prompt_ids(ask(request + OTHER * length))
    begin = common_length([ids, others])
    end = len(ids) - common_length([ids[::-1], others[::-1]])
    wanted = chat.completion_ids(target, ask(first))
    while wanted[-1] in chat.stop_ids:
        wanted.pop()
    before, start = ids[:begin], ids[begin:end]
    text = _spelled(chat.tokenizer, before[-1], start)
    made = Problem(model, chat, ask, first.removesuffix(text), before, start, ids[end:], wanted)
    if not (text and made.survives(start)):
        raise ModelError(
            "the tokenizer does not give back the text that it was given",
            expected=f"the same ids after decoding and encoding {FILLER * 3!r}",
            do="leave the attack gcg out for this model",
        )
    return made


def _spelled(tokenizer: Any, anchor: int, suffix: Sequence[int]) -> str:
    """The text of a suffix as it follows a token: the first word of a text may lose its space in decoding."""
    spell = functools.partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    text: str = spell([anchor, *suffix])
    return text.removeprefix(spell([anchor]))


@functools.lru_cache(maxsize=2)
def usable_tokens(tokenizer: Any, rows: int) -> Tensor:
    """Ids, [A], of the tokens that are printable ASCII and no control tokens, among the first ``rows``."""
    control = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = [i for i in range(min(rows, len(tokenizer))) if i not in control]
    texts = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    return torch.tensor(
        [i for i, text in zip(ids, texts, strict=True) if text and text.isascii() and text.isprintable()]
    )


@dataclass
class Search:
    """One search: what is the same in all its steps.

    ``top``: replacements that are considered at each place; ``width``: candidates that are drawn in a step.
    """

    problem: Problem
    width: int
    top: int
    head: Head = field(init=False)
    usable: Tensor = field(init=False)
    _prefix: Any = field(init=False, default=None)  # keys and values of what precedes the suffix

    def __post_init__(self) -> None:
        model = self.problem.model
        head, embedding = head_of(model), model.get_input_embeddings()
        bias = None if head.bias is None else head.bias.detach()
        self.head = replace(head, weight=head.weight.detach(), bias=bias)
        self.usable = usable_tokens(self.problem.chat.tokenizer, embedding.weight.shape[0]).to(model.device)
        if fast_paths(model).kv_cache:
            with torch.no_grad():
                self._prefix = self._read(None, self._ids([self.problem.before]))[1]

    def step(self, suffix: list[int], generator: torch.Generator) -> Step | None:
        """One step from a suffix; None where no candidate survives."""
        states, gradient, cache = self.gradient(suffix)
        candidates = self.candidates(suffix, gradient, generator)
        if not candidates:
            return None
        with torch.no_grad():
            hidden = self.states(suffix, candidates, cache)
            chosen, loss, in_full = self.best(hidden, self.likely_rows(states))
        return Step(candidates[chosen], loss, len(candidates), in_full)

    def gradient(self, suffix: list[int]) -> tuple[Tensor, Tensor, Any]:
        """Hidden states that predict the target, [T, H]; d loss / d one-hot of the usable tokens, [n, A]; keys and
        values of all that was read, None without a cache."""
        given, model = self.problem, self.problem.model
        embedding = model.get_input_embeddings()
        past = 0 if self._prefix is None else len(given.before)
        with torch.no_grad():
            front, around = (embedding(self._ids([ids])) for ids in (given.before[past:], given.behind))
            prefix = None if self._prefix is None else self._prefix.prefix(1, past)
        own = embedding(self._ids([suffix])).detach().requires_grad_()
        hidden, cache = self._read(prefix, torch.cat([front, own, around], 1), past)
        states = hidden[0, -len(given.target) :]
        loss = -token_logprobs(states, self._ids(given.target), self.head).mean()
        (slope,) = torch.autograd.grad(loss, own)
        with torch.no_grad():
            columns = [slope[0] @ embedding(ids).T for ids in torch.split(self.usable, CHUNK)]
        return states.detach(), torch.cat(columns, 1), cache

    def candidates(self, suffix: list[int], gradient: Tensor, generator: torch.Generator) -> list[list[int]]:
        """Suffixes with one token replaced, each once, that survive decoding and encoding. gradient: [n, A]."""
        top = min(self.top, gradient.shape[1])
        best = self.usable[(-gradient).topk(top, dim=1).indices].tolist()
        places = torch.randint(len(suffix), (self.width,), generator=generator).tolist()
        ranks = torch.randint(top, (self.width,), generator=generator).tolist()
        drawn = {(place, best[place][rank]): None for place, rank in zip(places, ranks, strict=True)}
        made = [[*suffix[:place], token, *suffix[place + 1 :]] for place, token in drawn if suffix[place] != token]
        return [ids for ids in made if self.problem.survives(ids)]

    def states(self, suffix: list[int], candidates: Sequence[list[int]], cache: Any) -> Tensor:
        """Hidden states of the candidates that predict the target, [C, T, H].

        Args:
            cache: keys and values of the prompt with ``suffix``, from which each candidate differs in one place.
        """
        given = self.problem
        places = [common_length([suffix, ids]) if cache is not None else 0 for ids in candidates]
        found: list[Tensor] = [torch.empty(0)] * len(candidates)
        for place, those in passes(places, len(suffix) + len(given.behind)):
            past = 0 if cache is None else len(given.before) + place
            rows = {i: [*given.before, *candidates[i], *given.behind][past:] for i in those}
            for some in _chunks(list(rows), max(1, BATCH_TOKENS // len(rows[next(iter(rows))]))):
                prefix = None if cache is None else cache.prefix(len(some), past)
                hidden, _ = self._read(prefix, self._ids([rows[i] for i in some]), past)
                for i, row in zip(some, hidden[:, -len(given.target) :], strict=True):
                    found[i] = row.clone()  # a view would keep the other positions
        return torch.stack(found)

    def likely_rows(self, states: Tensor) -> Tensor:
        """Rows of the head, [K]: those of the target, and the most probable after ``states``."""
        with torch.no_grad():
            logits = self.head.logits(states).amax(0)
        own = torch.unique(self._ids(self.problem.target))
        logits[own] = -torch.inf
        count = min(ROWS, len(logits) - len(own))
        return torch.cat([own, logits.topk(count).indices])

    def best(self, hidden: Tensor, rows: Tensor) -> tuple[int, float, int]:
        """The candidate with the lowest loss over the whole vocabulary, the loss, and how many met the whole head.

        Args:
            hidden: [C, T, H]. rows: those over which lower bounds are taken, [K]; the target's are among them.
        """
        target = self._ids(self.problem.target)
        place = torch.full((self.head.weight.shape[0],), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        bounds = self._losses(hidden, place[target], self.head.rows(rows))
        order = bounds.argsort(stable=True).tolist()
        lowest, chosen, seen = float("inf"), -1, 0
        for some in _chunks(order, AT_ONCE):
            if float(bounds[some[0]]) > lowest + MARGIN:
                break
            seen += len(some)
            for i, loss in zip(some, self._losses(hidden[some], target, self.head).tolist(), strict=True):
                if (loss, i) < (lowest, chosen):
                    lowest, chosen = loss, i
        return chosen, lowest, seen

    def _losses(self, hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
        """Mean negative log-likelihood of the target by each row of hidden states, [C, T, H] -> [C]."""
        count, length, _ = hidden.shape
        return -token_logprobs(hidden.flatten(0, 1), targets.repeat(count), head).view(count, length).mean(1)

    def _read(self, cache: Any, inputs: Tensor, past: int = 0) -> tuple[Tensor, Any]:
        """Hidden states of ids, [B, T], or of embedded tokens, [B, T, H], after ``past`` cached ones, and the cache."""
        from steersman.lm.kv_cache import KVCache

        if cache is None and fast_paths(self.problem.model).kv_cache:
            cache = KVCache()
        rows, width = inputs.shape[:2]
        name = "input_ids" if inputs.dim() == 2 else "inputs_embeds"
        output = trunk(self.problem.model)(
            **{name: inputs},
            attention_mask=torch.ones(rows, past + width, dtype=torch.long, device=inputs.device),
            position_ids=torch.arange(past, past + width, device=inputs.device).expand(rows, -1),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state, cache

    def _ids(self, ids: Any) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.problem.model.device)


def passes(places: Sequence[int], width: int) -> list[tuple[int, list[int]]]:
    """In which forward passes to read rows that share their first ``places`` tokens with what is cached, cheapest.

    A pass begins at one place for all of its rows. Few passes read shared tokens again, many read the weights more
    often; a pass costs its tokens and PASS_TOKENS more.

    Args:
        width: tokens of a row that shares none.

    Returns:
        Where each pass begins, and its rows' numbers.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    cheapest: list[tuple[int, list[int]]] = [(0, [])]  # cost of reading the first rows, and where passes begin in them
    for end in range(1, len(order) + 1):
        options = (
            (cheapest[begin][0] + PASS_TOKENS + (end - begin) * (width - places[order[begin]]), begin)
            for begin in range(end)
            if not begin or places[order[begin]] > places[order[begin - 1]]
        )
        cost, begin = min(options)
        cheapest.append((cost, [*cheapest[begin][1], begin]))
    begins = cheapest[-1][1]
    return [
        (places[order[begin]], order[begin:end]) for begin, end in zip(begins, [*begins[1:], len(order)], strict=True)
    ]


def _chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
