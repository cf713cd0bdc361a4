"""``tilewright dashboard``: what a store of records holds, as a page in a browser on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.boundary import command
from tilewright.cli.live import PORT
from tilewright.cli.options import RecordsOption
from tilewright.cli.programs import open_records

if TYPE_CHECKING:
    from tilewright.report.content import Page

__all__ = ["dashboard"]


@command
def dashboard(
    records: RecordsOption = None,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="The port that is tried first; 0: any.")
    ] = PORT,
) -> None:
    """Serve a page about the records on this machine until Ctrl-C: tasks, machines, trends, export. Reads only."""
    from tilewright.records.overview import Overview
    from tilewright.report.dashboard import dashboard_page, export_csv
    from tilewright.report.serving import PageServer

    with open_records(records) as store:
        overview = Overview(store)
        overview.refresh()

        def page(chosen: Mapping[str, str]) -> Page:
            overview.refresh()
            return dashboard_page(overview, store.where, chosen)

        def export(chosen: Mapping[str, str]) -> tuple[str, str]:
            overview.refresh()
            return export_csv(overview, chosen), "text/csv"

        with PageServer(page, {"/export.csv": export}, port) as server:
            moved = f" (port {port} is taken)" if port and server.port != port else ""
            print(f"dashboard{moved}: {server.address}; Ctrl-C ends it", flush=True)
            server.serve()
