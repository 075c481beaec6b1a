"""A monitor inside a checkpoint: linear probes on one layer, read at every token, with a gate that ends the answer.

This file is copied beside the weights, and needs nothing but torch, transformers and safetensors:

    import sys; sys.path.insert(0, "my-model")
    from alignment_monitor import load
    model = load("my-model", gate="stop")          # or "report"
    model(input_ids).monitor_scores                 # [B, T, probes]; above model.alignment_monitor.threshold: flagged

`load` fails closed: no model without its monitor, and none with a monitor that is missing, cut, of another shape, that
holds NaN, or that belongs to other weights. (A program that loads the folder without this file loads it without the
monitor: what ships in a folder cannot force anybody to read it.)

The gate needs no help from the program that samples. Behind the final norm, where a token is flagged, stands a vector
whose next token is the end of the turn, whatever the sampler, the batch or the cache. A score that is no number counts
as flagged.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

FILE, ENTRY, VERSION = "alignment.safetensors", "alignment", 1
Gate = Literal["report", "stop"]


class MonitorError(RuntimeError):
    """The folder's monitor cannot be trusted, or is not there."""


class AlignmentMonitor(nn.Module):
    """K linear probes with their thresholds.

    Buffers: ``weight`` [K, H], ``bias`` [K], ``threshold`` [K], and ``stop`` [H], what stands behind the final norm
    where the next token is the end of the turn.

    Attributes:
        scores: [B, T, K] of the last forward pass.
        flagged: [B, T] of a pass that is under way, between the watched layer and the gate.
    """

    weight: Tensor
    bias: Tensor
    threshold: Tensor
    stop: Tensor

    def __init__(self, tensors: dict[str, Tensor], entry: dict[str, Any]) -> None:
        super().__init__()
        for name in ("weight", "bias", "threshold", "stop"):
            self.register_buffer(name, tensors[name].float(), persistent=False)
        self.entry = entry
        self.names: list[str] = list(entry["names"])
        self.layer = int(entry["layer"])
        self.scores: Tensor | None = None
        self.flagged: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores, [..., K], of the layer's output, [..., H]."""
        return nn.functional.linear(hidden.float(), self.weight, self.bias)

    def above(self, scores: Tensor) -> Tensor:
        """Whether a token is flagged, [...], by scores, [..., K]: NaN is."""
        return ~(scores <= self.threshold).all(-1)


def load(folder: str | Path, gate: Gate = "report", **settings: Any) -> Any:
    """The folder's model with its monitor; ``settings`` go to ``AutoModelForCausalLM.from_pretrained``.

    A model with code of its own is not loaded: it could go round its monitor.

    Raises:
        MonitorError: there is no monitor, or it is not this model's.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=False, **settings).eval()
    attach(model, read(folder, model), gate)
    return model


def read(folder: str | Path, model: Any) -> AlignmentMonitor:
    """The monitor of a folder, checked against the model that was loaded from it.

    Raises:
        MonitorError: it is missing, cut, of another shape, no numbers, or another model's.
    """
    path, config = Path(folder) / FILE, Path(folder) / "config.json"
    entry = json.loads(config.read_text(encoding="utf-8")).get(ENTRY) if config.exists() else None
    if not isinstance(entry, dict) or not path.exists():
        missing = FILE if isinstance(entry, dict) else f"the entry {ENTRY!r} of config.json"
        raise MonitorError(f"{folder}: this model has no monitor, or has lost it: {missing} is missing")
    if entry.get("version") != VERSION:
        raise MonitorError(f"{path}: version {entry.get('version')} of the monitor, and {VERSION} is known")
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry.get("sha256"):
        raise MonitorError(f"{path}: not the file that config.json names; it was cut or changed")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise MonitorError(f"{path}: not a whole safetensors file ({error})") from error
    probes, width = len(entry["names"]), model.config.get_text_config().hidden_size
    expected = {"weight": (probes, width), "bias": (probes,), "threshold": (probes,), "stop": (width,)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected or not probes:
        raise MonitorError(f"{path}: tensors of shapes {shapes}, and this model needs {expected}")
    if broken := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise MonitorError(f"{path}: {', '.join(broken)} hold NaN or infinity")
    if (found := weights_digest(model)) != entry.get("weights"):
        raise MonitorError(
            f"{path}: a monitor for other weights (digest {str(entry.get('weights'))[:12]}, the model has {found[:12]})"
        )
    return AlignmentMonitor(tensors, entry)


def attach(model: Any, monitor: AlignmentMonitor, gate: Gate = "report") -> list[Any]:
    """Let a model's forward passes be read, and the answers ended that are flagged (``stop``); handles to remove it.

    Raises:
        MonitorError: the vector that should end an answer does not, with this output layer.
    """
    if gate not in ("report", "stop"):
        raise MonitorError(f"no gate {gate!r}: report or stop")
    monitor.to(next(model.parameters()).device)

    def seen(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        monitor.scores = monitor(hidden)
        monitor.flagged = monitor.above(monitor.scores)

    def gated(_: Any, __: Any, output: Tensor) -> Tensor | None:
        flagged = monitor.flagged
        if flagged is None or flagged.shape != output.shape[:-1]:
            raise MonitorError("the model went round its monitor: the watched layer did not run in this pass")
        monitor.flagged = None
        if not bool(flagged.any()):
            return None
        return torch.where(flagged[..., None], monitor.stop.to(output), output)

    def told(_: Any, __: Any, output: Any) -> None:
        if hasattr(output, "keys"):  # a tuple has no place for it
            output["monitor_scores"] = monitor.scores

    handles = [model.get_submodule(monitor.entry["block"]).register_forward_hook(seen)]
    if gate == "stop":
        check_stop(model, monitor.stop, monitor.entry["stop_id"])
        handles.append(model.get_submodule(monitor.entry["norm"]).register_forward_hook(gated))
    handles.append(model.register_forward_hook(told))
    model.alignment_monitor = monitor
    return handles


def check_stop(model: Any, stop: Tensor, stop_id: int) -> None:
    """See that the model ends an answer behind a vector: with a probability of 0.999 and more.

    Raises:
        MonitorError: it goes on.
    """
    output = model.get_output_embeddings()
    with torch.no_grad():
        logits = output(stop.to(output.weight)[None]).float()[0]
        cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        logits = torch.tanh(logits / cap) * cap if cap else logits
    if not float(logits.softmax(-1)[stop_id]) >= 0.999:
        raise MonitorError("this output layer does not end an answer where the gate says so")


def weights_digest(model: Any) -> str:
    """sha256 over the names and values, as float32, of all weights, the output layer's included."""
    digest, seen = hashlib.sha256(), set()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.data_ptr() in seen:
            continue  # an output layer that is tied to the embeddings
        seen.add(tensor.data_ptr())
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()
