"""What the report says when a run is unfinished, inconsistent, continued, or repeated with other settings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from steersman.constitution import document
from steersman.errors import UserError
from steersman.report import data as report
from steersman.store import Run, append_jsonl, write_json

from .conftest import LOOKS, constitution


def test_the_report_imports_no_torch() -> None:
    code = "import sys, steersman.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_constitution_digest_is_the_documents_own(run: Run) -> None:
    shipped = document.load("assistant")
    write_json(run.path / "constitution.json", shipped.model_dump(mode="json"))
    shown = report._constitution(shipped.model_dump(mode="json"))
    assert shown["digest"] == shipped.digest
    assert shown["principles"] == len(shipped.principles)


@pytest.mark.parametrize("stage", ["data", "sft", "scores"])
def test_a_missing_stage_is_named(run: Run, stage: str) -> None:
    shutil.rmtree(run.path / stage)
    with pytest.raises(UserError, match="no scores to report yet") as caught:
        report.report_data(run)
    assert f"{stage}/manifest.json" in str(caught.value)
    assert "raw_answers" in caught.value.expected
    assert f"--out {run.path}" in caught.value.do
    assert caught.value.exit_code == 2


def test_an_unfinished_stage_does_not_count(run: Run) -> None:
    (run.path / "scores").rename(run.path / "scores.partial")
    with pytest.raises(UserError, match=r"scores/summary\.json"):
        report.report_data(run)


def test_scores_of_an_earlier_adapter_are_refused(run: Run) -> None:
    manifest = run.manifest("sft")
    assert manifest is not None
    write_json(run.path / "sft" / "manifest.json", {**manifest, "outputs": {"adapter": "0" * 64}})
    with pytest.raises(UserError, match="aligned_answers was made from another sft"):
        report.report_data(run)


def test_scores_of_another_persona_are_refused(run: Run) -> None:
    write_json(run.path / "constitution.json", constitution("Flowery."))
    with pytest.raises(UserError, match="raw_answers was made from another persona"):
        report.report_data(run)


def test_curves_leave_out_earlier_settings_and_count_repeated_steps_once(make: Callable[..., Run]) -> None:
    run = make(epochs=1, steps=30)
    make(epochs=2, steps=10)  # the same folder, other settings: the older events stay in events.jsonl
    key = run.manifest("sft")["key"]  # type: ignore[index]
    repeated = {"stage": "sft", "event": "train", "step": 9, "loss_nats_per_token": 0.5, "tokens_seen": 1000}
    append_jsonl(run.path / "events.jsonl", [{"stage": "sft", "event": "start", "key": key}, repeated])
    with (run.path / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "sft", "eve')  # the process was killed here
    found = report.report_data(run)["training"]
    assert [step for step, _ in found["loss"]] == list(range(10))
    assert found["loss"][9][1] == 0.5
    assert found["loss"][0][1] == 3.0
    assert [step for step, _ in found["validation_loss"]] == [0, 5]
    assert found["tokens_seen"] == 1000
    assert found["steps"] == 10


def test_a_loss_that_is_not_finite_becomes_null(run: Run) -> None:
    key = run.manifest("sft")["key"]  # type: ignore[index]
    bad = {"stage": "sft", "event": "train", "step": 3, "loss_nats_per_token": float("nan"), "tokens_seen": 400}
    append_jsonl(run.path / "events.jsonl", [{"stage": "sft", "event": "start", "key": key}, bad])
    assert report.report_data(run)["training"]["loss"][3] == [3, None]


def test_stages_are_listed_in_the_order_in_which_they_finished(run: Run) -> None:
    found = report.report_data(run)
    assert [s["stage"] for s in found["stages"]] == ["data", "raw_answers", "sft", "aligned_answers", "scores"]
    assert found["provenance"]["seeds"] == {"sft.seed": 3, "answers.sampling.seed": 0}
    assert found["model"] == {"name": "tiny-random", "digest": "f" * 64}


def test_preferences_are_empty_without_the_stage_and_complete_with_it(make: Callable[..., Run]) -> None:
    assert report.report_data(make("without"))["preferences"]["chosen"] == []
    found = report.report_data(make("with", comparisons=True))
    assert found["preferences"]["chosen"] == [[step, step / 10] for step in range(6)]
    assert found["preferences"]["rejected"][-1] == [5, -5.0]
    assert found["preferences"]["pairs_per_epoch"] == 60
    assert "dpo" in [stage["stage"] for stage in found["stages"]]


def test_reinforcement_is_there_with_every_look_and_some_answers(make: Callable[..., Run]) -> None:
    assert report.report_data(make("without"))["reinforcement"] is None
    found = report.report_data(make("with", reinforced=True))["reinforcement"]
    assert [(look["step"], look["kl"], look["score"], look["gold"]) for look in found["looks"]] == [
        (step, *values) for step, values in LOOKS.items()
    ]
    assert found["taken"] == {"step": 5, "gold": 0.7, "gold_worse": 0.93}
    assert [example["prompt"] for example in found["examples"]] == ["Why 0?", "Why 2?", "Why 4?", "Why 6?"]
    assert [answer["step"] for answer in found["examples"][0]["answers"]] == [0, 5, 10]


def test_a_stage_of_a_former_recipe_does_not_count(make: Callable[..., Run]) -> None:
    make("run", comparisons=True)
    run = make("run", epochs=3)  # the recipe lost its comparisons, and fine-tuning changed after that
    assert (run.path / "dpo").exists()
    found = report.report_data(run)
    assert "dpo" not in [stage["stage"] for stage in found["stages"]]
    assert found["preferences"]["chosen"] == []
