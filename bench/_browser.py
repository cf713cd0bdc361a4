"""Pages in a headless browser: Debian's Chromium, driven by Playwright. Benches and tests of pages use it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["Shown", "browser", "missing"]


def missing() -> str | None:
    """What a browser lacks here; None: nothing."""
    try:
        import axe_playwright_python  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f"pages are looked at with Playwright and axe-core, but {error.name} is not installed"
    if shutil.which("chromium") is None:
        return "pages are looked at in Chromium, but there is none (apt-get install chromium)"
    return None


@dataclass
class Shown:
    """A page in the browser, and what it complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def ready(self) -> None:
        """Wait until all charts are drawn."""
        self.page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)

    def marks(self) -> dict[str, int]:
        """The marks of each chart."""
        found: dict[str, int] = self.page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('[data-chart]')].map((e) => "
            "[e.dataset.chart, e.querySelectorAll('svg .mark-symbol path, svg .mark-rect path, svg .mark-line path, "
            "svg .mark-rule line').length]))"
        )
        return found

    def faults(self) -> list[str]:
        """The serious and critical faults that axe-core finds."""
        from axe_playwright_python.sync_playwright import Axe

        violations: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:160]}"
            for each in violations
            if each["impact"] in ("serious", "critical")
        ]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as made:
        started = made.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


@contextlib.contextmanager
def show(started: Browser, address: str, *, scheme: Any = "light", width: int = 1100) -> Iterator[Shown]:
    """A page at an address, drawn; every request to another place is a complaint."""
    context = started.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=False)
    try:
        page = context.new_page()
        shown = Shown(page)
        page.on("console", lambda m: shown.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((address[:12], "data:", "blob:")) else shown.complaints.append(r.url),
        )
        page.goto(address)
        shown.ready()
        yield shown
    finally:
        context.close()
