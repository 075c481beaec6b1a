"""A probe on the served model's own activations: it reads what one layer made of each token, which costs no pass.

A layer's states of a prompt are kept with its keys and values, so that a prompt that begins like an earlier one is
scored as if it had been read whole.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Probe(Protocol):
    """Scores sequences while they are read.

    The engine makes a shallow copy for each sequence and calls `start` with 1: state set there is the sequence's own.

    Attributes:
        layer: index of the decoder's layer whose output is read.
    """

    layer: int

    def start(self, rows: int) -> None:
        """Begin new sequences."""
        ...

    def step(self, hidden: Tensor) -> Tensor:
        """Scores of all that was read so far, [B]; hidden: [B, T, H] of the new tokens, a prompt's or one sampled."""
        ...


class Watcher:
    """Keeps the last output of a layer."""

    def __init__(self, layer: Any) -> None:
        self._last: Tensor | None = None
        self._handle = layer.register_forward_hook(self._seen)

    def _seen(self, layer: Any, given: Any, output: Any) -> None:
        self._last = output[0] if isinstance(output, tuple) else output

    def take(self) -> Tensor:
        """The states of the last forward pass, [B, T, H]."""
        assert self._last is not None
        last, self._last = self._last, None
        return last

    def close(self) -> None:
        """Watch no longer."""
        self._handle.remove()
