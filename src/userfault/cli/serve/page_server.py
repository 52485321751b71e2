"""The options of `userfault serve` that make it CRIU's page server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from userfault.kernel.errors import UsageError
from userfault.serve.page_server.listening import PageServer, Settings
from userfault.serve.page_server.tls import Tls

_PKI = "/etc/pki"  # where CRIU looks, too

_OPTIONS = (
    click.option(
        "--page-server",
        metavar="ADDRESS",
        help="Be CRIU's page server at [HOST:]PORT, at a path, or on a socket that is open (fd:3).",
    ),
    click.option(
        "--pages-to",
        metavar="STORE/NAME",
        help="Store there what `criu dump --page-server` sends; {n} in it is the next free number.",
    ),
    click.option(
        "--pages-from",
        metavar="IMAGES|STORE/NAME",
        help="Give `criu lazy-pages --page-server` pages from there.",
    ),
    click.option(
        "--page-server-compressed",
        "compressed",
        is_flag=True,
        help="Take compressed pages, of CRIU later than 4.2 (needs the extra criu).",
    ),
    click.option(
        "--page-server-timeout",
        "patience_s",
        metavar="SECONDS",
        type=click.FloatRange(0, min_open=True),
        default=60.0,
        show_default=True,
        help="How long a peer may take for a message that it has begun.",
    ),
    click.option(
        "--criu-version",
        metavar="VERSION",
        default="4.2",
        show_default=True,
        help="Of page servers that memory is asked from (--criu WORKDIR=criu://HOST:PORT).",
    ),
    click.option("--tls", is_flag=True, help="Speak TLS with page servers and their clients."),
    click.option(
        "--tls-cacert",
        metavar="FILE",
        default=f"{_PKI}/CA/cacert.pem",
        show_default=True,
        help="The authority whose certificates are good.",
    ),
    click.option("--tls-cacrl", metavar="FILE", help="What it has revoked."),
    click.option(
        "--tls-cert",
        metavar="FILE",
        default=f"{_PKI}/criu/cert.pem",
        show_default=True,
        help="Our certificate.",
    ),
    click.option(
        "--tls-key",
        metavar="FILE",
        default=f"{_PKI}/criu/private/key.pem",
        show_default=True,
        help="Its private key.",
    ),
    click.option(
        "--tls-no-cn-verify",
        is_flag=True,
        help="Take a server's certificate whatever name is in it.",
    ),
)


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """All of them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def start(
    group: int | None,
    tls: Tls | None,
    *,
    page_server: str | None,
    pages_to: str | None,
    pages_from: str | None,
    compressed: bool,
    patience_s: float,
) -> PageServer | None:
    """What the options ask for.  Raises UsageError, and what a page server does."""
    if page_server is None:
        if pages_to or pages_from or compressed:
            raise UsageError(
                "pages, and nobody who could come for them",
                cause="--pages-to and --pages-from belong to --page-server",
                cure="say where it listens: --page-server [HOST:]PORT",
            )
        return None
    if not pages_to and not pages_from:
        raise UsageError(
            f"--page-server {page_server}",
            cause="it neither takes pages nor gives any",
            cure="add --pages-to STORE/NAME for dumps, --pages-from for restores",
        )
    return PageServer(
        Settings(
            page_server,
            into=pages_to,
            give=pages_from,
            compressed=compressed,
            patience_s=patience_s,
            tls=tls,
            group=group,
        )
    )


def files(pages: dict[str, Any]) -> Tls | None:
    """Take the options of TLS out of `pages`: which files, where it is to be spoken."""
    wanted = pages.pop("tls")
    verify_name = not pages.pop("tls_no_cn_verify")
    names = ("tls_cert", "tls_key", "tls_cacert", "tls_cacrl")
    cert, key, cacert, cacrl = map(pages.pop, names)
    return Tls(cert, key, cacert, cacrl, verify_name) if wanted else None
