"""Turns pages into HTML: one file with everything in it, which asks the network for nothing.

A page's texts come from models, machines and stores, so the template escapes them all, and data are JSON in elements
that no browser runs. The policy of the page (CSP) allows exactly the scripts that are in it, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files

import jinja2

from tilewright.errors import OutputError
from tilewright.jsonable import JsonObject, finite
from tilewright.report.content import Page

__all__ = ["page_data", "render", "render_body"]

#: Vega, Vega-Lite and Vega-Embed, as published (assets/README.md), and the page's own script.
_SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "page.js")


def render(page: Page) -> str:
    """The page as one HTML document."""
    scripts = [_asset(name) for name in _SCRIPTS]
    return _template("page.html").render(
        page=page,
        style=_asset("page.css"),
        scripts=scripts,
        policy=_policy(tuple(scripts), live=bool(page.live), forms=bool(page.downloads)),
        data=_embed(page_data(page)),
    )


def render_body(page: Page) -> str:
    """The part of the page that changes while a run goes on."""
    return _template("body.html").render(page=page)


def page_data(page: Page) -> JsonObject:
    """The specs and data of the page's charts, for its script."""
    return {
        "charts": {chart.name: chart.spec for chart in page.charts},
        "choices": {
            choice.name: {
                "charts": {chart.name: chart.spec for chart in choice.charts},
                "data": dict(choice.data),
                "tables": {key: [list(row) for row in rows] for key, rows in choice.tables.items()},
            }
            for choice in page.choices
        },
        "live": page.live,
    }


def _embed(data: JsonObject) -> str:
    """JSON for an element of a page: no ``</script>`` and no comment can end or open in it. Infinities become null."""
    text = json.dumps(finite(data), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _policy(scripts: tuple[str, ...], live: bool, forms: bool) -> str:
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    own, none = "'self'", "'none'"
    connect = own if live else none
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; connect-src {connect}; "
        f"base-uri 'none'; form-action {own if forms else none}"
    )


@cache
def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    try:
        text = files("tilewright.report").joinpath("assets", name).read_text(encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"pages need the file {name} of Tilewright, which cannot be read: {error.strerror}; "
            "install Tilewright again"
        ) from error
    # The maps of minified scripts are not in the page, and browsers would ask for them.
    return "\n".join(line for line in text.splitlines() if not line.startswith("//# sourceMappingURL="))


@cache
def _template(name: str) -> jinja2.Template:
    loader = jinja2.PackageLoader("tilewright.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)
