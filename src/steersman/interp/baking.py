"""A direction written into the weights: nothing in the model writes it any more, and no hook is needed.

Where norms stand before the sublayers (Llama, Qwen, GPT-2), what a sublayer adds to the stream is W y + b, so with

    W' = (I - r r') W,   b' = (I - r r') b,   E' = E (I - r r')

for every output projection and the embeddings, the stream holds nothing of r: the same as ablating at run time, up to
rounding (Arditi et al. 2024, arXiv:2406.11717, section 4.1; others call it abliteration). Behind a *post-norm* (Gemma 2
and 3, OLMo 2) it does not: there the sublayer adds g * y / rms(y), of which W' above takes out r . y and not
r . (g * y), and the norm writes r all the same. With s = g * r and any u for which s . u = 1,

    W' = (I - u s') W        so that   r . (g * y') / rms(y') = s . y' / rms(y') = 0

is exactly nothing again. u = s / |s|^2 changes y least. u = r / g makes g * y' = (I - r r') (g * y), what the hook
leaves, and only the divisor is another one; but where a gain is small it is large. In between,

    u ~ s / ((1 - t) g^2 / mean(g^2) + t)

which is r / g for t = 0 and s for t = 1 (``blend``). None is the hook: on an aligned gemma-3-270m KL(hook || baked) is
0.06 nats at `BLEND`, 0.07 at t = 0.1, 0.10 at 1 and 1.7 at 0; that of the model as it was is 0.07. `compare` gives it.
`leaks` measures the claim, on random token ids, at every sublayer: |r . write| / |write|, and `bake_ablation` fails
where it does not hold.

Many models tie the embeddings to the output layer, and E' there would change what the model says, too. By default the
two are untied: the output layer keeps E, the file grows by one E (gemma-3-270m: from 268 to 436 million parameters).
With ``embeddings="leave"`` they stay, and the report says how much of r the embeddings bring in.

*Addition* of c v to a layer's input is a bias of the MLP before it, where norms stand first and the architecture has
such a bias. Elsewhere it is refused: a post-norm would rescale a bias, and what has no place for one cannot be saved as
a plain checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from steersman.errors import ModelError
from steersman.interp.activations import read
from steersman.interp.anatomy import anatomy_of, norm_form, weight_of
from steersman.interp.directions import ablating, of_width, unit
from steersman.interp.refusal import first_logprobs, mean_kl
from steersman.lm import pretrained
from steersman.lm.export import refuse_existing, write_conversation
from steersman.lm.head import evaluating, head_of, probe_ids
from steersman.store import write_json

MOST_LEAK = {torch.float32: 1e-5, torch.float64: 1e-5}  # of a write's length; half precisions round to a few parts in
MOST_LEAK_HALF = 2e-2  # a thousand, coordinate by coordinate
TEXTS, TOKENS = 4, 24  # random ids, on which leaks are measured
PROVENANCE = "steersman.json"
BLEND = 0.01
ROWS = 8192  # that are edited at once: an embedding in float64 takes gigabytes
Embeddings = Literal["untie", "leave"]


class Leak(NamedTuple):
    """How much of a direction is written, as a share of what is written: |r . w| / |w|.

    Attributes:
        largest, mean: over tokens.
    """

    largest: float
    mean: float


def sublayers(found: Mapping[str, Leak]) -> list[Leak]:
    """The leaks of `leaks` without that of the embeddings."""
    return [leak for name, leak in found.items() if name != "hook_embed"]


class Baked(NamedTuple):
    """What `bake_ablation` did.

    Attributes:
        leaks: after it, by sublayer (``blocks.3.hook_mlp_out``) and of the embeddings (``hook_embed``).
        before: the same before it.
        gain_aware: how many edits went through a post-norm's gain.
        untied: whether the output layer was given weights of its own.
    """

    leaks: dict[str, Leak]
    before: dict[str, Leak]
    gain_aware: int
    untied: bool

    @property
    def largest(self) -> float:
        """The largest leak of any sublayer."""
        return max(leak.largest for leak in sublayers(self.leaks))


# ── ablation ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def bake_ablation(model: Any, vector: Tensor, *, embeddings: Embeddings = "untie", blend: float = BLEND) -> Baked:
    """Edit a model so that nothing writes a direction, [H]; in place. The model is whole, without adapters.

    Args:
        embeddings: what becomes of those that are tied to the output layer; see the top of this file.
        blend: in [0, 1]; matters behind post-norms alone.

    Raises:
        ModelError: adapters or packed weights; or something still writes the direction.
    """
    if any(getattr(model.config, f"{kind}_config", None) is not None for kind in ("vision", "audio")):
        raise ModelError(
            f"images or sounds enter {type(model).__name__}'s stream past its embeddings and would bring the direction",
            do="ablate at run time (interp.directions.ablating)",
        )
    r, anatomy = of_width(model, vector), anatomy_of(model)
    before, edits = leaks(model, r), _edits(model, r, blend)
    with torch.no_grad():
        for edit in edits:
            _project(edit.linear, *edit.taken)
            if edit.norm is not None and isinstance(bias := getattr(edit.norm, "bias", None), Tensor):
                _remove(bias, r, r)
        untied = embeddings == "untie" and _untie(model)
        if embeddings == "untie":
            for table in _tables(model, anatomy.width):
                _remove(table.weight, r, r)
    after = leaks(model, r)
    _refuse_leaks(model, after, embeddings)
    return Baked(after, before, sum(edit.norm is not None for edit in edits), untied)


class _Edit(NamedTuple):
    """A projection, the norm behind it, and (s, u): what is taken out of its outputs is u (s . y)."""

    linear: Any
    norm: nn.Module | None
    taken: tuple[Tensor, Tensor]


def _edits(model: Any, r: Tensor, blend: float) -> list[_Edit]:
    """What is to be done; all found before anything is edited."""
    anatomy, found = anatomy_of(model), []
    for block in anatomy.blocks:
        for linear, norm in (
            (block.attention_output, block.attention_post_norm),
            (block.mlp_output, block.mlp_post_norm),
        ):
            weight_of(linear)
            found.append(_Edit(linear, norm, (r, r) if norm is None else _through(norm, r, anatomy.width, blend)))
    return found


def bake_naively(model: Any, vector: Tensor) -> None:
    """The published edit, W' = (I - r r') W, biases too, whatever stands behind; in place. To compare: see `leaks`."""
    r = of_width(model, vector)
    with torch.no_grad():
        for block in anatomy_of(model).blocks:
            for linear in (block.attention_output, block.mlp_output):
                _project(linear, r, r)


def _project(linear: Any, s: Tensor, u: Tensor) -> None:
    """Take u (s . y) out of all that a linear module can put out."""
    _remove(weight_of(linear).T, s, u)
    if (bias := getattr(linear, "bias", None)) is not None:
        _remove(bias, s, u)


def _remove(rows: Tensor, s: Tensor, u: Tensor) -> None:
    """Make y - u (s . y) / (s . u) of some vectors y, [..., H], in place; computed in float64, rounded once."""
    out, into = (vector.to(rows.device, torch.float64) for vector in (s, u))
    into = into / (out @ into)
    for part in torch.split(torch.atleast_2d(rows.data), ROWS):  # type: ignore[no-untyped-call]
        long = part.double()
        part.copy_(long - (long @ out)[..., None] * into)


def _through(norm: nn.Module, r: Tensor, width: int, blend: float) -> tuple[Tensor, Tensor]:
    """What is to be taken out before a post-norm so that r is not there behind it, s and u, [H] each."""
    form = norm_form(norm, width)
    gain = form.gain.double().cpu()
    s = form.centre(gain * r.double())
    if form.centred:
        return s, s
    square = gain.square() / gain.square().mean()
    return s, s / ((1 - blend) * square + blend).clamp(min=1e-12)


def _tables(model: Any, width: int) -> list[nn.Embedding]:
    """What is looked up and added to the stream: the embeddings of tokens, and GPT-2's of positions."""
    output = model.get_output_embeddings()
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module is not output and module.embedding_dim == width
    ]


