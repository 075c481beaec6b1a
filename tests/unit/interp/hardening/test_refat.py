"""ReFAT: the ablation is in the graph, its directions follow the model on schedule, and refusing is learnt under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from decoder_families import family
from hardened import PROMPTS, learner_of, recorder, rows_of_tiny
from steersman.interp.activations import hooks, read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import ablating
from steersman.interp.hardening.direction import Streams, everywhere, levelled, streams
from steersman.interp.hardening.refat import (
    Ablation,
    Directions,
    RefatConfig,
    draw_ablation,
    edits_of,
    refat_loss,
    train,
)
from steersman.interp.hardening.rows import examples
from steersman.lm.head import trunk
from steersman.store import StageFolder
from steersman.train import loop

CONFIG = RefatConfig(steps=6, batch_size=4, vocabulary="full", every_steps=4, prompts=6)


@pytest.mark.parametrize("name", ["Gemma3", "Llama", "GPTNeoX"])
def test_differences_are_those_of_hidden_states(name: str) -> None:
    """Of Hugging Face's own hidden states, prompt by prompt and without padding."""
    model = family(name)
    harmful, harmless = [[5, 9, 11], [7, 2, 30, 8]], [[4, 4, 19, 3, 6], [12, 1]]
    with torch.no_grad():
        means = []
        for prompts in (harmful, harmless):
            states = [
                model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states[:-1]
                for ids in prompts
            ]
            means.append(torch.stack([torch.stack([layer[0, -1] for layer in one]) for one in states]).mean(0))
    expected = means[0] - means[1]
    torch.testing.assert_close(streams(model, harmful, harmless).difference, expected, rtol=1e-4, atol=1e-4)


def test_a_component_is_put_where_harmless_prompts_have_it() -> None:
    """By hand: along (0.6, 0.8) the level is 1 and the gap 2, so that no token moves by more than 4."""
    r = torch.tensor([0.6, 0.8])
    found = Streams(torch.tensor([[5.0, 0.0]]), torch.tensor([[3.0, -1.0]]))  # 3 and 1 along r
    x = torch.tensor([[2.0, 1.0], [60.0, 80.0], [1.0, 0.5]])  # 2, 100 (a massive one) and 1
    edited = levelled(found, 0, r)(x)
    assert edited is not None
    torch.testing.assert_close(edited @ r, torch.tensor([1.0, 96.0, 1.0]))
    across = torch.tensor([0.8, -0.6])
    torch.testing.assert_close(edited @ across, x @ across)


@pytest.mark.parametrize("name", ["Gemma3", "Llama", "Phi"])
def test_taken_out_everywhere_no_layer_reads_it(name: str) -> None:
    """What Arditi et al. hook, every block input and both outputs, and our fewer hooks leave the same stream."""
    model = family(name)
    layers = anatomy_of(model).layers
    r = torch.nn.functional.normalize(torch.randn(anatomy_of(model).width), dim=0)
    sites = [f"blocks.{layer}.hook_resid_pre" for layer in range(layers)]
    ours = everywhere(model, r)
    with hooks(model, ours):
        found = read(model, PROMPTS, [*sites, f"blocks.{layers - 1}.hook_resid_post"])
    assert all(float((states @ r).abs().max()) < 1e-3 for states in found.sites.values())
    with ablating(model, r):
        again = read(model, PROMPTS, [f"blocks.{layers - 1}.hook_resid_post"])
    last = f"blocks.{layers - 1}.hook_resid_post"
    torch.testing.assert_close(found.sites[last][0, :3], again.sites[last][0, :3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "form"), [("own", "level"), ("own", "zero"), ("single", "level"), ("single", "zero")])
