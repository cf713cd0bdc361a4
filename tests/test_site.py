"""The site of the documentation, as it is opened from a disk, without a server. `make docs` builds it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench._browser import browser, missing
from docs.notebooks import TUTORIALS
from tests.pages import ROOT

SITE = ROOT / "build/docs"
pytestmark = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="there is no site (make docs)")


def test_the_search_finds_pages_offline() -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with browser() as started:
        page = started.new_context(offline=True).new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto((SITE / "index.html").as_uri())
        asked = page.locator("input[data-md-component=search-query]")
        asked.click()
        asked.press_sequentially("representative")
        found = page.locator(".md-search-result__item a").first
        found.wait_for(timeout=20_000)
        found.click()
        page.wait_for_load_state()
        assert "representative" in page.locator("article").inner_text().lower()
        assert complaints == []


def test_tutorials_have_notebooks() -> None:
    for name in TUTORIALS:
        notebook = json.loads(Path(SITE / f"tutorial/{name}.ipynb").read_text(encoding="utf-8"))
        assert any(cell["cell_type"] == "code" for cell in notebook["cells"])
        assert f'href="{name}.ipynb"' in Path(SITE / f"tutorial/{name}.html").read_text(encoding="utf-8")
