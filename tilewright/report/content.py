"""What a page is made of: sections with sentences, charts and tables. A template turns them into HTML."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.jsonable import JsonObject

__all__ = ["Chart", "Choice", "Filter", "Headline", "Page", "Section", "Table"]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: the names of the columns.
        rows: texts.
        words: how many of the first columns hold words; the others hold numbers, and are aligned to the right.
        caption: what it shows.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    caption: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart, with the table that says the same.

    Attributes:
        name: identifies it on its page.
        title: what it shows.
        description: what is to be seen, in a sentence or two: for people who cannot see it.
        spec: of Vega-Lite.
        table: the same as numbers; None: the table depends on what is chosen, and the page makes it.
        scrolls: the least width in pixels, below which it scrolls sideways; 0: it shrinks.
        note: how to read it.
    """

    name: str
    title: str
    description: str
    spec: JsonObject
    table: Table | None = None
    scrolls: int = 0
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """Charts for one of several tasks, of which the reader chooses one.

    Attributes:
        name: identifies it on its page.
        label: what is chosen.
        options: the value and the words of each option.
        data: the data sets of each option, by value and by the name in the charts' specs.
        tables: the rows of the table of each option, under ``head``.
        head: of the table.
        charts: whose specs name the data sets.
    """

    name: str
    label: str
    options: tuple[tuple[str, str], ...]
    data: dict[str, JsonObject]
    tables: dict[str, list[list[str]]]
    head: tuple[str, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Headline:
    """A number at the top of a page, and what it is; ``good`` marks the one that matters most."""

    value: str
    unit: str
    label: str
    detail: str = ""
    good: bool = False


@dataclass(frozen=True)
class Filter:
    """A choice of what a page shows: a field of a form.

    Attributes:
        name: of the parameter.
        label: for people.
        value: that is chosen.
        options: what may be chosen; empty: any text.
    """

    name: str
    label: str
    value: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        name: identifies it on its page.
        title: a question of the reader, or what it is about.
        lead: sentences that answer it.
        charts: with their tables.
        tables: that have no chart.
        facts: name and value.
        choice: charts of which the reader chooses the task.
        points: further sentences, as a list.
        filters: of the page.
    """

    name: str
    title: str
    lead: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    choice: Choice | None = None
    points: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: of the page and of the browser's tab.
        subtitle: what it is about, in a line.
        headlines: the numbers at its top.
        sections: in their order.
        footer: how it came to be.
        live: the address of its updates; empty: it never changes.
        state: what goes on at the moment; empty: nothing.
        downloads: the addresses of the page's data, and what they are called.
    """

    title: str
    subtitle: str
    headlines: tuple[Headline, ...] = ()
    sections: tuple[Section, ...] = ()
    footer: str = ""
    live: str = ""
    state: str = ""
    downloads: tuple[tuple[str, str], ...] = ()

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All charts whose data are fixed."""
        return tuple(chart for section in self.sections for chart in section.charts)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All charts of which the reader chooses the task."""
        return tuple(section.choice for section in self.sections if section.choice is not None)
