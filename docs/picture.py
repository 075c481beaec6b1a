"""Take the picture of the README: ``python docs/picture.py RUN`` (or ``make picture``), with headless Chromium.

It shows the first screen of the run's report, its verdict and headline figures, at the width of a laptop.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_name("report.png")
WIDTH, HEIGHT = 1280, 800


def main(run: str) -> None:
    """Write docs/report.png from RUN/report/index.html."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto((Path(run) / "report" / "index.html").resolve().as_uri())
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
