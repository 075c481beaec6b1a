"""What the report says when a run is unfinished, inconsistent, continued, or repeated with other settings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from steersman.constitution import document
from steersman.errors import UserError
from steersman.report import evidence
from steersman.report.evidence import StageRecord, overview_data, read_evidence, smoothed
from steersman.store import Run, append_jsonl, write_json

from .conftest import constitution


def record(run: Run, stage: str) -> StageRecord:
    found = read_evidence(run).record(stage)
    assert found is not None
    return found


def test_the_report_imports_no_torch() -> None:
    code = "import sys, steersman.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_constitution_digest_is_the_documents_own(run: Run) -> None:
    shipped = document.load("assistant")
    write_json(run.path / "constitution.json", shipped.model_dump(mode="json"))
    shown = evidence._constitution(shipped.model_dump(mode="json"))
    assert shown["digest"] == shipped.digest
    assert shown["principles"] == len(shipped.principles)


@pytest.mark.parametrize("stage", ["data", "sft", "scores"])
def test_a_missing_stage_is_named(run: Run, stage: str) -> None:
    shutil.rmtree(run.path / stage)
    with pytest.raises(UserError, match="no scores to report yet") as caught:
        read_evidence(run)
    assert f"{stage}/manifest.json" in str(caught.value)
    assert "raw_answers" in caught.value.expected
    assert f"--out {run.path}" in caught.value.do
    assert caught.value.exit_code == 2


def test_an_unfinished_stage_does_not_count(run: Run) -> None:
    (run.path / "scores").rename(run.path / "scores.partial")
    with pytest.raises(UserError, match=r"scores/summary\.json"):
        read_evidence(run)


def test_scores_of_an_earlier_adapter_are_refused(run: Run) -> None:
    manifest = run.manifest("sft")
    assert manifest is not None
    write_json(run.path / "sft" / "manifest.json", {**manifest, "outputs": {"adapter": "0" * 64}})
    with pytest.raises(UserError, match="aligned_answers was made from another sft"):
        read_evidence(run)


def test_scores_of_another_persona_are_refused(run: Run) -> None:
    write_json(run.path / "constitution.json", constitution("Flowery."))
    with pytest.raises(UserError, match="raw_answers was made from another persona"):
        read_evidence(run)


def test_curves_leave_out_earlier_settings_and_count_repeated_steps_once(make: Callable[..., Run]) -> None:
    run = make(epochs=1, steps=30)
    make(epochs=2, steps=10)  # the same folder, other settings: the older events stay in events.jsonl
    key = run.manifest("sft")["key"]  # type: ignore[index]
    repeated = {"stage": "sft", "event": "train", "step": 9, "loss_nats_per_token": 0.5, "tokens_seen": 1000}
    append_jsonl(run.path / "events.jsonl", [{"stage": "sft", "event": "start", "key": key}, repeated])
    with (run.path / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "sft", "eve')  # the process was killed here
    sft = record(run, "sft")
    loss = sft.curve("train", "loss_nats_per_token")
    assert [step for step, _ in loss] == list(range(10))
    assert loss[9][1] == 0.5
    assert loss[0][1] == 3.0
    assert [step for step, _ in sft.curve("validation", "loss_nats_per_token")] == [0, 5]
    assert sft.curve("train", "tokens_seen")[-1][1] == 1000
    assert sft.setup("steps") == 10


def test_a_loss_that_is_not_finite_is_left_out(run: Run) -> None:
    key = run.manifest("sft")["key"]  # type: ignore[index]
    bad = {"stage": "sft", "event": "train", "step": 3, "loss_nats_per_token": float("nan"), "tokens_seen": 400}
    append_jsonl(run.path / "events.jsonl", [{"stage": "sft", "event": "start", "key": key}, bad])
    loss = record(run, "sft").curve("train", "loss_nats_per_token")
    assert [step for step, _ in loss] == [0, 1, 2, *range(4, 10)]


def test_smoothing_is_centred() -> None:
    assert smoothed(((0, 0), (1, 3), (2, 6), (3, 30)), 3) == ((0, 1.5), (1, 3.0), (2, 13.0), (3, 18.0))


def test_stages_are_listed_in_the_order_in_which_they_finished(run: Run) -> None:
    found = overview_data(read_evidence(run))
    assert [s["stage"] for s in found["stages"]] == ["data", "raw_answers", "sft", "aligned_answers", "scores"]
    assert found["provenance"]["seeds"] == {"sft.seed": 3, "answers.sampling.seed": 0}
    assert found["model"] == {"name": "tiny-random", "digest": "f" * 64}


def test_a_stage_has_a_record_where_it_is_finished(make: Callable[..., Run]) -> None:
    assert read_evidence(make("without")).record("dpo") is None
    run = make("with", comparisons=True)
    dpo = record(run, "dpo")
    assert dpo.curve("train", "chosen_log_ratio_nats") == tuple((step, step / 10) for step in range(6))
    assert dpo.curve("train", "rejected_log_ratio_nats")[-1] == (5, -5.0)
    assert dpo.setup("pairs_per_epoch") == 60
    assert dpo.folder == run.path / "dpo"
    assert dpo.title("refuse-harm") == "No help with serious harm"
    assert dpo.title("some_flaw") == "some flaw"


def test_a_stage_of_a_former_recipe_does_not_count(make: Callable[..., Run]) -> None:
    make("run", comparisons=True)
    run = make("run", epochs=3)  # the recipe lost its comparisons, and fine-tuning changed after that
    assert (run.path / "dpo").exists()
    evidence = read_evidence(run)
    assert "dpo" not in [stage["stage"] for stage in overview_data(evidence)["stages"]]
    assert evidence.record("dpo") is None
