"""What `userfault send` and `userfault receive` share: who is at the other end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from userfault.kernel.errors import UsageError
from userfault.migrate.link import PATIENCE_S
from userfault.serve.page_server.tls import Tls

F = TypeVar("F", bound=Callable[..., Any])


def seconds(name: str, default: float, text: str) -> Callable[[F], F]:
    """An option that takes so many seconds."""
    return click.option(
        name,
        type=click.FloatRange(0, min_open=True),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    seconds("--patience", PATIENCE_S, "How long the other side may be away before it is given up."),
    click.option("--tls-cert", metavar="FILE", help="Our certificate (PEM)."),
    click.option("--tls-key", metavar="FILE", help="Its private key."),
    click.option("--tls-cacert", metavar="FILE", help="The authority whose certificates are good."),
    click.option("--tls-cacrl", metavar="FILE", help="What it has revoked."),
    click.option(
        "--no-tls", is_flag=True, help="Without certificates: whoever reaches the port may."
    ),
)


def peer_options(command: F) -> F:
    """All of them: the command takes `patience`, and `tls`.  Raises what `_tls` does."""

    @functools.wraps(command)
    def called(
        *args: Any,
        tls_cert: str | None,
        tls_key: str | None,
        tls_cacert: str | None,
        tls_cacrl: str | None,
        no_tls: bool,
        **options: Any,
    ) -> Any:
        tls = _tls(tls_cert, tls_key, tls_cacert, tls_cacrl, off=no_tls)
        return command(*args, tls=tls, **options)

    for option in reversed(_OPTIONS):
        called = option(called)
    return cast("F", called)


def _tls(
    cert: str | None, key: str | None, cacert: str | None, cacrl: str | None, *, off: bool
) -> Tls | None:
    """What the options say.  Raises UsageError where they say neither how nor that not."""
    given = [path for path in (cert, key, cacert, cacrl) if path is not None]
    if off and not given:
        return None
    if off or cert is None or key is None or cacert is None:
        raise UsageError(
            "a machine that moves with --no-tls and certificates"
            if off
            else "a machine that moves without a word on certificates",
            cause="its memory and its registers go over the network",
            cure="give --tls-cert, --tls-key and --tls-cacert, or --no-tls alone where only the"
            " two hosts reach the port",
        )
    return Tls(cert, key, cacert, cacrl)