def test_the_ablation_is_in_the_graph(kind: Any, form: Any) -> None:
    """The gradient for the embeddings is that of finite differences of the *ablated* loss, and not of the plain one."""
    model = family("Gemma3").double().requires_grad_(False)
    drawn = torch.randn(2, 3, anatomy_of(model).width, generator=torch.Generator().manual_seed(0))
    means = Streams(2 * drawn[0], 0.1 * drawn[1])
    edits = edits_of(model, means, Ablation(kind, 1), form)
    ids = torch.tensor([[5, 9, 11, 3, 8]])
    start = torch.zeros(1, 5, anatomy_of(model).width, dtype=torch.float64)

    def loss(push: torch.Tensor, ablated: bool) -> torch.Tensor:
        with hooks(model, [("hook_embed", lambda x: x + push), *(edits if ablated else [])]):
            return trunk(model)(input_ids=ids, use_cache=False).last_hidden_state[0, -1, :4].square().sum()

    (gradient,) = torch.autograd.grad(loss(start.requires_grad_(), True), start)
    (plain,) = torch.autograd.grad(loss(start, False), start)
    step = 1e-2 * torch.randn(start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        slope = loss(step, True) - loss(-step, True)
    assert float(2 * (gradient * step).sum()) == pytest.approx(float(slope), rel=2e-2)
    assert abs(float(2 * (plain * step).sum()) - float(slope)) > 0.05 * abs(float(slope))


def test_the_loss_is_ablated_on_harmful_rows_alone(tiny_base: Path) -> None:
    state, rows = learner_of(tiny_base, CONFIG), rows_of_tiny()
    harmful, utility = (examples(state.chat, some, 12, 64) for some in (rows.harmful[:3], rows.utility[:3]))
    generator = torch.Generator()
    edits = edits_of(state.model, Directions(CONFIG, state, rows).at(0), Ablation("single", 1), "zero")
    plain = [one.item() for one in refat_loss(state, harmful, utility, [], generator)]
    ablated = [one.item() for one in refat_loss(state, harmful, utility, edits, generator, utility_weight=0.5)]
    assert plain == [pytest.approx(state.loss(some, generator).item()) for some in (harmful, utility)]
    assert abs(ablated[0] - plain[0]) > 1e-4
    assert ablated[1] == pytest.approx(0.5 * plain[1])


def test_directions_are_found_afresh_on_schedule_and_follow_the_model(tiny_base: Path) -> None:
    state, rows = learner_of(tiny_base, CONFIG), rows_of_tiny()
    directions = Directions(CONFIG, state, rows)
    first = directions.at(0)
    torch.testing.assert_close(first.directions[1:].norm(dim=-1), torch.ones(1))
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            if "lora_B" in name:
                parameter.add_(0.05)
    assert all(directions.at(step) is first for step in (1, 2, 3))
    second = directions.at(4)
    assert second is not first
    assert float((second.directions[1] - first.directions[1]).norm()) > 1e-3
    again = Directions(CONFIG, state, rows).at(5)  # the same prompts, whoever asks first
    assert again.difference.equal(second.difference)


def test_ablations_are_drawn_as_often_as_wanted() -> None:
    config = RefatConfig(ablated=0.5, single=0.75)
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_ablation(config, 18, generator) for _ in range(2000)]
    found = [one for one in drawn if one is not None]
    assert 0.46 < len(found) / 2000 < 0.54
    assert 0.71 < sum(one.kind == "single" for one in found) / len(found) < 0.79
    assert {one.layer for one in found if one.kind == "single"} == set(range(4, 14))  # not from the last fifth
    assert {one.layer for one in found if one.kind == "own"} == {4}  # the upper three quarters lose their own


def test_training_learns_to_refuse_under_the_ablation(tiny_base: Path, tmp_path: Path) -> None:
    optimiser = loop.OptimiserConfig(learning_rate=5e-3, warmup_ratio=0.0)
    config = CONFIG.model_copy(update={"steps": 8, "ablated": 0.9, "optimiser": optimiser})
    state, rows = learner_of(tiny_base, config), rows_of_tiny()
    harmful, utility = (examples(state.chat, some, 12, 64) for some in (rows.harmful, rows.utility))
    edits, generator = (
        edits_of(state.model, Directions(config, state, rows).at(0), Ablation("single", 1), "zero"),
        torch.Generator(),
    )
    start = [one.item() for one in refat_loss(state, harmful, utility, edits, generator)]
    events, emit = recorder()
    train(config, state, rows, harmful, utility, StageFolder(tmp_path, "refat", emit))
    assert len(events) == 8
    assert any(event["ablation"] for event in events)
    after = [one.item() for one in refat_loss(state, harmful, utility, edits, generator)]
    assert after[0] < start[0] - 0.2
    assert after[1] < start[1] - 0.2
