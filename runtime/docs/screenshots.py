"""Draws the page's screenshots, from a server that runs on a MetaQuery bundle; needs Chromium and playwright.

unipic2-edge serve my-bundle &
python runtime/docs/screenshots.py http://127.0.0.1:8000
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
WIDTHS = {"desktop": (1280, 980), "phone": (390, 844)}
_SECONDS = 300


def work(page: Page) -> None:
    """Two pictures, an edit of the second, and a question about it."""
    for prompt, seed in (("a red circle left of a blue square", 1), ("three yellow squares on a black background", 5)):
        _make(page, prompt, str(seed))
    page.click("#edit-result")
    _make(page, "change the background to gray", "5")
    page.fill("#question", "what is the background color?")
    page.click("#ask-go")
    page.wait_for_selector("#ask-go:not([disabled])")
    page.evaluate("document.activeElement.blur()")


def _make(page: Page, prompt: str, seed: str) -> None:
    page.fill("#prompt", prompt)
    page.fill("#seed", seed)
    page.click("#go")
    page.wait_for_selector("#go[disabled]")
    page.wait_for_selector("#go:not([disabled])")


def main(url: str) -> None:
    """One picture of the page for each width."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height) in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(1000 * _SECONDS)
            page.goto(url)
            page.wait_for_selector("#model:has-text('multiples')")
            work(page)
            page.screenshot(path=HERE / f"serve-{name}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
