"""Make and keep the monitor that ships inside a checkpoint: probes become `alignment.safetensors`.

`interp/alignment_monitor.py` is what runs, here and, copied beside the weights, in plain transformers. This module
makes it from fitted probes, sets its thresholds and writes it:

    monitor = make(model, chat, [probe], conversations)     # thresholds: 1 % of the conversations have a flagged token
    save(monitor, folder)                                    # alignment.safetensors, config.json, alignment_monitor.py
    with watching(model, load(folder, model), gate="stop"): sampler.generate(...)

A gate looks at single tokens, since a forward pass knows nothing of what was said before; so the threshold is set by
the highest token of a whole conversation, from the last one of the request on, and not by the mean that a probe was
fitted on. Different from the guard's probe (`guard/rails/probe.py`), which stands outside of the model, reads requests
and answers of the gateway, averages over tokens and is calibrated with all other rails; this one belongs to the
weights, goes where they go, and says nothing once they change. `Watched` is the form in which a server's engine reads
along (`serving/probing.py`).
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from steersman.errors import DataError, ModelError
from steersman.interp import activations as sites
from steersman.interp import alignment_monitor
from steersman.interp.alignment_monitor import ENTRY, FILE, VERSION, AlignmentMonitor, Gate, MonitorError
from steersman.interp.anatomy import anatomy_of
from steersman.interp.probe_evidence import FALSE_POSITIVES, threshold_at
from steersman.interp.probes import BATCH_TOKENS, Example, Probe
from steersman.lm.chat_format import ChatFormat
from steersman.lm.head import head_of
from steersman.store import sha256_file, write_json

_SITE = re.compile(r"blocks\.(\d+)\.hook_resid_post")
STOP_LOGITS = (20.0, 60.0, 200.0, 1000.0)  # of the token that ends a turn; the first that suffices


def make(
    model: Any,
    chat: ChatFormat,
    probes: Sequence[Probe],
    conversations: Sequence[Example],
    rate: float = FALSE_POSITIVES,
) -> AlignmentMonitor:
    """A monitor of probes that read the stream behind one layer.

    Args:
        conversations: harmless ones, with answers: at most ``rate`` of them shall have a flagged token, for each probe.

    Raises:
        DataError: no probes, probes of different sites, or of one that is no layer's output.
        ModelError: the model's turn cannot be ended by what stands behind its final norm.
    """
    found = {probe.site for probe in probes}
    match = _SITE.fullmatch(next(iter(found))) if len(found) == 1 else None
    if match is None:
        raise DataError(
            f"a monitor of {len(probes)} probes at {', '.join(sorted(found)) or 'no site'}",
            expected="probes at one blocks.N.hook_resid_post",
            do="fit them with sites=[...] of the same layer",
        )
    layer, anatomy = int(match[1]), anatomy_of(model)
    closing = chat.template.closing_id() if chat.template else None
    stop_id = chat.tokenizer.eos_token_id if closing is None else closing
    tensors = {
        "weight": torch.stack([probe.weight for probe in probes]).contiguous(),
        "bias": torch.tensor([probe.bias for probe in probes]),
        "threshold": torch.full((len(probes),), math.nan),
        "stop": _stop_vector(model, stop_id),
    }
    entry = {
        "version": VERSION,
        "file": FILE,
        "layer": layer,
        "block": _path(model, anatomy.blocks[layer].module),
        "norm": _path(model, anatomy.final_norm),
        "names": [probe.name for probe in probes],
        "stop_id": stop_id,
        "weights": alignment_monitor.weights_digest(model),
        "conversations": len(conversations),
        "rate": rate,
        "probes": [{"digest": probe.digest, **probe.provenance} for probe in probes],
    }
    monitor = AlignmentMonitor(tensors, entry)
    highest = np.array([scores.amax(0).tolist() for scores in token_scores(model, monitor, conversations)])
    monitor.threshold = torch.tensor([threshold_at(column, rate) for column in highest.T])
    return monitor


def token_scores(model: Any, monitor: AlignmentMonitor, rows: Sequence[Example]) -> list[Tensor]:
    """Each row's scores, [T, K], from the token before its response on: what a gate judges.

    It also tells which answers a gate has ended: those with a flagged token.
    """
    site = f"blocks.{monitor.layer}.hook_resid_post"
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found: dict[int, Tensor] = {}
    while order:
        count = max(1, BATCH_TOKENS // len(rows[order[-1]].ids))
        chosen, order = order[-count:], order[:-count]
        hidden = sites.read(model, [rows[i].ids for i in chosen], [site]).sites[site]
        scores = monitor.to(hidden.device)(hidden).cpu()
        for place, i in enumerate(chosen):
            found[i] = scores[place, max(0, rows[i].response - 1) : len(rows[i].ids)]
    return [found[i] for i in range(len(rows))]


def save(monitor: AlignmentMonitor, folder: Path) -> None:
    """Put a monitor into a model's folder: its file, its entry in config.json, and the code that others load it with.

    Raises:
        ModelError: the folder holds no model.
    """
    config = folder / "config.json"
    if not config.exists():
        raise ModelError("there is no model in this folder", where=str(folder), expected="a folder in hub format")
    tensors = {name: getattr(monitor, name).cpu().contiguous() for name in ("weight", "bias", "threshold", "stop")}
    save_file(tensors, folder / FILE, metadata={"format": "pt", "made_by": "steersman"})
    shutil.copy(alignment_monitor.__file__, folder / "alignment_monitor.py")
    entry = {**monitor.entry, "sha256": sha256_file(folder / FILE)}
    write_json(config, json.loads(config.read_text(encoding="utf-8")) | {ENTRY: entry})


def load(folder: Path, model: Any) -> AlignmentMonitor:
    """The monitor of a model's folder, for the model that was loaded from it. No code from the folder is run.

    Raises:
        ModelError: it is missing, cut, of another shape, no numbers, or another model's.
    """
    try:
        return alignment_monitor.read(folder, model)
    except MonitorError as error:
        raise ModelError(
            str(error), expected="the monitor that was saved with these weights", do="take the whole folder again"
        ) from error


@contextmanager
def watching(model: Any, monitor: AlignmentMonitor, gate: Gate = "report") -> Iterator[AlignmentMonitor]:
    """Within it, every forward pass is read, and with ``stop`` the answers end that are flagged.

    Raises:
        ModelError: this output layer cannot end an answer.
    """
    try:
        handles = alignment_monitor.attach(model, monitor, gate)
    except MonitorError as error:
        raise ModelError(str(error), do="use gate='report'") from error
    try:
        yield monitor
    finally:
        for handle in handles:
            handle.remove()
        del model.alignment_monitor


class Watched:
    """A monitor as a server's engine reads along: see `serving.probing.Probe`. A score above 0 is flagged."""

    def __init__(self, monitor: AlignmentMonitor) -> None:
        self.layer, self._monitor = monitor.layer, monitor

    def tokens(self, hidden: Tensor) -> Tensor:
        """How far the worst probe is above its threshold, [B], of one token of each sequence, [B, H]."""
        monitor = self._monitor.to(hidden.device)
        worst: Tensor = (monitor(hidden) - monitor.threshold).amax(-1)
        return worst

    def follow(self) -> Highest:
        """Begin an answer."""
        return Highest()


