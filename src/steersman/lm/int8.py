"""Int8 copies of frozen weights, for rollouts alone.

Decoding a few rows waits for memory: every step reads all weights for 32 rows of work. An int8 copy is a quarter of
the bytes, and the processor multiplies int8 several times faster than fp32. Weights have one scale for each output,
activations one for each row,

    y = (t / 127) (s * Q q(x / t))      Q = round(W / s), s = max |W| / 127 by output; t = max |x| by row; q rounds,

so that what a row gets does not depend on the batch in which it happens to be. Only frozen weights are copied, once:
LoRA's products stay in fp32 on top of them, however the policy moves.

The text then comes from another distribution, near the policy's and not equal to it. Whoever trains on it corrects for
that: `functional.sampler_weights`. Answers that are shown, measured or reported are never sampled with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.errors import ModelError
from steersman.lm.fast_paths import fast_paths
from steersman.lm.head import Head, trunk

TINY = torch.finfo(torch.float32).tiny


class QuantizedRows(NamedTuple):
    """An input, [..., in], its rows in eight bits, [N, in], and their largest entries, [N, 1]."""

    x: Tensor
    rounded: Tensor
    largest: Tensor


class Rounding:
    """Rounds inputs. What several layers read (queries, keys and values; gate and up) is rounded once."""

    def __init__(self) -> None:
        # Without VNNI, products are added up in 16 bits, and only seven bits of an activation leave room for that.
        self.levels = 127 if torch.cpu._is_vnni_supported() else 63
        self._last: QuantizedRows | None = None

    def __call__(self, x: Tensor) -> QuantizedRows:
        """Round a tensor, or find it rounded."""
        if self._last is None or self._last.x is not x:
            rows = x.flatten(0, -2)
            largest = rows.abs().amax(-1, keepdim=True).clamp_(min=TINY)
            # Numbers above 0 are cut off to integers: with a half added, that is rounding.
            middle = rows.new_tensor(self.levels + 1.5)
            self._last = QuantizedRows(x, torch.addcmul(middle, rows, self.levels / largest).to(torch.uint8), largest)
        return self._last


class Int8Linear:
    """``x W' + bias``, [..., in] -> [..., out], in fp32 on both ends.

    Args:
        weight: [out, in]; bias: [out]; rounding: shared by layers that may read the same input.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rounding: Rounding) -> None:
        self._scales = weight.detach().abs().amax(1).clamp_(min=TINY) / 127
        self._zeros = torch.zeros(len(weight), dtype=torch.long)
        rounded = (weight.detach() / self._scales[:, None]).round_().to(torch.int8).contiguous()
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._bias, self._rounding = bias, rounding

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        levels, (_, rounded, largest) = self._rounding.levels, self._rounding(x)
        weights = self._packed, self._scales, self._zeros, None
        plain: tuple[Any, ...] = 1.0, 0, torch.float32, "none", [], ""  # the output: not quantised, nothing after it
        y: Tensor = torch.ops.onednn.qlinear_pointwise(rounded, 1 / levels, levels + 1, *weights, *plain)
        y = y.mul_(largest)
        return (y if self._bias is None else y.add_(self._bias)).view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class _Int8Head(Head):
    """A head that multiplies with its copy; ``weight`` stays the original's."""

    int8: Int8Linear | None = None

    def product(self, hidden: Tensor) -> Tensor:
        """[N, H] -> [N, V]."""
        assert self.int8 is not None
        return self.int8(hidden)


class Int8Copy:
    """An int8 copy of a model's frozen linear layers, and of a head.

    Args:
        model: a decoder-only Hugging Face model on CPU, with LoRA layers or without.
        head: what the rollouts are drawn from: the model's own head, or the rows of a compact vocabulary.

    Raises:
        ModelError: the model is not on the CPU, or its weights learn.
    """

    def __init__(self, model: Any, head: Head) -> None:
        if head.weight.device.type != "cpu" or head.weight.requires_grad:
            raise ModelError(
                f"no int8 copy of {'learning' if head.weight.requires_grad else 'frozen'} weights on "
                f"{head.weight.device}",
                expected="frozen weights on the CPU",
            )
        if any(type(module).__name__ == "ModulesToSaveWrapper" for module in model.modules()):
            raise ModelError("no int8 copy of modules that learn whole", where="lora.modules_to_save")
        # Tried with the exact weights, before anything is rounded: within `in_use` a cached and a plain pass round
        # differently, and would be taken for different models.
        fast_paths(model)
        rounding = Rounding()
        copy = Int8Linear(head.weight, head.bias, rounding)
        self.head = _Int8Head(head.weight, head.bias, head.softcap, head.scale, head.temperature, copy)
        self._layers: list[tuple[Any, Int8Linear]] = []
        for name, module in trunk(model).named_modules():
            kind = type(module).__name__
            if kind in ("Linear", "Conv1D") and "lora_" not in name and not hasattr(module, "lora_A"):
                weight = module.weight.T if kind == "Conv1D" else module.weight
                self._layers.append((module, Int8Linear(weight, module.bias, rounding)))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it, the layers multiply with the copy; no gradients."""
        try:
            for layer, copy in self._layers:
                layer.forward = copy
            with torch.inference_mode():
                yield
        finally:
            for layer, _ in self._layers:
                del layer.forward
