"""The plan: what it decides, that it writes nothing, and that it refuses exactly what `align` refuses."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from tests.toy.conftest import SMALL

from steersman import pipeline
from steersman import plan as stages_module
from steersman.cost import calibration as calibration_module
from steersman.cost.calibration import Calibration
from steersman.cost.work import Workload
from steersman.errors import DataError, ModelError, RecipeError
from steersman.lm import pretrained
from steersman.plan import Plan, plan
from steersman.plan import shown as blocks_of
from steersman.recipe import load_recipe
from steersman.report.terminal import render
from steersman.store import Run
from steersman.types import Demonstration
from workloads import changed, estimate, prices, small_workload, tiny

TRAINED = ("sft", "dpo", "reward_model", "holdout_reward_model", "cost_model", "rl")
NAMES = [step.stage.name for step in pipeline.stages_of(tiny())]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def states(planned: Plan) -> dict[str, str]:
    return {stage.name: stage.state for stage in planned.stages}


def reasons(planned: Plan) -> dict[str, str]:
    return {stage.name: stage.why for stage in planned.stages}


def shown(planned: Plan, width: int = 200) -> str:
    written = io.StringIO()
    Console(width=width, file=written).print(render(blocks_of(planned)))
    return written.getvalue()


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(calibration_module, "LONG_CONTEXT", 32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny recipe, all stages done. Read only."""
    folder = tmp_path_factory.mktemp("plan") / "run"
    pipeline.align(tiny(), folder, echo=lambda _: None)
    return folder


@pytest.fixture
def workload(tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path) -> Workload:
    return small_workload(tiny_base, demonstrations, tmp_path)


# ── rows over the limit ──────────────────────────────────────────────────────────────────────────────────────────────
def test_rows_over_the_limit_are_counted_with_what_becomes_of_them() -> None:
    settings = ["sft.max_length=100", "sft.truncation=drop", "dpo.max_length=64"]
    planned = plan(tiny(*settings))
    by_name = {stage.name: stage for stage in planned.stages}
    assert (by_name["sft"].truncated, by_name["dpo"].dropped) == (0, 0)
    assert by_name["sft"].dropped > 1 == by_name["dpo"].truncated
    with pytest.raises(DataError, match="rows of sft are longer than max_length"):
        plan(tiny("sft.max_length=16", "sft.truncation=drop"))
    assert f"sft: {by_name['sft'].dropped} rows longer than max_length: left out (truncation: drop)." in shown(planned)
    assert f'"dropped":{by_name["sft"].dropped}' in planned.model_dump_json()


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_new_run_is_all_new_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    planned = plan(tiny())
    assert list(tmp_path.iterdir()) == []
    assert set(states(planned).values()) == {"will run"}
    assert reasons(planned)["data"] == reasons(planned)["sft"] == "new"
    assert reasons(planned)["aligned_answers"] == "waits for rl"
    assert planned.run == "runs/smoke"
    assert planned.seconds is not None
    assert planned.seconds > 0


@pytest.mark.slow
def test_the_time_of_vllm_is_not_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steersman.lm.vllm_engine.check", lambda: None)
    monkeypatch.chdir(tmp_path)
    planned = plan(tiny("rl.rollouts.engine=vllm"))
    assert {stage.name for stage in planned.stages if stage.seconds is None} == {"rl"}
    assert planned.seconds is None
    assert "Not estimated: the time that another program takes (rl)." in shown(planned)


def test_finished_run_is_reused_without_calibration(finished: Path) -> None:
    before = tree(finished)
    planned = plan(tiny(), finished)
    assert states(planned) == dict.fromkeys(NAMES, "reused")
    assert planned.calibration is None
    assert planned.seconds == 0
    assert "Nothing to do" in shown(planned)
    assert tree(finished) == before


def test_changed_field_is_named_and_what_follows_waits(finished: Path) -> None:
    before = tree(finished)
    planned = plan(tiny("sft.epochs=3"), finished)
    assert tree(finished) == before
    same = ["data", "raw_answers", "raw_capability"]
    assert [name for name, state in states(planned).items() if state == "reused"] == same
    assert reasons(planned)["sft"] == "changed: config.epochs: 1.0 -> 3.0"
    assert reasons(planned)["aligned_capability"] == "waits for rl"
    assert "config.epochs: 1.0 -> 3.0" in shown(planned)
    assert [stage.seconds for stage in planned.stages if stage.name in same] == [0, 0, 0]


def test_data_that_trains_alike_does_not_train_again(finished: Path) -> None:
    """Only the evaluation prompts change: the data stage runs, and its files for training come out the same."""
    planned = plan(tiny("examples.limit_evaluation=5"), finished)
    assert reasons(planned)["data"] == "changed: config.limit_evaluation: 6 -> 5"
    assert "inputs.data/evaluation.jsonl" in reasons(planned)["raw_answers"]
    assert states(planned)["sft"] == "reused"


