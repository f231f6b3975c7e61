"""The page in a real browser: generate, edit the result, stop, take settings back; nothing is asked of elsewhere."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unipic2_edge.runtime.bundle import Bundle, Manifest

from .conftest import FakePipeline, Running, running

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt)")]
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    """The page at phone width, with what it complains of and whom it asks."""
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(server.url)
    yield opened
    opened.close()
    assert [text for text in complaints if "status of 400" not in text] == []
    assert all(url.startswith((server.url, "data:", "blob:")) for url in asked)


def _generate(page: Any, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result-actions:not([hidden])")
    page.wait_for_selector("#go:not([disabled])")


def test_a_picture_is_made_and_edited(page: Any, fake: FakePipeline) -> None:
    page.wait_for_selector("#model:has-text('small')")
    page.fill("#seed", "7")
    _generate(page, "a red circle")
    assert "seed 7" in page.inner_text("#caption")
    assert page.get_attribute("#picture", "src").startswith("data:image/png;base64,")
    page.click("#edit-result")
    assert page.is_visible("#reference")
    assert page.inner_text("#prompt-label") == "What to change"
    _generate(page, "make it blue")
    assert "edit: make it blue" in page.inner_text("#caption")
    assert page.locator("#history li").count() == 2
    page.locator("#history button").nth(1).click()
    assert "a red circle" in page.inner_text("#caption")
    page.click("#again")
    assert page.input_value("#seed") == "7"
    assert page.is_hidden("#reference")


def test_progress_is_shown_and_work_is_stopped(page: Any, fake: FakePipeline) -> None:
    fake.step_seconds = 0.1
    page.fill("#steps", "100")
    page.fill("#prompt", "a ring")
    page.click("#go")
    page.wait_for_selector("#status:has-text(' of 100')")
    assert float(page.locator("#progress").evaluate("bar => bar.value")) > 0
    page.keyboard.press("Escape")
    page.wait_for_selector("#go:not([disabled])")
    assert page.is_hidden("#error")


def test_an_error_is_shown_where_it_belongs(page: Any, fake: FakePipeline) -> None:
    page.fill("#size", "33x32")
    page.fill("#prompt", "a ring")
    with page.expect_response("**/v1/images/generations"):
        page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert "nearest size that fits is 32x32" in page.inner_text("#error")


def test_nothing_is_wider_than_a_phone(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_key_is_asked_for(browser: Any, manifest: Manifest, fake: FakePipeline) -> None:
    from unipic2_edge.runtime.serve.server import Place

    with running(manifest, lambda: fake, place=Place(port=0, key="secret")) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#key-box[open]")
        page.fill("#key", "secret")
        page.press("#key", "Tab")
        page.wait_for_selector("#model:has-text('small')")
        _generate(page, "a ring")
        page.close()


def test_a_picture_is_asked_about(browser: Any, metaquery_bundle: Path, fake: FakePipeline) -> None:
    with running(Bundle(metaquery_bundle).manifest, lambda: fake) as server:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(server.url)
        page.wait_for_selector("#model:has-text('multiples')")
        assert page.is_hidden("#ask")
        _generate(page, "a red circle")
        page.fill("#question", "what is it?")
        page.press("#question", "Enter")
        page.wait_for_selector("#answer:has-text('1 pictures seen')")
        page.wait_for_selector("#ask-go:not([disabled])")
        page.set_input_files("#upload", {"name": "x.png", "mimeType": "image/png", "buffer": _png()})
        page.wait_for_selector("#question-label:has-text('your picture')")
        assert page.is_hidden("#answer")
        page.click("#ask-go")
        page.wait_for_selector("#answer:has-text('seen')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=f"{folder}/serve-ask.png", full_page=True)
        page.close()


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_model_without_words_is_not_asked(page: Any) -> None:
    page.wait_for_selector("#model:has-text('small')")
    _generate(page, "a ring")
    assert page.is_hidden("#ask")
