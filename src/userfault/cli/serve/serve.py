"""`userfault serve`: a daemon that serves the page faults of other programs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import Any

import click

from userfault.api.daemon import Daemon, Listen, Settings, replace, sensible_workers
from userfault.cli.serve import page_server, restores
from userfault.cli.serve.criu import listen as listen_for_criu
from userfault.cli.serve.options import CONTROL, groups, named, users
from userfault.cli.shared import errors, terminal
from userfault.cli.shared.sizes import told
from userfault.kernel.errors import UsageError, UserfaultError
from userfault.pager.core.policy import Policy
from userfault.serve import prometheus, systemd
from userfault.serve.page_server.listening import PageServer
from userfault.serve.records import Limits, Who
from userfault.serve.talking import Line

_PROTOCOLS = ("firecracker", "drafts", "native", "control")

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
    "--cloud-hypervisor",
    "vmms",
    metavar="PATH",
    multiple=True,
    help="Restore the snapshot into the Cloud Hypervisor that listens there (repeatable).",
)
@click.option(
    "--criu",
    metavar="WORKDIR[=IMAGES]",
    multiple=True,
    help="Listen in that folder in place of `criu lazy-pages`: for restores from the images there,"
    " from those in IMAGES, from the snapshot WORKDIR=STORE/NAME, or from a page server,"
    " WORKDIR=criu://HOST:PORT/IMAGES (repeatable).",
)
@click.option(
    "--guest-memfd",
    "secrets",
    metavar="PATH",
    multiple=True,
    help="Experimental: listen there, and at apf.socket beside it, for Firecracker's branch with"
    " guest_memfd (repeatable).",
)
@click.option(
    "--drafts",
    metavar="PATH",
    multiple=True,
    help="Listen there for VMMs that speak a draft of a protocol (docs/drafts.md; repeatable).",
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
@click.option(
    "--control",
    metavar="PATH",
    envvar=CONTROL,
    help=f"Take orders there: userfault sessions, drain (or {CONTROL} in the environment).",
)
@click.option(
    "--replace",
    "replaces",
    is_flag=True,
    help="Have the daemon of --control hand over to the code that is installed now.",
)
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
@click.option(
    "--client-memory",
    metavar="SIZE",
    callback=told,
    default="1T",
    show_default=True,
    help="The most that one client may have served.",
)
@click.option(
    "--client-cpu",
    metavar="PERCENT",
    type=click.FloatRange(1, 100),
    help="Of a worker's CPU, the most that the faults of one client may take.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=sensible_workers,
    show_default="one for four CPUs",
    help="Processes that serve, each with a supervisor and a spare; clients are spread over them.",
)
@click.option("--group", metavar="GROUP", help="Who may connect, beside the owner of the sockets.")
@click.option("--allow-user", "allowed", metavar="USER", multiple=True, help="Serve nobody else.")
@click.option("--allow-group", "members", metavar="GROUP", multiple=True, help="Serve nobody else.")
@click.option(
    "--background/--no-background",
    default=None,
    help="Fill everything while nothing waits.  [default: for CRIU, once its restore is over]",
)
@click.option(
    "--on-failure",
    type=click.Choice(["poison", "kill"]),
    default="poison",
    show_default=True,
    help="What a page that cannot be read costs: SIGBUS for its access, or the client.",
)
@click.option(
    "--on-refusal",
    type=click.Choice(["kill", "close"]),
    default="kill",
    show_default=True,
    help="What becomes of a client that has handed over its memory and is not served.",
)
@page_server.options
@click.option("--metrics", metavar="[HOST:]PORT", help="Show metrics there, for Prometheus.")
@click.option(
    "--log", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Lines."
)
def serve(
    firecracker: tuple[str, ...],
    vmms: tuple[str, ...],
    secrets: tuple[str, ...],
    drafts: tuple[str, ...],
    criu: tuple[str, ...],
    native: tuple[str, ...],
    stores: tuple[str, ...],
    images: tuple[str, ...],
    snapshots: tuple[str, ...],
    control: str | None,
    replaces: bool,
    handshake_timeout: float,
    max_clients: int,
    max_waiting: int,
    client_memory: int,
    client_cpu: float | None,
    workers: int,
    group: str | None,
    allowed: tuple[str, ...],
    members: tuple[str, ...],
    background: bool | None,
    on_failure: str,
    on_refusal: str,
    metrics: str | None,
    log: str,
    **pages: Any,
) -> int:
    """Serve the page faults of other programs' memory, until SIGTERM.

    Clients that are there when it is to end are filled as a whole first.
    """
    if replaces:
        if control is None:
            raise UsageError(
                "--replace", cause="it has to be said of which daemon", cure="name its --control"
            )
        line = Line.to(control)
        replace(line)
        line.close()
        terminal.say("replaced")
        return 0
    restored = restores.snapshot_for(vmms, (*images, *snapshots))
    shown = dict(
        named(each)
        for each in (*images, *snapshots)
        if not vmms or firecracker or drafts or secrets
    )
    listen = [each for path in firecracker for each in _listen("firecracker", path, shown)]
    for path in secrets:
        listen += _listen("secret", path, shown)
        listen.append(Listen("secret-apf", os.path.join(os.path.dirname(path), "apf.socket")))
    listen += [each for path in drafts for each in _listen("drafts", path, shown)]
    listen += [Listen("native", path) for path in native]
    trees: dict[str, str] = {}
    listen += listen_for_criu(criu, trees)
    if control is not None:
        listen.append(Listen("control", control))
    if vmms and not listen:
        raise UsageError(
            "--cloud-hypervisor alone",
            cause="nobody could ask the daemon how it goes, nor end it",
            cure="name a control socket, too: --control PATH",
        )
    tls = page_server.files(pages)
    settings = Settings(
        listen=(*listen, *_from_systemd(shown)),
        images=shown | trees,
        policy=Policy(background=background is True, on_failure=on_failure),
        criu_version=pages.pop("criu_version"),
        tls=tls,
        page_server_timeout_s=pages["patience_s"],
        after_restore=background is not False,
        limits=Limits(
            clients=max_clients,
            waiting=max_waiting,
            handshake_s=handshake_timeout,
            memory_bytes=client_memory,
            cpu_percent=client_cpu or 0.0,
        ),
        who=Who(users(allowed), groups(members)),
        group=groups((group,))[0] if group else None,
        stores=stores,
        on_refusal=on_refusal,
        workers=workers,
    )
    if log == "json":
        os.environ["USERFAULT_LOG"] = log  # for every process that comes of this one
    server = page_server.start(settings.group, settings.tls, **pages)
    with contextlib.ExitStack() as ending:
        if server is not None:
            ending.callback(server.close)
            terminal.say(f"listening at {server.address} (page-server)")
            if not settings.listen:
                return _stand_before(None, server)
        daemon = Daemon(settings)
        ending.callback(daemon.close)
        if metrics is not None:
            ending.callback(prometheus.expose(metrics, daemon.ask))
        for each in settings.listen:
            terminal.say(f"listening at {each.path} ({each.protocol})")
        restores.begin(daemon, vmms, restored)
        return _stand_before(daemon, server)


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


def _from_systemd(images: dict[str, str]) -> list[Listen]:
    """Sockets that were opened before us: named PROTOCOL, or PROTOCOL.IMAGE, in their units."""
    found = []
    for fd, name in systemd.passed():
        protocol, _, image = name.partition(".")
        if protocol not in _PROTOCOLS:
            raise UsageError(
                f"the socket {name!r} from systemd",
                cause=f"{protocol!r} is no protocol",
                cure="write FileDescriptorName= one of " + ", ".join(_PROTOCOLS),
            )
        if protocol in ("firecracker", "drafts") and not image and len(images) == 1:
            image = next(iter(images))
        found.append(Listen(protocol, f"systemd:{name}", image, fd))
    return found


def _stand_before(daemon: Daemon | None, server: PageServer | None) -> int:
    """Pass signals on, until all of the daemon's processes have ended."""
    woken, asked = socket.socketpair()
    woken.setblocking(False)
    asked.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _nothing)
    signal.set_wakeup_fd(asked.fileno())
    terminal.say("ready")  # from here on a signal is heard
    systemd.notify("READY=1")
    lost = False
    # (Looked at once: one that ends after that wakes the poll.)
    while (channels := daemon.channels if daemon is not None else []) or daemon is None:
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        for channel in channels:
            poll.register(channel, 0)
        poll.poll()
        lost = _lost(daemon) or lost
        try:
            numbers = woken.recv(64)
        except BlockingIOError:
            continue
        if signal.SIGHUP in numbers and daemon is not None:
            _reload(daemon)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            systemd.notify("STOPPING=1")
            if server is not None:
                server.stop()
            if daemon is None:
                break
            left = daemon.ask("drain")["left"]
            terminal.say(f"draining: {left} clients left")
    return 1 if _lost(daemon) or lost else 0


def _lost(daemon: Daemon | None) -> bool:
    """Whether all processes of a worker have been killed since the last look: told."""
    lost = daemon.lost() if daemon is not None else []
    for place in lost:
        terminal.say(f"worker {place} was killed, with its supervisor and its spare", err=True)
    return bool(lost)


def _reload(daemon: Daemon) -> None:
    """What cannot be opened any more is shown as before."""
    systemd.notify("RELOADING=1")
    try:
        daemon.reload()
        terminal.say("reloaded")
    except UserfaultError as error:
        errors.show(error)
    systemd.notify("READY=1")


def _nothing(number: int, frame: object) -> None:
    """The wakeup descriptor tells."""
    del number, frame
