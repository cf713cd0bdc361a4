"""Serves pages to a browser on this machine: on a loopback address, to those who know a token, and read-only.

Requests name this machine in their ``Host`` header, so that no other site's name can be pointed here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.errors import MissingExtraError, OutputError
from tilewright.jsonable import to_json
from tilewright.report.content import Page
from tilewright.report.html import page_data, render, render_body

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["PageServer", "listen"]

_LOOPBACK = "127.0.0.1"
#: How many ports after the wanted one are tried.
_PORTS = 20
#: Seconds between two updates that a browser is told of, at least; and between two signs of life.
_UPDATING, _LIVING = 1.0, 15.0
#: Seconds that the server may take to begin and to end.
_STARTING, _ENDING = 10.0, 2.0


def listen(port: int) -> socket.socket:
    """A listening socket on a loopback address: at ``port``, or else at the next one that is free. 0: any port.

    Raises:
        OutputError: none of them is free.
    """
    problem = ""
    for candidate in range(port, port + _PORTS) if port else (0,):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((_LOOPBACK, candidate))
            made.listen(64)
        except (OSError, OverflowError) as error:
            made.close()
            problem = str(getattr(error, "strerror", None) or error)
            continue
        return made
    raise OutputError(
        f"a page is served at a free port, but {port} to {port + _PORTS - 1} are not: {problem}; end a program "
        "that uses one, or give 'tilewright dashboard' another --port"
    )


@dataclass
class PageServer:
    """Serves one kind of page in a thread of its own. A context manager: it serves inside the block.

    Args:
        make: makes the page for the parameters of a request. Called in threads of the server.
        files: further answers, by path: each makes a text and says its type. They are downloads.
        port: that is tried first.

    Attributes:
        token: that requests have to know.
    """

    make: Callable[[Mapping[str, str]], Page]
    files: Mapping[str, Callable[[Mapping[str, str]], tuple[str, str]]] = field(default_factory=dict)
    port: int = 0
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    _version: int = field(default=0, init=False)
    _asked: int = field(default=-1, init=False)
    _ended: bool = field(default=False, init=False)
    _server: uvicorn.Server | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _socket: socket.socket | None = field(default=None, init=False)

    @property
    def address(self) -> str:
        """What to open in a browser, with the token."""
        return f"http://{_LOOPBACK}:{self.port}/?token={self.token}"

    def __enter__(self) -> PageServer:
        """Begin to serve.

        Raises:
            MissingExtraError: the extra ``live`` is not installed.
            OutputError: no port is free, or the server does not start.
        """
        try:
            import uvicorn

            application = self._application()
        except ImportError as error:
            raise MissingExtraError(
                f"a page is served by Starlette and Uvicorn, but {error.name} is not installed; install "
                "tilewright[live]"
            ) from error
        self._socket = listen(self.port)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            application, log_level="critical", access_log=False, lifespan="off", server_header=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), daemon=True, name="page-server"
        )
        self._thread.start()
        until = time.monotonic() + _STARTING
        while not self._server.started:
            if time.monotonic() > until or not self._thread.is_alive():
                raise OutputError(
                    "the server of the page did not start; leave it out, and look at report.html afterwards"
                )
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        """Let browsers that follow fetch the last page, and end."""
        self._ended = True
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_ENDING)
            if self._thread.is_alive():
                self._server.force_exit = True
                self._thread.join(_ENDING)
        if self._socket is not None:
            self._socket.close()

    def changed(self) -> None:
        """Tell browsers that the page is another one now."""
        self._version += 1

    def wait_for_readers(self, seconds: float) -> None:
        """Wait until a browser that follows has fetched the latest page, at most so many seconds."""
        until = time.monotonic() + seconds
        while 0 <= self._asked < self._version and time.monotonic() < until:
            time.sleep(0.05)

    def serve(self) -> None:
        """Wait until the thread ends, which an interrupt does not."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)

    def _application(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
        from starlette.routing import Route

        quiet = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

        def refused(request: Request) -> Response | None:
            host = request.headers.get("host", "")
            given = request.query_params.get("token", "")
            if host not in (f"{_LOOPBACK}:{self.port}", f"localhost:{self.port}"):
                return PlainTextResponse("this page is served to this machine only", 403, quiet)
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return PlainTextResponse(
                    "the address of this page has a token: open the one that was printed", 403, quiet
                )
            return None

        # Plain functions run in threads: making a page takes a moment, in which events go on.
        def page(request: Request) -> Response:
            return refused(request) or HTMLResponse(render(self.make(request.query_params)), headers=quiet)

        def update(request: Request) -> Response:
            if (no := refused(request)) is not None:
                return no
            asked = self._version
            made = self.make(request.query_params)
            answer = JSONResponse({"body": render_body(made), "data": to_json(page_data(made))}, headers=quiet)
            self._asked = asked
            return answer

        async def events(request: Request) -> Response:
            no = refused(request)
            return no or StreamingResponse(self._follow(), media_type="text/event-stream", headers=quiet)

        def download(request: Request) -> Response:
            if (no := refused(request)) is not None:
                return no
            text, kind = self.files[request.url.path](request.query_params)
            name = request.url.path.strip("/")
            headers = {**quiet, "Content-Disposition": f'attachment; filename="{name}"'}
            return PlainTextResponse(text, headers=headers, media_type=kind)

        routes = [Route("/", page), Route("/update", update), Route("/events", events)]
        return Starlette(routes=[*routes, *(Route(path, download) for path in self.files)])

    async def _follow(self) -> AsyncIterator[str]:
        """An event for each change, but not more than one a second."""
        seen, alive = self._version, time.monotonic()
        self._asked = max(self._asked, 0)
        yield "retry: 2000\n\n"
        while not self._ended:
            await asyncio.sleep(_UPDATING / 4)
            if self._version != seen:
                seen, alive = self._version, time.monotonic()
                yield f"event: update\ndata: {seen}\n\n"
                await asyncio.sleep(3 * _UPDATING / 4)
            elif time.monotonic() > alive + _LIVING:
                alive = time.monotonic()
                yield ": here\n\n"