def _untie(model: Any) -> bool:
    """Give the output layer weights of its own, if it shares those of the embeddings."""
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    shares = output.weight is model.get_input_embeddings().weight
    if shares:
        output.weight = nn.Parameter(output.weight.detach().clone(), requires_grad=output.weight.requires_grad)
    for each in {id(config): config, id(model.config): model.config}.values():
        each.tie_word_embeddings = False
    return shares


# ── addition ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def bake_addition(model: Any, layer: int, vector: Tensor, coefficient: float = 1.0) -> None:
    """Edit a model so that ``coefficient * vector``, [H], is added to a layer's input at every token; in place.

    Raises:
        ModelError: there is no place for it, see the top of this file.
    """
    anatomy = anatomy_of(model)
    if not 0 <= layer < anatomy.layers:
        raise ModelError(f"no layer {layer}", expected=f"0 to {anatomy.layers - 1}")
    if anatomy.post_norm:
        raise ModelError(
            f"an addition cannot be baked into {type(model).__name__}: the norm behind its MLP would rescale a bias",
            do="add it at run time (interp.directions.adding), or ablate: that can be baked",
        )
    of_width(model, vector)
    push = (coefficient * vector.detach()).float()
    with torch.no_grad():
        if layer == 0:
            _untie(model)
            table = _tables(model, anatomy.width)[0]
            table.weight.data.add_((push / _embedding_scale(model, table, push)).to(table.weight))
            return
        block = anatomy.blocks[layer - 1]
        output: Any = block.mlp_output
        if getattr(output, "bias", None) is None:
            _give_biases(model)
        output.bias.data.add_((push / block.scale).to(output.bias))


def _embedding_scale(model: Any, table: Any, push: Tensor) -> float:
    """What embeddings are multiplied by on their way into the stream (Gemma, Granite), seen by moving them.

    Raises:
        ModelError: something else happens to them.
    """
    start, ids = "blocks.0.hook_resid_pre", [probe_ids(model, 8)]
    before, weight = read(model, ids, [start]).sites[start].float(), table.weight.data.clone()
    table.weight.data.add_(push.to(weight))
    moved = (read(model, ids, [start]).sites[start].float() - before).mean((0, 1))
    table.weight.data.copy_(weight)
    scale = float((moved @ push) / push.square().sum())
    if (moved - scale * push).norm() > 1e-3 * moved.norm():
        raise ModelError(
            f"an addition cannot be baked into {type(model).__name__}'s embeddings: they are not only scaled on their"
            " way into the first layer",
            do="add it at another layer, or at run time (interp.directions.adding)",
        )
    return scale


