"""The process that starts a daemon and stands before it: sockets and images are opened here.

The family that serves outlives it: it is the one to whom signals are sent, and no more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any

import msgspec

from userfault.api.asking import hung_up
from userfault.api.starting import start
from userfault.kernel.errors import PagerError, UsageError
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.pager.core.placing import Placing
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.record.status import ROLES, Shown
from userfault.pager.drivers.wire import messages
from userfault.serve import criu_memory, records, sockets
from userfault.serve.main import hand_over
from userfault.serve.talking import Line
from userfault.snapshot.serving import handover
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.place import place_of
from userfault.source.spec import Resolved, resolve
from userfault.version import __version__

PROGRAM = "userfault.serve.main"
_REPLACED_S = 60.0
_LOOK_S = 0.05


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


class Daemon:
    """A family that serves whoever comes by its sockets, and goes on when this object has gone.

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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        kept = [theirs.detach()]  # but the first are numbered from 0 on in the record
        doors: list[records.Door] = []
        with contextlib.ExitStack() as undo:
            undo.callback(_take_away, doors)
            with contextlib.ExitStack() as passing:
                passing.callback(close_all, kept)  # the family has its own
                images = [_image(settings, name, kept) for name in settings.images]
                doors += [_door(settings, each, kept) for each in settings.listen]
                told = records.Daemon(
                    doors=doors,
                    images=images,
                    limits=settings.limits,
                    stores=tuple(open_objects(each).url for each in settings.stores),
                    on_refusal=settings.on_refusal,
                )
                about = records.encode(told)
                hello = messages.Hello(Placing(), settings.in_flight, __version__, PROGRAM)
                self._family = start(hello, None, lambda line: hand_over(line, about, kept))
            undo.pop_all()
        self.line = Line(ours)

    @property
    def channel(self) -> int:
        """A socket that hangs up (POLLHUP) when the last process has ended."""
        return self._family.channel.fileno()

    @property
    def takeovers(self) -> int:
        """How often another process had to go on for one that was killed."""
        return self._family.status.words[Shown.TAKEOVERS]

    def processes(self) -> dict[str, int]:
        """Process ids of the worker, the supervisor and the spare (0: not started yet)."""
        return {role.name.lower(): self._family.status.words[role] for role in ROLES}

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """A command of the control protocol.  Raises UserfaultError where it is refused."""
        return self.line.ask(command, **arguments)

    def reload(self) -> None:
        """Open all images anew: who comes from now on is shown what they are now.

        But for snapshots that CRIU restores from: they belong to the images beside them.
        """
        for name, what in self._settings.images.items():
            if not _is_tree(self._settings, name):
                attach(self.line, name, what, settings=self._settings)

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether all of its processes have, or do so in time."""
        return hung_up(self._family.channel, timeout_s)

    def close(self) -> None:
        """Let go of it: it goes on as long as it has sockets or clients."""
        self.line.close()
        self._family.channel.close()
        pid, process = self._family.first
        if pidfd.ended(process):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        os.close(process)
        self._family.status.close()


def _take_away(doors: list[records.Door]) -> None:
    """It did not come up: its sockets go."""
    for door in doors:
        sockets.unlink(door.path, door.place)


def _image(settings: Settings, name: str, kept: list[int]) -> records.Image:
    what = settings.images[name]
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
    line: Line,
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


def replace(line: Line) -> None:
    """Have a running daemon hand over to processes made from the code that is installed now.

    Raises PagerError when the new code does not start; the old processes serve on then.
    """
    before = line.ask("replace")["supervisor"]
    deadline = time.monotonic() + _REPLACED_S
    while time.monotonic() < deadline:
        status = line.ask("status")
        if status["not_replaced"]:
            raise PagerError(status["not_replaced"])
        if status["processes"]["supervisor"] not in (0, before):
            return
        time.sleep(_LOOK_S)
    raise PagerError(
        "the daemon was not replaced", cause="it took too long", cure="look at its log"
    )
