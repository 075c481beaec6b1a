"""YAML with line numbers: read a file so that every mistake is reported with its line.

A usual loader forgets where a value came from, keeps the last of two equal keys, and turns ``no`` into false,
``12:30`` into 750 and ``2026-01-31`` into a date. Here the text is composed into nodes, which remember their lines,
and the nodes are interpreted by the core schema of YAML 1.2: text, whole numbers, numbers, true, false, null, lists and
mappings. Duplicate keys, aliases and tags are refused. No constructor of PyYAML ever runs.

    data, line_of = load_yaml(path, RecipeError)
    recipe = validate(Recipe, data, path, line_of, RecipeError)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from steersman.errors import UserError, closest
from steersman.types import Slug

Loc = tuple[int | str, ...]  # pydantic's path to a value: keys and 0-based positions
LineOf = Callable[[Loc], int]  # the 1-based line of that value's key or item, or of the nearest thing around it
Model = TypeVar("Model", bound=BaseModel)


class Problem(NamedTuple):
    """One mistake in the file: its line, and what was found and expected."""

    line: int
    text: str


def load_yaml(path: Path, error_class: type[UserError]) -> tuple[dict[str, Any], LineOf]:
    """Read a YAML mapping and a function from pydantic locations to lines.

    Raises:
        error_class: the file is missing, empty, not UTF-8, not YAML or not a mapping, is indented with tabs, or has
            equal keys, aliases or tags. All such problems that can be seen at once are listed, one per line.
    """
    text, walk = _read_text(path, error_class), _Walk()
    try:
        root = _compose(text, path, error_class)
        data = walk.read(root, ()) if root else None
    except RecursionError:
        raise _refusal(error_class, path, [Problem(1, "found lists nested too deeply to read")]) from None
    if root is None:
        raise _refusal(error_class, path, [Problem(1, "the file is empty; expected lines of the form `key: value`")])
    if walk.problems:
        raise _refusal(error_class, path, walk.problems)
    if not isinstance(data, dict):
        line = _line(root.start_mark)
        what = f"found {_describe(data)}; expected a mapping (lines of the form `key: value`)"
        raise _refusal(error_class, path, [Problem(line, what)])
    return data, partial(_line_of, walk.lines)


def parse(text: str) -> Any:
    """One value in the same YAML, for ``--set key=value``; what is not YAML is text."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    return None if node is None else _Walk().read(node, ())


def validate(model: type[Model], data: object, path: Path, line_of: LineOf, error_class: type[UserError]) -> Model:
    """Build the model from the data of ``load_yaml``.

    Raises:
        error_class: with all problems, one per line, in the order of the file.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _refusal(error_class, path, _problems(error, line_of, model)) from None


def explain(error: ValidationError, path: Path, line_of: LineOf, model: type[BaseModel]) -> str:
    """One line ``FILE:LINE: where: found ...; expected ...`` for each problem, in the order of the file."""
    return _listing(path, _problems(error, line_of, model))


def describe(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """The dotted key and one line ``where: found ...; expected ...`` for each problem, for values without a file."""
    details = error.errors(include_url=False)
    texts = [_printable(_problem(detail, lambda _: 0, model).text) for detail in details]
    return [(_key(model, detail["loc"]), text) for detail, text in zip(details, texts, strict=True)]


def _key(model: type[BaseModel], loc: Loc) -> str:
    """A location as a dotted key, without pydantic's union tags."""
    parts = []
    for depth, part in enumerate(loc):
        owners = _models_at(model, loc[:depth])
        if len(owners) == 1 or isinstance(part, int) or any(part in owner.model_fields for owner in owners):
            parts.append(str(part))
    return ".".join(parts)


# ------------------------------------------------------------------------------------------------ from text to nodes


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the plain scalars of YAML 1.2 (without octal and hexadecimal numbers)."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own name; add_implicit_resolver fills it)


_TAG = "tag:yaml.org,2002:"
_NUMBER_START = list("-+.0123456789")
for _kind, _pattern, _start in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", _NUMBER_START),
    ("float", r"^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", _NUMBER_START),
    ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", _NUMBER_START),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), _start)


