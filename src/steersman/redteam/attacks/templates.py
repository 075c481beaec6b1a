"""Lists of templates that a user brings, in the forms of garak, PyRIT and GPTFuzzer, or as plain lines.

    .txt                 one template a line; blank lines and those that begin with # are left out
    .json                a list of strings (garak), or of objects
    .jsonl, .jsonl.gz    a string or an object a line
    .csv                 a column `text`, `template`, `value` or `prompt` (GPTFuzzer's `text`)
    .yaml, .prompt       PyRIT's: `value` or `template`, or a list of such under `seeds` or `prompts`
    a folder             all of these in it, as PyRIT keeps its templates

Where the request goes stands `{prompt}`, `{{ prompt }}`, `[INSERT PROMPT HERE]`, or one of their many spellings; all
become `{prompt}`. A template that has none, that needs more than the request, or that was there before is left out,
counted and named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from steersman.data.tables import rows_of
from steersman.errors import DataError
from steersman.yaml_lines import load_yaml

PLACEHOLDER = "{prompt}"
SUFFIXES = (".txt", ".json", ".jsonl", ".jsonl.gz", ".csv", ".yaml", ".yml", ".prompt")
_COLUMNS = ("template", "value", "text", "prompt")
_WORDS = r"(?:prompt|query|question|request|input|goal|instruction|behaviou?r)"
_PLACES = re.compile(
    rf"""(?ix) \{{\{{ \s* {_WORDS} \s* \}}\}} | \{{ \s* {_WORDS} \s* \}} | <\s*{_WORDS}\s*>
    | [\[{{<] \s* (?:please\s)? (?:(?:insert|put|paste|place|enter|type|write|add)[\s_]+)? (?:your|the|any|a|my|user)?
      [\s_]* {_WORDS} (?:[\s_]+here)? \s* \\? [\]}}>]"""
)
_MODEL = re.compile(r"\{generator\.name\}")  # garak writes the name of the model here
_RAW = re.compile(r"\{%-?\s*(?:end)?raw\s*-?%\}")  # PyRIT marks text that Jinja is to leave alone
_MORE = re.compile(r"\{%.*?%\}|\{\{\s*(\w[\w.]*)[^}]*\}\}", re.DOTALL)
_SHOWN = 5  # names in a message


class LeftOut(NamedTuple):
    """A template that cannot be used. ``where``: file, and line or number; ``why``: in a few words."""

    where: str
    why: str


class Templates(NamedTuple):
    """The templates of a list, each with `PLACEHOLDER` in it, and those that were left out."""

    texts: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    def told(self) -> str:
        """How many were left out, and the first of them; empty if none."""
        if not self.left_out:
            return ""
        shown = "; ".join(f"{row.where}: {row.why}" for row in self.left_out[:_SHOWN])
        more = len(self.left_out) - _SHOWN
        return (
            f"{len(self.left_out)} of {len(self.left_out) + len(self.texts)} templates were left out ({shown}"
            f"{f'; and {more} more' if more > 0 else ''})"
        )


def fill(template: str, request: str) -> str:
    """The template with the request in every place for it; nothing else that stands in braces changes."""
    return template.replace(PLACEHOLDER, request)


def read_templates(path: Path) -> Templates:
    """The templates of a file, or of all files of a folder, each once.

    Raises:
        DataError: there is no such file, it cannot be read, or no template in it can be used.
    """
    if not path.exists():
        raise DataError("there is no such file or folder", where=str(path), do="name a list of templates")
    files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES)) if path.is_dir() else [path]
    texts: dict[str, None] = {}
    left_out: list[LeftOut] = []
    for file in files:
        for place, text in _read(file):
            usable, why = _with_placeholder(text)
            if why or usable in texts:
                why = why or "is the same as an earlier one"
                left_out.append(LeftOut(f"{file.name}{place}", why))
            else:
                texts[usable] = None
    found = Templates(tuple(texts), tuple(left_out))
    if not texts:
        raise DataError(
            found.told() or "there are no templates here",
            where=str(path),
            expected=f"templates with {PLACEHOLDER} where the request goes, in {', '.join(SUFFIXES)}",
            do=f"write {PLACEHOLDER} into each template",
        )
    return found


def _with_placeholder(text: str) -> tuple[str, str]:
    """The template with one spelling of its place for the request, and why it cannot be used, empty if it can."""
    made = _PLACES.sub(lambda _: PLACEHOLDER, _RAW.sub("", _MODEL.sub("the assistant", text))).strip()
    if more := _MORE.search(made):
        return "", f"needs {more[1]}" if more[1] else "holds instructions of Jinja"
    return made, "" if PLACEHOLDER in made else "has no place for the request"


def _read(file: Path) -> Iterator[tuple[str, str]]:
    """The place and the text of every template of a file."""
    if file.suffix in (".yaml", ".yml", ".prompt"):
        data, line_of = load_yaml(file, DataError)
        rows = data.get("seeds", data.get("prompts"))
        for at, row in enumerate(rows if isinstance(rows, list) else [data]):
            line = line_of(("seeds" if "seeds" in data else "prompts", at)) if isinstance(rows, list) else 1
            yield f":{line}", _text(row, file, line)
        return
    first = 2 if ".csv" in file.suffixes else 1  # its first line names the columns
    for at, row in enumerate(rows_of(file), start=first):
        if isinstance(row, str) and not row.strip():
            continue
        if isinstance(row, str) and file.suffix != ".txt":
            try:
                row = json.loads(row)
            except ValueError as error:
                raise DataError(f"no JSON ({error})", where=f"{file}:{at}", expected="a string or an object") from None
        elif isinstance(row, str) and row.lstrip().startswith("#"):
            continue
        yield f":{at}", _text(row, file, at)


def _text(row: object, file: Path, line: int) -> str:
    if isinstance(row, str):
        return row
    text = next((row[name] for name in _COLUMNS if row.get(name)), None) if isinstance(row, Mapping) else None
    if not isinstance(text, str):
        raise DataError(
            "this is no template", where=f"{file}:{line}", expected=f"text, or one of the fields {', '.join(_COLUMNS)}"
        )
    return text
