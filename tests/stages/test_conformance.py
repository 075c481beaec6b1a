"""What every stage must do, whatever it is: the suite runs over `pipeline.STAGES`.

A stage that is added is tested here without a line; what it computes is tested beside its method.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from tests.toy.conftest import SMALL

from steersman import pipeline
from steersman.pipeline import STAGES, Step, identify, stages_of
from steersman.recipe import Recipe, load_recipe
from steersman.report import html, terminal
from steersman.report.blocks import Facts, Page
from steersman.report.evidence import read_evidence
from steersman.stage import Inputs, Stage, folder
from steersman.stages import inputs as handles
from steersman.stages import sources
from steersman.store import Artifact, Run, StageFolder, read_json, read_jsonl, write_json, write_jsonl

# Every stage in a minute: the smoke recipe with small limits.
FIXTURES = Path(__file__).parents[1] / "fixtures"
SETTINGS = (
    *SMALL,
    "revisions.prompts=6",
    "feedback.prompts=6",
    "answers.few_shot_examples=1",
    f"public_prompts={{folder: {FIXTURES / 'public_prompts'}, sampling: {{max_new_tokens: 4}}}}",
    f"suites={{folder: {FIXTURES / 'suites'}, names: [winobias, persona, false-claims], limit: 6}}",
    "suites.sampling.max_new_tokens=4",
)
NAMES = [stage.name for stage in STAGES]
every_stage = pytest.mark.parametrize("name", NAMES)


def recipe() -> Recipe:
    return load_recipe("smoke", SETTINGS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages. Read only."""
    run = tmp_path_factory.mktemp("conformance") / "run"
    pipeline.align(recipe(), run, echo=lambda _: None)
    return run


def step_of(name: str) -> Step:
    return next(step for step in stages_of(recipe()) if step.stage.name == name)


def given_to(step: Step, run: Path) -> Inputs:
    """What the pipeline gave the stage in a finished run."""
    chosen = recipe()
    given = sources.load(chosen)
    manifests = {path.parent.name: read_json(path) for path in run.glob("*/manifest.json")}
    done = {name: Artifact(run / name, manifest["outputs"]) for name, manifest in manifests.items()}
    return identify(step, sources.digested(given, run / "base" / "model"), done)[1]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ── declarations ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_smoke_recipe_has_every_stage() -> None:
    assert [step.stage.name for step in stages_of(recipe())] == NAMES


@every_stage
def test_inputs_are_sources_or_come_from_earlier_stages(name: str) -> None:
    earlier = {*sources.NAMES, *NAMES[: NAMES.index(name)]}
    for wanted in step_of(name).stage.inputs:
        assert {alternative.partition("/")[0] for alternative in wanted.names} <= {*earlier, name} | set(NAMES)
        physical = step_of(name).names[wanted]
        assert physical is None or physical.partition("/")[0] in earlier


@every_stage
def test_what_a_stage_did_not_declare_it_cannot_read(name: str) -> None:
    step = step_of(name)
    given = Inputs(dict.fromkeys(step.names), {wanted: label or "" for wanted, label in step.names.items()})
    undeclared = [
        handle
        for handle in (*vars(handles).values(), folder("anything"))
        if isinstance(handle, handles.Input) and handle not in step.stage.inputs
    ]
    assert undeclared
    for handle in undeclared:
        with pytest.raises(KeyError):
            given[handle]


@every_stage
def test_raising_a_version_of_any_code_behind_it_changes_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = step_of(name).stage
    before = stage.versions
    assert before
    for module in stage.code:
        with monkeypatch.context() as patch:
            patch.setattr(module, "VERSION", module.VERSION + 1)
            assert stage.versions != before


def test_no_version_of_the_code_is_forgotten() -> None:
    """Every module with a VERSION is behind a stage, or its product is no stage's and has a record of its own."""
    behind = {module.__name__ for stage in STAGES for module in stage.code}
    behind |= {"steersman.lm.tiny", "steersman.rating.schema", "steersman.interp.organisms.organism"}
    behind |= {"steersman.rating.statement_store", "steersman.values.who_wins"}
    behind |= {f"steersman.train.{name}" for name in ("group_reward", "reward_mixture", "distributional_reward")}
    behind |= {f"steersman.interp.hardening.{name}" for name in ("preventative", "refat", "rerouting", "tamper")}
    package = Path(pipeline.__file__).parent
    declared = {
        "steersman." + ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if "\nVERSION = " in path.read_text(encoding="utf-8")
    }
    assert declared == behind


@every_stage
def test_a_stage_that_uses_a_model_has_an_estimate(name: str) -> None:
    stage = step_of(name).stage
    assert (handles.BASE in stage.inputs) == (stage.estimate is not None)


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class Killed(BaseException):
    """Where a process would have died."""


