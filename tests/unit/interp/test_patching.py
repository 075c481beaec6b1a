"""Patching against plain hooks written for each family, and against what must hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from decoder_families import HEADS, LAYERS, family, oriented
from steersman.errors import DataError, ModelError
from steersman.interp import patching
from steersman.interp.pairs import Pair
from steersman.interp.patching import Place, activation_patching, causal_trace, path_patching, sweep

CLEAN, CORRUPT, RIGHT, WRONG = [5, 9, 11, 3, 8], [5, 9, 21, 3, 8], 4, 6
PAIRS = [Pair(CLEAN, CORRUPT, [RIGHT], [WRONG]), Pair([7, 2, 30], [7, 2, 31], [9], [10])]
NAMES = ["GPT2", "Llama", "Gemma3"]


class Plain:
    """A model's parts by their names in Hugging Face, and a forward pass with plain hooks."""

    def __init__(self, name: str) -> None:
        self.model = family(name)
        gpt = name == "GPT2"
        self.layers = self.model.transformer.h if gpt else self.model.model.layers
        self.final = self.model.transformer.ln_f if gpt else self.model.model.norm
        self.output = [layer.attn.c_proj if gpt else layer.self_attn.o_proj for layer in self.layers]
        post = name == "Gemma3"
        self.mlp = [layer.post_feedforward_layernorm if post else layer.mlp for layer in self.layers]
        self.sign = 1.0
        self.sign = 1.0 if self.run(CLEAN) > self.run(CORRUPT) else -1.0  # as `oriented` turns the pair

    def run(self, ids: list[int], *hooks: tuple[Any, str, Callable[[Tensor], Any]], right: int = RIGHT) -> float:
        """Logit difference at the last token; hooks: module, ``in`` or ``out``, what stands there instead."""

        def before(change: Callable[[Tensor], Any]) -> Any:
            def hook(_: Any, given: Any) -> Any:
                return None if (new := change(given[0])) is None else (new, *given[1:])

            return hook

        def behind(change: Callable[[Tensor], Any]) -> Any:
            return lambda _, __, made: change(made)

        with torch.no_grad(), ExitStack() as stack:
            for module, side, change in hooks:
                register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
                stack.callback(register(before(change) if side == "in" else behind(change)).remove)
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, -1]
        return self.sign * float(logits[right] - logits[WRONG])

    def kept(self, ids: list[int], module: Any, side: str) -> Tensor:
        found: list[Tensor] = []
        self.run(ids, (module, side, lambda x: found.append(x.clone())))
        return found[0]


@pytest.fixture(scope="module", params=NAMES)
def plain(request: pytest.FixtureRequest) -> Plain:
    return Plain(request.param)


def put(value: Tensor, *index: Any) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        new = x.clone()
        new[index] = value[index]
        return new

    return run


