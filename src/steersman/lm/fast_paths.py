"""Which of Steersman's fast paths an architecture allows, found by trying them on a few tokens of the model itself.

Rows with a shared prefix and a KV cache that is padded, joined and cut give the hidden states of the plain forward pass
for rotary and learned positions. They do not for every family: ALiBi counts columns, GPT-Neo's local windows too, and a
recurrent model has a state in place of keys. No list of families is kept. Both paths are compared with the plain pass,
once a model, and where they differ (or cannot run) the plain pass is used: slower, and right.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.lm.head import evaluating, probe_ids, same_states, trunk

WINDOW_LIMIT = 1024  # a local window that masks cannot express is tried up to this length, and not believed beyond
SHARED, OWN, COMPLETIONS, DECODED = 6, (9, 4, 13), (8, 5), 2  # tokens that are tried
_KEPT = "_steersman_fast_paths"


class FastPaths(NamedTuple):
    """What gives the hidden states of the plain forward pass.

    ``shared_prefix``: several completions in one row behind their prompt (`lm/shared_prefix.py`).
    ``kv_cache``: decoding with a cache of left-padded sequences (`lm/sampling.py`).
    """

    shared_prefix: bool
    kv_cache: bool


def fast_paths(model: Any) -> FastPaths:
    """Those of a model, tried at the first call; the adapters that are active then are tried with it.

    Args:
        model: a decoder-only Hugging Face model.
    """
    found: FastPaths | None = model.__dict__.get(_KEPT)
    if found is None:
        with torch.no_grad(), evaluating(model):
            found = FastPaths(_agrees(model, _packed), _agrees(model, _decoded))
        model.__dict__[_KEPT] = found
    return found


def plain_hidden(model: Any, rows: list[list[int]], pad_id: int) -> Tensor:
    """Final hidden states of some sequences, padded on the right: one plain forward pass, [B, T, H]."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], device=model.device)
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    hidden: Tensor = trunk(model)(input_ids=ids, attention_mask=seen, use_cache=False).last_hidden_state
    return hidden


# ── the trials ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _agrees(model: Any, trial: Callable[[Any], tuple[Tensor, Tensor]]) -> bool:
    """Whether a fast path runs and gives the plain pass's hidden states."""
    try:
        fast, plain = trial(model)
    except Exception:  # whatever a foreign architecture makes of inputs that it does not know
        return False
    return same_states(fast, plain)


def _packed(model: Any) -> tuple[Tensor, Tensor]:
    """Two completions behind one prompt, as one row and as two."""
    from steersman.lm.shared_prefix import Group, packed_hidden, shared_prefix_batch

    first, second = (probe_ids(model, n, 40 * n) for n in COMPLETIONS)
    prompt = probe_ids(model, max(OWN[0], _other_window(model)))
    batch = shared_prefix_batch([Group(prompt, [first, second])], 0, model.device)
    fast = packed_hidden(model, batch)[0]
    plain = torch.cat([plain_hidden(model, [prompt + ids], 0)[0, -len(ids) :] for ids in (first, second)])
    return fast[len(prompt) :], plain


def _other_window(model: Any) -> int:
    """The longest local window that is not the ``sliding_window`` of the masks; 0 if there is none."""
    config = model.config.get_text_config()
    windows = [v for k, v in vars(config).items() if "window" in k and type(v) is int and k != "sliding_window"]
    longest = max(windows, default=0)
    if longest > WINDOW_LIMIT:
        raise ValueError("too long to be tried")
    return longest


def _decoded(model: Any) -> tuple[Tensor, Tensor]:
    """Three prompts behind a common prefix: two prefilled, one admitted later, one evicted, two tokens decoded."""
    from steersman.lm.sampling import Row, Sampler, prefill

    sampler = Sampler(model, SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0)))  # type: ignore[arg-type]
    shared = probe_ids(model, SHARED)
    rows = [Row(i, probe_ids(model, n, 50 * n), 0, 0) for i, n in enumerate(OWN)]
    prefix = sampler.prefix.prefill(model, shared)
    batch = prefill(sampler, rows[:2], prefix, SHARED)
    batch.admit(prefill(sampler, rows[2:], prefix, SHARED))
    steps = []
    for step in range(DECODED):
        tokens = probe_ids(model, len(batch.rows), 90 * (step + 1))
        for row, token in zip(batch.rows, tokens, strict=True):
            row.tokens.append(token)
        batch.decode(model, torch.tensor(tokens, device=model.device))
        plain = [plain_hidden(model, [[*shared, *row.prompt, *row.tokens]], 0)[0, -1] for row in batch.rows]
        steps.append((batch.hidden, torch.stack(plain)))
        if step == 0:
            batch.evict([0, 2])
    fast, slow = (torch.cat(states) for states in zip(*steps, strict=True))
    return fast, slow
