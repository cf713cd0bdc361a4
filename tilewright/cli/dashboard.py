"""``tilewright dashboard``: what a store of records holds, as a page in a browser on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.boundary import command
from tilewright.cli.live import PORT
from tilewright.cli.options import RecordsOption
from tilewright.cli.programs import open_records
from tilewright.cli.verbosity import remark

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
    """Serve a page about the records on this machine until Ctrl-C: networks, runs, machines, trends. Reads only."""
    from tilewright.records.overview import Overview
    from tilewright.report.dashboard import dashboard_page, export_csv, export_json, export_runs_csv
    from tilewright.report.serving import PageServer

    with open_records(records, untouched=True) as store:
        remark(f"reading {store.where}")
        overview = Overview(store)
        overview.refresh()

        def page(chosen: Mapping[str, str]) -> Page:
            overview.refresh()
            return dashboard_page(overview, store.where, chosen)

        def answer(
            make: Callable[[Overview, Mapping[str, str]], str], kind: str
        ) -> Callable[[Mapping[str, str]], tuple[str, str]]:
            def export(chosen: Mapping[str, str]) -> tuple[str, str]:
                overview.refresh()
                return make(overview, chosen), kind

            return export

        files = {
            "/export.csv": answer(export_csv, "text/csv"),
            "/runs.csv": answer(export_runs_csv, "text/csv"),
            "/export.json": answer(export_json, "application/json"),
        }
        with PageServer(page, files, port) as server:
            moved = f" (port {port} is taken)" if port and server.port != port else ""
            print(f"dashboard{moved}: {server.address} (Ctrl-C ends it)", flush=True)
            server.serve()
