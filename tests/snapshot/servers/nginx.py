"""A real web server: nginx from Debian, over a folder, on a loopback port."""

from __future__ import annotations

import contextlib
import getpass
import pathlib
from collections.abc import Iterator

import msgspec

from snapshot.servers.packages import need_packages
from snapshot.servers.ports import NotStartedError, free_ports, launch, listens, stop

_CONF = """
daemon off;
master_process off;
user {user};
pid {folder}/pid;
error_log stderr;
events {{ }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        location /private/ {{
            auth_basic "images";
            auth_basic_user_file {folder}/users;
        }}
    }}
}}
"""

USER, PASSWORD = "reader", "the-secret-of-reader"


class Web(msgspec.Struct, frozen=True):
    """A running server: its port, the folder it shows, its log of requests."""

    port: int
    root: pathlib.Path
    log: pathlib.Path

    def url(self, path: str = "", port: int | None = None) -> str:
        """The address of a path; `port` for a proxy in between."""
        return f"http://127.0.0.1:{port or self.port}/{path}"


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Web]:
    """nginx, while the body runs.  `/private/` asks for USER and PASSWORD."""
    need_packages(("nginx-light",), "nginx")
    [port] = free_ports(1)
    (folder / "www").mkdir()
    (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    (folder / "conf").write_text(_CONF.format(folder=folder, port=port, user=getpass.getuser()))
    server = launch(["nginx", "-p", folder, "-e", "stderr", "-c", folder / "conf"], folder / "log")
    try:
        if not listens(port, server):
            text = (folder / "log").read_text(errors="replace")
            raise NotStartedError(f"nginx did not start:\n{text[-3000:]}")
        yield Web(port, folder / "www", folder / "access.log")
    finally:
        stop(server)
