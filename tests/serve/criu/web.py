"""A web server with threads and a large table, for a dump: FOLDER is where it tells its port."""

from __future__ import annotations

import hashlib
import http.server
import sys
from pathlib import Path

ROWS = 20_000


def row(number: int) -> bytes:
    """What the table has there."""
    return hashlib.sha256(str(number).encode()).digest() * 8


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives rows of the table, and the digest of all of it."""

    table = tuple(row(number) for number in range(ROWS))

    def do_GET(self) -> None:
        if self.path == "/all":
            body = hashlib.sha256(b"".join(self.table)).hexdigest().encode()
        else:
            body = self.table[int(self.path[1:])]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nowhere."""


if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told = Path(sys.argv[1], "new")
        told.write_text(str(server.server_port))
        told.rename(Path(sys.argv[1], "port"))
        server.serve_forever()
