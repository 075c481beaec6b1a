"""What Inspect finds by the entry point `inspect_ai`: the provider ``steersman/RUN``, the tasks, their scorers."""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from steersman.inspect.tasks import REGISTERED

__all__ = ["REGISTERED", "steersman"]


@modelapi(name="steersman")
def steersman() -> type[ModelAPI]:
    """A run's models."""
    from steersman.inspect.provider import RunAPI  # brings torch, which a list of tasks needs not

    return RunAPI
