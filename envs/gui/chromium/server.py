"""The files of a page, served on the loopback address from one folder and nothing outside it."""

from __future__ import annotations

import functools
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

EMPTY = "empty page"  # the name of one in every folder, into which others can be written


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the browser keeps its connections

    def do_GET(self) -> None:
        """Serves a file, or the empty page."""
        if unquote(self.path).endswith("/" + EMPTY):
            page = b"<!doctype html><body style='margin:0'></body>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
        else:
            super().do_GET()

    def translate_path(self, path: str) -> str:
        """The file meant; one that is nowhere, for a link that leads out of the folder."""
        found = Path(super().translate_path(path)).resolve()
        return str(found) if found.is_relative_to(Path(self.directory).resolve()) else "/nonexistent"

    def list_directory(self, path: Any) -> None:
        """Folders are not listed."""
        self.send_error(404)

    def end_headers(self) -> None:
        """Files stay as they are while they are served: the browser need not ask twice."""
        self.send_header("Cache-Control", "max-age=86400")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of connections that the browser dropped, as it does when it is closed or killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class FileServer:
    """Serves `directory` at `url`, from a thread of its own, until `close`."""

    def __init__(self, directory: Path) -> None:
        self._server = _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(directory)))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="page files", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
