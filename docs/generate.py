"""Write the generated parts of the documentation: ``python docs/generate.py`` (or ``make docs``).

The keys of recipes come from the configurations' field descriptions, the stages from `pipeline.STAGES`. A generated
part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; a test compares it with what is written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from steersman.pipeline import STAGES
from steersman.recipe import Recipe, records_in
from steersman.redteam.attack import Attack
from steersman.redteam.attacks import ATTACKS, FAMILIES
from steersman.stage import Input, Stage
from steersman.types import Record

ROOT = Path(__file__).resolve().parents[1]


def keys() -> str:
    """A table for each section of a recipe."""
    plain = [row for name in Recipe.model_fields if not list(_records(name)) for row in _rows(Recipe, "", {name})]
    parts = [_table("The run", plain)]
    for name, field in Recipe.model_fields.items():
        for model in _records(name):
            title = f"`{name}`" + (f", `algorithm: {_algorithm(model)}`" if len(list(_records(name))) > 1 else "")
            parts.append(f"{_table(title, list(_rows(model, name + '.')), field.description or '')}")
    return "\n\n".join(parts)


def stages() -> str:
    """The stages in their order, with the section that switches each on and what it reads."""
    lines = ["| stage | section | what it does | reads |", "|---|---|---|---|"]
    for stage in STAGES:
        reads = ", ".join(dict.fromkeys(_named(wanted) for wanted in stage.inputs))
        does = (stage.run.__doc__ or "").split("\n")[0].rstrip(".")
        name = f"`{stage.name}`" + (" *" if stage.trains else "")
        lines.append(f"| {name} | {_section(stage)} | {does} | {reads} |")
    return "\n".join([*lines, "", "\\* Trains: under `torchrun`, every process takes part."])


def order() -> str:
    """The stages by name, in their order."""
    return "```\n" + " → ".join(stage.name for stage in STAGES) + "\n```"


def families() -> str:
    """The families of attacks, with the number of their members and what these ask and need."""
    lines = ["| family | members | adaptive | asks | needs | papers |", "|---|---|---|---|---|---|"]
    for family in FAMILIES:
        own = [attack for attack in ATTACKS if attack.family == family]
        needs = ", ".join(sorted({f"`{need}`" for attack in own for need in attack.needs})) or "nothing"
        papers = "; ".join(dict.fromkeys(paper for attack in own for paper in attack.paper.split("; ")))
        numbers = sorted({attack.asks for attack in own if attack.asks is not None})
        asks = [str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"] if numbers else []
        asks += ["budget"] if any(attack.asks is None for attack in own) else []
        adaptive = sum(attack.adaptive for attack in own)
        lines.append(f"| {family} | {len(own)} | {adaptive or ''} | {', '.join(asks)} | {needs} | {papers} |")
    return "\n".join(lines)


def attacks() -> str:
    """Every attack by family."""
    lines = ["| family | attack | what it asks | asks |", "|---|---|---|---|"]
    lines += [f"| {one.family} | `{one.name}` | {one.about} | {_asks(one)} |" for one in ATTACKS]
    return "\n".join(lines)


def _asks(attack: Attack) -> str:
    asks = "budget" if attack.asks is None else str(attack.asks)
    needs = f", needs {' and '.join(sorted(attack.needs))}" if attack.needs else ""
    return f"{asks}{', adaptive' if attack.adaptive else ''}{needs}"


PARTS: dict[str, Callable[[], str]] = {
    "recipe keys": keys,
    "stages": stages,
    "order of the stages": order,
    "attack families": families,
    "attacks": attacks,
}
PAGES = ("docs/recipes.md", "docs/runs.md", "docs/attacks.md", "ARCHITECTURE.md")
MARKED = re.compile(r"(<!-- generated: ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def written(text: str) -> str:
    """A page with its generated parts written anew."""
    return MARKED.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _records(name: str) -> Iterator[type[Record]]:
    return records_in(Recipe.model_fields[name].annotation)


def _algorithm(model: type[Record]) -> str:
    return str(model.model_fields["algorithm"].default)


def _table(title: str, rows: list[str], about: str = "") -> str:
    intro = f"{about}\n\n" if about else ""
    return f"### {title}\n\n{intro}| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows)


def _rows(model: type[Record], prefix: str, only: set[str] | None = None) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if only is not None and name not in only:
            continue
        inner = list(records_in(field.annotation))
        if len(inner) == 1 and field.default is not None and not field.is_required():
            yield from _nested(inner[0], f"{prefix}{name}.", field.default)
            continue
        yield _row(prefix + name, field, field.default)
        if len(inner) == 1:
            yield from _rows(inner[0], f"{prefix}{name}.")


def _nested(model: type[Record], prefix: str, default: Any) -> Iterator[str]:
    """Keys of a nested section, with the defaults that it has at this place."""
    for name, field in model.model_fields.items():
        inner, value = list(records_in(field.annotation)), getattr(default, name)
        if len(inner) == 1 and isinstance(value, Record):
            yield from _nested(inner[0], f"{prefix}{name}.", value)
        else:
            yield _row(prefix + name, field, value)


def _row(key: str, field: Any, default: Any) -> str:
    extra = field.json_schema_extra
    mark = " †" if isinstance(extra, dict) and extra.get("transport") else ""
    shown = "required" if default is PydanticUndefined else f"`{_json(default)}`"
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{key}`{mark} | {shown} | {meaning} |"


def _json(value: Any) -> str:
    return json.dumps(value.model_dump(mode="json") if isinstance(value, Record) else value, ensure_ascii=False)


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _section(stage: Stage[Any]) -> str:
    key = stage.recipe_key or stage.name
    return f"`{key}`" if key in Recipe.model_fields else "always"


def _named(wanted: Input[Any]) -> str:
    name = wanted.label or " or ".join(reversed(wanted.names))
    return f"{name}{'' if wanted.required else ' (if there)'}"


def main() -> None:
    """Write every page."""
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        page.write_text(written(text), encoding="utf-8")


if __name__ == "__main__":
    main()