def _read_text(path: Path, error_class: type[UserError]) -> str:
    """The text of the file; refuses what is not UTF-8, and tabs where indentation is meant."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise error_class(f"cannot read the file: {reason}", where=str(path), expected="a YAML file") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        what = f"found the byte 0x{error.object[error.start]:02x}, which is not UTF-8; expected a file saved as UTF-8"
        raise _refusal(error_class, path, [Problem(line, what)]) from None
    tabs = [number for number, line in enumerate(text.split("\n"), 1) if re.match(r" *\t\s*\S", line)]
    if tabs:
        what = "found a tab at the beginning of the line; expected spaces"
        raise _refusal(error_class, path, [Problem(number, what) for number in tabs])
    return text


def _compose(text: str, path: Path, error_class: type[UserError]) -> yaml.Node | None:
    """The tree of nodes; refuses invalid YAML, and aliases, whose nesting can exhaust the memory."""
    try:
        aliases = [event for event in yaml.parse(text, Loader=_Loader) if isinstance(event, yaml.AliasEvent)]
        if not aliases:
            return yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _refusal(error_class, path, [_syntax_problem(error, text)]) from None
    what = "found a reference to another place (*{}); expected the text itself (in quotes if it begins with *)"
    raise _refusal(
        error_class, path, [Problem(_line(alias.start_mark), what.format(alias.anchor)) for alias in aliases]
    )


_PLAIN_WORDS = {  # start of PyYAML's message: the message for people
    "mapping values are not allowed here": "found a second `: ` in one value, or a line indented too far; "
    'expected text with a colon in quotes ("...") or below `>-`',
    "could not find expected ':'": "found a line without a `: ` after its key; expected `key: value`",
    "found unexpected end of stream": "found a quotation mark that is never closed; expected a second one",
    "but found another document": "found a second document after `---`; expected one document in a file",
    "expected <block end>, but found '-'": "found a list item at the wrong indentation; expected it below its fellows",
    "expected <block end>, but found '<block mapping start>'": "found a key indented differently from its fellows; "
    "expected them one below the other",
    "expected <block end>, but found '<scalar>'": "found text after a closing quotation mark or out of its column; "
    "expected the whole value in quotes or below `>-`",
    "expected ',' or ']'": "found a list that is never closed, or a comma missing in it; expected [one, two]",
    "expected ',' or '}'": "found a brace that is never closed, or a comma missing after it; "
    "expected text with a brace in quotes",
    "expected alphabetic": "found a value that begins with * or &; expected it in quotes",
    "found unknown escape": "found a backslash in double quotes; expected single quotes around such text",
}


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    """Where PyYAML stopped, with a plain message for known problems."""
    if isinstance(error, yaml.reader.ReaderError):
        what = f"found the control character U+{ord(text[error.position]):04X}; expected printable text"
        return Problem(text.count("\n", 0, error.position) + 1, what)
    assert isinstance(error, yaml.MarkedYAMLError)
    # An unfinished key, quotation or bracket is detected later; the context is then where the mistake begins.
    unfinished = isinstance(error, yaml.scanner.ScannerError) or "flow" in (error.context or "")
    mark = (error.context_mark if unfinished else None) or error.problem_mark
    problem = error.problem or str(error)
    character = re.match(r"found character (.+) that cannot start any token", problem)
    if character:
        name = "a tab" if character[1] == r"'\t'" else f"the character {character[1]}"
        what = f"found {name} where a value begins; expected spaces, or the value in quotes"
    else:
        known = (words for start, words in _PLAIN_WORDS.items() if problem.startswith(start))
        what = next(known, f"not readable as YAML: {problem}")
    return Problem(_line(mark), what)


def _line(mark: Any) -> int:
    """The 1-based line of a mark of PyYAML (whose classes for it share no base); 1 where it gives none."""
    return int(mark.line) + 1 if mark else 1


# ------------------------------------------------------------------------------------------------ from nodes to data


@dataclass
class _Walk:
    """One walk over the nodes: collects the data, the line of every key and item, and all problems."""

    lines: dict[Loc, int] = field(default_factory=lambda: {(): 1})
    problems: list[Problem] = field(default_factory=list)

    def read(self, node: yaml.Node, loc: Loc) -> Any:
        """The value of a node; an unreadable one becomes a problem and None."""
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._read_mapping(node, loc)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            for position, item in enumerate(node.value):
                self.lines[(*loc, position)] = _line(item.start_mark)
            return [self.read(item, (*loc, position)) for position, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                return _SCALARS[node.tag](node.value)
            except ValueError:
                self._note(node, f"found {_describe(node.value)}; expected a number")
                return None
        self._note(node, f"found the tag {node.tag.replace(_TAG, '!!')}; expected a value without a tag")
        return None

    def _read_mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._note(key, "found a list or a mapping as a key; expected text (put braces in quotes)")
                continue
            line = _line(key.start_mark)
            name = str(key.value)
            if name in mapping:
                first = self.lines[(*loc, name)]
                self._note(key, f'found the key "{name}" a second time (first on line {first}); expected it once')
            else:
                self.lines[(*loc, name)] = line
            mapping[name] = self.read(value, (*loc, name))
        return mapping

    def _note(self, node: yaml.Node, text: str) -> None:
        self.problems.append(Problem(_line(node.start_mark), text))


_SCALARS: Mapping[str, Callable[[str], object]] = {
    _TAG + "str": str,
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": int,
    _TAG + "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
}


def _line_of(lines: Mapping[Loc, int], loc: Loc) -> int:
    """The line of the deepest known location on the path to ``loc``; pydantic's union tags are skipped."""
    known: Loc = ()
    for part in loc:
        if (*known, part) in lines:
            known = (*known, part)
    return lines[known]


