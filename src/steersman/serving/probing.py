"""A probe on the served model's own activations: it reads what one layer made of each token of an answer, as it is
sampled, which costs no pass. Prompts are not read: the guard judges requests before the engine sees them."""

from __future__ import annotations

from typing import Any, Protocol, cast

from torch import Tensor


class Reading(Protocol):
    """One answer, as a probe follows it."""

    def add(self, score: float) -> float:
        """Take the next token's own score; the score of all that was read so far."""
        ...


class Probe(Protocol):
    """Scores answers while they are sampled.

    Attributes:
        layer: index of the decoder's layer whose output is read.
    """

    layer: int

    def tokens(self, hidden: Tensor) -> Tensor:
        """Each token's own score, [B]; hidden: [B, H], one token of each sequence."""
        ...

    def follow(self) -> Reading:
        """Begin an answer."""
        ...


class Watcher:
    """Reads a layer's output."""

    def __init__(self, probe: Probe, layer: Any) -> None:
        self._probe, self._last = probe, cast("Tensor | None", None)
        self._handle = layer.register_forward_hook(self._seen)

    def _seen(self, layer: Any, given: Any, output: Any) -> None:
        self._last = output[0] if isinstance(output, tuple) else output

    def take(self) -> list[float]:
        """The score of each sequence's newest token in the last forward pass, [B]."""
        assert self._last is not None
        last, self._last = self._last, None
        scores: list[float] = self._probe.tokens(last[:, -1]).tolist()
        return scores

    def close(self) -> None:
        """Watch no longer."""
        self._handle.remove()
