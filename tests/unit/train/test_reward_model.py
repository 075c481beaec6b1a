"""Reward models: the loss by hand and against plain autograd, invariance, learning, ensembles, style, resuming."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steersman.data import answer_style
from steersman.data.sources import split_by_topic
from steersman.errors import DataError, ModelError
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, load_adapter, snapshot, using
from steersman.lm.chat_format import chat_format
from steersman.lm.frozen_trunk import FrozenStatesCache, FrozenTrunk
from steersman.lm.reward_model import COMBINED, RewardModel, tokenised
from steersman.lm.shared_prefix import Group
from steersman.store import StageFolder
from steersman.train import loop, reward_model, sft
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import (
    Ranked,
    RewardConfig,
    RewardTrainer,
    count_correct,
    ranked,
    row_losses,
    style_weights,
)
from steersman.train.sft import SftConfig
from steersman.types import Comparison, Demonstration

from .conftest import Stopped, recorder

FAST = RewardConfig(
    optimiser=OptimiserConfig(learning_rate=3e-3), batch_size=8, micro_batch_size=3, epochs=2, checkpoint_every_steps=2
)


@pytest.fixture(scope="module")
def comparisons(demonstrations: list[Demonstration]) -> list[Comparison]:
    """Three answers each: the demonstration's, one that is cut, one that declines; every third has two tied."""
    return [
        Comparison(
            prompt=d.prompt,
            options=(d.completion, d.completion[: len(d.completion) // 2], "I cannot help."),
            ranking=(1, 2, 2) if i % 3 == 0 else (1, 2, 3),
            topic=f"topic-{i % 12}",
        )
        for i, d in enumerate(demonstrations[:36])
    ]


@pytest.fixture(scope="module")
def starts(tiny_base: Path, demonstrations: list[Demonstration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fine-tuned policies: adapters on all layers, ``all/``, and on the upper one, ``upper/``."""
    folder = tmp_path_factory.mktemp("starts")
    for name, layers in {"all": None, "upper": 1}.items():
        (folder / name).mkdir()
        config = SftConfig(lora=LoraConfig(rank=4, trainable_layers=layers), epochs=0.5)
        sft.run(config, tiny_base, "tiny", demonstrations, [], StageFolder(folder / name, "sft"))
    return folder


def run(
    config: RewardConfig,
    base: Path,
    start: Path,
    rows: Sequence[Comparison],
    folder: Path,
    demonstrations: Sequence[Demonstration] = (),
    stop_before: int | None = None,
) -> list[dict[str, Any]]:
    events, emit = recorder(stop_before, member=1)  # of an ensemble: so that its first is finished
    folder.mkdir(exist_ok=True)
    reward_model.run(config, base, start, rows, demonstrations, StageFolder(folder, "reward_model", emit))
    return events


def prepared(
    config: RewardConfig, base: Path, start: Path, rows: Sequence[Comparison]
) -> tuple[Any, RewardTrainer, Any]:
    tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base)
    model.requires_grad_(False)
    policy = load_adapter(model, base, start / "adapter", "member-0")
    states = FrozenStatesCache(FrozenTrunk.below(model, policy, "member-0"), config.trunk_cache_mb)
    trainer = RewardTrainer.prepare(config, 0, model, policy, states, torch.zeros(len(answer_style.FEATURES)))
    return policy, trainer, ranked(rows, chat_format(tokenizer), RewardConfig())[0]


def gradients(trainer: RewardTrainer, rows: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def keep(_: Any, parameters: dict[str, torch.Tensor], *__: Any) -> float:
        found.update({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimiser_step", keep)
        measured = trainer.step(0, rows, 0.0)
    return found | {"loss": torch.tensor(measured["loss"]), "accuracy": torch.tensor(measured["accuracy"])}


def test_rows_that_say_two_answers_are_equally_good_pull_their_scores_together(starts: Path, tiny_base: Path) -> None:
    """A probability of one half does; a ranking's tie says nothing of the kind, and is left out."""
    even = Comparison(prompt="Why?", options=("Because it is.", "Nobody knows."), soft_label=0.5)
    tie = Comparison(prompt="Why?", options=("Because it is.", "Nobody knows."), ranking=(1, 1))
    _, trainer, rows = prepared(RewardConfig(center_rewards_coefficient=0.0), tiny_base, starts / "all", [even, tie])
    assert len(rows) == 1
    losses = [trainer.step(0, rows, 1e-3) for _ in range(20)]
    assert losses[0]["accuracy"] is None
    assert losses[0]["loss"] > losses[-1]["loss"] >= math.log(2) - 1e-6
    assert losses[-1]["loss"] == pytest.approx(math.log(2), abs=1e-4)


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("start", ["all", "upper"])
def test_loss_and_gradients_are_those_of_separate_rows(
    start: str, tiny_base: Path, starts: Path, comparisons: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pairs of a prompt are averaged, then the prompts; the score is read at the terminator."""
    _, trainer, rows = prepared(FAST, tiny_base, starts / start, comparisons[:5])
    ours = gradients(trainer, rows, monkeypatch)
    trainer.optimiser.zero_grad()
    losses, squares, right, pairs = [], [], 0, 0
    for row in rows:
        scores = []
        for completion in row.group.completions:
            hidden = trainer.model.model(input_ids=torch.tensor([row.group.prompt + completion])).last_hidden_state
            scores.append(trainer.head(hidden[0, -1])[0])
        squares += [score.square() for score in scores]
        own = [(scores[i] - scores[j]) for i in range(3) for j in range(3) if row.ranks[i] < row.ranks[j]]
        right, pairs = right + sum(bool(margin > 0) for margin in own), pairs + len(own)
        losses.append(torch.stack([-torch.nn.functional.logsigmoid(margin) for margin in own]).mean())
    loss = torch.stack(losses).mean() + FAST.center_rewards_coefficient * torch.stack(squares).mean()
    loss.backward()
    assert float(ours["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert float(ours["accuracy"]) == pytest.approx(right / pairs)
    learnt = {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}
    assert {"head.weight", "head.bias"} < learnt.keys()
    for name, gradient in learnt.items():
        torch.testing.assert_close(ours[name], gradient, atol=2e-6, rtol=1e-4)


def test_micro_batches_and_kept_activations_change_nothing(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size, budget in ((8, 1024), (3, 1024), (1, 0)):
        config = FAST.model_copy(update={"micro_batch_size": size, "trunk_cache_mb": budget})
        _, trainer, rows = prepared(config, tiny_base, starts / "upper", comparisons[:8])
        found += [gradients(trainer, rows, monkeypatch), gradients(trainer, rows, monkeypatch)]
        assert bool(trainer.states._kept) == (budget > 0)
        trainer.optimiser.zero_grad()
    for other in found[2::2]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-6, rtol=1e-4)
    # The second step of a batch adds its gradients to the first one's: they are the same, read from the kept states.
    torch.testing.assert_close(found[1]["head.weight"], 2 * found[0]["head.weight"], atol=2e-6, rtol=1e-4)


def test_losses_of_two_and_of_more_answers_by_hand() -> None:
    """Two answers: a margin of 0.5 and a probability of 0.8; three: the mean over the two pairs that are no tie."""
    scores, ranks = torch.tensor([[2.0, 0.0, 0.0], [2.5, 3.0, 2.0]]), torch.tensor([[2, 1, 0], [1, 2, 2]])
    losses = row_losses(scores, ranks, torch.tensor([0.8, 1.0]), torch.tensor([0.5, 0.0]))
    nll = [math.log1p(math.exp(x)) for x in (2.5, -2.5, 0.5, -0.5)]
    assert losses.tolist() == pytest.approx([0.8 * nll[0] + 0.2 * nll[1], (nll[2] + nll[3]) / 2])
    assert [int(count) for count in count_correct(scores, ranks)] == [1, 3]


def test_weights_count(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [comparisons[1], comparisons[1], comparisons[2]]
    weighted = [comparisons[1].model_copy(update={"weight": 2.0}), comparisons[2]]
    config = FAST.model_copy(update={"center_rewards_coefficient": 0.0})
    found = []
    for rows in (twice, weighted):
        _, trainer, encoded = prepared(config, tiny_base, starts / "all", rows)
        found.append(gradients(trainer, encoded, monkeypatch))
    torch.testing.assert_close(found[0]["head.weight"], found[1]["head.weight"], atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_the_mean_of_the_weights_is_one_model(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    config = FAST.model_copy(update={"members": 2, "combine": "weights"})
    run(config, tiny_base, starts / "all", comparisons[:24], tmp_path, demonstrations)
    model = RewardModel.load(tiny_base, tmp_path)
    assert len(model.heads) == 1
    parts = [load_file(tmp_path / f"member-{i}" / "adapter" / "adapter_model.safetensors") for i in range(2)]
    found = snapshot(model.policy, "reward-0")
    assert any(not torch.equal(parts[0][key], parts[1][key]) for key in found)
    for key, value in found.items():
        torch.testing.assert_close(value, (parts[0][key] + parts[1][key]) / 2)
    heads = [load_file(tmp_path / f"member-{i}" / "head.safetensors")["weight"] for i in range(2)]
    torch.testing.assert_close(model.heads["reward-0"].weight.detach(), (heads[0] + heads[1]) / 2)
    assert model.mean_scores(demonstrations) == pytest.approx([0.0], abs=1e-5)


# ── style ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_style_features_count_what_they_say() -> None:
    text = "Great question! Sure:\n- one\n- two\n3. three \U0001f60a\nYes!"
    found = dict(zip(answer_style.FEATURES, answer_style.features(text), strict=True))
    expected = {"length": 11, "lists": 3, "emoji": 1, "exclamation": 2}
    for name, count in expected.items():
        assert found[name] == pytest.approx(torch.log1p(torch.tensor(float(count))).item())
    assert (found["flattery"], found["agreement"]) == (1.0, 0.0)
    assert answer_style.features("You’re right, it is not.")[-1] == 1.0
    assert answer_style.features("It is not.")[2:] == [0.0, 0.0, 0.0, 0.0]


def test_what_style_explains_is_a_logistic_regression() -> None:
    """Of two answers the longer one wins four times in five, whatever else they hold."""
    group = Group([1], [[2], [3]])
    rows = [Ranked(group, (1, 2) if i % 5 else (2, 1), [[1.0, i % 3, 0.0], [0.0, i % 3, 0.0]]) for i in range(100)]
    found = style_weights(rows).tolist()
    assert found[0] == pytest.approx(math.log(4), abs=0.05)  # the ridge takes a little
    assert found[1:] == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.slow
def test_length_is_taken_out_of_the_score(
    tiny_base: Path, starts: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    """Raters who prefer what is long: a plain model learns that; without style, there is nothing left to learn."""
    rows = [
        Comparison(
            prompt=d.prompt, options=(f"{d.completion} {'And so on. ' * (1 + i % 6)}", d.completion), ranking=(1, 2)
        )
        for i, d in enumerate(demonstrations[:40])
    ]
    moved = {}
    for without in (False, True):
        update = {"style_control": without, "epochs": 6}
        run(FAST.model_copy(update=update), tiny_base, starts / "all", rows[:32], tmp_path / str(without))
        scorer = RewardModel.load(tiny_base, tmp_path / str(without))
        scores = [scorer.score(row.prompt, row.options) for row in rows[32:]]
        moved[without] = sum(long - short for long, short in scores) / len(scores)
    assert moved[False] > 1
    assert abs(moved[True]) < 0.5 * moved[False]


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_ties_alone_are_no_comparisons(tiny_base: Path, comparisons: list[Comparison]) -> None:
    chat = chat_format(pretrained.load_tokenizer(tiny_base))
    tied = Comparison(prompt="Why?", options=("A.", "B."), ranking=(1, 1))
    assert len(ranked([*comparisons, tied], chat, RewardConfig())[0]) == len(comparisons)
    with pytest.raises(DataError, match="no comparisons that order two answers"):
        ranked([tied], chat, RewardConfig())


def test_long_rows_are_cut_to_fit(tiny_base: Path) -> None:
    chat = chat_format(pretrained.load_tokenizer(tiny_base))
    group = tokenised("one two three " * 40, ["short.", "No and no again. " * 40], chat, 64)
    assert len(group.prompt) == 32  # half of the length stays with the question
    assert len(group.prompt) + max(map(len, group.completions)) <= 64
    assert group.completions[0] == chat.completion_ids("short.")


def test_topics_are_split_whole(comparisons: list[Comparison]) -> None:
    train, held_out = split_by_topic(comparisons, 0.3)
    assert train
    assert held_out
    assert not {row.topic for row in train} & {row.topic for row in held_out}
    assert len(train) + len(held_out) == len(comparisons)
    assert split_by_topic(comparisons[5:], 0.3)[1] == [row for row in held_out if row in comparisons[5:]]


# ── training and scoring ─────────────────────────────────────────────────────────────────────────────────────────────
def test_it_learns_the_order_and_demonstrations_average_zero(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    config = FAST.model_copy(update={"epochs": 4})
    events = run(config, tiny_base, starts / "upper", comparisons[:28], tmp_path / "out", demonstrations)
    assert events[-1]["accuracy"] > 0.9
    scorer = RewardModel.load(tiny_base, tmp_path / "out")
    right = [scorer.score(row.prompt, row.options) for row in comparisons[28:]]
    assert sum(best > cut and best > declined for best, cut, declined in right) >= 7  # of 8 that it never saw
    assert scorer.mean_scores(demonstrations)[0] == pytest.approx(0, abs=1e-4)


def test_members_differ_and_are_combined(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path
) -> None:
    config = FAST.model_copy(update={"members": 2, "combine": "worst"})
    run(config, tiny_base, starts / "upper", comparisons[:12], tmp_path / "out")
    scorer = RewardModel.load(tiny_base, tmp_path / "out")
    groups = [tokenised(row.prompt, row.options, scorer.chat, 512) for row in comparisons[:10]]
    members = scorer.member_scores(groups)
    assert members.shape == (2, 30)
    assert (members[0] - members[1]).abs().max() > 1e-3
    torch.testing.assert_close(scorer.scores(groups), members.min(0).values)
    variance = COMBINED["mean_minus_variance"](torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    torch.testing.assert_close(variance, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(COMBINED["mean"](members), members.mean(0))


def test_it_stands_beside_a_policy_on_one_base(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path
) -> None:
    """The policy's adapter stays the active and learning one; scores are those of a model of its own."""
    run(FAST, tiny_base, starts / "all", comparisons[:8], tmp_path / "out")
    alone = RewardModel.load(tiny_base, tmp_path / "out")
    model = pretrained.load_model(tiny_base)
    policy = load_adapter(model, tiny_base, starts / "all" / "adapter", "policy")
    beside = RewardModel.load(tiny_base, tmp_path / "out", onto=(model, policy))
    assert policy.active_adapter == "policy"
    assert {name.split(".")[-2] for name, p in policy.named_parameters() if p.requires_grad} == {"policy"}
    row = comparisons[9]
    assert beside.score(row.prompt, row.options) == pytest.approx(alone.score(row.prompt, row.options), abs=1e-5)
    with using(policy, None):
        pass
    assert policy.active_adapter == "policy"


@pytest.mark.slow
def test_resuming_is_exact(tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path) -> None:
    """With the scores observed for the raters, whose parameters are fitted after a first pass of five steps."""
    config = FAST.model_copy(update={"members": 2, "rater_reliability": True, "batch_size": 4})
    rows = [row.model_copy(update={"rater": f"rater-{i % 3}"}) for i, row in enumerate(comparisons[:20])]
    whole = run(config, tiny_base, starts / "upper", rows, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(config, tiny_base, starts / "upper", rows, tmp_path / "killed", stop_before=3)
    again = run(config, tiny_base, starts / "upper", rows, tmp_path / "killed")
    assert [(e["member"], e["resumed_at_step"]) for e in again if e["event"] == "setup"] == [(1, 2)]

    def losses(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(e["member"], e["step"], e["loss"]) for e in events if e["event"] == "train"]

    assert losses(again) == losses(whole)[12:]
    for member in ("member-0", "member-1"):
        files = [
            {p.name: p.read_bytes() for p in sorted((tmp_path / n / member).rglob("*")) if p.is_file()}
            for n in ("whole", "killed")
        ]
        assert files[0] == files[1]
        assert "state.safetensors" not in files[0]
        assert all(params["reliability"] != 1 for params in json.loads(files[0]["raters.json"]).values())
    about = [json.loads((tmp_path / n / "reward_model.json").read_text()) for n in ("whole", "killed")]
    assert about[0] == about[1]


def test_what_is_not_there_is_said(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path
) -> None:
    from steersman.lm import tiny

    with pytest.raises(ModelError, match="no reward model here"):
        RewardModel.load(tiny_base, starts / "all")
    with pytest.raises(ModelError, match="starts from an adapter"):
        run(FAST, tiny_base, tmp_path, comparisons, tmp_path / "out")
    tiny.build(["Another text altogether, for another tokenizer."] * 5, tmp_path / "other")
    with pytest.raises(ModelError, match="another base model"):
        run(FAST, tmp_path / "other", starts / "all", comparisons, tmp_path / "out")


def test_the_head_is_saved_apart_in_safetensors(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path
) -> None:
    run(FAST, tiny_base, starts / "all", comparisons[:8], tmp_path / "out")
    head = load_file(tmp_path / "out" / "member-0" / "head.safetensors")
    assert {name: tuple(t.shape) for name, t in head.items()} == {"weight": (1, 64), "bias": (1,)}
    assert (tmp_path / "out" / "member-0" / "adapter" / "adapter_config.json").exists()
