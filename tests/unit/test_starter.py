"""`steersman init`: the project that it writes is sound, and aligns from the first command to the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman import pipeline
from steersman.cli.align import FILES, PROJECT, write_project
from steersman.constitution import document
from steersman.constitution.lint import lint
from steersman.data import sources
from steersman.data.check import check
from steersman.errors import UserError
from steersman.evals.detectors.behaviours import detect
from steersman.recipe import load_recipe
from steersman.types import plain_text

COUNTS = {"demonstrations": 14, "comparisons": 4, "prompts": 6, "evaluation": 8}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path / "mine")
    return tmp_path / "mine"


def test_every_file_of_the_project_is_written(project: Path) -> None:
    def below(folder: Path) -> list[Path]:
        return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())

    assert below(project) == below(PROJECT) == sorted(map(Path, FILES))
    for name in FILES:
        assert (project / name).read_bytes() == (PROJECT / name).read_bytes()


def test_an_empty_folder_is_welcome_and_missing_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert write_project(folder) == [folder / name for name in FILES]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"the folder is not empty \(it holds notes\.txt\)") as error:
        write_project(tmp_path)
    assert error.value.exit_code == 2
    assert list(tmp_path.iterdir()) == [notes]
    for folder in (notes, notes / "below"):
        with pytest.raises(UserError, match="no folder can be made here"):
            write_project(folder)
    assert notes.read_text(encoding="utf-8") == "mine"


# ── the project itself ───────────────────────────────────────────────────────────────────────────────────────────────
def test_the_constitution_is_sound_alone_and_with_its_data(project: Path) -> None:
    constitution, data = document.load(project / "constitution.yaml"), sources.load(project / "data")
    assert 3 <= len(constitution.principles) <= 4
    assert constitution.publisher != "Steersman"
    findings = lint(
        constitution,
        demonstrations=data.demonstrations,
        comparisons=data.comparisons,
        prompts=data.prompts,
        evaluation=data.measured_on,
    )
    assert findings == []


def test_the_data_are_few_complete_and_honestly_split(project: Path) -> None:
    found = check(*sources.load(project / "data").rows)
    assert {file: n for file, n in found.counts.items() if n} == COUNTS
    assert (found.leaks, found.shared_topics) == ([], [])
    assert [pair for pairs in found.twins.values() for pair in pairs] == []
    assert {min(row[1:5]) for row in found.coverage} == {1}


def test_the_demonstrations_show_the_behaviours_of_their_principles(project: Path) -> None:
    constitution = document.load(project / "constitution.yaml")
    for row in sources.load(project / "data").demonstrations:
        wanted = set(constitution.principle(row.principles[0]).behaviours)
        wanted -= {"complies"} if "harmful" in row.tags else {"refuses"}
        text = plain_text(row.prompt)
        assert {behaviour for behaviour in wanted if not detect(behaviour, text, row.completion)} == set(), text


def test_each_principle_has_an_example_whose_revision_keeps_it_and_whose_answer_does_not(project: Path) -> None:
    for principle in document.load(project / "constitution.yaml").principles:
        (example,) = principle.examples
        wanted = set(principle.behaviours) - ({"complies"} if "refuses" in principle.behaviours else set())
        assert all(detect(behaviour, example.prompt, example.revision) for behaviour in wanted), principle.id
        assert not all(detect(behaviour, example.prompt, example.answer) for behaviour in wanted), principle.id


def test_the_recipe_s_paths_are_relative_to_the_recipe(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("mine/recipe.yaml")
    assert (recipe.model, recipe.constitution, recipe.data) == ("gemma-3-270m", "mine/constitution.yaml", "mine/data")
    asked = {plain_text(row.prompt) for row in sources.load(recipe.data).evaluation}
    assert asked.issuperset(recipe.report.featured)


def test_the_project_aligns_from_the_first_command_to_the_report(project: Path, tmp_path: Path) -> None:
    settings = [
        "model=tiny-random",
        "sft.epochs=1",
        "examples.limit_evaluation=4",
        "answers.sampling.max_new_tokens=4",
        "answers.few_shot_examples=1",
        "capability.knowledge_items=2",
        "capability.neutral_passages=1",
    ]
    said: list[str] = []
    recipe = load_recipe(project / "recipe.yaml", settings)
    run = pipeline.align(recipe, tmp_path / "run", echo=said.append)
    assert "question-desk" in (run.path / "constitution.json").read_text(encoding="utf-8")
    assert "Brackwater" in (run.path / "report" / "index.html").read_text(encoding="utf-8")
    again: list[str] = []
    pipeline.align(recipe, tmp_path / "run", echo=again.append)
    assert len(again) == len(pipeline.stages_of(recipe))
    assert all(line.endswith(": reused") for line in again)
