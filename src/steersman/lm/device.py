"""Where models are computed, and in what precision: one choice for all that a process loads.

``dtype`` is that of frozen weights and activations. Adapters, heads, optimiser moments, log-probabilities, losses and
scores are float32 always. Random numbers come from streams on the CPU, so that a seed means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import Field

from steersman.errors import ModelError
from steersman.types import Record


class Hardware(Record):
    """Where models are computed, and in what precision."""

    device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="cpu, cuda, or one of several GPUs such as cuda:1; under torchrun, cuda is each process's own GPU.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Precision of frozen weights and activations; what learns is float32 always."
    )
    weights: Literal["full", "nf4"] = Field(
        default="full", description="Frozen linear layers: as dtype says, or in 4 bits (QLoRA; needs the extra qlora)."
    )

    def __str__(self) -> str:
        return f"{self.device} in {self.dtype}{'' if self.weights == 'full' else f' with {self.weights} weights'}"

    def check(self) -> None:
        """Refuse a device that this machine does not have, and 4-bit weights without the package for them.

        Raises:
            ModelError: there is no such GPU, or no bitsandbytes.
        """
        if self.weights == "nf4":
            from steersman.lm import nf4

            nf4.check()
        if self.device == "cpu":
            return
        import torch

        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(self.device.partition(":")[2] or 0) >= found:
            raise ModelError(
                f"there is no device {self.device}: PyTorch {torch.__version__} sees {found} GPUs",
                where="hardware.device",
                expected="cpu" if not found else f"cpu, cuda, or cuda:0 to cuda:{found - 1}",
                do="add --set hardware.device=cpu --set hardware.dtype=float32, or install PyTorch for CUDA",
            )


_current = Hardware()


def current() -> Hardware:
    """What models are loaded for now."""
    return _current


@contextmanager
def placed(hardware: Hardware) -> Iterator[None]:
    """Within it, models are loaded for this hardware; they stay on it afterwards. It holds for all threads."""
    global _current
    before, _current = _current, hardware
    try:
        yield
    finally:
        _current = before
