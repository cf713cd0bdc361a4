"""Pages link to what is there, name what exists, and are listed once."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from bench._page_tables import MAKERS, read_data
from bench.pages import fill
from tests.pages import DOCS, ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
CODE = re.compile(r"```[\s\S]*?```|^    .*$", re.MULTILINE)
#: A table of a results page that is made of its file.
MADE = re.compile(r"<!-- table ([\w-]+): .*?<!-- end of table -->", re.DOTALL)
#: Folders whose pages are of one kind.
KINDS = {"tutorial", "how-to", "explanation", "reference", "results"}


@cache
def held() -> frozenset[str]:
    """The files of the repository and its folders; without a repository, those of the folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        files = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
    paths = [Path(file) for file in files if (ROOT / file).exists()]
    return frozenset(str(place) for path in paths for place in (path, *path.parents))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the forge makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=[*NAMES, "CHANGELOG.md"])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert str(file.relative_to(ROOT)) in held(), f"{target} is not there"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_are_there(page: Path) -> None:
    text = prose(page)
    named = re.findall(r"(?<![\w/.-])((?:tilewright|tests|bench|docs)/[\w./-]*\w(?:\.\w+|/))", text)
    named += [f"bench/{name}.py" for name in re.findall(r"python -m bench\.(\w+)", text)]
    # What the guides tell to make.
    made = {"bench/luck.py", "docs/results/luck.md", "docs/results/data/luck.json", "tilewright/records.db"}
    for name in set(named) - made:
        if not name.startswith(("tilewright/ops/distances", "tests/ops/distances")):
            assert name.rstrip("/") in held(), f"{name} is not there"


def test_pages_that_the_code_names_are_there() -> None:
    for folder in ("tilewright", "bench"):
        for source in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", source.read_text(encoding="utf-8")):
                assert name in held(), f"{source} names {name}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_modules_that_are_named_are_there(page: Path) -> None:
    """``measure/pool`` and ``tilewright.measure.pool`` are modules or packages, or names in them."""
    rooms = "|".join(path.parent.name for path in (ROOT / "tilewright").glob("*/__init__.py"))
    for name in re.findall(rf"`((?:{rooms})/[\w/]+?)(?:\.py)?/?`", prose(page)):
        place = ROOT / "tilewright" / name
        assert place.with_suffix(".py").is_file() or place.exists() or "distances" in name, f"{name} is not there"


def test_the_index_lists_every_page_once() -> None:
    index = DOCS / "README.md"
    links = [target for target in re.findall(r"\]\(([^)#]+\.md)\)", index.read_text(encoding="utf-8"))]
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page != index]
    assert sorted(link for link in links if not link.startswith("..")) == sorted(pages)
    assert {page.partition("/")[0] for page in pages} - {"architecture.md"} == KINDS


def arrows(diagram: str) -> set[tuple[str, str]]:
    """The arrows of a diagram in Mermaid, by the names of their ends. A word that Mermaid keeps stands in brackets."""
    found = set()
    diagram = re.sub(r"\brewriting\b", "graph", diagram)
    for line in diagram.splitlines():
        if "-->" in line:
            tails, _, heads = re.sub(r"\|[^|]*\||\[[^\]]*\]", "", line).partition("-->")
            found |= {(tail.strip(), head.strip()) for tail in tails.split("&") for head in heads.split("&")}
    return found


def test_the_site_has_every_page() -> None:
    listed = re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_tables_are_those_of_their_json_files() -> None:
    named, data = set(), DOCS / "results/data"
    for page in (DOCS / "results").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert fill(text, data) == text, f"{page.name}: run python -m bench.pages"
        assert not re.search(r"^\|", MADE.sub("", text), re.MULTILINE), f"{page.name} has a table without a file"
        words = " ".join(text.split())
        for name in MADE.findall(text):
            about = read_data(data / f"{name}.json")
            for said in (about.machine, about.date, *about.commands):
                assert said in words, f"{page.name} does not say of the table {name}: {said}"
            assert about.commands or "by hand" in words
            assert all(command.startswith(("python -m bench.", "tilewright ")) for command in about.commands)
            named.add(name)
    assert named == {file.stem for file in data.glob("*.json")}
    assert set(MAKERS) <= named


def test_the_diagrams_name_what_exists() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    life, house, *_ = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    rooms = {path.parent.name for path in (ROOT / "tilewright").glob("*/__init__.py")}
    assert set(re.findall(r"[a-z]+", " ".join(re.findall(r"\|([^|]*)\|", life)))) - {"with"} <= rooms
    # Boxes with a text are for people; the others are classes, each in the file that the table names.
    artefacts = {name for pair in arrows(life) for name in pair if f"{name}[" not in life} - {"Round"}
    files = dict(re.findall(r"^\| `(\w+)` \|.*\| `([\w/]+\.py)` \|$", text, re.MULTILINE))
    assert artefacts <= set(files)
    for name, file in files.items():
        assert f"class {name}" in (ROOT / "tilewright" / file).read_text(encoding="utf-8"), f"{name} is not in {file}"
    # Each arrow between rooms is an import, and each room has a row in the table.
    for tail, head in arrows(house) - {("strategies", "space")}:
        sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tilewright" / tail).rglob("*.py"))
        assert f"from tilewright.{head}" in sources, f"{tail} does not import {head}"
    assert {name for name in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) if name in rooms} == rooms


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80
