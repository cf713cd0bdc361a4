"""Mermaid draws every diagram of the pages, in a browser. `make docs` brings Mermaid."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.pages import DOCS, ROOT

DIAGRAM = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
MERMAID = sorted((ROOT / "build").glob("mermaid-*.js"))
pytestmark = pytest.mark.skipif(
    not MERMAID or shutil.which("chromium") is None, reason="there is no chromium, or no Mermaid in build (make docs)"
)


def test_every_diagram_is_drawn() -> None:
    browsers = pytest.importorskip("playwright.sync_api")
    texts = {str(file.relative_to(DOCS)): file.read_text(encoding="utf-8") for file in sorted(DOCS.rglob("*.md"))}
    diagrams = [(name, found) for name, text in texts.items() for found in DIAGRAM.findall(text)]
    assert len(diagrams) >= 8
    with browsers.sync_playwright() as made:
        page = made.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]).new_page()
        page.add_script_tag(path=str(MERMAID[-1]))
        for name, diagram in diagrams:
            drawn = page.evaluate("async text => (await mermaid.render('drawn', text)).svg", diagram)
            assert drawn.startswith("<svg"), name
