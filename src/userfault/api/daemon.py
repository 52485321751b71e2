"""The process that starts a daemon and stands before it: sockets and images are opened here.

The family that serves outlives it: it is the one to whom signals are sent, and no more.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from userfault.api.asking import hung_up
from userfault.api.starting import Family, start
from userfault.kernel.errors import PagerError, UsageError
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.core.placing import ANY, Placing
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.record.status import ROLES, Shown
from userfault.pager.drivers.wire import messages
from userfault.serve import criu_memory, records, sockets
from userfault.serve.board import made
from userfault.serve.main import hand_over
from userfault.serve.page_server import pulling
from userfault.serve.page_server.asking import SCHEME, peer_of
from userfault.serve.page_server.tls import Tls
from userfault.serve.talking import Line, SilentError
from userfault.snapshot.serving import handover
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.place import place_of
from userfault.source.spec import Resolved, resolve
from userfault.version import __version__

PROGRAM = "userfault.serve.main"
_REPLACED_S = 60.0
_LOOK_S = 0.05
MOST_WORKERS = 8  # by default


class Listen(msgspec.Struct, frozen=True):
    """A socket to be made: the `protocol` spoken there, and the image shown to who comes ("": as
    the control socket says).  `fd`: one that listens already, by the name `path`.  `dump`: the
    folder of images that CRIU restores from, where no image is shown."""

    protocol: str
    path: str
    image: str = ""
    fd: int = -1
    dump: str = ""


class Settings(msgspec.Struct, frozen=True):
    """What a daemon is to do.  `images`: by name, what `userfault.lazy` takes as a source.

    `stores`: that native clients may name.  `on_refusal`: `kill` or `close`, see `turning_away`.
    `after_restore`: once a restore by CRIU is over, what nobody touches is filled, too.
    `workers`: families that share the clients, for a CPU each.
    `criu_version`, `tls`, `page_server_timeout_s`: of page servers that memory comes from.
    """

    listen: tuple[Listen, ...]
    images: dict[str, str]
    policy: Policy = records.LAZY
    limits: records.Limits = records.Limits()
    who: records.Who = records.Who()
    group: int | None = None
    in_flight: int = 32
    store2: str | None = None
    cache: str | None = None
    cache_size: int | None = None
    stores: tuple[str, ...] = ()
    on_refusal: str = "kill"
    after_restore: bool = True
    workers: int = 1
    criu_version: str = "4.2"
    tls: Tls | None = None
    page_server_timeout_s: float = 60.0


class Asks(Protocol):
    """Whoever can be asked."""

    def ask(self, command: str, fds: Sequence[int] = (), **arguments: Any) -> dict[str, Any]:
        """A command of the control protocol."""


class Daemon:
    """Families that serve whoever comes by its sockets, and go on when this object has gone.

    It serves when this returns.  Raises UsageError for settings that cannot be, SourceError,
    StoreError and NoSuchSnapshot for images, PagerError where it does not come up.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.listen:
            raise UsageError(
                "a daemon without a socket",
                cause="nobody could come",
                cure="name one: --firecracker PATH",
            )
        self._settings = settings
        self._doors: list[records.Door] = []
        self._families: list[Family] = []
        self._lines: list[Line] = []
        self._lost: set[int] = set()
        self._turns = itertools.count()
        kept = [-1]  # the first is a family's line to us; the others are numbered from 0 on
        with contextlib.ExitStack() as undo:
            undo.callback(_take_away, self._doors)
            undo.callback(self._end)
            with contextlib.ExitStack() as passing:
                passing.callback(close_all, kept)  # the families have their own
                images = [_image(settings, name, kept) for name in settings.images]
                for each in settings.listen:
                    self._doors.append(_door(settings, each, kept))
                told = records.Daemon(
                    doors=self._doors,
                    images=images,
                    limits=settings.limits,
                    stores=tuple(open_objects(each).url for each in settings.stores),
                    on_refusal=settings.on_refusal,
                    workers=settings.workers,
                )
                self._start(told, kept)
            undo.pop_all()

    def _start(self, told: records.Daemon, kept: list[int]) -> None:
        """A family for each worker; each has all sockets and images."""
        count = told.workers
        between: dict[tuple[int, int], int] = {}
        if count > 1:
            kept.append(made(count))
            told = msgspec.structs.replace(told, board=len(kept) - 2)
        with contextlib.ExitStack() as passing:
            for one, other in itertools.combinations(range(count), 2):
                pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                between[one, other], between[other, one] = (each.detach() for each in pair)
            passing.callback(close_all, list(between.values()))
            hello = messages.Hello(
                _placing(self._settings), self._settings.in_flight, __version__, PROGRAM
            )
            for place in range(count):
                others = [other for other in range(count) if other != place]
                neighbours = {other: len(kept) - 1 + number for number, other in enumerate(others)}
                mine = msgspec.structs.replace(told, place=place, neighbours=neighbours)
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                self._lines.append(Line(ours))
                with theirs:
                    fds = [theirs.fileno(), *kept[1:], *(between[place, each] for each in others)]
                    more = functools.partial(hand_over, about=records.encode(mine), kept=fds)
                    self._families.append(start(hello, None, more))

    def _end(self) -> None:
        """It did not come up as a whole: end what did."""
        for _, line in zip(self._families, self._lines, strict=False):
            with contextlib.suppress(PagerError):
                line.ask("drain", fill=False)
        self.close()

    @property
    def channels(self) -> list[int]:
        """Sockets of those workers that have not ended, which hang up (POLLHUP) when they do."""
        return [each.channel.fileno() for each in self._families if not hung_up(each.channel)]

    @property
    def line(self) -> Line:
        """To one of the workers, each in its turn: for what one of them does alone."""
        living = [
            line
            for line, family in zip(self._lines, self._families, strict=True)
            if not hung_up(family.channel)
        ]
        return (living or self._lines)[next(self._turns) % max(len(living), 1)]

    @property
    def takeovers(self) -> int:
        """How often another process had to go on for one that was killed."""
        return sum(each.status.words[Shown.TAKEOVERS] for each in self._families)

    def processes(self) -> dict[str, int]:
        """Process ids of the worker, the supervisor and the spare (0: not started yet); of further
        workers `worker.1` and so on."""
        return {
            role.name.lower() + (f".{place}" if place else ""): family.status.words[role]
            for place, family in enumerate(self._families)
            for role in ROLES
        }

    def ask(self, command: str, fds: Sequence[int] = (), **arguments: Any) -> dict[str, Any]:
        """A command of the control protocol, answered for all workers by the first that can.

        Raises UserfaultError where it is refused.
        """
        *first, last = self._lines
        for line in first:
            with contextlib.suppress(SilentError):
                return line.ask(command, fds, **arguments)
        return last.ask(command, fds, **arguments)

    def reload(self) -> None:
        """Open all images anew: who comes from now on is shown what they are now.

        But for snapshots that CRIU restores from: they belong to the images beside them.
        """
        for name, what in self._settings.images.items():
            if not _is_tree(self._settings, name):
                attach(self, name, what, settings=self._settings)

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether all of its processes have, or do so in time."""
        until = time.monotonic() + timeout_s
        return all(
            hung_up(each.channel, max(until - time.monotonic(), 0)) for each in self._families
        )

    def lost(self) -> list[int]:
        """Places of workers that ended as a whole family and not in peace; each is told once."""
        found = []
        for place, (family, line) in enumerate(zip(self._families, self._lines, strict=True)):
            if place not in self._lost and hung_up(family.channel):
                self._lost.add(place)
                if not line.farewell():
                    found.append(place)
        return found

    def close(self) -> None:
        """Let go of it: it goes on as long as it has sockets or clients."""
        if self._families and self.ended():
            _take_away(self._doors)  # of a family that was killed
        for line in self._lines:
            line.close()
        for family in self._families:
            family.channel.close()
            pid, process = family.first
            if pidfd.ended(process):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            os.close(process)
            family.status.close()


def _placing(settings: Settings) -> Placing:
    """Where the scheduler likes, if CRIU restores: what runs on the CPU of a task's faults is the
    restore itself then, whose processes do more than to wait for pages (`bench criu`: with "follow"
    it takes a fifth longer to the first query)."""
    criu = any(each.protocol == "criu" for each in settings.listen)
    return Placing(ANY) if criu else Placing()


def _take_away(doors: list[records.Door]) -> None:
    """It did not come up: its sockets go."""
    for door in doors:
        sockets.unlink(door.path, door.place)


def _image(settings: Settings, name: str, kept: list[int]) -> records.Image:
    what = settings.images[name]
    if what.startswith(SCHEME):
        peer, images = peer_of(
            what, settings.criu_version, settings.tls, settings.page_server_timeout_s
        )
        pulled = pulling.pull(peer, images)
        kept += [pulled.source.fd, criu_memory.kept(pulled.tree)]
        return records.Image(name, pulled.source.spec, len(kept) - 3, len(kept) - 2)
    resolved = _resolved(settings, what)
    kept.append(resolved.fd)
    place = len(kept) - 2
    if not _is_tree(settings, name):
        return records.Image(name, resolved.spec, place)
    kept.append(criu_memory.tree_of(resolved.spec))
    return records.Image(name, resolved.spec, place, place + 1)


def _is_tree(settings: Settings, name: str) -> bool:
    """Whether CRIU restores from it."""
    return any(each.protocol == "criu" and each.image == name for each in settings.listen)


def _resolved(settings: Settings, what: str) -> Resolved:
    place = place_of(os.fsdecode(what))
    if place is None:
        return resolve(os.path.abspath(what))
    return handover.resolve(
        *place,
        second=settings.store2,
        cache=settings.cache,
        cache_size=settings.cache_size,
    )


def _door(settings: Settings, listen: Listen, kept: list[int]) -> records.Door:
    if listen.image and listen.image not in settings.images:
        raise UsageError(
            f"{listen.path} shows {listen.image!r}",
            cause="there is no image of that name",
            cure="name one of " + ", ".join(settings.images),
        )
    path, place, policy = listen.path, (0, 0), settings.policy
    if listen.protocol == "criu":
        policy = msgspec.structs.replace(policy, background=settings.after_restore)
    if listen.fd >= 0:
        kept.append(listen.fd)
    else:
        path = os.path.abspath(path)
        kind = socket.SOCK_SEQPACKET if listen.protocol == "native" else socket.SOCK_STREAM
        bound = sockets.listening(
            path, group=settings.group, kind=kind, told=listen.protocol == "criu"
        )
        kept.append(bound.fd)
        place = bound.place
    return records.Door(
        name=f"{listen.protocol} {path}",
        protocol=listen.protocol,
        path=path,
        kept=len(kept) - 2,
        image=listen.image,
        policy=policy,
        who=settings.who,
        place=place,
        dump=os.path.abspath(listen.dump) if listen.dump else "",
    )


def attach(
    line: Asks,
    name: str,
    what: str,
    firecracker: str | None = None,
    *,
    pid: int | None = None,
    group: int | None = None,
    settings: Settings | None = None,
) -> None:
    """Have a running daemon show an image: see `userfault attach`.

    Raises UsageError for a path, SourceError and its like for the image, PagerError.
    """
    settings = settings or Settings((), {name: what}, group=group)
    kept = [-1]
    door = None
    with contextlib.ExitStack() as undo:
        undo.callback(close_all, kept)
        image = _image(settings, name, kept)
        if firecracker is not None:
            door = _door(settings, Listen("firecracker", firecracker, name), kept)
        with contextlib.ExitStack() as failed:
            failed.callback(_take_away, [door] if door else [])
            arguments: dict[str, Any] = {"name": name, "spec": image.spec}
            if pid is not None:
                arguments["pid"] = pid
            if door is not None:
                arguments["door"] = door
            line.ask("attach", kept[1:], **arguments)
            failed.pop_all()


def replace(line: Asks) -> None:
    """Have a running daemon hand over to processes made from the code that is installed now.

    Raises PagerError when the new code does not start; the old processes serve on then.
    """
    begun = line.ask("status")
    answer = line.ask("replace")
    before = answer.get("supervisors") or [answer["supervisor"]]  # of a release with one worker
    deadline = time.monotonic() + _REPLACED_S
    while time.monotonic() < deadline:
        status = line.ask("status")
        if status["not_replaced"]:
            raise PagerError(status["not_replaced"])
        workers = status.get("workers") or [status]
        now = [each["processes"]["supervisor"] for each in workers]
        if not {0, *before} & set(now):
            return
        if status["takeovers"] != begun["takeovers"] and set(now) & set(before):
            # A worker was killed in the middle of it, and its successor knows nothing of that.
            begun = status
            line.ask("replace")
        time.sleep(_LOOK_S)
    raise PagerError(
        "the daemon was not replaced", cause="it took too long", cure="look at its log"
    )


def sensible_workers() -> int:
    """One for each four CPUs that may be used here: the clients need the others."""
    return max(1, min(len(os.sched_getaffinity(0)) // 4, MOST_WORKERS))
