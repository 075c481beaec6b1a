"""docs/contested.md: its constitution lints clean of what it explains, and its deployment resolves as it says."""

from __future__ import annotations

import re
from pathlib import Path

from steersman.constitution.document import load
from steersman.constitution.layers import load_deployment, resolve
from steersman.constitution.lint import lint

PAGE = Path(__file__).resolve().parents[3] / "docs" / "contested.md"


def test_the_pages_files_load_and_do_what_it_says(tmp_path: Path) -> None:
    rules, canteen = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in (("kitchen.yaml", rules), ("canteen.yaml", canteen)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    constitution = load(tmp_path / "kitchen.yaml")
    assert {finding.severity for finding in lint(constitution)} == {"note"}
    deployment = load_deployment(tmp_path / "canteen.yaml", constitution)
    found = resolve(constitution, deployment, {"eating-meat": "customary"})
    assert [(decision.choice, decision.layer) for decision in found.decisions] == [("animals", "publisher")]
    assert [refusal.layer for refusal in found.refused] == ["user"]
