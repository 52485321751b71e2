"""Credentials as the services' own tools find them.

obstore itself reads AWS_…, AZURE_… and GOOGLE_… of the environment, web identities and the metadata
services of cloud machines.  What it does not read: AWS's shared files (`aws`), and ~/.netrc.
"""

from __future__ import annotations

import base64
import netrc
import os
import urllib.parse

from userfault.snapshot.errors import StoreError
from userfault.snapshot.stores import aws


def allows_http(service: str) -> bool:
    """Whether the user allowed plain HTTP to this service: AWS_ALLOW_HTTP, AZURE_ALLOW_HTTP."""
    return os.environ.get(f"{service}_ALLOW_HTTP", "").lower() in ("1", "true", "yes")


def http_header(url: str) -> str:
    """An Authorization header for a web server: USERFAULT_HTTP_TOKEN, or the host's in ~/.netrc.

    Over plain HTTP only to this machine: anybody on the way could read it.
    """
    parts = urllib.parse.urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not local:
        return ""
    token = os.environ.get("USERFAULT_HTTP_TOKEN")
    if token:
        return f"Bearer {token}"
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        known = netrc.netrc(path).authenticators(parts.hostname or "")
    except FileNotFoundError:
        return ""
    except (OSError, netrc.NetrcParseError):
        # The parser's own text may quote the file.
        raise StoreError(
            f"cannot read {path}", cause="it is no netrc file that this user can read", cure=""
        ) from None
    if not known:
        return ""
    login, _, password = known
    pair = base64.b64encode(f"{login}:{password}".encode()).decode()
    return f"Basic {pair}"


def secrets() -> list[str]:
    """Every secret that this process can know of: what no text may show."""
    values = [
        value
        for name, value in os.environ.items()
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "USERFAULT_HTTP_"))
        and any(word in name for word in ("KEY", "SECRET", "TOKEN", "SAS", "PASSWORD"))
    ]
    values += aws.secrets()
    return [value for value in values if len(value) > 3]
