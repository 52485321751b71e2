"""What users write for a store: a path, a URL of a service, a URL of a folder.

Folders by URL are as RFC 8089 has them: `file:///path`, `file://localhost/path`, with escapes.
"""

from __future__ import annotations

import os
import re

from userfault.kernel.errors import UsageError

REMOTE_SCHEMES = ("s3", "gs", "az", "http", "https")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FILE = "file://"


def scheme_of(url: str) -> str:
    """The scheme of a URL in lower case; empty for a path."""
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def is_remote_url(url: str) -> bool:
    """Whether it is a store behind a network that this names."""
    return scheme_of(url) in REMOTE_SCHEMES


def folder_of(url: str) -> str:
    """The path that a `file://` URL names; anything else is a path already.

    Raises UsageError for another host, a query or fragment, and a byte that no path can have.
    """
    if not is_file_url(url):
        return url
    host, _, path = url[len(_FILE) :].partition("/")
    path = "/" + path
    if host.lower() not in ("", "localhost"):
        raise UsageError(
            f"{url} names the host {host!r}",
            cause="a file URL is of this machine: what is between its second and third slash is"
            " empty or localhost",
            cure=f"write file:///{host}{path} for a folder of this machine, or a plain path",
        )
    for sign, what in (("?", "query"), ("#", "fragment")):
        if sign in path:
            raise UsageError(
                f"{url} has a {what}",
                cause="a folder has none",
                cure=f"write %{ord(sign):X} for {sign!r}, or a plain path",
            )
    found = os.fsdecode(_unquoted(os.fsencode(path)))
    if "\0" in found:
        raise UsageError(f"{url} has a NUL byte in it", cause="no path can have one", cure="")
    return found


def is_file_url(url: str) -> bool:
    """Whether this is a URL of a folder, in whatever case."""
    return url[: len(_FILE)].lower() == _FILE


def last_part(url: str) -> tuple[str, str]:
    """What is before the last slash of a path or URL, and what is behind it, without escapes."""
    above, _, name = url.rpartition("/")
    return above, os.fsdecode(_unquoted(os.fsencode(name))) if is_file_url(url) else name


def _unquoted(text: bytes) -> bytes:
    import urllib.parse  # noqa: PLC0415  # 2 ms, for file URLs alone

    return urllib.parse.unquote_to_bytes(text)
