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
    diagrams = {
        f"{page.relative_to(DOCS)} {number}": diagram
        for page in sorted(DOCS.rglob("*.md"))
        for number, diagram in enumerate(
            re.findall(r"```mermaid\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        )
    }
    assert len(diagrams) >= 4
    with browsers.sync_playwright() as made:
        page = made.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]).new_page()
        page.add_script_tag(path=str(MERMAID[-1]))
        for name, diagram in diagrams.items():
            drawn = page.evaluate("async text => (await mermaid.render('drawn', text)).svg", diagram)
            assert drawn.startswith("<svg"), name
