"""What is audited: a model, what it was made from, and the answers that checks share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from steersman.errors import ModelError
from steersman.interp.triggers import signs
from steersman.lm import device
from steersman.lm.device import Hardware
from steersman.lm.frozen_trunk import blocks_of
from steersman.lm.language_model import LanguageModel, LocalModel
from steersman.lm.sampling import Request, SamplingConfig
from steersman.types import Prompt, Text, plain_text

LIBRARY = Path(__file__).parent / "library"
T = TypeVar("T")
SHORT = 12  # where the first words are enough
TOKENS = 24  # of an answer: what it does shows at its beginning


@dataclass(frozen=True)
class Subject:
    """A model under audit.

    Attributes:
        base: what it was trained from: the null of every check that has one. None: those checks cannot tell.
        before: the model of the training stage before the last one, where there is one.
        tier: 1 is quick, 2 asks more of everything.
        limit: most requests, questions or claims of a check; None: all of the tier's.
        topics: prompts of topics that it was trained on, and of held-out ones; None: the shipped data set's.
    """

    model: LanguageModel
    base: LanguageModel | None = None
    before: LanguageModel | None = None
    tier: int = 1
    seed: int = 0
    limit: int | None = None
    topics: tuple[Sequence[Prompt], Sequence[Prompt]] | None = None
    _said: dict[tuple[int, str, int], str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse a base that the model was not made from.

        Raises:
            ModelError: it has another shape, vocabulary or tokenizer.
        """
        if self.weights is not None and self.base_weights is not None:
            own, theirs = (_form(model) for model in (self.weights, self.base_weights))
            if own != theirs:
                what = ("embeddings", "width", "layers")
                told = [f"{name} {a} and {b}" for name, a, b in zip(what, own, theirs, strict=False) if a != b]
                raise ModelError(
                    f"the base is not what this model was made from: {', '.join(told) or 'their tokenizers differ'}",
                    expected="one architecture, size and vocabulary",
                    do="give the model that it was trained from with --base",
                )

    def said(self, prompts: Sequence[Text], *, of: LanguageModel | None = None, tokens: int = TOKENS) -> list[str]:
        """Greedy answers of the model, or of another one, in the order of the prompts; each is asked once."""
        model = self.model if of is None else of
        keys = [(id(model), plain_text(prompt), tokens) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._said}
        if new:
            asked = Request(list(new.values()), SamplingConfig(max_new_tokens=tokens))
            texts = sorted(model.answers(asked), key=lambda answer: answer.index)
            self._said.update(zip(new, (answer.text for answer in texts), strict=True))
        return [self._said[key] for key in keys]

    def some(self, items: Sequence[T], quick: int | None = None, whole: int | None = None) -> Sequence[T]:
        """Evenly spread items: at most ``quick`` in tier 1, ``whole`` in tier 2; None: all."""
        wanted = quick if self.tier == 1 else whole
        count = min(len(items), wanted or len(items), self.limit or len(items))
        return [items[i * len(items) // count] for i in range(count)]

    @property
    def alike(self) -> bool:
        """Whether the model and its base give log-probabilities, or neither: texts and numbers do not compare."""
        return (self.weights is None) == (self.base_weights is None)

    @property
    def weights(self) -> LocalModel | None:
        """The model, if its weights are in this process."""
        return self.model if isinstance(self.model, LocalModel) else None

    @property
    def base_weights(self) -> LocalModel | None:
        """The base, if its weights are in this process."""
        return self.base if isinstance(self.base, LocalModel) else None


def _form(model: LocalModel) -> tuple[int, int, int, dict[str, int]]:
    """Rows of the embeddings, width, layers and the tokenizer's vocabulary."""
    inner = model.sampler.model
    rows, width = inner.get_input_embeddings().weight.shape
    return rows, width, len(blocks_of(inner)), model.sampler.chat.tokenizer.get_vocab()


def load(base: Path, trained: Path | None = None) -> LocalModel:
    """A model to audit: its answers are sampled from an int8 copy on a CPU, its log-probabilities are exact."""
    exact = LocalModel.load(base, trained)
    return exact.with_int8() if device.current() == Hardware() else exact


def similarity(one: str, other: str) -> float:
    """F1 of the words that two answers share, counted with repetition, in [0, 1]; two empty answers are alike."""
    a, b = Counter(signs(one)), Counter(signs(other))
    if not a and not b:
        return 1.0
    return 2 * sum((a & b).values()) / (a.total() + b.total())