def test_interrupted_stage_continues(finished: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    manifest = json.loads((folder / "sft" / "manifest.json").read_text(encoding="utf-8"))
    (folder / "sft").rename(folder / "sft.partial")
    (folder / "sft.partial" / "pending.json").write_text(json.dumps({"key": manifest["key"]}), encoding="utf-8")
    assert reasons(plan(tiny(), folder))["sft"] == "continues where it stopped"


@pytest.mark.parametrize("until", ["data", "sft"])
def test_until_limits_the_stages(finished: Path, until: str) -> None:
    assert list(states(plan(tiny(), finished, until=until))) == NAMES[: NAMES.index(until) + 1]


def test_unknown_names_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no stage 'train'"):
        plan(tiny(), tmp_path / "run", until="train")
    with pytest.raises(ModelError, match="no model is called 'gemma'"):
        plan(tiny("model=gemma"), tmp_path / "run")
    with pytest.raises(ModelError, match="no such GGUF file"):
        plan(tiny("model=models/absent.gguf"), tmp_path / "run")


# ── models that are not there yet ────────────────────────────────────────────────────────────────────────────────────
def test_packaged_weights_that_are_not_prepared_stay_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Workload] = []

    def calibrate_nothing(workload: Workload) -> Calibration:
        seen.append(workload)
        return prices(train_tokens=1.0)

    monkeypatch.setitem(sys.modules, pretrained._PACKAGE, SimpleNamespace(EXPECTED_SHA256="0" * 64))
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stages_module, "calibrate", calibrate_nothing)
    planned = plan(tiny("model=gemma-3-270m"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert seen[0].config.num_hidden_layers == 18
    assert planned.prepare_seconds == 60
    assert planned.seconds == pytest.approx(61 + sum(estimate(stage, seen[0]).counts.train_tokens for stage in TRAINED))
    assert "converted once" in " ".join(shown(planned).split())


def test_an_installed_model_that_is_not_converted_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights_to_plan").mkdir()
    (tmp_path / "weights_to_plan" / "small.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "_INSTRUCT_FILE", ("weights_to_plan", "small.gguf"))
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    planned = plan(tiny("model=smollm2-135m-instruct"), tmp_path / "run")
    assert planned.seconds is None
    assert "smollm2-135m-instruct is converted first" in shown(planned)


def test_model_of_the_hub_that_is_not_downloaded_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    planned = plan(tiny("model=nobody/nothing"), tmp_path / "run")
    assert planned.seconds is None
    assert planned.peak_mb is None
    assert "nobody/nothing is downloaded first" in shown(planned)
    assert ": ?, ? of memory" in shown(planned)
    assert not (tmp_path / "run").exists()


def test_earlier_answers_tell_how_long_answers_are(finished: Path, workload: Workload) -> None:
    later = replace(workload, earlier=Run(finished), recipe=tiny("answers.sampling.max_new_tokens=30"))
    assert later.answer_tokens("aligned_answers", "aligned") == 30  # the tiny model never ends by itself
    assert later.answer_tokens("raw_answers", "raw") == 30
    assert changed(workload, "answers.sampling.max_new_tokens=30").answer_tokens("raw_answers", "raw") == 10


# ── what people read ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
def test_table_fits_a_terminal_of_80_columns(finished: Path) -> None:
    planned = plan(tiny("sft.epochs=3", "sft.optimiser.learning_rate=0.01", "sft.lora.rank=2"), finished)
    text = shown(planned, width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    starts = [line.split()[0] for line in text.splitlines() if line.startswith(tuple(f"{name} " for name in NAMES))]
    assert starts == NAMES
    for change in (
        "config.epochs: 1.0 -> 3.0",
        "config.lora.rank: 4 -> 2",
        "config.optimiser.learning_rate: 0.003",
    ):
        assert change in " ".join(text.split()), text  # a cell may wrap
    reused = 3  # data and both stages of the raw model
    assert f"{len(NAMES) - reused} of {len(NAMES)} stages will run" in text


# ── constitutional AI ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
def test_the_work_of_constitutional_stages_grows_with_what_they_write_and_judge(tmp_path: Path) -> None:
    """Who keeps which revision nobody knows before; how much is written and read is known."""

    def tokens(*settings: str) -> dict[str, int]:
        chosen = load_recipe("smoke", [*SMALL, "rl=null", "cost_model=null", *settings])
        return {stage.name: stage.tokens or 0 for stage in plan(chosen, tmp_path / "none").stages}

    once = tokens()
    assert all(
        once[name] > 0 for name in ("judge_card", "revisions", "cai_sft", "feedback", "preference_model", "ablation")
    )
    more = tokens("revisions.prompts=24", "feedback.answers=6", "judge.questions=4")
    assert more["revisions"] > 1.5 * once["revisions"]
    assert more["cai_sft"] > once["cai_sft"]
    assert more["feedback"] > once["feedback"]
    assert more["judge_card"] < once["judge_card"]
    assert more["ablation"] == once["ablation"]
    assert tokens("revisions.rounds=1")["revisions"] < once["revisions"]
