"""A frozen lower trunk, computed once per text, under trainable upper layers.

With LoRA on the upper layers only, a text's activations below them never change. They are computed once and kept;
every later pass over that text, or over a beginning of it, starts in the middle. No model's forward code is copied: a
forward pass over the lower layers is stopped by a hook, and one over the upper layers runs the model's own code with
its lower layers skipped and the kept activations put in.

The lower layers run in evaluation mode always, so that a kept activation and a fresh one are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steersman.errors import ModelError
from steersman.lm.adapters import frozen_layers
from steersman.lm.head import evaluating, probe_ids, same_states, trunk
from steersman.terminal import Progress

FILL_TOKENS = 2048  # in one forward pass that fills the cache


class _Reached(Exception):
    """Ends a forward pass where the upper layers begin."""


class FrozenTrunk:
    """The lower ``layers`` of a decoder-only Hugging Face model; they must not learn."""

    def __init__(self, model: Any, layers: int) -> None:
        self.model, self.layers = trunk(model), layers
        self._blocks = blocks_of(model)
        if not 0 < layers < len(self._blocks):
            raise ModelError(
                f"cannot freeze {layers} of the model's {len(self._blocks)} layers",
                expected=f"1 to {len(self._blocks) - 1}",
            )

    @classmethod
    def below(cls, model: Any, policy: Any, name: str = "default") -> FrozenTrunk | None:
        """The layers below an adapter.

        None if it reaches down to the first one, or if the model cannot be read in two parts: then every pass reads all
        of it.
        """
        layers = frozen_layers(policy, name)
        lower = cls(model, layers) if layers else None
        return lower if lower is None or lower.agrees() else None

    def agrees(self) -> bool:
        """Whether both parts, one after the other, give the plain forward pass on a few tokens."""
        ids = torch.tensor([probe_ids(self.model, 12)] * 2, device=self.model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["attention_mask"][1, 8:] = 0
        with torch.no_grad(), evaluating(self.model):
            plain = self.model(**inputs, use_cache=False).last_hidden_state
            try:
                parts = self.finish(self.read(**inputs), **inputs)
            except Exception:  # whatever a foreign architecture makes of being entered in the middle
                return False
        seen = inputs["attention_mask"].bool()
        return same_states(parts[seen], plain[seen])

    @property
    def bytes_per_token(self) -> int:
        """Memory of one position's activations."""
        width: int = self.model.config.get_text_config().hidden_size
        return width * int(next(self.model.parameters()).element_size())

    def read(self, **inputs: Any) -> Tensor:
        """Activations between the lower and the upper layers, [B, T, H], without gradients.

        Args:
            inputs: what the model takes for right-padded tokens: input_ids, attention_mask, position_ids.
        """
        kept: list[Tensor] = []

        def stop(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            kept.append(arguments[0] if arguments else named["hidden_states"])
            raise _Reached

        training = self.model.training
        hook = self._blocks[self.layers].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad():
                self.model.eval()
                self.model(**inputs, use_cache=False)
        except _Reached:
            pass
        finally:
            hook.remove()
            self.model.train(training)
        return kept[0]

    def finish(self, states: Tensor, **inputs: Any) -> Tensor:
        """Final hidden states, [B, T, H], from `read`'s activations; gradients reach the upper layers' parameters.

        Args:
            inputs: those of `read`.
        """

        def enter(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return ((states, *arguments[1:]), named) if arguments else (arguments, {**named, "hidden_states": states})

        hook = self._blocks[self.layers].register_forward_pre_hook(enter, with_kwargs=True)
        try:
            with _skipped(self._blocks[: self.layers]):
                hidden: Tensor = self.model(**inputs, use_cache=False).last_hidden_state
        finally:
            hook.remove()
        return hidden


def blocks_of(model: Any) -> list[nn.Module]:
    """The decoder's layers, from the embedding up.

    Raises:
        ModelError: the model has no list of that many layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    decoder = trunk(model)
    for module in getattr(decoder, "language_model", decoder).modules():  # a tower for images may have as many layers
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ModelError(
        f"{type(model).__name__} has no list of {count} layers", do="choose another model, or train all layers"
    )


@contextmanager
def _skipped(blocks: Sequence[Any]) -> Iterator[None]:
    """Within it, the layers return their input."""
    before = [block.__dict__.get("forward") for block in blocks]  # None: its class's own
    try:
        for block in blocks:
            block.forward = lambda hidden_states, *_, **__: hidden_states
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


class FrozenStates(NamedTuple):
    """A batch's activations below the trainable layers, [B, T, H], and the trunk that goes on from them."""

    trunk: FrozenTrunk
    states: Tensor


class FrozenStatesCache:
    """Activations of batches that come again, such as the same micro-batches in every epoch, kept by key.

    Unlike `TrunkCache`, it is filled as batches come, in any layout; what exceeds the budget is computed every time.

    Args:
        budget_mb: of memory for the activations.
    """

    def __init__(self, lower: FrozenTrunk | None, budget_mb: int) -> None:
        self.lower, self._free_bytes = lower, budget_mb * 2**20
        self._kept: dict[Hashable, FrozenStates] = {}

    def get(self, key: Hashable, read: Callable[[FrozenTrunk], FrozenStates | None]) -> FrozenStates | None:
        """The activations of the batch with this key, from ``read`` the first time; None if no layer is frozen."""
        if self.lower is None or key in self._kept:
            return self._kept.get(key)
        states = read(self.lower)
        if states is not None and states.states.nbytes <= self._free_bytes:
            self._free_bytes -= states.states.nbytes
            self._kept[key] = states
        return states


class TrunkCache:
    """Activations of the lower layers by text; a text that begins another one shares its activations.

    They are computed once, when the cache is made, in an order that depends on the texts alone: a resumed training
    finds the same bits. The shortest texts that fit into the budget are kept, the others computed every time.

    Args:
        texts: token ids of all that will be asked for.
        budget_mb: of memory for the activations.
    """

    def __init__(self, lower: FrozenTrunk, texts: Sequence[Sequence[int]], pad_id: int, budget_mb: int) -> None:
        self.lower, self.pad_id = lower, pad_id
        self._kept: dict[tuple[int, ...], Tensor] = {}
        room = budget_mb * 2**20 // lower.bytes_per_token
        batches = list(_by_tokens(whole_texts(texts), FILL_TOKENS))
        with Progress("frozen layers", sum(map(len, batches))) as progress:
            for batch in batches:
                room -= sum(map(len, batch))
                if room < 0:
                    break
                for text, states in zip(batch, self._read(batch), strict=True):
                    self._kept[text] = states[: len(text)].clone()
                progress.advance(len(batch))
        for text, following in reversed(_followed(texts)):
            if text not in self._kept and following in self._kept and following[: len(text)] == text:
                self._kept[text] = self._kept[following][: len(text)]

    def batch(self, texts: Sequence[Sequence[int]]) -> FrozenStates:
        """The texts' activations, padded on the right."""
        missing = [tuple(text) for text in texts if tuple(text) not in self._kept]
        fresh = dict(zip(missing, self._read(missing), strict=True)) if missing else {}
        states = [(self._kept if tuple(text) in self._kept else fresh)[tuple(text)][: len(text)] for text in texts]
        return FrozenStates(self.lower, nn.utils.rnn.pad_sequence(states, batch_first=True))

    def _read(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        width, device = max(map(len, texts)), self.lower.model.device
        token_ids = torch.tensor([[*text, *[self.pad_id] * (width - len(text))] for text in texts], device=device)
        lengths = torch.tensor([[len(text)] for text in texts], device=device)
        mask = (torch.arange(width, device=device) < lengths).long()
        return self.lower.read(input_ids=token_ids, attention_mask=mask)


def whole_texts(texts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The different texts that are not the beginning of another one, the shortest first."""
    return sorted((a for a, b in _followed(texts) if b[: len(a)] != a), key=lambda text: (len(text), text))


def _followed(texts: Sequence[Sequence[int]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each different text with the next in order: a text stands right before one that goes on from it."""
    ordered = sorted({tuple(text) for text in texts})
    return list(zip(ordered, [*ordered[1:], ()], strict=True))


def _by_tokens(texts: Sequence[tuple[int, ...]], tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Batches of texts, sorted by length, of about this many tokens each."""
    batch: list[tuple[int, ...]] = []
    for text in texts:
        if batch and (len(batch) + 1) * len(text) > tokens:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