def test_patched_activations_are_those_of_plain_hooks(plain: Plain) -> None:
    pairs = oriented(plain.model, PAIRS[:1])
    stream = plain.kept(CLEAN, plain.layers[1], "in")
    heads = plain.kept(CLEAN, plain.output[2], "in")
    size = heads.shape[-1] // HEADS
    expected = [
        plain.run(CORRUPT, (plain.layers[1], "in", put(stream, 0, 2))),
        plain.run(CORRUPT, (plain.output[2], "in", put(heads, 0, slice(None), slice(2 * size, 3 * size)))),
        plain.run(CORRUPT, (plain.mlp[0], "out", put(plain.kept(CLEAN, plain.mlp[0], "out"), 0, -1))),
    ]
    places = [
        Place("blocks.1.hook_resid_pre", 2),
        Place("blocks.2.attn.hook_z", head=2),
        Place("blocks.0.hook_mlp_out", -1),
    ]
    found = activation_patching(plain.model, pairs, places)
    assert found.values[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    clean, corrupt = plain.run(CLEAN), plain.run(CORRUPT)
    assert found.mean.tolist() == pytest.approx([(m - corrupt) / (clean - corrupt) for m in expected], abs=1e-3)
    noised = activation_patching(plain.model, pairs, places[:1], "noising")
    m = plain.run(CLEAN, (plain.layers[1], "in", put(plain.kept(CORRUPT, plain.layers[1], "in"), 0, 2)))
    assert noised.effect.item() == pytest.approx((clean - m) / (clean - corrupt), abs=1e-3)


def test_many_places_in_one_pass_are_each_alone(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = oriented(plain.model, PAIRS)
    places = [Place(f"blocks.{i}.hook_resid_pre", p) for i in range(LAYERS) for p in (0, -1, -3)]
    together = activation_patching(plain.model, pairs, places)
    monkeypatch.setattr(patching, "TOKENS", 1)
    for place, row in zip(places, together.values, strict=True):
        torch.testing.assert_close(
            activation_patching(plain.model, pairs, [place]).values[0], row, rtol=1e-4, atol=1e-5
        )
    # All of the first stream, or the last position of the last one, is all there is.
    everything = [Place("blocks.0.hook_resid_pre"), Place(f"blocks.{LAYERS - 1}.hook_resid_post", -1)]
    for mode in ("denoising", "noising"):
        effect = activation_patching(plain.model, pairs, everything, mode).effect  # type: ignore[arg-type]
        torch.testing.assert_close(effect, torch.ones(2, 2, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_sweeps_over_layers_and_positions_or_heads() -> None:
    model = family("Llama")
    pairs = oriented(model, PAIRS[:1])
    found = sweep(model, pairs, "hook_resid_pre")
    assert found.shape == (LAYERS, 5)
    assert found[0, 2] == pytest.approx(1.0, abs=1e-3)  # the only token that differs
    assert found[:, :2].abs().max() < 1e-3
    assert sweep(model, pairs, "attn.hook_z", by="head").shape == (LAYERS, HEADS)
    with pytest.raises(DataError, match="different lengths"):
        sweep(model, oriented(model, PAIRS), "hook_resid_pre")
    with pytest.raises(DataError, match="position 5"):
        activation_patching(model, pairs, [Place("hook_embed", 5)])
    with pytest.raises(ModelError, match="no head 4"):
        activation_patching(model, pairs, [Place("blocks.0.attn.hook_z", head=4)])


def test_a_path_to_the_logits_changes_the_last_stream_by_the_write(plain: Plain) -> None:
    pairs = oriented(plain.model, PAIRS[:1])
    lie = plain.kept(CLEAN, plain.mlp[1], "out") - plain.kept(CORRUPT, plain.mlp[1], "out")
    expected = plain.run(CORRUPT, (plain.final, "in", lambda x: x + lie))
    assert path_patching(plain.model, pairs, ["m1->logits"]).values.item() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(DataError, match="no edge m1->a0"):
        path_patching(plain.model, pairs, ["m1->a0.h1<q>"])
    with pytest.raises(DataError, match="no writer 'm9'"):
        path_patching(plain.model, pairs, ["m9->logits"])


@pytest.mark.parametrize("name", ["Llama", "Gemma3"])
def test_a_path_to_one_query_or_to_a_groups_keys_reaches_these_alone(name: str) -> None:
    """Two key heads for four queries: the second group's key is columns 8 to 16, the third query's 16 to 24."""
    plain = Plain(name)
    pairs = oriented(plain.model, PAIRS[:1])
    lie = plain.kept(CORRUPT, plain.mlp[0], "out") - plain.kept(CLEAN, plain.mlp[0], "out")
    block, stream = plain.layers[2], plain.kept(CLEAN, plain.layers[2], "in")
    for reader, projection, columns in (
        ("a2.h2<q>", block.self_attn.q_proj, slice(16, 24)),
        ("a2.kv1<k>", block.self_attn.k_proj, slice(8, 16)),
        ("a2.kv0<v>", block.self_attn.v_proj, slice(0, 8)),
    ):
        with torch.no_grad():
            other = projection(block.input_layernorm(stream + lie))
        expected = plain.run(CLEAN, (projection, "out", put(other, 0, slice(None), columns)))
        found = path_patching(plain.model, pairs, [f"m0->{reader}"], "noising")
        assert found.values.item() == pytest.approx(expected, abs=3e-6)
        assert abs(expected - float(pairs.at_clean)) > 2e-5  # the path carries something


def test_causal_tracing_restores_states_behind_the_noise() -> None:
    plain = Plain("Llama")
    plain.sign = 1.0
    plain.model.lm_head.weight.data *= 10  # a tiny model's logits differ by less than 1, the least that a pair needs
    found = causal_trace(plain.model, CLEAN, range(1, 3), [RIGHT], [WRONG], samples=3, noise=9.0)
    assert found.clean == pytest.approx(plain.run(CLEAN), abs=1e-3)
    assert found.recovery.shape == (LAYERS, 5)
    assert not found.recovery[:, 0].any()  # in front of the subject
    assert found.recovery[-1, -1] == pytest.approx(1.0, abs=1e-3)
    assert found.recovery[-1, :-1].abs().max() < 1e-3  # nobody reads these any more
    # Deviations of the noise are those of the embeddings, here over the whole vocabulary of 64.
    table = plain.model.model.embed_tokens.weight.detach()
    noise = 9.0 * table.std() * torch.randn(3, 2, 24, generator=torch.Generator().manual_seed(0))
    state = plain.kept(CLEAN, plain.layers[0], "out")[0, 3]
    values, noised = [], []
    for draw in noise:
        noisy = plain.kept(CLEAN, plain.layers[0], "in")[0].clone()
        noisy[1:3] += draw
        noised.append(plain.run(CLEAN, (plain.layers[0], "in", lambda _, x=noisy: x[None])))
        restore = (plain.layers[1], "in", lambda x: torch.cat([x[:, :3], state[None, None], x[:, 4:]], 1))
        values.append(plain.run(CLEAN, (plain.layers[0], "in", lambda _, x=noisy: x[None]), restore))
    assert found.noised == pytest.approx(sum(noised) / 3, abs=1e-3)
    expected = (sum(values) / 3 - found.noised) / (found.clean - found.noised)
    assert float(found.recovery[0, 3]) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(DataError, match="changes the logit difference by 0"):
        causal_trace(plain.model, CLEAN, range(1, 3), [RIGHT], [WRONG], samples=1, noise=0.0)
    with pytest.raises(DataError, match="text of 5 tokens"):
        causal_trace(plain.model, CLEAN, range(4, 6), [RIGHT], [WRONG])
