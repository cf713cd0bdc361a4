"""What the site has beside the pages of this folder: the API, the project's own pages, notebooks, and two libraries.

A hook of MkDocs, which ``mkdocs.yml`` names. The API has a page for each public module, made from its docstrings. The
libraries come once from npm's registry, into ``build``. The site then loads nothing from elsewhere, which is checked.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebooks import TUTORIALS, read_tutorial

ROOT = Path(__file__).parents[1]
#: Pages of the repository that belong to the site, too, and their places in it.
PAGES = {"CHANGELOG.md": "project/changelog.md", "CONTRIBUTING.md": "project/contributing.md"}
#: Where the theme loads a library from that lets the search work without a server.
REMOTE_SHIM = "https://unpkg.com/iframe-worker/shim"
#: What a page may not load from elsewhere.
REMOTE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"?(https?://[^\"\s>]+)")


@dataclass(frozen=True)
class Library:
    """A file of a package in npm's registry.

    Attributes:
        name: of the package.
        version: of the package.
        integrity: the hash that the registry states for it.
        member: the path of the file in the package.
        place: the file's path in the site.
    """

    name: str
    version: str
    integrity: str
    member: str
    place: str

    def read(self) -> bytes:
        """The file, from ``build`` or else from the registry."""
        kept = ROOT / "build" / f"{self.name}-{self.version}.js"
        if not kept.exists():
            packed = self._fetch()
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                member = archive.extractfile(self.member)
                assert member is not None
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(member.read())
        return kept.read_bytes()

    def _fetch(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            command = ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
            try:
                subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
            except (OSError, subprocess.SubprocessError) as error:
                raise PluginError(
                    f"the site needs {self.name} {self.version}, which npm did not bring: {error}; install npm, or put "
                    f"the file {self.member} of that package at build/{self.name}-{self.version}.js"
                ) from error
            packed = Path(folder, f"{self.name}-{self.version}.tgz").read_bytes()
        found = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
        if found != self.integrity:
            raise PluginError(f"{self.name} {self.version} has the hash {self.integrity}, but npm brought {found}")
        return packed


MERMAID = Library(
    "mermaid",
    "11.17.2",
    "sha512-V6K3C8EBdEsPFZXSKMJe6ppQOENxuHARr9GvHX4hh47lAbhMRD9qf4oEK7LoaRQxULMa80/qt5gHO73aCleBBg==",
    "package/dist/mermaid.min.js",
    "assets/mermaid.js",
)
SHIM = Library(
    "iframe-worker",
    "1.0.4",
    "sha512-roeaaI+Lg1LJNfgpCjoRe/+WzEjy9+Z08LoEvu85MCPbBjwm+qXz8Ag5U05lHa6V1CysZyGzE0SOkAtSUA5q7Q==",
    "package/shim/index.js",
    "assets/iframe-worker.js",
)


def public_modules() -> list[str]:
    """The public modules, as the package's docstring lists them."""
    source = (ROOT / "tilewright/__init__.py").read_text(encoding="utf-8")
    return ["tilewright", *re.findall(r":mod:`(tilewright\.\w+)`", source)]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages that are made to the navigation."""
    nav: list[Any] = config.nav or []
    for entry in nav:
        if isinstance(entry, dict) and "Reference" in entry:
            entry["Reference"].append({"API": [{name: f"reference/api/{name}.md"} for name in public_modules()]})
    nav.append({"Project": list(PAGES.values())})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the libraries."""
    for name in public_modules():
        text = f"# {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n"
        files.append(File.generated(config, f"reference/api/{name}.md", content=text))
    for name, place in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](../")
        for other, there in PAGES.items():
            text = text.replace(f"]({other}", f"]({Path(there).name}")
        files.append(File.generated(config, place, content=text))
    for name in TUTORIALS:
        files.append(
            File.generated(config, f"tutorial/{name}.ipynb", content=jupytext.writes(read_tutorial(name), "ipynb"))
        )
    for library in (MERMAID, SHIM):
        files.append(File.generated(config, library.place, content=library.read()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change the links of a page.

    Links to the repository's own pages lead to their places in the site, and links to sources become their names. A
    tutorial gets a link to its notebook.
    """
    if page.file.src_uri in {f"tutorial/{name}.md" for name in TUTORIALS}:
        title, text = markdown.split("\n", 1)
        notebook = Path(page.file.src_uri).with_suffix(".ipynb").name
        markdown = f"{title}\n\n[This page as a notebook]({notebook}){{ download }}\n{text}"
    up = "../" * page.file.src_uri.count("/")
    for name, place in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)+{re.escape(name)}", f"]({up}{place}", markdown)
    return re.sub(r"\[([^]]*)\]\((?:\.\./)+(?:tilewright|bench|tests|README\.md)[^)]*\)", r"\1", markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load the library of the search from the site. Refuse a page that loads anything from elsewhere."""
    output = output.replace(REMOTE_SHIM, "../" * page.file.dest_uri.count("/") + SHIM.place)
    if remote := REMOTE.findall(output):
        raise PluginError(f"a page loads nothing from elsewhere, but {page.file.src_uri} loads {remote[0]}")
    return output


def on_post_template(output: str, *, template_name: str, config: MkDocsConfig) -> str:
    """The same for pages without a source, such as that of a page that is not there."""
    return output.replace(REMOTE_SHIM, f"/{SHIM.place}")
