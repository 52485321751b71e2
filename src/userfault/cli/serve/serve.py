"""`userfault serve`: a daemon that serves the page faults of other programs."""

from __future__ import annotations

import select
import signal
import socket

import click

from userfault.api.daemon import Daemon, Listen, Settings
from userfault.cli.shared import terminal
from userfault.kernel.errors import UsageError
from userfault.serve.records import Limits

_EXAMPLE = "Example: userfault serve --firecracker /run/vm.sock --image /srv/vm/memory"


@click.command(epilog=_EXAMPLE)
@click.option(
    "--firecracker",
    "firecracker",
    metavar="PATH",
    multiple=True,
    help="Listen there for Firecracker (repeatable; with {name} in it, a socket for each image).",
)
@click.option(
    "--native",
    metavar="PATH",
    multiple=True,
    help="Listen there for userfault.connect() (repeatable).",
)
@click.option(
    "--allow-store",
    "stores",
    metavar="STORE",
    multiple=True,
    help="A store that clients of --native may name (repeatable).",
)
@click.option(
    "--image", "images", metavar="[NAME=]FILE", multiple=True, help="A memory file (repeatable)."
)
@click.option(
    "--snapshot",
    "snapshots",
    metavar="[NAME=]STORE/NAME",
    multiple=True,
    help="A snapshot in a store (repeatable).",
)
@click.option("--control", metavar="PATH", help="Take orders there: userfault sessions, drain.")
@click.option(
    "--handshake-timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=Limits().handshake_s,
    show_default=True,
    help="How long a client may take to say what it wants.",
)
@click.option(
    "--max-clients",
    type=click.IntRange(1),
    default=Limits().clients,
    show_default=True,
    help="Served at once.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(1),
    default=Limits().waiting,
    show_default=True,
    help="Connected, and not said yet what they want.",
)
def serve(
    firecracker: tuple[str, ...],
    native: tuple[str, ...],
    stores: tuple[str, ...],
    images: tuple[str, ...],
    snapshots: tuple[str, ...],
    control: str | None,
    handshake_timeout: float,
    max_clients: int,
    max_waiting: int,
) -> int:
    """Serve the page faults of other programs' memory, until SIGTERM.

    Clients that are there when it is to end are filled as a whole first.
    """
    named = dict(_named(each) for each in (*images, *snapshots))
    listen = [each for path in firecracker for each in _listen("firecracker", path, named)]
    listen += [Listen("native", path) for path in native]
    if control is not None:
        listen.append(Listen("control", control))
    limits = Limits(clients=max_clients, waiting=max_waiting, handshake_s=handshake_timeout)
    daemon = Daemon(Settings(listen=tuple(listen), images=named, limits=limits, stores=stores))
    for each in listen:
        terminal.say(f"listening at {each.path} ({each.protocol})")
    terminal.say("ready")
    return _stand_before(daemon)


def _named(what: str) -> tuple[str, str]:
    """The name of an image here, and what it is."""
    name, equals, rest = what.partition("=")
    if equals and "/" not in name:
        return name, rest
    return what.rstrip("/").rpartition("/")[2], what


def _listen(protocol: str, path: str, images: dict[str, str]) -> list[Listen]:
    """The sockets that a path stands for."""
    if "{name}" in path:
        return [Listen(protocol, path.replace("{name}", name), name) for name in images]
    if len(images) > 1:
        raise UsageError(
            f"--{protocol} {path}",
            cause="there are several images, and one socket",
            cure="write {name} in the path, for a socket each",
        )
    return [Listen(protocol, path, next(iter(images), ""))]


def _stand_before(daemon: Daemon) -> int:
    """Pass signals on, until all of the daemon's processes have ended."""
    asked, woken = socket.socketpair()
    asked.setblocking(False)
    woken.setblocking(False)
    signal.set_wakeup_fd(asked.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _nothing)
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(daemon.channel, 0)
    while not daemon.ended():
        poll.poll()
        try:
            numbers = woken.recv(64)
        except BlockingIOError:
            continue
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            left = daemon.ask("drain")["left"]
            terminal.say(f"draining: {left} clients left")
    daemon.close()
    return 0


def _nothing(number: int, frame: object) -> None:
    """The wakeup descriptor tells."""
    del number, frame