class Highest:
    """The highest score of an answer so far; NaN from the first that is no number on."""

    def __init__(self) -> None:
        self._highest = -math.inf

    def add(self, score: float) -> float:
        """Take the next token's score."""
        if math.isnan(score) or math.isnan(self._highest):
            self._highest = math.nan
        else:
            self._highest = max(self._highest, score)
        return self._highest


def _stop_vector(model: Any, stop_id: int) -> Tensor:
    """What stands behind the final norm where the next token ends the turn, [H].

    The token's own row, if it has a larger product with itself than all others have; else the row less the mean of
    all, or what ridge regression finds.
    """
    weight = head_of(model).weight.detach().float()
    row = weight[stop_id]
    for vector in _candidates(weight, row):
        if float(vector @ row) <= 0:
            continue
        for logit in STOP_LOGITS:
            stop = (vector * (logit / float(vector @ row))).cpu()
            try:
                alignment_monitor.check_stop(model, stop, stop_id)
            except MonitorError:
                continue
            return stop
    raise ModelError(
        "no vector behind the final norm makes this model end its turn for sure",
        do="use a model whose end-of-turn token has a row of its own in the output layer",
    )


def _candidates(weight: Tensor, row: Tensor) -> Iterator[Tensor]:
    """Vectors that may have a larger product with a row than with all others, from the simplest."""
    yield row
    yield row - weight.mean(0)
    gram = weight.T @ weight
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    yield torch.linalg.solve(gram + ridge, row)


def _path(model: Any, module: Any) -> str:
    return next(str(name) for name, found in model.named_modules() if found is module)
