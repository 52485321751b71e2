"""Credentials as the services' own tools find them.

obstore itself reads AWS_…, AZURE_… and GOOGLE_… of the environment, web identities and the metadata
services of cloud machines.  Here is what it does not read: AWS's shared files and ~/.netrc.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import netrc
import os
import urllib.parse

from userfault.snapshot.errors import StoreError

_AWS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}


def allows_http(service: str) -> bool:
    """Whether the user allowed plain HTTP to this service: AWS_ALLOW_HTTP, AZURE_ALLOW_HTTP."""
    return os.environ.get(f"{service}_ALLOW_HTTP", "").lower() in ("1", "true", "yes")


def aws_files() -> dict[str, str]:
    """Keys, region and endpoint of AWS_PROFILE in ~/.aws, where the environment does not say.

    Raises StoreError where AWS_PROFILE names a profile that is in neither file, or a file cannot be
    understood.
    """
    found: dict[str, str] = {}
    profile = os.environ.get("AWS_PROFILE") or "default"
    keys = _section("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", profile)
    section = profile if profile == "default" else f"profile {profile}"
    settings = _section("AWS_CONFIG_FILE", "~/.aws/config", section)
    if os.environ.get("AWS_PROFILE") and not keys and not settings:
        raise StoreError(
            f"there is no AWS profile {profile!r}",
            cause="AWS_PROFILE names it, and neither ~/.aws/credentials nor ~/.aws/config has it",
            cure="correct or unset AWS_PROFILE",
        )
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        both = {**settings, **keys}
        if "aws_access_key_id" in both and "aws_secret_access_key" in both:
            found = {ours: both[theirs] for theirs, ours in _AWS.items() if theirs in both}
    if "AWS_REGION" not in os.environ and "AWS_DEFAULT_REGION" not in os.environ:
        region = settings.get("region")
        if region:
            found["region"] = region
    return found


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
    with contextlib.suppress(StoreError):
        values += [v for name, v in aws_files().items() if name != "region"]
    return [value for value in values if len(value) > 3]


def _section(variable: str, default: str, section: str) -> dict[str, str]:
    path = os.environ.get(variable) or os.path.expanduser(default)
    parser = configparser.RawConfigParser()
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error):
        # The parser's own text quotes lines of the file.
        raise StoreError(
            f"cannot read {path}",
            cause="it is no AWS settings file that this user can read",
            cure=f"correct it, or set {variable} to another one",
        ) from None
    return dict(parser[section]) if parser.has_section(section) else {}
