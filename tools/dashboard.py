"""A page in the browser that shows runs, and goes on with them.

    python tools/dashboard.py DIR [DIR ...] [--port=8000]

DIR is a run directory, or a folder with runs in it (DIR/NAME/seedN); runs that begin later appear. Nothing is written.
The page is reached from this machine alone; from another, by `ssh -L 8000:127.0.0.1:8000 HOST`.
"""

from __future__ import annotations

import argparse
import http.server
import json
import pathlib
import sys
import urllib.parse
from collections.abc import Sequence
from typing import Any

from dashboard_panels import PANELS
from dashboard_runs import Runs, find_runs
from run_reader import path_of

ADDRESS = "127.0.0.1"
HERE = pathlib.Path(__file__).resolve().parent
FILES = {
    "/": ("dashboard.html", "text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/dashboard_chart.js": ("dashboard_chart.js", "text/javascript; charset=utf-8"),
}


class Server(http.server.ThreadingHTTPServer):
    """Listens from its making on; `serve_forever` blocks.

    Raises:
      OSError: the port is in use, or not allowed.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[pathlib.Path], port: int) -> None:
        super().__init__((ADDRESS, port), Handler)
        self.runs = Runs(folders)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):  # a browser's tab was closed
            print(f"A request failed: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET of the files above, of `/panels.json` and of `/data.json?want=ID:CURSOR,...`, and of nothing else."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds for a request to come; a browser that is silent for longer connects again

    def do_GET(self) -> None:
        # Another site's page could lead its own name here, and read what the browser lets a name's pages read.
        if self.headers.get("Host", "").partition(":")[0] not in (ADDRESS, "localhost"):
            return self._answer(403, "text/plain; charset=utf-8", f"Ask for http://{ADDRESS} or localhost.\n".encode())
        url = urllib.parse.urlsplit(self.path)
        if url.path in FILES:
            name, kind = FILES[url.path]
            return self._answer(200, kind, (HERE / name).read_bytes())
        if url.path == "/panels.json":
            return self._json(PANELS)
        if url.path == "/data.json":
            want = urllib.parse.parse_qs(url.query).get("want", [""])[0]
            cursors = (part.partition(":") for part in want.split(",") if part)
            return self._json(self.server.runs.answer({run: cursor for run, _, cursor in cursors}))
        self._answer(404, "text/plain; charset=utf-8", b"There is nothing of that name here.\n")

    def _json(self, value: Any) -> None:
        self._answer(200, "application/json", json.dumps(value, allow_nan=False, separators=(",", ":")).encode())

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'self'; img-src data:; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A page asks every two seconds: nothing to say."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="DIR", nargs="+", type=path_of)
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    options = parser.parse_args(argv)
    missing = [str(folder) for folder in options.folders if not folder.is_dir()]
    if missing:
        return _refuse(f"Not a folder: {', '.join(missing)}.")
    found = find_runs(options.folders)
    if not found:
        names = ", ".join(map(str, options.folders))
        return _refuse(f"No run in {names}: a run directory has config.json or metrics.jsonl, at most 3 folders down.")
    if not 0 <= options.port < 2**16:
        return _refuse(f"--port={options.port} is no port: choose one up to 65535, or 0 for a free one.")
    try:
        server = Server(options.folders, options.port)
    except OSError as e:
        reason = e.strerror or e
        return _refuse(f"Port {options.port} of {ADDRESS} cannot be used ({reason}): --port=0 takes a free one.")
    with server:
        try:
            print(f"{server.url} shows {len(found)} run{'s' * (len(found) > 1)}. Ctrl-C ends it.", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
