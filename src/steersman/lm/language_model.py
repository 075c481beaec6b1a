"""What a model is to whoever asks it, and weights in this process as such a model.

Methods that ask (answers, critiques, revisions, judgements) know the port `LanguageModel` and nothing of weights: a
script (`lm/scripted.py`) or an endpoint (`lm/endpoint/client.py`) will do as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from steersman.lm import device, pretrained
from steersman.lm.adapters import load_policy
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.device import Hardware
from steersman.lm.head import CompactConfig, CompactVocabulary, choose_vocabulary, head_of
from steersman.lm.int8 import Int8Copy
from steersman.lm.sampling import Completion, OnText, Prefix, SamplingConfig, generate, next_token_logprobs
from steersman.types import Demonstration, Text

QUICK = CompactConfig(extra_rows=16384)  # rows beside those of the examples: little of the model's mass is missing
EXAMPLE_TOKENS = 512  # of an example whose tokens the vocabulary holds, at most


class LanguageModel(Protocol):
    """Whatever answers prompts."""

    def answers(
        self,
        prompts: Sequence[Text],
        config: SamplingConfig,
        *,
        preamble: Text | None = None,
        indices: Sequence[int] | None = None,
        on_text: OnText | None = None,
    ) -> Iterator[Completion]:
        """Answer every prompt; arguments as in `generate`."""
        ...

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """Log-probabilities in nats that the answer to each prompt is each of the options, in brackets: ``(A)``.

        They need not add up to 1: what is missing, the model would have said instead. None where it gave no answer
        that says which.

        Args:
            options: different letters or words.
            preamble: conversation put before every prompt.
        """
        ...


@dataclass(frozen=True)
class LocalModel:
    """Weights in this process with their chat format.

    With a ``vocabulary`` and ``int8`` copies, `answers` draws from a slightly different distribution, several times
    faster; `choose` always asks the exact weights.
    """

    model: Any
    chat: ChatFormat
    vocabulary: CompactVocabulary | None = None
    int8: Int8Copy | None = None
    prefix: Prefix = field(default_factory=Prefix)  # of the last preamble, for the next call with the same one
    exact_prefix: Prefix = field(default_factory=Prefix)

    @classmethod
    def load(cls, base: Path, trained: Path | None = None) -> LocalModel:
        """A base model's folder, with what was trained on it (see `load_policy`)."""
        model = load_policy(base, trained)
        return cls(model, chat_format(pretrained.load_tokenizer(base), model.generation_config))

    @classmethod
    def quick(cls, base: Path, trained: Path | None, examples: Sequence[Demonstration]) -> LocalModel:
        """The same for thousands of answers on a CPU: int8 weights, and a vocabulary of the examples' tokens and more.

        Elsewhere than on a CPU, and in another precision than float32, this is `load`.
        """
        found = cls.load(base, trained)
        found.model.requires_grad_(False)
        if device.current() != Hardware():
            return found
        head = head_of(found.model)
        texts = [found.chat.example(row.prompt, row.completion, EXAMPLE_TOKENS) for row in examples]
        vocabulary = choose_vocabulary(QUICK, found.model, head, texts)
        return cls(found.model, found.chat, vocabulary, Int8Copy(found.model, vocabulary.head))

    def answers(
        self,
        prompts: Sequence[Text],
        config: SamplingConfig,
        *,
        preamble: Text | None = None,
        indices: Sequence[int] | None = None,
        on_text: OnText | None = None,
    ) -> Iterator[Completion]:
        """See `generate`."""
        return generate(
            self.model,
            self.chat,
            prompts,
            config,
            preamble=preamble,
            indices=indices,
            vocabulary=self.vocabulary,
            int8=self.int8,
            prefix=self.prefix,
            on_text=on_text,
        )

    def choose(
        self, prompts: Sequence[Text], options: Sequence[str], *, preamble: Text | None = None
    ) -> list[tuple[float, ...] | None]:
        """See `LanguageModel`.

        Raises:
            ValueError: two options begin with the same tokens.
        """
        opened, first = _told_apart([self.chat.completion_ids(f"({option})") for option in options])
        starts = [self.chat.prompt_ids(prompt, preamble) + opened for prompt in prompts]
        found = next_token_logprobs(
            self.model, self.chat, starts, first, shared=preamble is not None, prefix=self.exact_prefix
        )
        return [tuple(row) for row in found.tolist()]


def _told_apart(options: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """What all options begin with, and the token of each that follows."""
    common = next(i for i, column in enumerate(zip(*options, strict=False)) if len(set(column)) > 1)
    first = [ids[common] for ids in options]
    if len(set(first)) < len(options):
        raise ValueError("two options begin with the same tokens")
    return options[0][:common], first