def run_killed(step: Step, given: Inputs, folder: Path, events: int) -> bool:
    """Run the stage until it has emitted so many events; whether it got so far."""
    left = [events]

    def emit(**_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    folder.mkdir(parents=True, exist_ok=True)
    try:
        step.stage.run(step.config, given, StageFolder(folder, step.stage.name, emit))
    except Killed:
        return True
    return False


@pytest.mark.parametrize(
    "name", [n if n in ("sft", "rl", "aligned_answers") else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_declared_inputs_suffice_and_a_killed_stage_resumes_to_the_same_bytes(
    name: str, finished: Path, tmp_path: Path
) -> None:
    """Killed after its first event, again after two more, and then left alone."""
    step = step_of(name)
    given, out = given_to(step, finished), tmp_path / "run" / name
    for events in (1, 2):
        run_killed(step, given, out, events)
    step.stage.run(step.config, given, StageFolder(out, name))
    expected = contents(finished / name)
    found = contents(out)
    assert {file: found.get(file) for file in expected} == expected


# ── the key ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_second_call_reuses_every_stage(finished: Path) -> None:
    said: list[str] = []
    pipeline.align(recipe(), finished, echo=said.append)
    assert [line.split(": ")[1] for line in said] == ["reused"] * len(NAMES)


@pytest.mark.slow
def test_a_retrained_judge_reward_model_runs_again_what_asks_it(finished: Path, tmp_path: Path) -> None:
    """The rules decide both questions of the card, so that the card is the same for another reward model."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))

    def align(*settings: str) -> dict[str, str]:
        said: list[str] = []
        quick = ("judge.questions=2", "revisions.drop=[]", "rl=null", "cost_model=null")
        chosen = load_recipe("smoke", [*SETTINGS, *quick, *settings])
        pipeline.align(chosen, run, until="feedback", echo=said.append)
        return {line.split(": ")[0].split()[1]: line.partition(": ")[2] for line in reversed(said)}

    align()
    again = align("reward_model.seed=5", "reward_model.optimiser.learning_rate=0.01")
    assert again["reward_model"].startswith("changed: config.")
    for name in ("judge_card", "revisions", "feedback"):
        assert "inputs.reward_model: " in again[name], again[name]


def test_without_the_reward_model_as_a_judge_its_training_changes_no_revision(finished: Path) -> None:
    chosen = load_recipe("smoke", [*SETTINGS, "judge.kinds=[rules]"])
    step = next(step for step in stages_of(chosen) if step.stage.name == "revisions")
    assert step.names[handles.JUDGE_REWARD_MODEL] is None


def test_a_new_stage_is_a_value_and_a_place_in_the_order(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that counts words of the aligned answers: nothing else in the package knows of it."""

    def run(config: Any, given: Inputs, out: StageFolder) -> None:
        text = (given[handles.ALIGNED_ANSWERS] / "answers.jsonl").read_text(encoding="utf-8")
        out.file("counted.txt").write_text(str(len(text.split())), encoding="utf-8")

    code = ModuleType("steersman.counting")
    code.VERSION = 1  # type: ignore[attr-defined]
    counting: Stage[Any] = Stage("counting_for_a_test", (code,), lambda r: r.answers, (handles.ALIGNED_ANSWERS,), run)
    monkeypatch.setattr(pipeline, "STAGES", (*STAGES[:-1], counting, STAGES[-1]))
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    said: list[str] = []
    pipeline.align(recipe(), copy, echo=said.append)
    assert [line.split()[1] for line in said if "done in" in line] == ["counting_for_a_test:"]
    assert int((copy / "counting_for_a_test" / "counted.txt").read_text(encoding="utf-8")) > 0
    assert dataclasses.is_dataclass(counting)
    assert Run(copy).manifest("counting_for_a_test")["version"] == {"counting": 1}  # type: ignore[index]


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────
HOSTILE = '</pre><script>alert("x")</script>\u202e<img src=x onerror=alert(1)>'


def hostile(value: Any) -> Any:
    """The value with markup in every text of several words: answers, prompts, critiques, titles."""
    if isinstance(value, dict):
        return {key: hostile(one) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return f"{HOSTILE} {value}" if isinstance(value, str) and " " in value else value


@pytest.mark.parametrize("name", [stage.name for stage in STAGES if stage.section])
def test_a_section_renders_hostile_text_as_text(name: str, finished: Path, tmp_path: Path) -> None:
    stage = step_of(name).stage
    assert stage.section is not None
    record = read_evidence(Run(finished)).record(name)
    assert record is not None
    assert stage.section(record) is not None, "the smoke run should give it something to show"
    folder = Path(shutil.copytree(finished / name, tmp_path / name))
    for file in (*folder.rglob("*.json"), *folder.rglob("*.jsonl")):
        if file.suffix == ".json":
            write_json(file, hostile(read_json(file)))
        else:
            write_jsonl(file, [hostile(row) for row in read_jsonl(file)])
    titles = dict.fromkeys(record.titles, HOSTILE)
    section = stage.section(dataclasses.replace(record, folder=folder, titles=titles))
    assert section is not None
    assert section.id == name
    page = html.render(Page(title="T", facts=Facts(items=()), summary=(), sections=(section,), version="0"))
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "\u202e" not in page
    console = Console(width=80, file=io.StringIO())
    console.print(terminal.render((section,)))
    assert "\u202e" not in console.file.getvalue()  # type: ignore[attr-defined]
