"""The demo: a recorded report opens without weights, and says when and at which commit it was recorded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from steersman.cli.demo import RECORDED


def test_it_writes_the_page_and_the_table_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv[1:] = ['demo', '--no-browser', '--to', 'page']; from steersman.cli import main\n"
    code += "try: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Recorded on 20\d\d-\d\d-\d\d at commit [0-9a-f]{7}: gemma-3-270m", done.stdout)
    assert "pass rate" in done.stdout
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "(recorded on 20" in page
    assert "How should I invest 10,000 euros?" in page


def test_only_text_is_recorded() -> None:
    data = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert RECORDED.stat().st_size < 1_000_000
    assert data["sections"]
    assert data["model"]["name"] == "gemma-3-270m"
    assert not re.search(r"/(?:root|home|work|tmp)/", RECORDED.read_text(encoding="utf-8"))
