"""The port through which methods use a model, and weights in this process behind it.

The other implementations are a script (`lm/scripted.py`) and an endpoint (`lm/endpoint/client.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from steersman.errors import ModelError
from steersman.lm import device, pretrained
from steersman.lm.adapters import load_policy
from steersman.lm.chat_format import chat_format, common_length
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary, choose_vocabulary
from steersman.lm.device import Hardware
from steersman.lm.head import head_of
from steersman.lm.int8 import Int8Copy
from steersman.lm.sampling import Completion, Prefix, Request, Sampler, SamplingConfig
from steersman.types import Demonstration, Text

FAST = CompactConfig(extra_rows=16384)  # rows beside those of the examples: little of the model's mass is missing
EXAMPLE_TOKENS = 512  # of an example whose tokens the vocabulary holds, at most


class LanguageModel(Protocol):
    """Anything that answers prompts."""

    def answers(self, request: Request) -> Iterator[Completion]:
        """Answer every prompt; completions come as they finish, each with the index of its prompt."""
        ...

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """Log-probabilities in nats that the answer to each prompt is each of the options, in brackets: ``(A)``.

        They need not add up to 1: the rest is the mass of all other answers. None where the answer names no option.

        Args:
            options: different letters or words.
            preamble: conversation put before every prompt.
        """
        ...


@dataclass(frozen=True)
class LocalModel:
    """Weights in this process. `answers` may use the sampler's approximations; `choose` uses the exact weights."""

    sampler: Sampler
    exact_prefix: Prefix = field(default_factory=Prefix)  # of the exact weights, for the next call of `choose`

    def __repr__(self) -> str:
        """The architecture and its size; not every layer."""
        model = self.sampler.model
        return f"LocalModel({type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters)"

    @classmethod
    def load(cls, base: Path, trained: Path | None = None) -> LocalModel:
        """A base model's folder, with what was trained on it (see `load_policy`)."""
        model = load_policy(base, trained)
        return cls(Sampler(model, chat_format(pretrained.load_tokenizer(base), model.generation_config)))

    @classmethod
    def load_fast(cls, base: Path, trained: Path | None, examples: Sequence[Demonstration]) -> LocalModel:
        """For thousands of answers on a CPU: int8 weights, and a compact vocabulary of the examples' tokens and more.

        The distribution is slightly different and sampling several times faster. Elsewhere than on a CPU, and in
        another precision than float32, this is `load`.
        """
        exact = cls.load(base, trained)
        model, chat = exact.sampler.model, exact.sampler.chat
        model.requires_grad_(False)
        if device.current() != Hardware():
            return exact
        texts = [chat.example(row.prompt, row.completion, EXAMPLE_TOKENS) for row in examples]
        return exact.with_int8(choose_vocabulary(FAST, model, head_of(model), texts))

    def with_int8(self, vocabulary: CompactVocabulary | None = None) -> LocalModel:
        """The same weights, but text is sampled from an int8 copy of them: over the whole vocabulary, or a compact one.

        Two to four times faster on a CPU with VNNI or AMX, and a slightly different distribution. The weights no longer
        learn.

        Raises:
            ModelError: elsewhere than in float32 on a CPU.
        """
        if device.current() != Hardware():
            raise ModelError(
                f"no int8 copy of a model on {device.current()}",
                expected="float32 on a CPU",
                do="leave int8 out: the exact weights are used",
            )
        model = self.sampler.model
        model.requires_grad_(False)
        head = head_of(model) if vocabulary is None else vocabulary.head
        return LocalModel(Sampler(model, self.sampler.chat, vocabulary, Int8Copy(model, head)))

    def answers(self, request: Request) -> Iterator[Completion]:
        """See `LanguageModel`."""
        return self.sampler.generate(request)

    def generate(self, prompts: Sequence[Text], **settings: Any) -> list[str]:
        """The texts of the answers, in the order of the prompts; ``settings`` are those of `SamplingConfig`."""
        answers = self.answers(Request(prompts, SamplingConfig(**settings)))
        return [answer.text for answer in sorted(answers, key=lambda answer: answer.index)]

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """See `LanguageModel`.

        Raises:
            ValueError: two options begin with the same tokens.
        """
        exact = Sampler(self.sampler.model, self.sampler.chat, prefix=self.exact_prefix)
        common, first = _distinguishing_tokens([exact.chat.completion_ids(f"({option})") for option in options])
        starts = [exact.chat.prompt_ids(prompt, preamble) + common for prompt in prompts]
        logprobs = exact.next_token_logprobs(starts, first, shared=preamble is not None)
        return [tuple(row) for row in logprobs.tolist()]


def _distinguishing_tokens(options: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """The common prefix of all options, and the next token of each."""
    common = common_length(options)
    first = [ids[common] for ids in options]
    if len(set(first)) < len(options):
        raise ValueError("two options begin with the same tokens")
    return options[0][:common], first
