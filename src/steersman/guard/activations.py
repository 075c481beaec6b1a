"""What a frozen model makes of a text: the hidden states of some of its layers, pooled, for a probe to read.

A model that has read much of the web has ideas of harm that no list of n-grams has, and one that was aligned decides at
the last token of a request whether it will refuse. Of each text the last token's states after three upper layers are
read, each brought to length 1 per dimension, and the mean over the tokens after the middle one of these.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steersman.terminal import Progress

DEPTHS = (2 / 3, 5 / 6, 1)  # of the layers that are read
TOKENS = 128  # of a text; of a longer one, its beginning and its end
BATCH_TOKENS = 3072
Floats = NDArray[np.float32]


class ActivationReader:
    """A model's lower layers. Reads a text as the model itself would read it: as a user's turn.

    Args:
        base: the model's folder. trained: what was trained on it, None for the base model itself.
    """

    def __init__(self, base: Path, trained: Path | None = None) -> None:
        import torch

        from steersman.lm.frozen_trunk import blocks_of
        from steersman.lm.head import trunk
        from steersman.lm.language_model import LocalModel

        sampler = LocalModel.load(base, trained).sampler
        self._chat, blocks = sampler.chat, blocks_of(sampler.model)
        self.layers = layers_of(len(blocks))
        self._model = trunk(sampler.model).eval().requires_grad_(False)
        if _halves_pay():
            self._model = self._model.to(torch.bfloat16)
        self._kept: dict[int, Any] = {}
        self._lock = threading.Lock()
        for layer in self.layers:
            blocks[layer - 1].register_forward_hook(self._keep(layer))
        self.width = int(self._model.config.get_text_config().hidden_size)

    @property
    def size(self) -> int:
        """Numbers that are read of a text."""
        return (len(self.layers) + 1) * self.width

    def _keep(self, layer: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            self._kept[layer] = output[0] if isinstance(output, tuple) else output
            if layer == self.layers[-1]:
                raise _Read

        return hook

    def read_all(self, texts: Sequence[str]) -> Floats:
        """`read` of many texts, with a bar."""
        with Progress("reading for the probe", len(texts)) as progress:
            return self.read(texts, progress.advance)

    def read(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> Floats:
        """States, [N, (layers + 1) * width]: of each layer the last token's, then the middle layer's mean."""
        import torch

        ids = [self._cut(self._chat.prompt_ids(text)) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        found = np.zeros((len(ids), self.size), np.float32)
        with self._lock, torch.inference_mode():
            while order:
                count = max(1, BATCH_TOKENS // len(ids[order[0]]))
                rows, order = order[:count], order[count:]
                found[rows] = self._batch([ids[row] for row in rows])
                advance(len(rows))
        return found

    def _batch(self, ids: Sequence[Sequence[int]]) -> Floats:
        import torch

        lengths = torch.tensor([len(row) for row in ids])
        tokens = torch.zeros(len(ids), int(lengths.max()), dtype=torch.long)
        for place, row in enumerate(ids):
            tokens[place, : len(row)] = torch.tensor(row)
        device = next(self._model.parameters()).device
        tokens, lengths = tokens.to(device), lengths.to(device)
        places = torch.arange(tokens.shape[1], device=device)[None]
        seen = places < lengths[:, None]
        with contextlib.suppress(_Read):
            self._model(input_ids=tokens, attention_mask=seen.long(), use_cache=False)
        pooled, middle = [], self.layers[len(self.layers) // 2]
        inner = (seen & ((places > 0) | (lengths == 1)[:, None]))[..., None]  # the first token is a sink
        for layer in self.layers:
            states = normal(self._kept[layer].float())
            pooled.append(states[torch.arange(len(ids), device=device), lengths - 1])
            if layer == middle:
                mean = (states * inner).sum(1) / inner.sum(1)
        pooled.append(mean)
        self._kept.clear()
        return np.asarray(torch.cat(pooled, 1).cpu().numpy(), np.float32)

    @staticmethod
    def _cut(ids: list[int]) -> list[int]:
        return ids if len(ids) <= TOKENS else ids[: TOKENS // 2] + ids[-TOKENS // 2 :]


class _Read(Exception):
    """Ends a forward pass where no layer above is read."""


def layers_of(count: int) -> tuple[int, ...]:
    """Numbers, from 1, of the layers that are read in a model with ``count`` layers."""
    return tuple(sorted({max(1, round(depth * count)) for depth in DEPTHS}))


def normal(states: Any) -> Any:
    """Each token's state, [..., H], at a root mean square of 1."""
    return states * (states.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()


def _halves_pay() -> bool:
    """Whether the processor multiplies 16-bit numbers in hardware."""
    import torch

    mkldnn: Any = torch.backends.mkldnn
    return bool(mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
