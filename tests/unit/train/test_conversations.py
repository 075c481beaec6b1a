"""Loss on every answer of a conversation, a limit of steps, and adapters of other kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steersman.errors import DataError
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, add_lora, load_policy, trainable
from steersman.store import StageFolder
from steersman.train import loop, sft
from steersman.train.sft import SftConfig, learnt_rows
from steersman.types import Demonstration, Message

from .conftest import recorder

TALK = tuple(
    Message(role=role, content=text)  # type: ignore[arg-type]
    for role, text in (
        ("system", "Be kind."),
        ("user", "A?"),
        ("assistant", "a."),
        ("user", "B?"),
        ("assistant", "b."),
        ("user", "C?"),
    )
)


def test_every_answer_is_learnt_as_it_is_asked_for() -> None:
    rows = [Demonstration(prompt=TALK, completion="c.", tags=("x",)), Demonstration(prompt="D?", completion="d.")]
    found = learnt_rows(SftConfig(loss_on="all"), rows)
    assert [(row.prompt, row.completion, row.tags) for row in found] == [
        (TALK[:2], "a.", ("x",)),
        (TALK[:4], "b.", ("x",)),
        (TALK, "c.", ("x",)),
        ("D?", "d.", ()),
    ]
    assert learnt_rows(SftConfig(), rows) == rows


def test_a_limit_of_steps_ends_the_training_and_its_schedule(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    events, emit = recorder(None)
    config = SftConfig(max_steps=3, lora=LoraConfig(rank=2), epochs=5)
    sft.run(config, tiny_base, "tiny", demonstrations, [], StageFolder(tmp_path, "sft", emit))
    steps = [event for event in events if event["event"] == "train"]
    assert len(steps) == events[0]["steps"] == 3
    assert steps[-1]["learning_rate"] < steps[0]["learning_rate"] or len({s["learning_rate"] for s in steps}) > 1


def test_no_step_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no optimiser step: 0\.1 epochs of 8 rows in batches of 8"):
        loop.plan_batches([1] * 8, 8, 0.1, 0)


@pytest.mark.parametrize("kind", ["rslora", "dora"])
def test_other_kinds_of_adapters_merge_into_what_they_computed(
    kind: str, tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    config = SftConfig.model_validate({"lora": {"rank": 4, kind: True}, "max_steps": 3})
    sft.run(config, tiny_base, "tiny", demonstrations, [], StageFolder(tmp_path, "sft"))
    torch.manual_seed(0)
    plain, own = (add_lora(pretrained.load_model(tiny_base), c, "x") for c in (LoraConfig(rank=4), config.lora))
    assert (len(trainable(own)) > len(trainable(plain))) == (kind == "dora")
    ids = torch.arange(3, 40)[None]
    from steersman.lm.adapters import load_trainable

    _, policy = load_trainable(tiny_base, tmp_path)
    with torch.no_grad():
        beside, merged = (model.eval()(input_ids=ids).logits for model in (policy, load_policy(tiny_base, tmp_path)))
    torch.testing.assert_close(beside, merged, atol=1e-4, rtol=1e-4)
