"""The documentation is true: its code runs, its commands and links exist, its tables are those of the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generate
import pytest
import typer
from tests.conftest import Shared
from tests.toy.conftest import align_smoke

import steersman
from steersman.cli import app
from steersman.types import Comparison, Demonstration, Prompt, Record

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages, in order."""
    return [code for language, code in FENCE.findall(text_of(name)) if language in languages]


def prose(name: str) -> str:
    return FENCE.sub("", text_of(name))


# ── code ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # a reader's Python does not turn warnings into errors
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "tutorial"}
    code = blocks("docs/tutorial.md", "python")
    assert len(code) >= 8
    for number, block in enumerate(code, start=1):
        exec(compile(block, f"docs/tutorial.md, block {number}", "exec"), names)
    assert (tmp_path / "runs" / "tutorial" / "report" / "index.html").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_the_page_on_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "api"}
    for number, block in enumerate(blocks("docs/api.md", "python"), start=1):
        exec(compile(block, f"docs/api.md, block {number}", "exec"), names)
    assert len(names["texts"]) == len(names["scores"]) == 2
    assert names["logprobs"].shape == names["targets"].shape
    assert names["rows"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_on_the_inside_runs(shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "laptop").symlink_to(shared("run", align_smoke))
    names: dict[str, Any] = {"__name__": "interp_tutorial"}
    code = blocks("docs/interp_tutorial.md", "python")
    assert len(code) >= 10
    for number, block in enumerate(code, start=1):
        exec(compile(block, f"docs/interp_tutorial.md, block {number}", "exec"), names)
    assert names["done"].largest <= 1e-5
    assert "<script" not in (tmp_path / "inside.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside.html", "runs"]


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(name, "python")])
def test_python_blocks_are_python(name: str) -> None:
    for block in blocks(name, "python"):
        compile(block, name, "exec")


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def commands(name: str) -> Iterator[list[str]]:
    """Every `steersman ...` of a page: lines of shell blocks, and inline code."""
    lines = [line for block in blocks(name, "sh") for line in block.splitlines()]
    lines += re.findall(r"^    ((?:\S*/)?steersman .*)$", prose(name), re.M)
    lines += re.findall(r"`((?:\S*/)?steersman [^`]+)`", prose(name))
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and words[0].split("/")[-1] == "steersman":
            yield words[1:]


def parsed(words: list[str]) -> None:
    """Walk from the program to the verb, and look every flag up there. Nothing is run."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands and hasattr(command, "default"):
            words = [command.default, *words]
        assert words[0] in command.commands, f"no verb {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("-"):
            assert word in known, f"{command.name} has no flag {word}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    for words in commands(name):
        try:
            parsed(words)
        except AssertionError as error:
            pytest.fail(f"{name}: steersman {' '.join(words)}: {error}")


def test_commands_are_found_and_wrong_ones_caught() -> None:
    assert ["chat", "runs/laptop", "--compare", "How should I invest 10,000 euros?"] in list(commands("README.md"))
    for wrong in (["aling"], ["align", "laptop", "--modle", "x"], ["data", "chekc", "assistant"]):
        with pytest.raises(AssertionError):
            parsed(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.M))
    shell = [line for block in blocks(name, "sh") for line in block.splitlines()]
    for line in [*shell, *re.findall(r"`(make [^`]+)`", prose(name))]:
        if line.startswith("make "):
            assert line.split()[1] in targets, f"{name}: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_settings_exist(name: str) -> None:
    known = set(re.findall(r"^\| `([\w.]+)`", generate.keys(), re.M)) | set(steersman.Recipe.model_fields)
    for setting in re.findall(r"--set \"?([\w.]+)=", text_of(name)):
        assert setting in known or setting == "key", f"{name}: --set {setting}"


def test_the_starter_project_holds_what_the_pages_name(tmp_path: Path) -> None:
    from steersman.cli.align import write_project

    write_project(tmp_path / "my-project")
    for name in NAMES:
        for path in re.findall(r"\bmy-project/[\w./-]*\w", text_of(name)):
            assert (tmp_path / path).exists(), f"{name}: {path}"


# ── links ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_relative_to(ROOT), f"{name}: {link} leads out of the repository"
        assert target.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name}: {link}, which has {sorted(anchors(target))}"


@pytest.mark.parametrize("name", NAMES)
def test_paths_named_in_prose_exist(name: str) -> None:
    """Files of the source and the tests that a page names as code."""
    source = ROOT / "src" / "steersman"
    rooms = tuple(f"{path.name}/" for path in source.iterdir() if path.is_dir())
    for path in re.findall(r"`([\w./-]+\.(?:py|toml|txt|jsonl?))`", prose(name)):
        if path.startswith(("src/", "tests/", "docs/", "recipes/")):
            assert (ROOT / path).exists(), f"{name}: {path}"
        elif path.startswith(rooms) and path.endswith(".py"):
            assert (source / path).exists(), f"{name}: {path}"


def test_every_page_is_in_the_index() -> None:
    linked = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", text_of("docs/README.md"))}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - {ROOT / "docs" / "README.md"}
    assert not pages - linked, sorted(str(page) for page in pages - linked)


@pytest.mark.parametrize("name", NAMES)
def test_no_placeholder_is_left(name: str) -> None:
    assert re.findall(r"<<[^<>\n]*>>", text_of(name)) == []


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_parts_are_those_of_the_code(name: str) -> None:
    assert generate.written(text_of(name)) == text_of(name), "run `make docs`"


def test_every_key_of_a_recipe_has_a_description() -> None:
    rows = re.findall(r"^\| `([\w.]+)`(?: †)? \| (?:[^|]|\\\|)+ \| (.*) \|$", generate.keys(), re.M)
    assert len(rows) > 190
    assert [key for key, meaning in rows if len(meaning.split()) < 2] == []


def test_data_fields_are_documented() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([\w, ]+) \|", text_of("docs/data.md"), re.M)
    page = {field: files for names, files in rows for field in re.findall(r"`(\w+)`", names)}
    homes: dict[str, type[Record]] = {
        "demonstrations": Demonstration,
        "comparisons": Comparison,
        "prompts": Prompt,
        "evaluation": Prompt,
    }
    wanted = {
        field: ", ".join(file for file, record in homes.items() if field in record.model_fields)
        for record in homes.values()
        for field in record.model_fields
    }
    everywhere = ", ".join(homes)
    assert page == {field: "all" if files == everywhere else files for field, files in wanted.items()}


def test_the_changelog_is_about_this_version() -> None:
    versions = re.findall(r"^## \[([^\]]+)\] - (?:Unreleased|\d{4}-\d\d-\d\d)$", text_of("CHANGELOG.md"), re.M)
    assert len(versions) == len(re.findall(r"^## ", text_of("CHANGELOG.md"), re.M))
    assert versions[0] == steersman.__version__