def _give_biases(model: Any) -> None:
    """Biases of 0 for all linear modules of the MLPs, where the architecture knows them by its configuration."""
    config = model.config.get_text_config()
    if not hasattr(config, "mlp_bias"):
        raise ModelError(
            f"an addition cannot be baked into {type(model).__name__}: its MLPs have no bias, and a checkpoint with one"
            " would not be loaded as it is",
            do="add it at run time (interp.directions.adding), or ablate: that can be baked",
        )
    config.mlp_bias = True
    for block in anatomy_of(model).blocks:
        for linear in (module for module in block.mlp.modules() if isinstance(module, nn.Linear)):
            if linear.bias is None:
                linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features), requires_grad=False)


# ── what it does ─────────────────────────────────────────────────────────────────────────────────────────────────────
def leaks(model: Any, vector: Tensor, seed: int = 0) -> dict[str, Leak]:
    """How much of a direction, [H], each sublayer writes and the embeddings bring in, on random token ids."""
    anatomy, generator = anatomy_of(model), torch.Generator().manual_seed(seed)
    size = model.get_input_embeddings().weight.shape[0]
    rows = torch.randint(0, size, (TEXTS, TOKENS), generator=generator).tolist()
    start = "blocks.0.hook_resid_pre"
    names = [f"blocks.{n}.{site}" for n in range(anatomy.layers) for site in ("hook_attn_out", "hook_mlp_out")]
    seen, r = read(model, rows, [start, *names]).sites, unit(vector).double()
    found = {}
    for name in (start, *names):
        written = seen[name].double().cpu()
        share = (written @ r).abs() / written.norm(dim=-1).clamp(min=1e-30)
        found["hook_embed" if name == start else name] = Leak(float(share.max()), float(share.mean()))
    return found


def _refuse_leaks(model: Any, found: Mapping[str, Leak], embeddings: Embeddings) -> None:
    most = MOST_LEAK.get(next(model.parameters()).dtype, MOST_LEAK_HALF)
    wrong = {
        name: leak.largest
        for name, leak in found.items()
        if not leak.largest <= most and (name != "hook_embed" or embeddings == "untie")
    }
    if wrong:
        name = max(wrong, key=lambda key: wrong[key])
        raise ModelError(
            f"{len(wrong)} parts of {type(model).__name__} still write the direction; {name} most,"
            f" {wrong[name]:.2g} of what it writes",
            expected=f"at most {most:g}",
            do="ablate at run time (interp.directions.ablating), and report this architecture",
        )


class Comparison(NamedTuple):
    """Two models after the same texts: the direction taken out by hooks, and in the weights.

    Attributes:
        logprob: the largest difference of a log-probability of the next token.
        kl: mean KL(hook || baked) of the next token, in nats.
    """

    logprob: float
    kl: float


def compare(model: Any, baked: Any, vector: Tensor, rows: Sequence[Sequence[int]]) -> Comparison:
    """Compare a model under `ablating` with another one into which the direction was baked, on token ids."""
    with torch.no_grad(), evaluating(model), evaluating(baked):
        theirs = first_logprobs(baked, head_of(baked), rows)
        with ablating(model, vector):
            ours = first_logprobs(model, head_of(model), rows)
    return Comparison(float((ours - theirs).abs().max()), mean_kl(ours, theirs))


def copy_of(model: Any) -> Any:
    """A model to bake into, so that the other one stays."""
    return copy.deepcopy(model)


# ── a plain checkpoint ───────────────────────────────────────────────────────────────────────────────────────────────
def save(model: Any, base: Path | None, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write a baked model as a folder that ``AutoModelForCausalLM.from_pretrained`` loads, and load it to see.

    Args:
        base: the folder that the model came from: its tokenizer, with a chat template, its stop ids and the papers of
            its licence go along. None: the weights alone.
        provenance: what was baked in; written beside the weights as `PROVENANCE`.

    Raises:
        ModelError: the folder holds something, or what is loaded computes other numbers than what was saved.
    """
    from transformers import AutoModelForCausalLM

    refuse_existing(folder)
    with pretrained.no_progress_bars():
        model.save_pretrained(folder)
        if base is not None:
            write_conversation(base, folder)
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype, trust_remote_code=False)
    write_json(folder / PROVENANCE, dict(provenance))
    ids = torch.tensor([probe_ids(model, 8)])
    with torch.no_grad(), evaluating(model):
        same = torch.equal(again.eval()(input_ids=ids).logits, model(input_ids=ids.to(model.device)).logits.cpu())
    if not same:
        raise ModelError(
            "the saved model computes something else than the one in memory",
            where=str(folder),
            do="load it as it was saved (device, dtype), and report this architecture",
        )
