"""The models that a server offers by name: a base model, and what was trained on it, with one base in memory.

Several adapters stay beside the base's weights and are switched; one alone is merged into them and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.lm import device, pretrained
from steersman.lm.adapters import ADAPTER, FULL, load_adapter, load_policy, using
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.compact_vocabulary import CompactVocabulary, choose_vocabulary
from steersman.lm.device import Hardware
from steersman.lm.head import Head, head_in_use, head_of
from steersman.lm.int8 import Int8Copy
from steersman.lm.language_model import EXAMPLE_TOKENS, FAST
from steersman.lm.limits import positions
from steersman.lm.sampling import Sampler
from steersman.types import Demonstration


@dataclass(frozen=True)
class Served:
    """A model with a name.

    Attributes:
        sampler: the model and its chat format; with ``--fast`` the compact vocabulary and the int8 copy.
        policy, adapter: the peft model and its adapter that this name means; without an adapter, the base alone.
    """

    name: str
    sampler: Sampler
    head: Head
    policy: Any = None
    adapter: str | None = None

    @property
    def chat(self) -> ChatFormat:
        """How it reads conversations."""
        return self.sampler.chat

    @property
    def vocabulary(self) -> CompactVocabulary | None:
        """The rows that are sampled from, if these are not all tokens."""
        return self.sampler.vocabulary

    @property
    def key(self) -> tuple[int, str | None]:
        """Equal for names of the same weights."""
        return (id(self.sampler.model), self.adapter)

    @property
    def size(self) -> int:
        """How many token ids it knows."""
        return int(self.sampler.model.get_input_embeddings().weight.shape[0])

    @property
    def positions(self) -> int | None:
        """How many tokens it can read at once; None if it sets no limit."""
        return positions(self.sampler.model.config)

    def in_use(self) -> AbstractContextManager[None]:
        """Within it, forward passes go through this model's adapter."""
        return nullcontext() if self.policy is None else using(self.policy, self.adapter)

    def head_in_use(self) -> Head:
        """The output layer, within `in_use`."""
        trained_whole = self.policy is not None and self.sampler.int8 is None and self.vocabulary is None
        return head_in_use(self.head, self.sampler.model) if trained_whole else self.head


def load(
    base: Path, trained: Mapping[str, Path | None], *, fast: bool = False, examples: Sequence[Demonstration] = ()
) -> dict[str, Served]:
    """Load models.

    Args:
        base: the base model's folder in hub format.
        trained: by name, the folder in which `save_policy` left what was trained; None for the base itself. Equal
            folders are one model.
        fast: int8 weights, and with ``examples`` a compact vocabulary of their tokens and more: another distribution.

    Raises:
        ModelError: a checkpoint belongs to another base, or is damaged.
    """
    folders = list(dict.fromkeys(trained.values()))
    adapters = [folder for folder in folders if folder is not None and not (folder / FULL).exists()]
    one: dict[Path | None, Served] = {}
    if len(folders) == 1:
        one[folders[0]] = _plain(base, folders[0], fast, examples)
    else:
        if adapters or None in folders:
            one |= _on_one_base(base, adapters, fast, examples)
        one |= {f: _plain(base, f, fast, examples) for f in folders if f is not None and (f / FULL).exists()}
    return {
        name: Served(name, one[f].sampler, one[f].head, one[f].policy, one[f].adapter) for name, f in trained.items()
    }


def _plain(base: Path, folder: Path | None, fast: bool, examples: Sequence[Demonstration]) -> Served:
    """A model on its own weights, what was trained merged into them."""
    sampler, head = _sampler(load_policy(base, folder), base, fast, examples)
    return Served("", sampler, head)


def _on_one_base(
    base: Path, folders: Sequence[Path], fast: bool, examples: Sequence[Demonstration]
) -> dict[Path | None, Served]:
    model: Any = pretrained.load_model(base).requires_grad_(False).eval()
    sampler, head = _sampler(model, base, fast, examples)
    policy: Any = None
    for number, folder in enumerate(folders):
        policy = load_adapter(policy or model, base, folder / ADAPTER, f"adapter{number}")
    if policy is not None:
        policy.requires_grad_(False).eval()
    found: dict[Path | None, Served] = {None: Served("", sampler, head, policy)}
    for number, folder in enumerate(folders):
        found[folder] = Served("", sampler, head, policy, f"adapter{number}")
    return found


def _sampler(model: Any, base: Path, fast: bool, examples: Sequence[Demonstration]) -> tuple[Sampler, Head]:
    model.requires_grad_(False)
    chat, head = chat_format(pretrained.load_tokenizer(base), model.generation_config), head_of(model)
    if not fast or device.current() != Hardware():
        return Sampler(model, chat), head
    texts = [chat.example(row.prompt, row.completion, EXAMPLE_TOKENS) for row in examples]
    vocabulary = choose_vocabulary(FAST, model, head, texts) if texts else None
    int8 = Int8Copy(model, head if vocabulary is None else vocabulary.head)
    return Sampler(model, chat, vocabulary, int8), int8.head