# ------------------------------------------------------------------------------------------ from mistakes to messages

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (lines of the form `key: value`)",
    "model_type": "a mapping (lines of the form `key: value`)",
    "model_attributes_type": "a mapping (lines of the form `key: value`)",
    "string_too_short": "some text",
    "string_unicode": "whole characters",
}
_SLUG_PATTERN = get_args(Slug)[1].pattern


def _problems(error: ValidationError, line_of: LineOf, model: type[BaseModel]) -> list[Problem]:
    return [_problem(detail, line_of, model) for detail in error.errors(include_url=False)]


def _problem(detail: ErrorDetails, line_of: LineOf, model: type[BaseModel]) -> Problem:
    loc, kind = detail["loc"], detail["type"]
    place = loc
    if kind == "missing":
        place, text = loc[:-1], f'the key "{loc[-1]}" is missing; expected a line `{loc[-1]}: ...`'
    elif kind == "extra_forbidden":
        known = sorted({name for owner in _models_at(model, loc[:-1]) for name in owner.model_fields} - {loc[-1]})
        place, text = loc[:-1], f'found the unknown key "{loc[-1]}"; {closest(str(loc[-1]), known, limit=1)}'
    else:
        text = _value_problem(detail)
    words = [f"item {part + 1}" if isinstance(part, int) else part for part in place]
    return Problem(line_of(loc), f"{', '.join(words)}: {text}" if words else text)


def _value_problem(detail: ErrorDetails) -> str:
    """``found ...; expected ...`` for a value of the wrong kind."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "literal_error":
        expected = context["expected"].replace("'", "")
        near = closest(str(value), re.findall(r"'([^']*)'", context["expected"]), limit=1)
        expected += f"; {near}" if near.startswith("did you mean") else ""
    elif kind == "string_pattern_mismatch" and context["pattern"] == _SLUG_PATTERN:
        expected = "small letters and digits, joined by hyphens, such as no-flattery"
    elif kind == "too_short":
        expected = f"at least {context['min_length']}"
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
        if expected == "text" and isinstance(value, bool | int | float):
            expected += " (put it in quotes)"
        if expected == "a list" and isinstance(value, str):
            expected += " (in square brackets, or one `- ` line for each item)"
    elif message.startswith("Input should "):
        expected = message.removeprefix("Input should ").removeprefix("be ")
    else:
        return message
    return f"found {_describe(value)}; expected {expected}"


def _describe(value: object) -> str:
    """A value for a message: the number, the beginning of the text, the length of the list."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return f'"{text}"' if value.strip() else "empty text"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    return "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _models_at(model: type[BaseModel], loc: Loc) -> list[type[BaseModel]]:
    """The models possible at a location: their fields are the keys that are known there."""
    models = [model]
    for part in loc:
        fields = [owner.model_fields[str(part)] for owner in models if part in owner.model_fields]
        inner = [nested for field_ in fields for nested in _models_in(field_.annotation)]
        models = inner or models  # a position, a union tag or a free key of a mapping stays where it is
    return models


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _listing(path: Path, problems: Iterable[Problem]) -> str:
    ordered = sorted(problems, key=lambda problem: problem.line)
    return "\n".join(f"{path}:{problem.line}: {_printable(problem.text)}" for problem in ordered)


def _printable(text: str) -> str:
    """The text on one line, escaped: a file can hold line ends, terminal codes and half characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _refusal(error_class: type[UserError], path: Path, problems: Sequence[Problem]) -> UserError:
    """The error whose text is the listing; its ``where`` is the place of the first problem."""
    where = f"{path}:{min(problem.line for problem in problems)}"
    return error_class(_listing(path, problems).removeprefix(f"{where}: "), where=where)
