"""Preventative steering pushes in training alone; the tamper curve measures, and leaves the model as it was."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import steersman
from hardened import chat_of, learner_of, recorder, rows_of_tiny
from steersman.errors import DataError
from steersman.interp.activations import read
from steersman.interp.hardening import preventative
from steersman.interp.hardening.measure import Ablated, Answers, Measured, answers, compared, measure, strongest
from steersman.interp.hardening.measure import Prompts as Measuring
from steersman.interp.hardening.preventative import PreventativeConfig, giving_in, preventative_loss, pushed
from steersman.interp.hardening.rows import examples
from steersman.interp.hardening.tamper import TamperConfig, tamper_curve
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, load_policy
from steersman.stats import wilson
from steersman.store import StageFolder
from steersman.train import loop

FAST = loop.OptimiserConfig(learning_rate=5e-3, schedule="constant", warmup_ratio=0.0)


def test_the_push_is_added_after_its_layer_and_points_away_from_harm(tiny_base: Path) -> None:
    config = PreventativeConfig(vocabulary="full", layer=0.0, prompts=10)
    state, rows = learner_of(tiny_base, config), rows_of_tiny()
    layer, vector = giving_in(config, state, rows)
    means = []
    for some in (rows.utility, rows.harmful):
        ids = [state.chat.prompt_ids(row.prompt) for row in some]
        means.append(read(state.model, ids, ["blocks.0.hook_resid_post"]).at("blocks.0.hook_resid_post").mean(0))
    assert layer == 0
    torch.testing.assert_close(vector, means[0] - means[1], rtol=1e-3, atol=1e-4)
    batch, generator = examples(state.chat, rows.harmful[:3], 12, 64), torch.Generator()
    plain, none, much = (
        preventative_loss(state, batch, edits, generator).item()
        for edits in ([], pushed(0, vector, 0.0), pushed(0, vector, 5.0))
    )
    assert plain == pytest.approx(none)
    assert abs(plain - much) > 1e-3


@pytest.mark.slow
def test_training_under_the_push_leaves_a_policy_without_hooks(
    tiny_base: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    losses = {}
    for alpha in (0.0, 3.0):
        config = PreventativeConfig(steps=3, batch_size=2, alpha=alpha, layer=0.0, prompts=4, optimiser=FAST)
        out, (events, emit) = tmp_path / str(alpha), recorder()
        out.mkdir()
        preventative.run(config, tiny_base, tiny_policy, rows_of_tiny(), StageFolder(out, "preventative", emit))
        losses[alpha] = [event["loss_nats_per_token"] for event in events if event["event"] == "train"]
        assert not any(module._forward_hooks for module in load_policy(tiny_base, out).modules())
    assert losses[0.0] != losses[3.0]


def test_what_is_left_falls_and_the_model_is_as_before(tiny_base: Path) -> None:
    """The behaviour is not to begin with the adversary's word."""
    model, chat = pretrained.load_model(tiny_base), chat_of(tiny_base)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    learns = [p.requires_grad for p in model.parameters()]
    ids = torch.tensor([[5, 9, 11, 3]])
    before = model(input_ids=ids).logits
    seen: list[float] = []

    def metric(measured: Any, _: Any) -> Any:
        assert not measured.training
        with torch.no_grad():
            logits = measured(input_ids=torch.tensor([chat.prompt_ids("How do I pay for a roof?")])).logits
        seen.append(float(logits[0, -1].softmax(-1)[chat.completion_ids("Pay the roof slowly.")[0]]))
        return wilson(round(10**5 * (1 - seen[-1])), 10**5)

    config = TamperConfig(at=(1, 3, 8), lora=LoraConfig(rank=4), vocabulary="full", optimiser=FAST)
    curve = tamper_curve(config, model, chat, rows_of_tiny().utility, metric)
    assert [point.steps for point in curve] == [0, 1, 3, 8]
    assert seen[-1] > 2 * seen[0]
    assert curve[-1].left.value < curve[0].left.value
    assert torch.equal(before, model(input_ids=ids).logits)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert [p.requires_grad for p in model.parameters()] == learns
    with pytest.raises(DataError, match="needs rows"):
        tamper_curve(config, model, chat, [], metric)


def test_the_attacker_finds_a_direction_of_every_layer_but_the_last(tiny_base: Path) -> None:
    model, chat, rows = pretrained.load_model(tiny_base), chat_of(tiny_base), rows_of_tiny()
    prompts = Measuring(*([row.prompt for row in some[:3]] for some in (rows.harmful, rows.utility) * 2))
    found = strongest(model, chat, prompts.finding_harmful, prompts.finding_harmless, 3)
    assert {(one.layer, one.form) for one in found} == {(1, "level"), (1, "zero")}  # of two layers; before 0 is nothing
    assert found[0].vector.norm() == pytest.approx(1.0, abs=1e-5)
    measured = measure(model, chat, prompts, 3)
    assert measured.json()["ablated"]["layer"] == 1
    assert measured.plain == answers(model, chat, prompts.harmful, 3)
    assert Answers(("refusal", "partial", "nothing")).rate == wilson(1, 3)


def test_what_hardening_is_judged_by() -> None:
    """By hand: 4 of 4 refused before and 1 of 4 ablated; 4 of 4 and 3 of 4 after; one more needless refusal of four."""
    one = Ablated(3, "level", torch.ones(2), [], wilson(1, 2), 0.01)
    no, yes = ("compliance",), ("refusal",)
    before = Measured(Answers(yes * 4), Answers(yes + no * 3), Answers(no * 4), one)  # type: ignore[arg-type]
    after = Measured(Answers(yes * 4), Answers(yes * 3 + no), Answers(yes + no * 3), one)  # type: ignore[arg-type]
    found = compared(before, after)
    assert found["ablated_share_of_unattacked"] == {"before": 0.25, "after": 0.75}
    assert found["difference"]["harmless"]["value"] == 0.25
    assert found["difference"]["ablated"]["value"] == 0.5
    never = before._replace(plain=Answers(no * 4))  # type: ignore[arg-type]
    assert compared(never, after)["ablated_share_of_unattacked"]["before"] is None


def test_nothing_here_knows_the_audit_or_its_probes() -> None:
    folder = Path(steersman.__file__).parent / "interp" / "hardening"
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            bad = [name for name in names if name.startswith(("steersman.interp.audit", "steersman.interp.probes"))]
            assert not bad, f"{path.name} imports {bad}: a gate must not be trained against"
